"""Entries mode when things move, die and freeze: clusters, slots, owners, the position's fence."""
import json
import re
import time

from lib import acl
from lib.case import limit
from lib.entries import EntryWorker, add, check_order, entries, hand, ident, lbs, position, text
from lib.maintenance import metric
from lib.redis import slot_of
from test_entries_run import lines, run

issue = 16


@limit(180)
def test_order_in_a_cluster_while_workers_and_daemons_are_killed(t):
    c = t.cluster()
    db = c.client()
    ds = [t.daemon(c, T=3, service=entries(batch=10, retry={"initial": "50ms", "factor": 1})) for _ in range(2)]
    out = t.path("out")
    added = {f"orders:{k}": [] for k in range(30)}
    script = f'read -r line; sleep 0.01; echo "$SLUICE_STREAM $line" >> {out}'
    runs = [run(t, d, "--each", "--", "sh", "-c", script, n=15) for d in ds]
    for k in added:
        added[k] += add(db, k, 10)
        lbs(db, "orders", k)
    time.sleep(0.5)
    runs[0].kill()
    run(t, ds[0], "--each", "--", "sh", "-c", script, n=15)
    time.sleep(0.3)
    ds[1].kill()
    for k in added:
        added[k] += add(db, k, 5, 10)
    ds[1].start()
    t.wait(lambda: all(position(db, k).get("pos") == ids[-1] for k, ids in added.items()), 90, "all acknowledged")
    done = [x.decode().split(" ", 1) for x in lines(out)]
    done = [(s, json.loads(v)["id"]) for s, v in done]
    assert check_order(done, added) == 450


@limit(60)
def test_a_position_that_was_deleted_is_said_so(t):
    """By FLUSHALL or DEL: its worker loses the stream, and nobody is told of a newer owner that there is not."""
    r = t.redis()
    d = t.daemon(r, service=entries())
    h = hand(t, d, credits=2)
    for stream, what in (("k", "ack"), ("n", "nack")):
        ids = add(r.db, stream, 2)
        lbs(r.db, "orders", stream)
        lease = h.assign(stream=stream)["lease"]
        h.ids(2, lease=lease)
        r.db.cmd("DEL", f"{{{stream}}}-sluice")
        h.send(t=what, lease=lease, id=ids[0])
        assert h.until("revoke", lease=lease)["reason"] == "lost"
        t.wait(lambda: re.search(f"stream={stream} its position is gone from Redis", d.log), 10, "the line says why")
    assert "lease lost reason=missing" in d.log and "reason=taken" not in d.log and "newer owner" not in d.log


@limit(90)
def test_names_without_a_position_key_are_dead_letters_in_a_cluster(t):
    c = t.cluster()
    db = c.client()
    d = t.daemon(c, service=entries())
    h = hand(t, d, credits=5)
    for name in ("a}b", "}", "{}x"):
        lbs(db, "orders", name)
    t.wait(lambda: db.cmd("XLEN", "orders-input-dlq") == 3, 20, "dead letters")
    for _, f in db.cmd("XRANGE", "orders-input-dlq", "-", "+"):
        assert dict(zip(map(text, f[::2]), map(text, f[1::2])))["_dlq_reason"] == "bad_name"
    for name in ("{tag}:1", "a{b", "plain"):
        ids = add(db, name, 2)
        lbs(db, "orders", name)
        a = h.assign(stream=name)
        assert [e[0] for e in h.ids(2, lease=a["lease"])] == ids
        h.ack(a["lease"], ids[-1])
        assert position(db, name)["pos"] == ids[-1]


@limit(90)
def test_a_standalone_server_takes_any_name(t):
    r = t.redis()
    d = t.daemon(r, service=entries())
    h = hand(t, d, credits=5)
    ids = add(r.db, "a}b", 2)
    lbs(r.db, "orders", "a}b")
    a = h.assign()
    h.ids(2)
    h.ack(a["lease"], ids[-1])
    assert position(r.db, "a}b")["pos"] == ids[-1]


@limit(120)
def test_an_open_stream_follows_its_slot(t):
    c = t.cluster()
    db = c.client()
    d = t.daemon(c, T=5, service=entries(poll_max="1s"))
    h = hand(t, d)
    lbs(db, "orders", "orders:k")
    a = h.assign()  # armed while it does not exist
    h.quiet("entries", 0.5)
    home = c.master_of("orders:k")
    away = next(n for n in c.masters() if n is not home)
    c.move_slot(slot_of("orders:k"), away)
    ids = add(db, "orders:k", 2)  # each may be a frame of its own, and two frames at most are out
    assert [e[0] for e in h.ids(2, timeout=15)] == ids
    c.move_slot(slot_of("orders:k"), home)  # with entries that are out
    h.send(t="ack", lease=a["lease"], id=ids[0])
    h.acked(a["lease"], ids[0])
    more = add(db, "orders:k", 1, 2)
    assert [e[0] for e in h.ids(1, timeout=15)] == more  # what is out does not come again
    h.ack(a["lease"], more[-1])
    assert position(db, "orders:k")["pos"] == more[-1]


@limit(90)
def test_a_failover_gives_out_again_from_the_position_that_is_left(t):
    r = t.redis()
    d = t.daemon(r, T=10, service=entries(batch=3))
    ids = add(r.db, "orders:k", 9)
    lbs(r.db, "orders", "orders:k")
    h = hand(t, d)
    a = h.assign()
    h.ids(6)
    h.ack(a["lease"], ids[2])
    old = r.db.cmd("HGET", "{orders:k}-sluice", "pos")
    h.ids(3)
    h.ack(a["lease"], ids[5])
    r.db.cmd("HSET", "{orders:k}-sluice", "pos", old)  # as a failover would leave it
    r.db.cmd("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    got = []
    while not got or ident(got[-1]) < ident(ids[8]):
        got += [e[0] for e in h.until("entries")["e"]]
        h.send(t="ack", lease=a["lease"], id=got[-1])
    assert got == ids[3:], got


@limit(90)
def test_a_frozen_owner_moves_nothing(t):
    r = t.redis()
    ds = [t.daemon(r, T=3, service=entries()) for _ in range(2)]
    ids = add(r.db, "orders:k", 5)
    h = hand(t, ds[0])
    lbs(r.db, "orders", "orders:k")
    a = h.assign()
    h.ids(5)
    ds[0].pause()
    h.send(t="ack", lease=a["lease"], id=ids[4])
    g = hand(t, ds[1])
    b = g.assign()
    assert b["token"] > a["token"] and b["entries"]["pos"] == "0-0"
    f = g.until("entries")
    assert [e[0] for e in f["e"]] == ids[:1] and f["e"][0][2] == 1, f  # its owner died on it, as far as anybody knows
    g.ack(b["lease"], ids[0])
    ds[0].cont()
    t.wait(lambda: "lease lost" in ds[0].log, 10, "the frozen one has noticed")
    assert position(r.db, "orders:k")["pos"] == ids[0]
    assert position(r.db, "orders:k")["token"] == b["token"]


@limit(60)
def test_a_position_taken_by_a_newer_owner_is_refused_inside_redis(t):
    r = t.redis()
    d = t.daemon(r, service=entries())
    ids = add(r.db, "orders:k", 5)
    lbs(r.db, "orders", "orders:k")
    h = hand(t, d)
    a = h.assign()
    h.ids(5)
    r.db.cmd("HSET", "{orders:k}-sluice", "token", "9" * 19)
    h.send(t="ack", lease=a["lease"], id=ids[4])
    assert h.until("revoke")["reason"] == "lost"
    assert position(r.db, "orders:k")["pos"] == "0-0"
    t.wait(lambda: metric(d, "sluice_ack_refused_total") == 1, 5, "it is counted")


@limit(60)
def test_one_bad_entry_among_a_thousand(t):
    r = t.redis()
    d = t.daemon(r, service=entries(retry={"initial": "100ms", "factor": 2, "jitter": "0%"}))
    ids = add(r.db, "orders:k", 1000)
    other = add(r.db, "orders:o", 100)
    bad, tried, others = ids[500], [], []

    def work(stream, id, fields, tries):
        if stream == "orders:o":
            others.append(time.monotonic())
        if id == bad and stream == "orders:k":
            tried.append((time.monotonic(), tries))
            return {"reason": "no good"}
        return None
    w = EntryWorker(d.worker_sock, "w", credits=2, work=work)
    t.ending(w.close)
    lbs(r.db, "orders", "orders:k")
    lbs(r.db, "orders", "orders:o")
    t.wait(lambda: position(r.db, "orders:k").get("pos") == ids[-1], 40, "the whole key")
    assert [n for _, n in tried] == [0, 1, 2, 3]
    gaps = [b[0] - a[0] for a, b in zip(tried, tried[1:])]
    assert all(want - 0.02 <= gap < want + 1 for want, gap in zip((0.1, 0.2, 0.4), gaps)), gaps
    assert len(others) == 100 and others[-1] < tried[-1][0], "the other key did not wait for it"
    check_order(w.done, {"orders:k": [x for x in ids if x != bad], "orders:o": other})
    (_, f), = r.db.cmd("XRANGE", "orders-entries-dlq", "-", "+")
    assert text(f[f.index(b"_orig_id") + 1] if b"_orig_id" in f else f[f.index("_orig_id") + 1]) == bad


@limit(90)
def test_an_entry_that_kills_its_worker_goes_alone(t):
    r = t.redis()
    d = t.daemon(r, T=3, service=entries(retry={"initial": "50ms", "factor": 1}))
    ids = add(r.db, "orders:k", 20)
    out = t.path("out")
    lbs(r.db, "orders", "orders:k")
    worker = t.path("w.py")
    with open(worker, "w") as f:
        f.write(f"""
import json, os, socket, sys
s = socket.socket(socket.AF_UNIX); s.connect({d.worker_sock!r})
def send(**f): s.sendall(json.dumps(f).encode() + b"\\n")
send(t="hello", v=1, name="w", credits=1, entries=True)
for f in map(json.loads, s.makefile("rb")):
    if f["t"] == "ping": send(t="pong", n=f["n"])
    for e in f.get("e", []) if f["t"] == "entries" else []:
        if e[0] == {ids[7]!r}: os.abort()
        open({out!r}, "a").write(e[0] + "\\n")
        if e[0] != {ids[6]!r}: send(t="ack", lease=f["lease"], id=e[0])
        else: send(t="ack", lease=f["lease"], id=e[0])
""")
    from lib.servers import spawn
    import sys
    starts = 0
    p = None
    end = time.monotonic() + 60
    while position(r.db, "orders:k").get("pos") != ids[-1]:
        assert time.monotonic() < end
        if p is None or p.poll() is not None:
            starts += 1
            p = spawn([sys.executable, worker], t.path("w.log"))
            t.ending(p.kill)
        time.sleep(0.02)
    (_, f), = r.db.cmd("XRANGE", "orders-entries-dlq", "-", "+")
    row = dict(zip(map(text, f[::2]), map(text, f[1::2])))
    assert row["_orig_id"] == ids[7] and row["_dlq_reason"] == "max_retries_exceeded" and row["_tries"] == "4", row
    assert r.db.cmd("XLEN", "orders-input-dlq") == 0 and starts >= 5
    seen = [x.decode() for x in lines(out)]
    assert sorted(set(seen), key=ident) == ids[:7] + ids[8:]


@limit(60)
def test_wakes_by_push_as_the_user_of_the_acl_file(t):
    acl.switch_on()
    r = t.redis()
    d = t.daemon(r, service=entries(poll_max="10m"), cfg={"redis": {"keyspace_events": "off"}})
    lbs(r.db, "orders", "orders:k")
    h = hand(t, d)
    a = h.assign()
    h.quiet("entries", 2)
    for _ in range(3):
        ids = add(r.db, "orders:k", 1)
        assert [e[0] for e in h.ids(1, timeout=1)] == ids
        h.ack(a["lease"], ids[0])
        h.quiet("entries", 0.5)
    t.wait(lambda: metric(d, "sluice_feed_wakeups_total", source="push") >= 2, 5, "woken by pushes")
    h.done(a["lease"])
    t.nothing_denied()


@limit(60)
def test_operators_see_what_a_stream_waits_for(t):
    r = t.redis()
    d = t.daemon(r, service=entries(retry={"initial": "30s", "jitter": "0%"}))
    ids = add(r.db, "orders:k", 5)
    lbs(r.db, "orders", "orders:k")
    plain = t.worker(d, credits=1)
    t.wait(lambda: "takes entries" in d.ctl("explain", "orders:k").stdout, 10, "why it is not given out")
    plain.close()
    h = hand(t, d)
    a = h.assign()
    h.ids(5)
    h.ack(a["lease"], ids[1])
    row, = d.json("show", "orders:k")
    assert row["position"] == ids[1] and row["tries"] == 0 and row["unacked_ms"] >= 0 and row["state"] == "assigned", row
    ok = h.nack(a["lease"], ids[2], reason="no good")
    assert ok["retry_ms"] == 30000
    said = d.ctl_ok("explain", "orders:k")
    assert f"entry {ids[2]} failed 1 of 4 times, next try in" in said and "no good" in said, said
    row, = d.json("ls", "--state", "blocked")
    assert row["position"] == ids[2 - 1] and row["tries"] == 1, row
    t.wait(lambda: metric(d, "sluice_streams_blocked") == 1, 10, "the gauge")
    assert metric(d, "sluice_entries_nacked_total", reason="failed") == 1


@limit(60)
def test_a_stream_whose_retry_is_worked_on_is_not_blocked(t):
    """Until its entry is given again it is; then a worker has it as any other."""
    r = t.redis()
    d = t.daemon(r, service=entries(retry={"initial": "1s", "factor": 1, "jitter": "0%"}))
    ids = add(r.db, "orders:k", 2)
    lbs(r.db, "orders", "orders:k")
    h = hand(t, d)
    a = h.assign()
    h.ids(2)
    h.nack(a["lease"], ids[0], reason="no good")
    assert metric(d, "sluice_streams_owned", state="blocked") == 1
    assert h.ids(1)[0][:1] == [ids[0]]
    row, = d.json("ls")
    assert row["state"] == "assigned" and row["tries"] == 1 and not d.json("ls", "--state", "blocked"), row
    said = d.ctl_ok("explain", "orders:k")
    assert "waits to try" not in said and "failed 1 of 4 times, it is tried again now: no good" in said, said
    assert metric(d, "sluice_streams_owned", state="blocked") == 0
    assert metric(d, "sluice_streams_owned", state="assigned") == 1


@limit(60)
def test_a_token_from_the_future_is_waited_for(t):
    """A failover that lost a requeue, to a master whose clock is behind, leaves one: nobody has failed."""
    r = t.redis()
    d = t.daemon(r, service=entries())
    ids = add(r.db, "orders:k", 1)
    token = f"{int(time.time() * 1000) + 3000}000007"
    r.db.cmd("HSET", "{orders:k}-sluice", "token", token, "pos", "0-0", "tries", "0")
    lbs(r.db, "orders", "orders:k")
    h = hand(t, d)
    why = "a newer owner has the position of its data stream"
    t.wait(lambda: why in d.ctl("explain", "orders:k").stdout, 5, "why it waits")
    a = h.until("assign", timeout=20)
    assert a["retry"] == 0 and a["token"] > token, a
    assert [e[0] for e in h.ids(1)] == ids
    assert 1 <= d.log.count(why) <= 4, d.log
    t.wait(lambda: metric(d, "sluice_retries_delayed_total", reason="lost") >= 1, 3, "the wait in the metrics")
    assert metric(d, "sluice_assignments_total", kind="new") == 1
    assert r.db.cmd("EXISTS", "orders-input-dlq") == 0


@limit(60)
def test_what_failed_before_does_not_make_the_wait_for_a_token_longer(t):
    """After a failover a stream whose owners had died twice stood still for the pause of a third failure, 64 s and more."""
    r = t.redis()
    d = t.daemon(r, service={"retry": {"initial": "1s", "factor": 8}, **entries()})
    ids = add(r.db, "orders:k", 1)
    token = f"{int(time.time() * 1000) + 1500}000007"
    r.db.cmd("HSET", "{orders:k}-sluice", "token", token, "pos", "0-0", "tries", "0")
    r.db.cmd("XADD", "orders-input", "*", "lbs-input", '{"DataStreamName":"orders:k","Info":{}}', "_retry_count", "2")
    h = hand(t, d)
    a = h.until("assign", timeout=15)
    assert a["retry"] == 2 and a["token"] > token, a
    assert [e[0] for e in h.ids(1)] == ids


@limit(60)
def test_a_token_that_is_never_reached_says_so(t):
    """Waiting does not help: explain says what does, and it does."""
    r = t.redis()
    d = t.daemon(r, T=3, service={"retry": {"initial": 0, "max": "1s"}, **entries()})
    ids = add(r.db, "orders:k", 2)
    r.db.cmd("HSET", "{orders:k}-sluice", "token", "9" * 19, "pos", ids[0], "tries", "0")
    h = hand(t, d)
    lbs(r.db, "orders", "orders:k")
    why = "days ahead"
    t.wait(lambda: why in d.ctl("explain", "orders:k").stdout, 5, "why it waits")
    assert "HDEL {orders:k}-sluice token ends that" in d.ctl("explain", "orders:k").stdout
    r.db.cmd("HDEL", "{orders:k}-sluice", "token")
    h.until("assign", timeout=20)
    assert [e[0] for e in h.ids(1)] == ids[1:], "from where it stood"
