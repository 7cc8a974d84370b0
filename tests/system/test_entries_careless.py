"""Entries mode where careless code breaks: entries that vanish, ids from the future, workers that do not read or ack."""
import time

from lib.case import limit
from lib.entries import add, entries, hand, lbs, position, position_key, text
from lib.worker import Raw

issue = 16


@limit(60)
def test_entries_that_vanish(t):
    """Trimmed by a producer beyond the position, deleted between read and ack, the last one deleted."""
    r = t.redis()
    d = t.daemon(r, service=entries(batch=5, window=1))
    h = hand(t, d, credits=3)

    ids = add(r.db, "orders:trimmed", 20)
    lbs(r.db, "orders", "orders:trimmed")
    lease = h.assign()["lease"]
    assert [e[0] for e in h.ids(5, lease=lease)] == ids[:5]
    r.db.cmd("XTRIM", "orders:trimmed", "MINID", ids[12])  # what is out, and more
    h.ack(lease, ids[4])
    assert [e[0] for e in h.ids(5, lease=lease)] == ids[12:17], "it goes on at the next one"
    h.ack(lease, ids[16])
    assert [e[0] for e in h.ids(3, lease=lease)] == ids[17:]
    h.ack(lease, ids[-1])

    ids = add(r.db, "orders:deleted", 5)
    lbs(r.db, "orders", "orders:deleted")
    lease = h.assign()["lease"]
    h.ids(5, lease=lease)
    for id in ids[1], ids[4]:
        r.db.cmd("XDEL", "orders:deleted", id)
    h.ack(lease, ids[1])
    assert h.nack(lease, ids[2], retry_ms=0)["outcome"] == "waits"
    assert [e[0] for e in h.ids(1, lease=lease)] == [ids[2]]
    h.ack(lease, ids[2])
    assert [e[0] for e in h.ids(1, lease=lease)] == [ids[3]]
    h.ack(lease, ids[3])
    assert position(r.db, "orders:deleted")["pos"] == ids[3]

    ids = add(r.db, "orders:bad", 3)  # one that waits for its next try is deleted: its tries are not the next one's
    lbs(r.db, "orders", "orders:bad")
    lease = h.assign()["lease"]
    h.ids(3, lease=lease)
    h.nack(lease, ids[0], retry_ms=300)
    r.db.cmd("XDEL", "orders:bad", ids[0])
    assert h.until("entries", lease=lease)["e"][0][::2] == [ids[1]], "without tries"


@limit(60)
def test_made_again_with_lower_ids_while_nothing_is_read(t):
    """An entry waits for its next try, or the window is full: nothing was pushed. The first look after that sees it."""
    r = t.redis()
    d = t.daemon(r, service=entries(batch=4))
    h = hand(t, d, credits=3)

    def begin(stream, n):
        r.db.pipe([("XADD", stream, f"{100 + i}-0", "n", i) for i in range(n)])
        lbs(r.db, "orders", stream)
        lease = h.assign(stream=stream)["lease"]
        told = h.ids(min(n, 8), lease=lease)
        return lease, told[-1][0]

    def make_again(stream):
        r.db.pipe([("DEL", stream)] + [("XADD", stream, f"{n}-0", "n", n) for n in range(1, 4)])

    def assert_seen(stream, lease):
        assert h.until("revoke", 5, lease=lease)["reason"] == "lost"
        h.send(t="revoked", lease=lease)
        a = h.assign(stream=stream)
        assert a["entries"]["pos"] == "0-0" and h.until("entries", lease=a["lease"])["e"][0][0] == "1-0"

    lease, _ = begin("orders:waits", 6)
    assert h.nack(lease, "102-0", retry_ms=400)["outcome"] == "waits"
    make_again("orders:waits")
    assert_seen("orders:waits", lease)

    lease, last = begin("orders:more", 20)
    make_again("orders:more")
    h.ack(lease, last)
    assert_seen("orders:more", lease)

    lease, last = begin("orders:slow", 6)
    time.sleep(1.2)  # at work
    make_again("orders:slow")
    h.ack(lease, last)
    assert_seen("orders:slow", lease)


@limit(60)
def test_made_again_with_lower_ids_nothing_is_trimmed_or_deleted_unread(t):
    """What its worker acknowledges, and that it is done, is of the stream before."""
    r = t.redis()
    d = t.daemon(r, service=entries(on_ack="trim", on_done="delete"))
    h = hand(t, d, credits=2)

    def made_again(stream):
        r.db.pipe([("DEL", stream)] + [("XADD", stream, f"{n}-0", "n", n) for n in range(1, 4)])

    for stream, is_acked_first in ("orders:a", False), ("orders:b", True):
        for n in range(5):
            r.db.cmd("XADD", stream, f"{100 + n}-0", "n", n)
        lbs(r.db, "orders", stream)
        lease = h.assign(stream=stream)["lease"]
        h.ids(5, lease=lease)
        if is_acked_first:
            h.ack(lease, "104-0")
        made_again(stream)
        if not is_acked_first:
            h.send(t="ack", lease=lease, id="102-0")
        h.done(lease)
        assert r.db.cmd("XLEN", stream) == 3
        lbs(r.db, "orders", stream)
        a = h.assign(stream=stream)
        assert a["entries"]["pos"] == "0-0" and h.until("entries", lease=a["lease"])["e"][0][0] == "1-0"


@limit(60)
def test_ids_from_the_future(t):
    r = t.redis()
    d = t.daemon(r, service=entries())
    ids = [text(r.db.cmd("XADD", "orders:f", f"{2**63}-{n}", "n", n)) for n in range(3)]
    lbs(r.db, "orders", "orders:f")
    h = hand(t, d)
    lease = h.assign()["lease"]
    assert [e[0] for e in h.ids(3)] == ids
    h.send(t="ack", lease=lease, id=f"{2**63}-7")  # one that the stream never had
    assert h.until("err")["code"] == "bad_field"
    assert position(r.db, "orders:f")["pos"] == "0-0"
    h.ack(lease, ids[-1])
    assert position(r.db, "orders:f")["pos"] == ids[-1]
    more = text(r.db.cmd("XADD", "orders:f", "*", "n", 3))
    assert [e[0] for e in h.ids(1, timeout=5)] == [more]


@limit(60)
def test_the_highest_id(t):
    """Nothing can be behind it, and what asks for that is no error to anybody."""
    r = t.redis()
    d = t.daemon(r, service=entries(on_done="delete"))
    highest = text(r.db.cmd("XADD", "orders:h", f"{2**64 - 1}-{2**64 - 1}", "n", 1))
    r.db.cmd("XADD", "orders:k", highest, "n", 1)
    r.db.cmd("HSET", position_key("orders:k"), "token", "0", "pos", highest)
    p = d.ctl("explain", "orders:k")
    assert p.returncode == 1 and f"nothing in it is behind its position {highest}" in p.stderr, p
    lbs(r.db, "orders", "orders:h")
    h = hand(t, d)
    lease = h.assign()["lease"]
    assert [e[0] for e in h.ids(1)] == [highest]
    h.ack(lease, highest)
    row, = d.json("ls")
    assert (row["position"], row["lag"]) == (highest, 0), row
    h.done(lease)
    t.wait(lambda: r.db.cmd("EXISTS", "orders:h", position_key("orders:h")) == 0, 5, "it is deleted with its position")


@limit(60)
def test_batches_that_exceed_the_write_buffer(t):
    """Whoever reads gets them, whoever does not is cut off, and nothing of its stream is lost or skipped."""
    r = t.redis()
    d = t.daemon(r, T=3, service=entries(batch_bytes="1MiB", window=4), cfg={"workers": {"write_buffer": "64KiB"}})
    ids = [text(r.db.cmd("XADD", "orders:k", "*", "v", "x" * 20000)) for _ in range(100)]
    lbs(r.db, "orders", "orders:k")
    slow = Raw(d.worker_sock)
    slow.send({"t": "hello", "v": 1, "name": "slow", "credits": 1, "entries": True})
    d.wait_log("it does not read", 30)
    slow.close()
    h = hand(t, d)
    lease, got = h.assign()["lease"], []
    while len(got) < 100:
        got += [e[0] for e in h.until("entries", lease=lease)["e"]]
        h.ack(lease, got[-1])
    assert got == ids and position(r.db, "orders:k")["pos"] == ids[-1]
    assert r.db.cmd("XLEN", "orders-entries-dlq") == 0


@limit(60)
def test_a_worker_that_never_acks(t):
    r = t.redis()
    d = t.daemon(r, service=entries(batch=2, window=2), cfg={"workers": {"progress_timeout": "2s"}})
    ids = add(r.db, "orders:k", 10)
    lbs(r.db, "orders", "orders:k")
    h = hand(t, d)
    a = h.assign()
    h.ids(4)
    time.sleep(0.2)
    said = d.ctl_ok("explain", "orders:k")
    assert "nothing was heard of what is out" in said and "window=2" in said and "when the worker is silent" in said, said
    h.quiet("entries", 0.3)
    assert h.until("revoke", 10)["reason"] == "timeout"
    h.send(t="revoked", lease=a["lease"])
    b = h.assign()
    (id, _, tries), = h.ids(1, lease=b["lease"])
    assert (id, tries) == (ids[0], 1), "a try is counted, it comes alone"
    h.quiet("entries", 0.3)
    h.ack(b["lease"], id)
    while id != ids[-1]:  # whoever acks is left alone
        for e in h.until("entries", lease=b["lease"])["e"]:
            time.sleep(0.4)
            id = e[0]
            h.ack(b["lease"], id)
    assert not [f for f in h.kept if f["t"] == "revoke"]
