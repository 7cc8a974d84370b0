"""A restart of the daemon costs no stream its owner and no worker its work."""
import signal
import time

from lib import checks
from lib.case import limit
from lib.checks import Added
from lib.daemon import timing
from lib.fleet import finish, hold
from lib.manager import Manager, Unit
from lib.redis import entries

issue = 5


def assert_untouched(ws, per, n_restarts):
    """Every worker came back and kept exactly what it had."""
    for w in ws:
        w.wait("welcome", n_restarts + 1, timeout=20)
        f = w.frames("welcome")[-1]
        assert len(f["resumed"]) == per and f["gone"] == [], f
        assert len(w.frames("assign")) == per and not w.frames("revoke") and not w.frames("fence", d="ev")


@limit(120)
def test_handover_exits_within_a_second_and_the_next_process_resumes(t):
    r = t.redis()
    d = t.daemon(r)
    ws, add = hold(t, d, 10, 5)
    for n in range(1, 4):
        start = time.monotonic()
        assert d.stop() == 0
        assert time.monotonic() - start < 1.5, "handover exits within 1 s"
        assert checks.pending(r.db, "orders") == 50 and len(checks.locks(r.db)) == 50
        d.start()
        assert_untouched(ws, 5, n)
    finish(t, d, ws, add)


@limit(180)
def test_killed_and_started_ten_times(t):
    c = t.cluster()
    d = t.daemon(c)
    ws, add = hold(t, d, 20, 10)
    for n in range(1, 11):
        d.restart()
        assert_untouched(ws, 10, n)
    finish(t, d, ws, add)


@limit(120)
def test_restart_while_work_is_finishing(t):
    r = t.redis()
    d = t.daemon(r)
    add = Added(r.db)
    ws = [t.worker(d, credits=10, reconnect=True, work=0.1) for _ in range(5)]
    add.many("orders", [f"s{i}" for i in range(1500)])
    for n in range(1, 6):
        t.wait(lambda: sum(len(w.frames("ok")) for w in ws) >= 150 * n, 30)
        if n % 2:
            d.restart()
        else:
            d.stop()
            d.start()
    checks.wait_clean(r.db, timeout=60)
    checks.all_good(add.sure, [w.journal for w in ws])
    runs = checks.finished([w.journal for w in ws])
    assert not any(w.frames("revoke") for w in ws) and set(runs.values()) == {1}, [s for s, n in runs.items() if n > 1][:5]


def handover_without_redis(t, d):
    """Redis hangs, results are on their way: the process still ends in time, and each result counts once."""
    r = d.redis
    ws, add = hold(t, d, 4, 5)
    r.pause()
    for w in ws:
        for a in list(w.held.values())[:2]:
            w.finish(a)
    time.sleep(0.2)
    start = time.monotonic()
    assert d.stop() == 0
    assert time.monotonic() - start < 1.5
    d.start(ready=False)
    time.sleep(1)
    r.cont()
    d.wait_ready()
    for w in ws:
        w.wait("ok", 2, timeout=20)
        assert not w.frames("revoke") and not w.frames("fence", d="ev") and len(w.held) == 3
    finish(t, d, ws, add)


@limit(120)
def test_handover_while_redis_hangs(t):
    handover_without_redis(t, t.daemon(t.redis()))


@limit(120)
def test_handover_while_redis_hangs_with_a_store(t):
    handover_without_redis(t, Unit(t, t.redis(), Manager(t)))


@limit(120)
def test_what_nobody_resumes_is_given_out_anew(t):
    r = t.redis()
    d = t.daemon(r)
    w = t.worker(d, credits=5)
    add = Added(r.db)
    add.many("orders", [f"s{i}" for i in range(5)])
    w.wait("assign", 5)
    d.kill()
    w.close()
    d.start()
    v = t.worker(d, credits=5, work=0)
    v.wait("ok", 5, timeout=30)
    checks.wait_clean(r.db)
    checks.none(checks.overlaps([w.journal, v.journal]) + checks.token_order([w.journal, v.journal]))


@limit(120)
def test_what_a_longer_lease_promised_is_kept(t):
    """The next process has shorter leases; a worker that cannot come back still works until what the former one told it."""
    r = t.redis()
    d = t.daemon(r, T=9)
    p = t.proc_worker(d, credits=1, work="hold")
    add = Added(r.db)
    add.one("orders", "s")
    p.wait_for("assign")
    p.pause()
    assert d.stop() == 0
    service, redis, workers = timing(3)
    d.write(services=[{"name": "orders", **service}], redis=redis, workers=workers)
    d.start()
    v = t.worker(d, credits=1, work=0)
    v.wait("ok", timeout=30)
    p.cont()
    t.wait(lambda: p.frames("fence", d="ev") or p.frames("welcome")[1:], 10, "it goes on")
    checks.wait_clean(r.db)
    checks.none(checks.overlaps([p.journal, v.journal]) + checks.token_order([p.journal, v.journal]))


@limit(120)
def test_no_next_process_others_recover(t):
    r = t.redis()
    a, b = t.daemon(r, name="a", T=4), t.daemon(r, name="b", T=4)
    w = t.worker(a, credits=5)
    add = Added(r.db)
    add.many("orders", [f"s{i}" for i in range(5)])
    w.wait("assign", 5)
    assert a.stop() == 0
    v = t.worker(b, credits=5, work=0)
    v.wait("ok", 5, timeout=15)
    checks.none(checks.overlaps([w.journal, v.journal]))


@limit(120)
def test_drain_at_sigterm(t):
    r = t.redis()
    d = t.daemon(r, cfg={"shutdown": {"mode": "drain", "drain_timeout": "5s"}})
    quick, slow = t.worker(d, name="quick", credits=3, work=1), t.worker(d, name="slow", credits=3, answers_revoke=True)
    add = Added(r.db)
    add.many("orders", [f"s{i}" for i in range(6)])
    quick.wait("assign", 3)
    slow.wait("assign", 3)
    add.many("orders", ["new1", "new2"])
    d.signal(signal.SIGTERM)
    assert quick.wait("drain")["grace_ms"] > 0
    quick.wait("ok", 3)
    slow.wait("revoke", 3, timeout=15, reason="shutdown")
    assert d.wait(20) == 0
    assert checks.pending(r.db, "orders") == 0 and not checks.locks(r.db)
    rows = entries(r.db, "orders-input")
    assert len(rows) == 5 and all(f.get("_retry_count", "0") == "0" for _, f in rows)


@limit(120)
def test_second_term_stops_at_once(t):
    r = t.redis()
    d = t.daemon(r, cfg={"shutdown": {"mode": "drain"}})
    w = t.worker(d, credits=1)
    Added(r.db).one("orders", "s")
    w.wait("assign")
    d.signal(signal.SIGTERM)
    w.wait("drain")
    start = time.monotonic()
    d.stop()
    assert time.monotonic() - start < 3 and checks.pending(r.db, "orders") == 1


@limit(120)
def test_usr2_and_ctl_toggle_drain(t):
    r = t.redis()
    d = t.daemon(r)
    w = t.worker(d, credits=5, work=0.3)
    Added(r.db).one("orders", "a")
    w.wait("assign")
    d.signal(signal.SIGUSR2)
    w.wait("drain")
    w.wait("ok")
    Added(r.db).one("orders", "b")
    w.wait("ping", len(w.frames("ping")) + 2, timeout=15)
    assert len(w.frames("assign")) == 1 and d.json("status")[0]["draining"] is True
    d.signal(signal.SIGUSR2)
    w.wait("assign", 2)
    d.ctl_ok("drain", "--wait")
    assert d.json("status")[0]["draining"] is True
    d.ctl_ok("undrain")
    Added(r.db).one("orders", "c")
    w.wait("ok", 3)
