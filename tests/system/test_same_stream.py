"""Several entries of one stream: they run in order or are merged, and keep nothing else from starting."""
import json
import time

from lib import checks
from lib.case import limit
from lib.checks import Added

issue = 14
N = 20000
ACTIVE, PARKED = "{orders-input}-active", "{orders-input}-parked"


def metric(d, name):
    rows = [x.rsplit(" ", 1) for x in d.ctl_ok("metrics").splitlines() if x.split("{")[0].split(" ")[0] == name]
    return sum(float(v) for _, v in rows) if rows else None


def add(r, stream, n, first=0):
    r.db.pipe([("XADD", "orders-input", "*", "lbs-input", json.dumps({"DataStreamName": stream, "Info": {"n": first + i}})) for i in range(n)])


def switch(d, same_stream):
    """By a reload."""
    d.cfg["services"][0]["same_stream"] = same_stream
    d.write()
    d.ctl_ok("reload")


@limit(120)
def test_many_entries_of_a_running_stream_keep_nothing_from_starting(t):
    r = t.redis()
    d = t.daemon(r, service={"max_streams": 50}, cfg={"log": {"level": "info"}})
    w = t.worker(d, credits=4)
    Added(r.db).one("orders", "s")
    w.wait("assign")
    add(r, "s", N)
    start = time.monotonic()
    Added(r.db).one("orders", "other")
    w.wait("assign", 2, timeout=30)
    took = time.monotonic() - start
    assert w.frames("assign")[1]["stream"] == "other", w.frames("assign")
    assert took < 2, f"{1000 * took:.0f} ms"
    assert len(checks.locks(r.db)) == 2 and r.db.cmd("XPENDING", "orders-input", "orders-group")[0] == 2
    assert r.db.cmd("ZCARD", PARKED) == N
    t.wait(lambda: metric(d, "sluice_streams_parked") == N and metric(d, "sluice_streams_wanted") == 0, 10, "the metrics")
    print(f"begun after {1000 * took:.0f} ms")


@limit(120)
def test_they_all_run_in_order(t):
    r = t.redis()
    d = t.daemon(r, cfg={"log": {"level": "info"}})
    w = t.worker(d, credits=3, work=0)
    add(r, "s", 1500)
    checks.wait_clean(r.db, timeout=90)
    a = w.frames("assign")
    assert [f["info"]["n"] for f in a] == list(range(1500))
    tokens = [f["token"] for f in a]
    assert tokens == sorted(tokens) and len(set(tokens)) == 1500
    assert not r.db.cmd("EXISTS", PARKED)


@limit(120)
def test_two_daemons_take_turns(t):
    r = t.redis()
    ds = [t.daemon(r, name=x, T=3) for x in "ab"]
    ws = [t.worker(d, credits=3, work=0.002) for d in ds]
    add(r, "s", 300)
    checks.wait_clean(r.db, timeout=90)
    assert sorted(f["info"]["n"] for w in ws for f in w.frames("assign")) == list(range(300))
    checks.none(checks.overlaps([w.journal for w in ws]))


@limit(90)
def test_what_waits_goes_on_when_somebody_else_ended_the_first(t):
    """A consumer that knows nothing of the registry, or a daemon of the release before."""
    r = t.redis()
    d = t.daemon(r)
    w = t.worker(d, credits=2)
    add(r, "s", 3)
    a = w.wait("assign")
    t.wait(lambda: r.db.cmd("ZCARD", PARKED) == 2, 10, "two wait")
    r.db.cmd("XACK", "orders-input", "orders-group", a["id"])
    r.db.cmd("XDEL", "orders-input", a["id"])
    w.wait("revoke", timeout=20)
    w.finish(a, "revoked")
    w.work = 0
    b = w.wait("assign", 2, timeout=20)
    w.finish(b)
    checks.wait_clean(r.db, timeout=20)
    assert [f["info"]["n"] for f in w.frames("assign")] == [0, 1, 2]


@limit(60)
def test_what_cannot_go_on_now_is_not_said_to_go_on(t):
    """Redis takes no write: what waits is asked for once a second, goes on once, and one line says so."""
    r = t.redis()
    for same_stream in ("serialize", "coalesce"):
        d = t.daemon(r, service={"same_stream": same_stream}, cfg={"log": {"level": "info"}})
        w = t.worker(d, credits=4)
        first, _ = Added(r.db).many("orders", ["s", "s"])
        w.wait("assign")
        t.wait(lambda: r.db.cmd("ZCARD", PARKED) == 1, 10, "one waits")
        r.db.cmd("CONFIG", "SET", "maxmemory", "1")
        r.db.pipe([("XACK", "orders-input", "orders-group", first), ("XDEL", "orders-input", first)])
        time.sleep(3)
        assert "go on with what waited" not in d.log and r.db.cmd("ZCARD", PARKED) == 1
        r.db.cmd("CONFIG", "SET", "maxmemory", "0")
        w.wait("assign", 2)
        d.wait_log("streams=1 that nobody ran any more go on with what waited for them")
        w.work = 0
        w.finish(w.frames("assign")[1])
        w.wait("ok")
        assert d.log.count("go on with what waited") == 1
        d.end()


@limit(90)
def test_what_waits_survives_its_daemon(t):
    r = t.redis()
    a, b = (t.daemon(r, name=x, T=3, service={"retry": {"max_retries": 9}}) for x in "ab")
    w = t.worker(a, credits=2)
    add(r, "s", 5)
    w.wait("assign")
    t.wait(lambda: r.db.cmd("ZCARD", PARKED) == 4, 10, "four wait")
    a.kill()
    w.close()
    w2 = t.worker(b, credits=2, work=0)
    checks.wait_clean(r.db, timeout=30)
    assert [f["info"]["n"] for f in w2.frames("assign")] == [0, 1, 2, 3, 4]


@limit(120)
def test_coalesce_runs_once_more_with_the_newest(t):
    r = t.redis()
    d = t.daemon(r, service={"same_stream": "coalesce"}, cfg={"log": {"level": "info"}})
    w = t.worker(d, credits=4)
    add(r, "s", 1)
    a = w.wait("assign")
    add(r, "s", N, first=1)
    Added(r.db).one("orders", "other")
    b = w.wait("assign", 2, timeout=30)
    assert b["stream"] == "other"
    t.wait(lambda: r.db.cmd("XLEN", "orders-input") == 2, 30, "the others are merged")
    assert metric(d, "sluice_entries_merged_total") == N
    w.finish(a)
    c = w.wait("assign", 3)
    assert c["stream"] == "s" and c["info"] == {"n": N} and c["retry"] == 0 and c["token"] > a["token"]
    w.finish(b)
    w.finish(c)
    checks.wait_clean(r.db)
    assert len(w.frames("assign")) == 3


@limit(90)
def test_a_wish_outlives_failures_and_daemons(t):
    r = t.redis()
    a, b = (t.daemon(r, name=x, T=3, service={"same_stream": "coalesce", "retry": {"max_retries": 1}}) for x in "ab")
    w = t.worker(a, credits=2)
    add(r, "s", 1)
    x = w.wait("assign")
    add(r, "s", 3, first=1)
    t.wait(lambda: r.db.cmd("HLEN", ACTIVE) == 2, 10, "a wish")
    w.finish(x, "fail")
    y = w.wait("assign", 2)
    assert y["info"] == {"n": 0} and y["retry"] == 1
    a.kill()  # once more: a dead letter, and what waits goes on
    w.close()
    w2 = t.worker(b, credits=2, work=0)
    checks.wait_clean(r.db, timeout=30, dlq=1)
    assert [f["info"] for f in w2.frames("assign")] == [{"n": 3}]


@limit(90)
def test_allow_after_serialize_leaves_nothing_behind(t):
    r = t.redis()
    d = t.daemon(r)
    w = t.worker(d, credits=2)
    add(r, "s", 6)
    w.wait("assign")
    t.wait(lambda: r.db.cmd("ZCARD", PARKED) == 5, 10, "five wait")
    switch(d, "allow")
    w.work = 0
    w.finish(w.frames("assign")[0])
    checks.wait_clean(r.db, timeout=30, registry=None)
    assert sorted(f["info"]["n"] for f in w.frames("assign")) == [0, 1, 2, 3, 4, 5]


@limit(60)
def test_allow_after_serialize_does_not_drip(t):
    """What waits for one stream went on once a second, one after the other: 10,000 for three hours."""
    r = t.redis()
    d = t.daemon(r)
    w = t.worker(d, credits=10)
    add(r, "s", 200)
    add(r, "t", 3)
    w.wait("assign", 2)
    t.wait(lambda: r.db.cmd("ZCARD", PARKED) == 201, 10, "they wait")
    start = time.monotonic()
    switch(d, "allow")
    w.work = 0
    for f in w.frames("assign"):
        w.finish(f)
    checks.wait_clean(r.db, timeout=30, registry=None)
    assert time.monotonic() - start < 5, time.monotonic() - start
    assert sorted(f["info"]["n"] for f in w.frames("assign") if f["stream"] == "s") == list(range(200))


@limit(60)
def test_what_waits_runs_in_order_after_a_switch(t):
    """serialize -> coalesce and back, with entries that wait: the oldest first, those that came under coalesce as one."""
    r = t.redis()
    d = t.daemon(r)
    w = t.worker(d, credits=4)
    for first, same_stream in ((0, "serialize"), (3, "coalesce"), (6, "serialize")):
        switch(d, same_stream)
        add(r, "s", 3, first)
        w.wait("assign")
        lengths = {0: (3, 2), 3: (3, 3), 6: (6, 6)}[first]
        t.wait(lambda: (r.db.cmd("XLEN", "orders-input"), r.db.cmd("ZCARD", PARKED)) == lengths, 10, "they wait")
    w.work = 0
    w.finish(w.frames("assign")[0])
    checks.wait_clean(r.db, timeout=20)
    assert [f["info"]["n"] for f in w.frames("assign")] == [0, 1, 2, 5, 6, 7, 8]
    assert not r.db.cmd("EXISTS", PARKED)
