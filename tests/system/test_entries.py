"""Entries mode, protocol by hand: order, window, acknowledgements, nacks, dead letters, resume, idle_release."""
import time

from lib.case import limit
from lib.entries import SERVICE, Hand, add, ident, lbs, position, position_key, text
from lib.worker import Raw

issue = 16


def hand(t, d, **kw):
    h = Hand(d.worker_sock, **kw)
    t.ending(h.close)
    return h


def entries(**kw):
    return {"entries": {"enabled": True, **kw}}


@limit(60)
def test_entries_come_in_order_and_positions_are_kept(t):
    r = t.redis()
    d = t.daemon(r, T=3, service=SERVICE)
    ids = add(r.db, "orders:k1", 250)
    lbs(r.db, "orders", "orders:k1", {"a": 1})
    h = hand(t, d)
    a = h.assign()
    assert a["entries"] == {"pos": "0-0"} and a["stream"] == "orders:k1"
    got = []
    while len(got) < 250:
        f = h.until("entries", lease=a["lease"])
        assert len(f["e"]) <= 100
        got += [e[0] for e in f["e"]]
        assert all(len(e) == 2 for e in f["e"])
        h.ack(a["lease"], got[-1])
    assert got == ids
    assert position(r.db, "orders:k1")["pos"] == ids[-1] and position(r.db, "orders:k1")["token"] == a["token"]
    new = add(r.db, "orders:k1", 1, 250)  # an open empty stream wakes
    assert [e[0] for e in h.ids(1, timeout=2)] == new
    h.ack(a["lease"], ids[0])  # an older one is confirmed and changes nothing
    assert position(r.db, "orders:k1")["pos"] == ids[-1]
    h.ack(a["lease"], new[0])
    assert h.done(a["lease"])["outcome"] == "done"
    t.wait(lambda: r.db.cmd("PTTL", position_key("orders:k1")) > 0, what="the position's time to live")
    assert r.db.cmd("XLEN", "orders:k1") == 251
    more = add(r.db, "orders:k1", 3, 251)
    lbs(r.db, "orders", "orders:k1")
    a = h.assign()
    assert a["entries"] == {"pos": new[0]}
    assert [e[0] for e in h.ids(3)] == more
    assert r.db.cmd("PTTL", position_key("orders:k1")) == -1


@limit(60)
def test_window_bounds_what_is_out(t):
    r = t.redis()
    d = t.daemon(r, service=entries(batch=10, window=2))
    ids = add(r.db, "orders:k", 100)
    lbs(r.db, "orders", "orders:k")
    h = hand(t, d)
    a = h.assign()
    assert [e[0] for e in h.ids(20)] == ids[:20]
    h.quiet("entries", 0.5)
    h.send(t="ack", lease=a["lease"], id=ids[9])
    assert [e[0] for e in h.ids(10)] == ids[20:30]
    h.quiet("entries", 0.3)


@limit(60)
def test_sessions_without_entries_get_no_such_stream(t):
    r = t.redis()
    d = t.daemon(r, service=SERVICE)
    raw = Raw(d.worker_sock).send({"t": "hello", "v": 1, "name": "plain", "credits": 5})
    t.ending(raw.close)
    raw.until("welcome")
    lbs(r.db, "orders", "orders:k")
    try:
        f = raw.until("assign", timeout=1.5)
        raise AssertionError(f)
    except TimeoutError:
        pass
    assert hand(t, d).assign()["stream"] == "orders:k"


@limit(60)
def test_nack_keeps_the_order_and_dead_letters_take_the_entry_alone(t):
    r = t.redis()
    d = t.daemon(r, service=entries(retry={"initial": "100ms", "factor": 1, "jitter": "0%"}))
    ids = add(r.db, "orders:k", 10)
    lbs(r.db, "orders", "orders:k")
    h = hand(t, d)
    a = h.assign()
    lease = a["lease"]
    assert [e[0] for e in h.ids(10)] == ids
    for tries in range(1, 4):
        ok = h.nack(lease, ids[4], reason="no good")
        assert ok["outcome"] == "waits" and ok["retry_ms"] == 100 and ok["id"] == ids[4], ok
        assert position(r.db, "orders:k")["pos"] == ids[3] and position(r.db, "orders:k")["tries"] == str(tries)
        f = h.until("entries")
        assert [e[0] for e in f["e"]] == [ids[4]] and f["e"][0][2] == tries, f
        h.quiet("entries", 0.2)
    ok = h.nack(lease, ids[4], reason="no good")
    assert ok["outcome"] == "dead", ok
    assert [e[0] for e in h.ids(5)] == ids[5:]
    (_, fields), = r.db.cmd("XRANGE", "orders-entries-dlq", "-", "+")
    fields = dict(zip(map(text, fields[::2]), map(text, fields[1::2])))
    at, node = int(fields.pop("_dlq_at")), fields.pop("_dlq_node")
    assert abs(at - time.time() * 1000) < 60000 and node == d.name
    assert fields == {"n": "4", "_dlq_stream": "orders:k", "_orig_id": ids[4], "_dlq_reason": "max_retries_exceeded",
                      "_dlq_error": "no good", "_tries": "4"}, fields
    ok = h.nack(lease, ids[6], dead=True, reason="never")
    assert ok["outcome"] == "dead"
    assert [e[0] for e in h.ids(3)] == ids[7:]
    assert position(r.db, "orders:k")["pos"] == ids[6]
    assert r.db.cmd("XLEN", "orders-entries-dlq") == 2
    h.ack(lease, ids[-1])
    h.send(t="nack", lease=lease, id=ids[-1])
    assert h.until("err")["code"] == "bad_field"
    h.send(t="ack", lease=lease, id="99999999999999-0")
    assert h.until("err")["code"] == "bad_field"
    assert position(r.db, "orders:k")["pos"] == ids[-1]


@limit(60)
def test_resume_sends_what_is_not_acknowledged_again(t):
    r = t.redis()
    d = t.daemon(r, T=4, service=entries(batch=5))
    ids = add(r.db, "orders:k", 20)
    lbs(r.db, "orders", "orders:k")
    h = hand(t, d)
    a = h.assign()
    assert [e[0] for e in h.ids(10)] == ids[:10]
    h.ack(a["lease"], ids[2])
    h.close()
    g = hand(t, d, session=h.welcome["session"], resume=[a["lease"]])
    assert g.welcome["resumed"] == [a["lease"]]
    g.send(t="ack", lease=a["lease"], id=ids[5])  # finished meanwhile; before it came again
    got = []
    while not got or ident(got[-1]) < ident(ids[7]):
        got += [e[0] for e in g.until("entries")["e"]]
    assert got[0] in (ids[3], ids[6]) and got == ids[ids.index(got[0]):ids.index(got[-1]) + 1], got


@limit(90)
def test_a_daemon_that_is_killed_or_restarted_keeps_the_position(t):
    r = t.redis()
    d = t.daemon(r, T=3, service=entries(batch=5))
    ids = add(r.db, "orders:k", 20)
    lbs(r.db, "orders", "orders:k")
    h = hand(t, d)
    a = h.assign()
    assert [e[0] for e in h.ids(10)] == ids[:10]
    h.ack(a["lease"], ids[4])
    d.kill()
    d.start()
    g = hand(t, d, session=h.welcome["session"], resume=[a["lease"]])
    assert g.welcome["resumed"] == [a["lease"]], g.welcome
    g.send(t="ack", lease=a["lease"], id=ids[7])  # of the time before: accepted, though this process has not given it
    g.acked(a["lease"], ids[7])
    got = [e[0] for e in g.until("entries")["e"]]
    assert ident(got[0]) <= ident(ids[8]) and got == ids[ids.index(got[0]):ids.index(got[-1]) + 1]
    assert position(r.db, "orders:k")["tries"] == "0"


@limit(60)
def test_idle_release_ends_the_lease(t):
    r = t.redis()
    d = t.daemon(r, service=entries(idle_release="200ms"))
    ids = add(r.db, "orders:k", 3)
    lbs(r.db, "orders", "orders:k")
    h = hand(t, d)
    a = h.assign()
    h.ids(3)
    h.quiet("ended", 0.6)  # not while something is not acknowledged
    h.ack(a["lease"], ids[-1])
    began = time.monotonic()
    assert h.until("ended")["outcome"] == "done"
    assert 0.15 < time.monotonic() - began < 2
    t.wait(lambda: r.db.cmd("XLEN", "orders-input") == 0, what="the entry is gone")
    more = add(r.db, "orders:k", 1)
    lbs(r.db, "orders", "orders:k")
    assert h.assign()["entries"] == {"pos": ids[-1]}
    assert [e[0] for e in h.ids(1)] == more


@limit(60)
def test_on_ack_trim_and_on_done_delete(t):
    r = t.redis()
    d = t.daemon(r, service=entries(on_ack="trim", on_done="delete"))
    ids = add(r.db, "orders:k", 10)
    lbs(r.db, "orders", "orders:k")
    h = hand(t, d)
    a = h.assign()
    h.ids(10)
    h.ack(a["lease"], ids[6])
    assert r.db.cmd("XLEN", "orders:k") == 3
    h.done(a["lease"])  # 3 unread: kept, and the position with it
    t.wait(lambda: r.db.cmd("PTTL", position_key("orders:k")) > 0, what="closed")
    lbs(r.db, "orders", "orders:k")
    a = h.assign()
    assert a["entries"]["pos"] == ids[6] and [e[0] for e in h.ids(3)] == ids[7:]
    h.ack(a["lease"], ids[-1])
    h.done(a["lease"])
    t.wait(lambda: r.db.cmd("EXISTS", "orders:k", position_key("orders:k")) == 0, what="stream and position deleted")


@limit(60)
def test_a_stream_of_another_type_is_a_dead_letter(t):
    r = t.redis()
    d = t.daemon(r, service=SERVICE)
    r.db.cmd("SET", "orders:k", "x")
    lbs(r.db, "orders", "orders:k")
    h = hand(t, d)
    t.wait(lambda: r.db.cmd("XLEN", "orders-input-dlq") == 1, what="the dead letter")
    (_, f), = r.db.cmd("XRANGE", "orders-input-dlq", "-", "+")
    assert "wrong_type" in list(map(text, f))
    assert "the key of its data stream holds another type" in list(map(text, f))
    add(r.db, "orders:p", 1)
    r.db.cmd("SET", position_key("orders:p"), "x")
    lbs(r.db, "orders", "orders:p")
    t.wait(lambda: r.db.cmd("XLEN", "orders-input-dlq") == 2, what="the dead letter of the other key")
    _, (_, f) = r.db.cmd("XRANGE", "orders-input-dlq", "-", "+")
    assert any("the key of its position, {orders:p}-sluice, holds another type" in text(x) for x in f), f
    lbs(r.db, "orders", "orders:good")
    add(r.db, "orders:good", 1)
    assert h.assign()["stream"] == "orders:good"


@limit(60)
def test_a_stream_made_again_with_lower_ids_is_revoked_as_lost(t):
    r = t.redis()
    d = t.daemon(r, service=SERVICE)
    ids = add(r.db, "orders:k", 3)
    lbs(r.db, "orders", "orders:k")
    h = hand(t, d)
    a = h.assign()
    h.ids(3)
    h.ack(a["lease"], ids[-1])
    r.db.cmd("DEL", "orders:k")
    r.db.cmd("XADD", "orders:k", "5-1", "n", "0")
    v = h.until("revoke", lease=a["lease"])
    assert v["reason"] == "lost", v
    said = d.ctl_ok("explain", "orders:k")
    assert "its worker was told to stop" in said and "(reason lost)" in said, said
    h.send(t="revoked", lease=a["lease"])
    b = h.assign()
    assert b["entries"] == {"pos": "0-0"} and b["retry"] == 0
    assert [e[0] for e in h.ids(1)] == ["5-1"]


@limit(60)
def test_without_tracking_streams_are_polled_and_it_is_said_once(t):
    r = t.redis()
    r.db.cmd("ACL", "SETUSER", "poor", "on", "nopass", "~*", "&*", "+@all", "-client|tracking")
    d = t.daemon(r, service=SERVICE, cfg={"redis": {"username": "poor", "password": {"env": "POOR"}}}, env={"POOR": "x"})
    h = hand(t, d)
    lbs(r.db, "orders", "orders:k")
    h.assign()
    h.quiet("entries", 1)
    ids = add(r.db, "orders:k", 1)
    assert [e[0] for e in h.ids(1, timeout=1)] == ids
    assert d.log.count("CLIENT TRACKING refused") == 1


@limit(60)
def test_a_drain_takes_streams_back_when_nothing_is_out(t):
    r = t.redis()
    d = t.daemon(r, service=SERVICE)
    ids = add(r.db, "orders:k", 3)
    lbs(r.db, "orders", "orders:k")
    h = hand(t, d)
    a = h.assign()
    h.ids(3)
    d.ctl_ok("drain")
    h.until("drain")
    add(r.db, "orders:k", 1, 3)
    h.quiet("revoke", 0.5)  # it works on three
    h.ack(a["lease"], ids[-1])
    assert h.until("revoke")["reason"] == "drain"
    h.quiet("entries", 0.3)
    h.send(t="revoked", lease=a["lease"])
    t.wait(lambda: not d.json("ls"), 10, "given back")
    d.ctl_ok("undrain")
    b = h.assign()
    assert b["entries"]["pos"] == ids[-1] and b["retry"] == 0
    assert len(h.ids(1)[0]) == 2, "a clean end is no death"
