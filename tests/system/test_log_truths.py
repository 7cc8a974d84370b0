"""What an operator reads: why a dead letter is one, fields in JSON lines, one warning for many leases, what workers do."""
import datetime
import json
import re
import time

from lib.case import limit
from lib.checks import Added
from lib.redis import entries, pairs
from lib.worker import Raw

issue = 12


def dead_lines(d):
    return [x for x in d.log.splitlines() if " dead letter reason=" in x]


def test_the_workers_reason_is_in_the_line(t):
    r = t.redis()
    d = t.daemon(r, service={"retry": {"max_retries": 0}})
    w = t.worker(d, credits=9)
    add = Added(r.db)
    add.one("orders", "a")
    w.finish(w.wait("assign"), "fail", reason='bad card "4000" \u20ac', dead=True)
    d.wait_log("dead letter reason=rejected")
    add.one("orders", "b")
    w.finish(w.wait("assign", 2), "fail", reason="exit status 3: no route to host")
    d.wait_log("dead letter reason=max_retries_exceeded")
    first, second = dead_lines(d)
    assert first.endswith('retry=0 error="bad card \\"4000\\" \u20ac"'), first
    assert second.endswith('retry=0 error="exit status 3: no route to host"'), second


BAD = {"there is no field lbs-input": ["other", "x"], "lbs-input is not JSON": ["lbs-input", "{"], "not a JSON object": ["lbs-input", "[]"],
       "half of a surrogate pair": ["lbs-input", '{"DataStreamName":"s","Info":"\\ud800"}'],
       "no DataStreamName": ["lbs-input", '{"Info":{}}']}


def test_unparseable_says_why(t):
    r = t.redis()
    d = t.daemon(r)
    t.worker(d, credits=9)
    for fields in BAD.values():
        r.db.cmd("XADD", "orders-input", "*", *fields)
    t.wait(lambda: len(dead_lines(d)) == len(BAD), 10)
    for why, line, (_, f) in zip(BAD, dead_lines(d), entries(r.db, "orders-input-dlq")):
        assert "reason=unparseable" in line and why in line, line
        assert why in f["_dlq_error"], f
    shown = d.ctl_ok("dlq", "show", "orders")
    assert all(why in shown for why in BAD), shown


def test_dead_entries_say_why(t):
    """Entries mode: what the worker said, what was too large, and a stream that is none; names cannot forge fields."""
    r = t.redis()
    d = t.daemon(r, service={"same_stream": "coalesce", "entries": {"enabled": True, "retry": {"max_retries": 0}}},
                 cfg={"workers": {"max_frame": "4KiB"}})
    x = Raw(d.worker_sock).send({"t": "hello", "v": 1, "name": "e", "credits": 9, "entries": True})
    r.db.cmd("SET", "text", "x")
    r.db.cmd("XADD", "a b=c", "*", "k", "x" * 5000)
    r.db.cmd("XADD", "a b=c", "*", "k", "v")
    Added(r.db).many("orders", ["text", "a b=c"])
    e = x.until("entries")
    x.send({"t": "nack", "lease": e["lease"], "id": e["e"][0][0], "reason": "no luck", "dead": True})
    t.wait(lambda: len(dead_lines(d)) == 3, 10)
    want = {'stream="a b=c" .*reason=too_large tries=0 error="its frame would exceed workers.max_frame: .*"': None,
            'stream="a b=c" .*reason=rejected tries=1 error="no luck"': None,
            "stream=text .*reason=wrong_type retry=0 error=.*another type": None}
    for p in want:
        assert any("service=orders" in line and re.search(p, line) for line in dead_lines(d)), (p, dead_lines(d))
    said = [f["_dlq_error"] for s in ("orders-input-dlq", "orders-entries-dlq") for _, f in entries(r.db, s)]
    assert len(said) == 3 and all(said), said


@limit(60)
def test_json_lines_have_fields(t):
    r = t.redis()
    d = t.daemon(r, cfg={"log": {"level": "info", "format": "json"}}, service={"retry": {"max_retries": 0}})
    w = t.worker(d, name="w one", credits=9)
    name = 'a b" level=error id=9'
    Added(r.db).one("orders", name)
    a = w.wait("assign")
    w.finish(a, "fail", reason="no luck", dead=True)
    d.wait_log("dead letter")
    lines = [json.loads(x) for x in d.log.splitlines()]
    dead, = [x for x in lines if "dead letter" in x["msg"]]
    assert dead["level"] == "notice" and dead["service"] == "orders" and dead["stream"] == name and dead["id"] == a["id"], dead
    assert dead["reason"] == "rejected" and dead["retry"] == 0 and dead["error"] == "no luck", dead
    up, = [x for x in lines if "connected credits=" in x["msg"]]
    assert up["credits"] == 9 and isinstance(up["pid"], int), up
    start, = [x for x in lines if x["msg"].startswith("shard=0 redis=") and "started" in x["msg"]]
    assert start["shard"] == 0 and start["redis"], start


@limit(90)
def test_many_lost_leases_are_one_warning(t):
    r = t.redis()
    d = t.daemon(r, T=3, cfg={"log": {"level": "warn"}})
    w = t.worker(d, credits=500)
    Added(r.db).many("orders", [f"s{i}" for i in range(500)])
    w.wait("assign", 500, timeout=30)
    r.pause()
    w.wait("revoke", 500, timeout=20)
    t.wait(lambda: "leases lost" in d.log, 5)
    r.cont()
    line, = [x for x in d.log.splitlines() if "leases lost" in x]
    m = re.search(r" warn service=orders leases lost n=(\d+) expired=(\d+)$", line)
    assert m and int(m[1]) == int(m[2]) == 500, line


def test_workers_say_what_they_do(t):
    r = t.redis()
    d = t.daemon(r)
    w = t.worker(d, name="busy", credits=2)
    idle = t.worker(d, name="idle", credits=0)
    idle.wait("welcome")

    def states():
        return {x["name"]: x["state"] for x in d.json("workers")}
    Added(r.db).many("orders", ["a", "b"])
    w.wait("assign", 2)
    assert states() == {"busy": "active", "idle": "active"}
    w.send({"t": "credits", "n": 0})
    t.wait(lambda: states()["busy"] == "leaving", 5, "it takes no more and finishes what it has")
    w.send({"t": "credits", "n": 2})
    t.wait(lambda: states()["busy"] == "active", 5)
    d.ctl_ok("drain")
    assert states() == {"busy": "draining", "idle": "draining"}
    d.ctl_ok("undrain")
    assert states() == {"busy": "active", "idle": "active"}
    w.sock.close()
    t.wait(lambda: states().get("busy") == "limbo", 5, "its connection dropped, its process lives")


def test_ready_is_said_when_it_is(t):
    """Not with the next tick of a second."""
    r = t.redis()

    def late():
        d = t.daemon(r)
        d.wait_log(" notice ready")

        def at(what):
            stamp = next(x for x in d.log.splitlines() if what in x).split()[0]
            return datetime.datetime.fromisoformat(stamp.replace("Z", "+00:00"))
        return (at(" notice ready") - at("own entries are known")).total_seconds()
    each = [late() for _ in range(4)]
    assert sum(each) < 1, each  # by the tick 3 s


@limit(60)
def test_a_worker_that_hangs_is_named(t):
    """It is alive and says nothing of its streams, and then does not stop: one line for each, and explain knows whose credits are missing."""
    r = t.redis()
    d = t.daemon(r, T=3, cfg={"log": {"level": "info"}, "workers": {"progress_timeout": "1s"}}, service={"retry": {"max_retries": 0}})
    w = t.worker(d, "slow", credits=3, answers_revoke=False)
    add = Added(r.db)
    add.many("orders", ["a", "b", "c"])
    w.wait("assign", 3)
    t.wait(lambda: "a dead letter" in d.ctl("explain", "a").stdout, 20, "they are taken back")
    add.one("orders", "waits")
    warned = [x for x in d.log.splitlines() if " warn " in x and "worker=slow session=1" in x]
    silent, running = warned
    assert re.search(r"has said nothing about its work on stream=[abc] for ms=1000 \(workers.progress_timeout\): it is told to stop n=1$", silent), warned
    assert re.search(r"was told to stop stream=[abc] and has not: others may run it now", running), warned
    x, = d.json("explain", "waits")
    assert "waiting for credits: 1 worker of orders has 0 streams in work, and 3 that it was told to stop and has not, and no credit is free" in x["because"], x
    assert x["advice"].startswith("look at worker slow (pid "), x
    for f in w.frames("revoke"):
        w.send({"t": "revoked", "lease": f["lease"]})
    w.wait("assign", 4)
