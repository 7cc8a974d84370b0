"""explain of a stream that another daemon runs, that two services share, and of one that went with Redis' data."""
from lib.case import limit, no_acl
from lib.checks import Added
from lib.entries import add, entries, hand, lbs

issue = 5


@limit(60)
def test_who_runs_it_comes_before_what_nobody_has_read(t):
    """A later entry of the stream waits: asked anywhere else, the answer is who has the lease, and since when."""
    r = t.redis()
    a, b = (t.daemon(r, name=n) for n in "ab")
    w = t.worker(a, credits=2)
    first = Added(r.db).one("orders", "busy")
    Added(r.db).one("orders", "other")
    w.wait("assign", 2)
    later = Added(r.db).one("orders", "busy")
    x, y = b.json("explain", "busy")
    assert (x["state"], x["id"], x["owner"], x["running"]) == ("elsewhere", first, a.consumer, True), x
    assert x["because"][0].startswith("node a has it since ") and "1 delivery" in x["because"][0], x
    assert (y["state"], y["id"], y["running"]) == ("waiting", later, False), y
    assert "an earlier entry of its stream comes first: the one above" in y["because"], y
    assert not any("no worker serves" in f for f in y["because"]), y
    x, = b.json("explain", "other")
    assert x["state"] == "elsewhere", x
    x, = b.json("explain", later)
    assert (x["state"], x["id"]) == ("waiting", later), x
    w.send({"t": "credits", "n": 0})
    Added(r.db).one("orders", "comes-back")
    w.send({"t": "credits", "n": 3})
    back = w.wait("assign", 3)
    w.send({"t": "credits", "n": 0})
    w.finish(back, "fail", retry_ms=0)
    t.wait(lambda: [x["state"] for x in b.json("explain", "comes-back")] == ["waiting"], 10, "what goes back is told once")
    for f in w.frames("assign"):
        w.finish(f, "fail", retry_ms=60000)
    w.wait("ok", 2)
    later = Added(r.db).one("orders", "other")
    x, y = b.json("explain", "other")
    assert (x["state"], y["state"], y["id"]) == ("delayed", "waiting", later) and "failed 1 of" in x["because"][0], (x, y)


@limit(60)
def test_what_went_with_the_data_is_not_called_finished(t):
    r = t.redis()
    d = t.daemon(r)
    t.worker(d, credits=1).wait("welcome")
    assert "was never added" in d.ctl("explain", "gone").stderr
    assert "group" not in d.ctl("--no-headers", "doctor").stdout
    r.db.cmd("FLUSHALL")
    d.wait_log("the consumer group is made again", 15)
    p = d.ctl("explain", "gone")
    assert p.returncode == 1 and "the consumer group of orders-input was found gone since " in p.stderr, p
    assert "is lost" in p.stderr and "it has finished" not in p.stderr, p
    row = next(x for x in d.json("doctor") if x["check"] == "group")
    assert row["result"] == "warn" and "orders-input was found gone since" in row["found"] and row["advice"], row


@limit(60)
@no_acl("entries mode in two services")
def test_two_services_with_one_data_stream_are_told(t):
    """Entries mode: each takes the position from the other."""
    r = t.redis()
    d = t.daemon(r, services=("orders", "bills"), service=entries())
    h = hand(t, d, credits=4)
    add(r.db, "orders:x", 2)
    for n in ("orders", "bills"):
        lbs(r.db, n, "orders:x")
        h.assign(service=n)
    rows = {x["service"]: x for x in d.json("explain", "orders:x")}
    for n, other in (("orders", "bills"), ("bills", "orders")):
        assert any(f.startswith(f"service {other} has this data stream, too") for f in rows[n]["because"]), rows[n]
        assert rows[n]["advice"].startswith("name a data stream in one service only"), rows[n]
    row = next(x for x in d.json("doctor") if x["check"] == "shared")
    assert row["result"] == "warn" and row["found"] == "1 data stream has two services, as orders:x of orders and bills", row
