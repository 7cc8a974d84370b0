"""Redis stops, dies, refuses, forgets: workers stop in time, nothing is lost, work goes on."""

import os
import time

from lib import checks
from lib.case import limit
from lib.checks import Added
from lib.gate import Gates
from lib.redis import SEP
from lib.worker import now_ms

issue = 2


def stopped_for(t, redis, nodes, T=4):
    """SIGSTOP of `nodes` for 2 T under work: revoked in time; afterwards everything is done once more at most."""
    d = t.daemon(redis, T=T)
    simple = t.worker(d, name="simple", credits=10, keeps_fence=False)
    fencing = t.worker(d, name="fencing", credits=10)
    add = Added(redis.db)
    add.many("orders", [f"s{i}" for i in range(20)])
    for w in (simple, fencing):
        w.wait("assign", 10)
        w.wait("ping", len(w.frames("ping")) + 2, timeout=10)  # renewed since
    stop = now_ms()
    for n in nodes:
        n.pause()
    ends = {}
    for w in (simple, fencing):
        w.wait("revoke", 10, timeout=T * 2, reason="lost")
        for x in w.records("revoke"):
            f = x["f"]
            assert f["reason"] == "lost"
            # the last confirmed renewal left before the stop: its lease ends at stop + T at the latest
            assert x["ms"] + f["grace_ms"] < stop + T * 1000, f"revoked {x['ms'] - stop:.0f} ms after the stop, grace {f['grace_ms']}"
            assert x["ms"] < w.until or w.until is None
            ends[w.name] = x["ms"]
    t.wait(lambda: now_ms() > stop + 2 * T * 1000, 3 * T)
    assert d.is_running()
    for n in nodes:
        n.cont()
    simple.work = fencing.work = 0.05
    checks.wait_clean(redis.db, timeout=60)
    for w in (simple, fencing):
        checks.none(checks.late_revokes(w.journal, T * 1000))
    checks.all_good(add.sure, [simple.journal, fencing.journal])
    add.many("orders", [f"after{i}" for i in range(20)])
    checks.wait_clean(redis.db, timeout=30)
    checks.all_good(add.sure, [simple.journal, fencing.journal])


@limit(150)
def test_redis_stopped_for_2T(t):
    r = t.redis()
    stopped_for(t, r, [r])


@limit(150)
def test_cluster_stopped_for_2T(t):
    c = t.cluster(node_timeout_ms=15000)
    stopped_for(t, c, c.nodes)


@limit(150)
def test_one_master_stopped_touches_its_leases_only(t):
    c = t.cluster(node_timeout_ms=20000)
    d = t.daemon(c, T=4)
    w = t.worker(d, credits=100)
    add = Added(c.db)
    ids = dict(zip([f"s{i}" for i in range(60)], add.many("orders", [f"s{i}" for i in range(60)])))
    w.wait("assign", 60)
    lbs = c.master_of("orders-input")
    victim = next(n for n in c.masters() if n is not lbs)
    there = {s for s, id in ids.items() if c.master_of(s + SEP + id) is victim}
    assert there
    victim.pause()
    w.wait("revoke", len(there), timeout=10, reason="lost")
    t.wait(lambda: len(w.records("ping")) and w.records("ping")[-1]["ms"] > w.records("revoke")[-1]["ms"] + 3000, 15)
    stream = {a["lease"]: a["stream"] for a in w.frames("assign")}
    assert {stream[f["lease"]] for f in w.frames("revoke")} == there
    victim.cont()
    w.work = 0.01
    for a in list(w.held.values()):
        w.finish(a)
    checks.wait_clean(c.db, timeout=60)
    checks.all_good(add.sure, [w.journal])


@limit(120)
def test_redis_restart_with_its_data(t):
    r = t.redis(aof=True)
    d = t.daemon(r)
    w = t.worker(d, credits=20, work=0.3)
    add = Added(r.db)
    add.many("orders", [f"s{i}" for i in range(100)])
    w.wait("ok", 20)
    r.kill()
    t.wait(lambda: d.ctl("status", "--ready").returncode == 1, 15, "not ready without Redis")
    r.start()
    checks.wait_clean(r.db, timeout=60)
    checks.all_good(add.sure, [w.journal])
    assert set(checks.finished([w.journal]).values()) <= {1, 2} and d.is_running()


@limit(120)
def test_redis_restart_empty(t):
    """All data gone: workers are told, the group is made again, new work runs."""
    r = t.redis()
    d = t.daemon(r)
    w = t.worker(d, credits=5)
    add = Added(r.db)
    add.many("orders", ["a", "b"])
    w.wait("assign", 2)
    r.kill()
    r.start()
    w.wait("revoke", 2, timeout=20, reason="lost")
    w.work = 0
    Added(r.db).many("orders", ["c", "d"])
    w.wait("ok", 2, timeout=20)
    checks.wait_clean(r.db)


def test_wrong_password(t):
    r = t.redis(password="right")
    wrong = t.daemon(r, ready=False, env={"TEST_REDIS_PASSWORD": "wrong"})
    wrong.env["TEST_REDIS_PASSWORD"] = "wrong"
    wrong.kill()
    wrong.start(ready=False)
    wrong.wait_log("WRONGPASS")
    assert wrong.ctl("status", "--ready").returncode == 1
    r.client().cmd("CONFIG", "SET", "requirepass", "wrong")
    r.db.password = "wrong"
    r.db.close()
    wrong.wait_ready()
    assert "right" not in wrong.log and '"wrong"' not in wrong.log and wrong.log.count("WRONGPASS") <= 5, "one clear line"
    w = t.worker(wrong, credits=1, work=0)
    Added(r.db).one("orders", "s")
    w.wait("ok")


def test_right_password(t):
    r = t.redis(password="pa ss'w\"ord")
    w = t.worker(t.daemon(r), credits=1, work=0)
    Added(r.db).one("orders", "s")
    w.wait("ok")


@limit(120)
def test_deleted_stream_is_repaired(t):
    """DEL of the LBS: held streams are revoked, the group is made again at "0"."""
    r = t.redis()
    d = t.daemon(r)
    w = t.worker(d, credits=5)
    Added(r.db).many("orders", ["a", "b"])
    w.wait("assign", 2)
    r.db.cmd("DEL", "orders-input")
    add = Added(r.db)
    add.many("orders", ["c", "d"])
    w.wait("assign", 4, timeout=20)
    w.wait("revoke", 2, timeout=20)
    for a in list(w.held.values()):
        w.finish(a)
    w.work = 0
    checks.wait_clean(r.db, registry=None)
    assert "NOGROUP" in d.log or "group" in d.log


@limit(120)
def test_deleted_group_is_repaired(t):
    """XGROUP DESTROY with work under way: made again at "0", what is held is recognised by its id and not run twice."""
    r = t.redis()
    d = t.daemon(r)
    w = t.worker(d, credits=3)
    add = Added(r.db)
    add.many("orders", ["a", "b", "c"])
    w.wait("assign", 3)
    r.db.cmd("XGROUP", "DESTROY", "orders-input", "orders-group")
    w.wait("ping", len(w.frames("ping")) + 2, timeout=15)
    for a in list(w.held.values()):
        w.finish(a)
    w.work = 0
    add.many("orders", ["d", "e"])
    checks.wait_clean(r.db, timeout=40)
    checks.all_good(add.sure, [w.journal])


def test_redis_down_at_start(t):
    r = t.redis(start=False)
    d = t.daemon(r, ready=False)
    t.wait(lambda: d.ctl("status").returncode in (0, 1), what="the control socket answers without Redis")
    assert d.ctl("status", "--ready").returncode == 1
    w = t.worker(d, credits=2, work=0)
    w.wait("welcome")
    r.start()
    d.wait_ready()
    Added(r.db).many("orders", ["a", "b"])
    w.wait("ok", 2)


def test_fail_fast(t):
    r = t.redis(start=False)
    d = t.daemon(r, ready=False, cfg={"redis": {"fail_fast": True, "connect_timeout": "500ms"}})
    assert d.wait(20) == 69
    assert len([x for x in d.log.splitlines() if "error" in x.lower()]) <= 2


def test_script_flush_in_the_middle(t):
    r = t.redis()
    d = t.daemon(r)
    w = t.worker(d, credits=20, work=0.02, result=lambda a: {"t": "fail" if a["retry"] == 0 else "done", "lease": a["lease"]})
    add = Added(r.db)
    add.many("orders", [f"s{i}" for i in range(300)])
    for n in range(1, 12):
        w.wait("ok", 40 * n, timeout=30)
        r.db.cmd("SCRIPT", "FLUSH")
    checks.wait_clean(r.db, timeout=40)
    checks.all_good(add.sure, [w.journal])
    assert len(w.frames("assign")) == 600 and d.is_running()


@limit(120)
def test_connections_killed_under_load(t):
    r = t.redis()
    d = t.daemon(r)
    w = t.worker(d, credits=20, work=0.02)
    add = Added(r.db)
    add.many("orders", [f"s{i}" for i in range(500)])
    for n in range(1, 9):
        w.wait("ok", 50 * n, timeout=40)
        me = r.db.cmd("CLIENT", "ID")
        for row in r.db.cmd("CLIENT", "LIST").splitlines():
            id = dict(x.split("=", 1) for x in row.split())["id"]
            if int(id) != me:
                r.db.pipe([("CLIENT", "KILL", "ID", id)])
    checks.wait_clean(r.db, timeout=60)
    checks.all_good(add.sure, [w.journal])
    assert set(checks.finished([w.journal]).values()) == {1}


@limit(120)
def test_an_answer_that_a_proxy_leaves_out_costs_a_connection(t):
    """Each answer behind it would be taken for that of another command."""
    r = t.redis()
    g = Gates(t).gate(r)
    d = t.daemon([g.endpoint])
    w = t.worker(d, credits=20, work=0.02)
    add = Added(r.db)
    add.many("orders", [f"s{i}" for i in range(1500)])
    w.wait("ok", 50, timeout=40)
    g.ask("swallow", role="command", n=1)
    d.wait_log("conn=command lost: an answer of unknown shape", 20)
    checks.wait_clean(r.db, timeout=60)
    checks.all_good(add.sure, [w.journal])
    assert set(checks.finished([w.journal]).values()) == {1}


def test_an_address_that_changes_hands_takes_all_connections_along(t):
    """A name or a proxy leads to another server, and the one before lives on: who reconnects is there, its neighbours are not."""
    old, new = t.redis(), t.redis()
    g = Gates(t).gate(old)
    d = t.daemon([g.endpoint])
    w = t.worker(d, credits=4, work=0.02)
    old.db.cmd("XADD", "orders-input", "*", "lbs-input", '{"DataStreamName":"one"}')
    w.wait("ok", 1)
    g.ask("upstream", to=list(new.tcp))
    readers = [dict(x.split("=", 1) for x in row.split()) for row in old.db.cmd("CLIENT", "LIST").splitlines()]
    reader = [x["id"] for x in readers if x["cmd"].startswith("xreadgroup")]
    assert len(reader) == 1
    old.db.cmd("CLIENT", "KILL", "ID", reader[0])
    d.wait_log("conn=command lost: its address leads to another server now", 10)
    d.wait_log("conn=subscriber lost: its address leads to another server now", 10)
    d.wait_ready()
    d.ctl("add", "orders", "two")
    w.wait("ok", 2, timeout=10)
    assert new.db.cmd("XLEN", "orders-input") == 0 and old.db.cmd("XLEN", "orders-input") == 0


@limit(120)
def test_out_of_memory_is_survived(t):
    r = t.redis()
    d = t.daemon(r)
    w = t.worker(d, credits=5)
    add = Added(r.db)
    add.many("orders", [f"s{i}" for i in range(10)])
    w.wait("assign", 5)
    r.db.cmd("CONFIG", "SET", "maxmemory", "1")
    w.wait("ping", len(w.frames("ping")) + 3, timeout=20)  # renewals work under OOM
    assert not w.frames("revoke")
    for a in list(w.held.values()):
        w.finish(a)
    w.work = 0
    r.db.cmd("CONFIG", "SET", "maxmemory", "0")
    checks.wait_clean(r.db, timeout=40)
    checks.all_good(add.sure, [w.journal])


def test_wrong_type_of_key_keeps_the_other_services(t):
    r = t.redis()
    r.db.cmd("SET", "bills-input", "not a stream")
    d = t.daemon(r, services=("orders", "bills"), ready=False)
    t.wait(lambda: os.path.exists(d.worker_sock), 10)
    w = t.worker(d, credits=5, work=0)
    w.wait("welcome", timeout=20)
    Added(r.db).many("orders", ["a", "b"])
    w.wait("ok", 2, timeout=20)
    d.wait_log("WRONGTYPE")
    r.db.cmd("DEL", "bills-input")
    Added(r.db).one("bills", "c")
    w.wait("ok", 3, timeout=40)


def test_what_one_service_is_refused_is_not_hidden_by_the_work_of_another(t):
    r = t.redis()
    d = t.daemon(r, services=("orders", "bills"))
    w, add = t.worker(d, credits=5, work=0), Added(r.db)
    add.one("bills", "a")
    w.wait("ok")
    r.db.cmd("SET", "bills-input", "not a stream")
    n = [0]

    def readiness():
        n[0] += 1
        add.one("orders", f"o{n[0]}")
        return d.ctl("status", "--ready")
    t.wait(lambda: "WRONGTYPE" in readiness().stderr, 15, "not ready, and why", 0.1)
    for _ in range(20):
        assert "WRONGTYPE" in readiness().stderr
        time.sleep(0.1)
    w.wait("ok", 1 + n[0])
    r.db.cmd("DEL", "bills-input")
    t.wait(lambda: readiness().returncode == 0, 20, "it is over", 0.1)
    add.one("bills", "b")
    w.wait("assign", service="bills", stream="b")


def test_server_without_config_command(t):
    """Managed Redis: one warning, goes on without setting flags."""
    r = t.redis(args=["--rename-command", "CONFIG", ""])
    d = t.daemon(r)
    w = t.worker(d, credits=5, work=0)
    Added(r.db).many("orders", ["a", "b"])
    w.wait("ok", 2)
    assert sum("keyspace" in x and ("CONFIG" in x or "unknown command" in x) for x in d.log.splitlines()) <= 2
test_server_without_config_command.issue = 3
