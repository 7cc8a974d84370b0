"""Entries mode: what a worker says of an entry just before its run ends counts, and counts once."""
import json
import subprocess
import sys

from lib.case import limit
from lib.entries import add, entries, hand, lbs, position, text

issue = 16
NACK_AND_DIE = """
import json, os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
say = lambda **f: s.sendall(json.dumps(f).encode() + b"\\n")
say(t="hello", v=1, name="dies", credits=1, entries=True)
for line in s.makefile("rb"):
    f = json.loads(line)
    if f["t"] == "entries":
        say(t="nack", lease=f["lease"], id=f["e"][0][0], retry_ms=60000)
        os._exit(1)
"""


def dead(db):
    """stream -> its dead entries' (id, reason, error, tries), in order."""
    found = {}
    for _, flat in db.cmd("XRANGE", "orders-entries-dlq", "-", "+"):
        f = dict(zip(map(text, flat[::2]), map(text, flat[1::2])))
        found.setdefault(f["_dlq_stream"], []).append((f["_orig_id"], f["_dlq_reason"], f["_dlq_error"], int(f["_tries"])))
    return found


@limit(60)
def test_a_worker_that_says_nack_and_dies_costs_its_entry_one_try(t):
    r = t.redis()
    d = t.daemon(r, T=6, service=entries())
    for n in range(15):
        key = f"orders:{n}"
        add(r.db, key, 1)
        lbs(r.db, "orders", key)
        subprocess.run([sys.executable, "-c", NACK_AND_DIE, d.worker_sock], check=False, timeout=20)
        t.wait(lambda: not d.json("ls"), 10, "the stream to go back")
        assert position(r.db, key)["tries"] == "1", f"number {n}: it was given once"


@limit(60)
def test_an_entry_that_was_refused_before_the_end_is_a_dead_letter(t):
    """For good, or for the last time: with its worker's words, once, and what is behind it comes in the next run."""
    r = t.redis()
    d = t.daemon(r, T=6, service=entries(retry={"max_retries": 0}))
    for end in "done", "release", "fail", "revoked", "bye":
        for word in {"dead": True}, {}:
            key = f"orders:{end}{len(word)}"
            ids = add(r.db, key, 4)
            lbs(r.db, "orders", key)
            h = hand(t, d)
            lease = h.assign(stream=key)["lease"]
            h.ids(4)
            said = [{"t": "nack", "lease": lease, "id": ids[1], "reason": "no good", **word}, {"t": end, "lease": lease}]
            h.raw.send(b"".join(json.dumps(f).encode() + b"\n" for f in said))
            t.wait(lambda k=key: dead(r.db).get(k), 5, f"the dead letter of {key}")
            reason = "rejected" if word else "max_retries_exceeded"
            if end == "done":
                h.raw_ok(lease, "done")
                lbs(r.db, "orders", key)
            elif end == "bye":
                h.close()
                h = hand(t, d)
            lease = h.assign(stream=key)["lease"]
            assert [e[0] for e in h.ids(2, lease=lease)] == ids[2:], key
            h.ack(lease, ids[3])
            h.done(lease)
            h.close()
            assert dead(r.db)[key] == [(ids[1], reason, "no good", 1)], dead(r.db)[key]


@limit(60)
def test_why_an_entry_failed_is_no_note_of_its_stream_any_more_when_it_is_passed(t):
    r = t.redis()
    d = t.daemon(r, T=6, service=entries(retry={"initial": 0}))
    ids = add(r.db, "orders:k", 4)
    lbs(r.db, "orders", "orders:k")
    h = hand(t, d)
    lease = h.assign()["lease"]
    h.ids(4)

    def note():
        row, = d.json("ls")
        return row["note"]
    h.nack(lease, ids[0], reason="no database")
    h.ids(1)
    assert note() == "no database"
    h.ack(lease, ids[0])
    assert note() is None, "it has one by now"
    h.until("entries")
    h.send(t="progress", lease=lease, note="step 3")
    h.nack(lease, ids[1], reason="no good", dead=True)
    assert note() == "step 3", "its dead letter has the reason"


@limit(60)
def test_what_waits_for_its_dead_letter_is_not_said_to_wait_for_its_worker(t):
    r = t.redis()
    d = t.daemon(r, T=6, service=entries())
    r.db.cmd("SET", "orders-entries-dlq", "x")  # no stream
    ids = add(r.db, "orders:k", 3)
    lbs(r.db, "orders", "orders:k")
    h = hand(t, d)
    lease = h.assign()["lease"]
    h.ids(3)
    h.send(t="nack", lease=lease, id=ids[1], dead=True)
    h.quiet("ok nack", 0.5)
    said = d.ctl_ok("explain", "orders:k")
    assert f"up to {ids[0]} is acknowledged; entry {ids[1]} failed, and Redis has not confirmed its dead letter for" in said, said
    assert "nothing was heard" not in said and "WRONGTYPE" in said, said
    r.db.cmd("DEL", "orders-entries-dlq")
    assert h.raw_ok(lease, "nack")["outcome"] == "dead"
    assert [e[0] for e in h.ids(1)] == ids[2:]
