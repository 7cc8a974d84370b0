"""A dead or hung owner's streams continue elsewhere in T + 1 s; a slow but alive one keeps its own."""
import json
import os
import time

from lib import checks
from lib.case import limit, no_acl
from lib.checks import Added
from lib.redis import SEP, entries
from lib.worker import now_ms

issue = 3
T = float(os.environ.get("SLUICE_TEST_T", 4))
SLACK = float(os.environ.get("SLUICE_TEST_SLACK", 0.5))  # of the test machine, not of the promise


def hold(t, d, redis, n, names="s"):
    """A worker on d that holds n streams for ever."""
    w = t.worker(d, credits=n)
    add = Added(redis.db)
    add.many("orders", [f"{names}{i}" for i in range(n)])
    w.wait("assign", n, timeout=30)
    return w, add


def back_within(t, redis, n, seconds, kill):
    """After kill() all n entries are unread in the LBS within `seconds`; prints p50 and p99; checks the counts."""
    at, mono = time.time() * 1000, time.monotonic()
    kill()
    t.wait(lambda: checks.pending(redis.db, "orders") == 0, seconds + 20, "nothing pending any more", 0.02)
    took = time.monotonic() - mono
    rows = entries(redis.db, "orders-input")
    assert len(rows) == n and {f["_retry_count"] for _, f in rows} == {"1"}
    ages = sorted(int(i.split("-")[0]) - at for i, _ in rows)
    print(f"= {n} streams back after {took:.2f} s, p50 {ages[n // 2]:.0f} ms, p99 {ages[n * 99 // 100]:.0f} ms")
    assert ages[-1] <= (seconds + SLACK) * 1000, f"{ages[-1]:.0f} ms, promised {seconds:g} s"
    return took


def kill_case(t, redis, n, other_keys=0, T=T):
    a, b = t.daemon(redis, name="a", T=T), t.daemon(redis, name="b", T=T)
    w, add = hold(t, a, redis, n)
    for i in range(0, other_keys, 5000):
        redis.db.pipe([("SET", f"other:{k}", "x", "PX", 60000 + k % 30000) for k in range(i, i + 5000)])
    back_within(t, redis, n, T + 1, a.kill)
    v = t.worker(b, credits=n, work=0)
    checks.wait_clean(redis.db, timeout=60)
    checks.none(checks.overlaps([w.journal, v.journal]) + checks.lost(add.sure, [w.journal, v.journal]) + checks.token_order([w.journal, v.journal]))


@limit(120)
def test_killed_with_1_stream(t):
    kill_case(t, t.redis(), 1)


@limit(120)
def test_killed_with_100_streams_among_other_keys(t):
    kill_case(t, t.redis(), 100, other_keys=int(os.environ.get("SLUICE_TEST_OTHER_KEYS", 20000)))


@limit(180)
def test_killed_with_1000_streams(t):
    n = int(os.environ.get("SLUICE_TEST_KILLED", 1000))  # 10000, with SLUICE_TEST_T=10, for the whole promise
    kill_case(t, t.redis(), n, other_keys=int(os.environ.get("SLUICE_TEST_OTHER_KEYS", 20000)))


@limit(180)
def test_killed_on_three_masters(t):
    c = t.cluster()
    kill_case(t, c, 150)


@limit(120)
@no_acl("looks at flags that nobody set")
def test_killed_without_events_and_probes(t):
    r = t.redis()
    service = {"recovery": {"probe": False, "interval": "2s"}}
    a, b = [t.daemon(r, name=x, T=T, service=service, cfg={"redis": {"keyspace_events": "off"}}) for x in "ab"]
    hold(t, a, r, 20)
    back_within(t, r, 20, 2 * T + 2 * 1.1 + T, a.kill)
    assert r.db.cmd("CONFIG", "GET", "notify-keyspace-events")[1] == ""


@limit(120)
def test_killed_with_events_only(t):
    """Probes off, but something touches the expired locks: the event brings them back."""
    r = t.redis()
    service = {"recovery": {"probe": False, "interval": "10m"}}
    a, b = [t.daemon(r, name=x, T=T, service=service) for x in "ab"]
    w, _ = hold(t, a, r, 20)
    locks = [x["stream"] + SEP + x["id"] for x in w.frames("assign")]
    a.kill()
    t.wait(lambda: not any(str(v or "").startswith(a.consumer) for v in r.db.pipe([("GET", k) for k in locks])), T + 5,
           "locks expire", 0.1)  # then b's recover: and gone: stand there
    t.wait(lambda: checks.pending(r.db, "orders") == 0, 10, "all back")


@limit(150)
def test_stopped_for_3T(t):
    r = t.redis()
    a, b = t.daemon(r, name="a", T=T), t.daemon(r, name="b", T=T)
    simple = t.worker(a, name="simple", credits=5, keeps_fence=False, answers_revoke=False)
    add = Added(r.db)
    add.many("orders", [f"s{i}" for i in range(5)])
    simple.wait("assign", 5)
    fencing = t.worker(a, name="fencing", credits=5)
    add.many("orders", [f"f{i}" for i in range(5)])
    fencing.wait("assign", 5)
    v = t.worker(b, name="other", credits=10, work=0.1)
    start = time.monotonic()
    a.pause()
    v.wait("ok", 10, timeout=2 * T + 5)
    assert len(fencing.frames("fence", d="ev")) == 1, "the worker stopped by itself"
    t.wait(lambda: time.monotonic() > start + 3 * T, 4 * T)
    cont = now_ms()
    a.cont()
    simple.wait("revoke", 5, timeout=5)
    assert simple.records("revoke")[-1]["ms"] - cont < 1000 and {f["reason"] for f in simple.frames("revoke")} == {"lost"}
    for x in simple.frames("assign"):
        simple.send({"t": "done", "lease": x["lease"]})
    t.wait(lambda: len(simple.frames("err")) == 5, what="late results are refused")
    assert {f["code"] for f in simple.frames("err")} <= {"not_owner", "unknown_lease"} and not simple.frames("ok")
    checks.wait_clean(r.db, timeout=30)
    checks.none(checks.overlaps([simple.journal, fencing.journal, v.journal]) + checks.token_order([simple.journal, fencing.journal, v.journal]))
    simple.answers_revoke = True
    simple.work = 0
    v.send({"t": "credits", "n": 0})
    add.one("orders", "after")
    t.wait(lambda: not checks.leftovers(r.db, ["orders"]), 20)
    assert a.is_running()


@limit(120)
def test_short_pause_costs_nothing(t):
    r = t.redis()
    a, b = t.daemon(r, name="a", T=T), t.daemon(r, name="b", T=T)
    w, _ = hold(t, a, r, 10)
    v = t.worker(b, credits=10)
    v.wait("welcome")
    for n in range(3):
        w.wait("ping", len(w.frames("ping")) + 2, timeout=10)
        a.pause()
        v.wait("ping", len(v.frames("ping")) + 1, timeout=10)
        a.cont()
    w.wait("ping", len(w.frames("ping")) + 3, timeout=20)
    assert not w.frames("revoke") and not v.frames("assign") and not w.frames("fence", d="ev")


@limit(120)
def test_two_daemons_with_one_node_id(t):
    """The newer one takes the locks over; the older one sees that and ends with one clear error. Never two owners."""
    r = t.redis()
    a = t.daemon(r, name="a", node="same", T=T)
    w, add = hold(t, a, r, 5)
    b = t.daemon(r, name="b", node="same", T=T, ready=False)
    assert a.wait(3 * T) not in (0, None)
    assert sum("error" in x.lower() and "same" in x for x in a.log.splitlines()) == 1, a.log[-800:]
    b.wait_ready()
    v = t.worker(b, credits=5, work=0)
    checks.wait_clean(r.db, timeout=3 * T + 20)
    checks.none(checks.overlaps([w.journal, v.journal]) + checks.lost(add.sure, [v.journal]))


@limit(180)
def test_long_lived_streams_are_untouched_and_do_not_delay(t):
    """200 healthy streams at the head of the pending list work for 5 × min_idle; five dead ones behind come back in time."""
    n, T3 = int(os.environ.get("SLUICE_TEST_LONG", 200)), 3
    r = t.redis()
    a, b = [t.daemon(r, name=x, T=T3, service={"recovery": {"interval": "1s", "page": 20}}) for x in "ab"]
    w, add = hold(t, a, r, n, "long")
    tokens = {x["stream"]: x["token"] for x in w.frames("assign")}
    start = time.monotonic()
    c = t.daemon(r, name="c", T=T3)
    v = t.worker(c, credits=5)
    dead = Added(r.db)
    dead.many("orders", [f"dead{i}" for i in range(5)])
    v.wait("assign", 5)
    killed = time.monotonic()
    c.kill()
    x = t.worker(b, credits=5, work=0)
    x.wait("ok", 5, timeout=T3 + 20)
    assert time.monotonic() - killed < T3 + 1 + SLACK + 0.5
    t.wait(lambda: time.monotonic() > start + 5 * 2 * T3, 60, every=0.2)
    assert not w.frames("revoke") and len(w.frames("assign")) == n and not w.frames("fence", d="ev")
    for f in list(w.held.values()):
        w.finish(f)
    checks.wait_clean(r.db, timeout=30)
    assert {x["stream"]: x["token"] for x in w.frames("assign")} == tokens
    checks.none(checks.lost({**add.sure, **dead.sure}, [w.journal, x.journal]) + checks.overlaps([w.journal, v.journal, x.journal]))


@limit(120)
def test_recovered_past_max_retries_is_dead(t):
    r = t.redis()
    Added(r.db).db.cmd("XADD", "orders-input", "*", "lbs-input", '{"DataStreamName":"s","Info":{}}', "_retry_count", "3", "x", "y")
    a, b = t.daemon(r, name="a", T=T), t.daemon(r, name="b", T=T)
    w = t.worker(a, credits=1)
    assert w.wait("assign")["retry"] == 3
    a.kill()
    checks.wait_clean(r.db, dlq=1, timeout=T + 15)
    f, = checks.dead_letters(r.db)
    assert f["_dlq_reason"] == "max_retries_exceeded" and f["_retry_count"] == "3" and f["x"] == "y" and f["_dlq_node"] == "b"


@limit(120)
def test_deleted_entries_are_acknowledged_as_gone(t):
    r = t.redis()
    a, b = t.daemon(r, name="a", T=T), t.daemon(r, name="b", T=T)
    hold(t, a, r, 3)
    ids = [i for i, _ in entries(r.db, "orders-input")]
    a.kill()
    r.db.cmd("XDEL", "orders-input", *ids)
    t.wait(lambda: checks.pending(r.db, "orders") == 0, 2 * T + 10, "acknowledged")
    assert r.db.cmd("XLEN", "orders-input") == 0 and r.db.cmd("XLEN", "orders-input-dlq") == 0


@limit(120)
def test_of_three_daemons_one_does_the_work(t):
    r = t.redis()
    a, *others = [t.daemon(r, name=x, T=T) for x in "abcd"]
    hold(t, a, r, 100)
    back_within(t, r, 100, T + 1, a.kill)
    assert r.db.cmd("XLEN", "orders-input") == 100


# ---- a mixed fleet

@limit(180)
def test_go_consumers_in_the_same_group(t):
    r = t.redis()
    d = t.daemon(r, T=T)
    w = t.worker(d, credits=20, work=0.1)
    gos = [t.go(r, work=lambda s: 0.2 if int(s[1:]) % 50 else 3 * T) for _ in range(2)]
    add = Added(r.db)
    add.many("orders", [f"s{i}" for i in range(300)])
    checks.wait_clean(r.db, timeout=90)
    journals = [w.journal] + [g.journal for g in gos]
    checks.none(checks.lost(add.sure, journals) + checks.overlaps(journals))
    assert set(checks.finished(journals).values()) == {1} and all(g.n_lost_lock == 0 for g in gos), "nobody is robbed"
    assert all(g.journal for g in gos) and w.frames("ok")


@limit(120)
def test_dead_go_consumer_is_recovered(t):
    r = t.redis()
    d = t.daemon(r, T=T)
    g = t.go(r, work=None)
    add = Added(r.db)
    add.many("orders", [f"s{i}" for i in range(10)])
    t.wait(lambda: len(g.held) == 10)
    g.stop()
    w = t.worker(d, credits=10, work=0)
    w.wait("ok", 10, timeout=3 * T + 10)
    assert {a["retry"] for a in w.frames("assign")} == {1}
    checks.wait_clean(r.db)
    checks.none(checks.overlaps([w.journal, g.journal]))


@limit(120)
def test_go_consumers_recover_a_dead_daemon(t):
    r = t.redis()
    d = t.daemon(r, T=T)
    w, add = hold(t, d, r, 10)
    d.kill()
    g = t.go(r, work=0.05, min_idle_ms=1000, scan_every=1)
    checks.wait_clean(r.db, timeout=3 * T + 20, registry=None)  # stale there, replaced by the next daemon
    checks.none(checks.overlaps([w.journal, g.journal]) + checks.lost(add.sure, [g.journal]))


@limit(120)
def test_paused_go_consumer_finds_the_door_closed(t):
    """It was taken for dead and comes back: its late extension does not revive the lock of a requeued entry."""
    r = t.redis()
    d = t.daemon(r, T=T)
    g = t.go(r, work=None)
    Added(r.db).many("orders", ["a", "b", "c"])
    t.wait(lambda: len(g.held) == 3)
    w = t.worker(d, credits=3)
    w.wait("welcome")
    g.pause()
    w.wait("assign", 3, timeout=3 * T + 10)
    g.cont()
    t.wait(lambda: not g.held, 10, "the Go consumer sees other values in its locks")
    for a in list(w.held.values()):
        w.finish(a)
    w.wait("ok", 3)
    g.stop()
    checks.wait_clean(r.db, timeout=15)


# ---- other users of the server

@limit(120)
@no_acl("the daemon needs CONFIG")
def test_keyspace_flags_are_merged(t):
    r = t.redis()
    r.db.cmd("CONFIG", "SET", "notify-keyspace-events", "Elg")
    t.daemon(r)
    t.wait(lambda: set("KElgx") <= set(r.db.cmd("CONFIG", "GET", "notify-keyspace-events")[1]), what="K and x merged")
    r.db.cmd("CONFIG", "SET", "notify-keyspace-events", "AKE")
    t.daemon(r)
    assert set(r.db.cmd("CONFIG", "GET", "notify-keyspace-events")[1]) == set("AKE")


@limit(120)
@no_acl("the daemon needs CONFIG")
def test_keyspace_flags_on_every_master_and_on_new_ones(t):
    c = t.cluster(replicas=1)
    t.daemon(c)

    def flags(n):
        return set("Kx") <= set(n.db.cmd("CONFIG", "GET", "notify-keyspace-events")[1]) or \
            set("KA") <= set(n.db.cmd("CONFIG", "GET", "notify-keyspace-events")[1])
    t.wait(lambda: all(flags(n) for n in c.masters()), what="flags on all masters")
    new = c.failover(c.masters()[0])
    t.wait(lambda: flags(new), 40, "flags on the new master")


@limit(60)
@no_acl("looks at flags that nobody set")
def test_keyspace_events_off_and_require(t):
    r = t.redis()
    t.daemon(r, cfg={"redis": {"keyspace_events": "off"}})
    assert r.db.cmd("CONFIG", "GET", "notify-keyspace-events")[1] == ""
    r2 = t.redis(args=["--rename-command", "CONFIG", ""])
    d = t.daemon(r2, ready=False, cfg={"redis": {"keyspace_events": "require"}})
    t.wait(lambda: "keyspace" in d.log, 15)
    assert d.ctl("status", "--ready").returncode == 1


# ---- entries that nobody has

def ghost_settings(**more):
    return {"recovery": {"interval": "2s", "min_idle": "6s"}, **more}


@limit(60)
def test_entries_of_deleted_consumers_come_back(t):
    """XGROUP DELCONSUMER by hand: of a stranger, and of the daemon that holds one. What waits for its stream is left alone."""
    r = t.redis()
    d = t.daemon(r, T=3, service=ghost_settings())
    w = t.worker(d, credits=5)
    add = Added(r.db)
    add.one("orders", "mine")
    r.db.cmd("XADD", "orders-input", "*", "lbs-input", '{"datastreamname":"mine"}')  # waits for the first; a name as Go reads it, too
    add.one("orders", "theirs")
    w.wait("assign", 2)
    t.wait(lambda: r.db.cmd("ZCARD", "{orders-input}-parked") == 1, 10, "one waits")
    d.ctl_ok("pause", "orders")
    ghost = add.one("orders", "ghost")
    r.db.cmd("XADD", "orders-input", "*", "no", "input")
    r.db.cmd("XADD", "orders-input", "*", "lbs-input", '{"DataStreamName":"seventh","Info":{}}', "_retry_count", "2")
    got = r.db.cmd("XREADGROUP", "GROUP", "orders-group", "other", "COUNT", 9, "STREAMS", "orders-input", ">")
    assert len(got[0][1]) == 3
    assert r.db.cmd("XGROUP", "DELCONSUMER", "orders-input", "orders-group", "other") == 3
    for what in ("ghost", ghost):
        x, = d.json("explain", what)
        assert x["state"] == "ghost" and "DELCONSUMER" in json.dumps(x), x
    d.ctl_ok("resume", "orders")
    a, = [w.wait("assign", 1, 20, stream="ghost")]
    assert a["retry"] == 0 and a["id"] != ghost, a
    assert w.wait("assign", 1, 20, stream="seventh")["retry"] == 2
    t.wait(lambda: r.db.cmd("XLEN", "orders-input-dlq") == 1, 10, "the unreadable one is a dead letter")
    line, = [x for x in d.log.splitlines() if "was delivered, but nobody had it" in x]
    assert " warn " in line and "DELCONSUMER" in line, line
    t.wait(lambda: 'sluice_requeues_total{service="orders",reason="ghost"} 3' in d.ctl_ok("metrics"), 10, "three counted")
    assert r.db.cmd("ZCARD", "{orders-input}-parked") == 1, "what waits for its stream goes on waiting"
    assert r.db.cmd("XGROUP", "DELCONSUMER", "orders-input", "orders-group", d.consumer) == 4
    w.wait("revoke", 4, 15)
    for x in list(w.held.values()):
        w.send({"t": "revoked", "lease": x["lease"]})
    w.work = 0
    for name, n in (("theirs", 2), ("ghost", 2), ("seventh", 2), ("mine", 3)):
        w.wait("assign", n, 30, stream=name)
    checks.wait_clean(r.db, timeout=30, dlq=1)


@limit(40)
def test_what_was_skipped_on_purpose_is_no_ghost(t):
    """group_start "$": what was in the stream before stays there."""
    r = t.redis()
    for i in range(3):
        Added(r.db).one("orders", f"old{i}")
    d = t.daemon(r, T=3, service=ghost_settings(group_start="$"))
    w = t.worker(d, credits=5, work=0)
    Added(r.db).one("orders", "new")
    w.wait("ok", 1)
    d.ctl_ok("pause", "orders")
    Added(r.db).one("orders", "ghost")
    r.db.cmd("XREADGROUP", "GROUP", "orders-group", "other", "COUNT", 9, "STREAMS", "orders-input", ">")
    r.db.cmd("XGROUP", "DELCONSUMER", "orders-input", "orders-group", "other")
    d.ctl_ok("resume", "orders")
    w.wait("ok", 2, 20)  # what was delivered since is found all the same
    assert {a["stream"] for a in w.frames("assign")} == {"new", "ghost"}
    assert r.db.cmd("XLEN", "orders-input") == 3
