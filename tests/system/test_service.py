"""Under a service manager: notifications, reload, state dump, sockets."""
import os
import signal
import sys
import time

from lib import checks
from lib.case import limit
from lib.checks import Added
from lib.daemon import http
from lib.notify import Notify
from lib.worker import connect

issue = 5


def setup(t, env=None, **kw):
    n = Notify(t.path("notify"))
    r = t.redis()
    return r, n, t.daemon(r, env={"NOTIFY_SOCKET": n.path, **(env or {})}, **kw)


@limit(60)
def test_ready_status_reloading_stopping(t):
    r, n, d = setup(t)
    n.wait("READY=1")
    n.wait("STATUS=")
    for i in range(5):  # a manager ignores a RELOADING that is older than its signal
        asked = time.monotonic_ns() // 1000
        d.signal(signal.SIGHUP)
        n.wait("RELOADING=1", i + 1)
        n.wait("READY=1", i + 2)
        usec = int([x for x in n.lines() if x.startswith("MONOTONIC_USEC=")][i].split("=")[1])
        assert asked <= usec <= time.monotonic_ns() // 1000, (asked, usec)
    assert d.stop() == 0
    n.wait("STOPPING=1")


@limit(60)
def test_started_before_redis_is(t):
    """READY=1 means that the sockets listen; STATUS= and `status --ready` tell about Redis."""
    n, r = Notify(t.path("notify")), t.redis(start=False)
    d = t.daemon(r, ready=False, env={"NOTIFY_SOCKET": n.path})
    n.wait("READY=1")
    n.wait("STATUS=not ready")
    assert d.ctl("status", "--ready").returncode == 1
    r.start()
    d.wait_ready()
    n.wait("STATUS=ready")


@limit(60)
def test_watchdog(t):
    r, n, d = setup(t, env={"WATCHDOG_USEC": "600000"})
    n.wait("WATCHDOG=1", 5)
    at = [m for m, x in n.got if "WATCHDOG=1" in x]
    assert max(b - a for a, b in zip(at, at[1:])) < 0.6
    assert d.is_running()


@limit(60)
def test_drain_extends_the_stop_timeout(t):
    r, n, d = setup(t, cfg={"shutdown": {"mode": "drain"}})
    w = t.worker(d, credits=1)
    Added(r.db).one("orders", "s")
    w.wait("assign")
    d.signal(signal.SIGTERM)
    n.wait("EXTEND_TIMEOUT_USEC=")
    w.finish(w.frames("assign")[0])
    assert d.wait(15) == 0


@limit(60)
def test_reload_good_and_bad(t):
    r = t.redis()
    d = t.daemon(r)
    w = t.worker(d, credits=5, work=0)
    w.wait("welcome")
    d.cfg["services"].append({"name": "bills"})
    d.write(log={"level": "info"})
    d.signal(signal.SIGHUP)
    t.wait(lambda: {x["service"] for x in d.json("status")[0]["services"]} == {"orders", "bills"}, what="bills is served")
    Added(r.db).one("bills", "b")
    assert w.wait("assign")["service"] == "bills"
    good = open(d.conf).read()
    for bad in ("services: []\n", good.replace("info", "inof")):
        with open(d.conf, "w") as f:
            f.write(bad)
        p = d.ctl("reload")
        assert p.returncode == 78 and "sluiced.yaml:" in p.stdout + p.stderr, p
        assert {x["service"] for x in d.json("status")[0]["services"]} == {"orders", "bills"}
    with open(d.conf, "w") as f:
        f.write(good)
    d.cfg["services"].pop()
    d.write(redis={"db": 1})
    rows = d.json("reload")
    assert any(x["result"] == "needs_restart" and x["setting"] == "redis.db" for x in rows), rows
    t.wait(lambda: {x["service"] for x in d.json("status")[0]["services"]} == {"orders"}, what="bills is gone")
    Added(r.db).one("orders", "o")
    w.wait("ok", 2)


@limit(60)
def test_reload_rotates_the_password(t):
    r = t.redis(password="one")
    d = t.daemon(r, cfg={"redis": {"password": {"file": t.path("pw"), "env": ""}}}, start=False)
    del d.cfg["redis"]["password"]["env"]
    d.write()
    with open(t.path("pw"), "w") as f:
        f.write("one\n")
    d.start()
    w = t.worker(d, credits=1, work=0)
    r.db.cmd("CONFIG", "SET", "requirepass", "two")
    r.db.password = r.password = "two"
    with open(t.path("pw"), "w") as f:
        f.write("two\n")
    d.ctl_ok("reload")
    r.db.pipe([("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")])
    Added(r.db).one("orders", "s")
    w.wait("ok", timeout=20)


@limit(60)
def test_usr1_dumps_the_state(t):
    r = t.redis()
    d = t.daemon(r, cfg={"log": {"level": "info"}})
    w = t.worker(d, name="alice", credits=1)
    Added(r.db).one("orders", "the-stream", {"secret": "in-the-info"})
    w.wait("assign")
    before = len(d.log)
    d.signal(signal.SIGUSR1)
    t.wait(lambda: "the-stream" in d.log[before:] and "alice" in d.log[before:], what="the dump")
    assert "in-the-info" not in d.log


@limit(90)
def test_usr1_dumps_all_of_it(t):
    """However quiet the log is set and however much was written just before."""
    r = t.redis()
    d = t.daemon(r, cfg={"log": {"level": "error"}})
    held = t.worker(d, credits=250)
    Added(r.db).many("orders", [f"s{i}" for i in range(250)])
    held.wait("assign", 250)
    more = [connect(d.worker_sock) for _ in range(249)]
    for i, s in enumerate(more):
        s.sendall(b'{"t":"hello","v":1,"name":"w%d","credits":0}\n' % i)
    t.wait(lambda: len(d.json("workers")) == 250, what="250 workers")
    for n in (1, 2):
        d.signal(signal.SIGUSR1)
        t.wait(lambda: d.log.count("dump and 50 streams more") == n, what=f"dump {n} to its end")
    assert d.log.count("dump session=") == 400 and d.log.count("dump service=orders stream=s") == 400
    assert d.log.count("dump and 50 workers more") == 2 and "suppressed" not in d.log
    for s in more:
        s.close()


@limit(60)
def test_signals_before_it_is_ready_wait(t):
    """A HUP that is pending at its start, from a parent that blocks signals: a reload, not the end; and TERM stops it."""
    r = t.redis()
    d = t.daemon(r, start=False)
    script = ("import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32)); "
              "os.kill(os.getpid(), signal.SIGHUP); os.kill(os.getpid(), signal.SIGUSR1); os.execv(sys.argv[1], sys.argv[1:])")
    d.wrap = [sys.executable, "-c", script]
    d.start()
    t.wait(lambda: "reloaded file=" in d.log and "dump version=" in d.log, what="both signals")
    assert d.stop() == 0


@limit(60)
def test_socket_taken_and_stale(t):
    r = t.redis()
    d = t.daemon(r)
    e = t.daemon(r, ready=False, cfg={"workers": {"socket": d.worker_sock}})
    assert e.wait(15) in (71, 77) and "w.sock" in e.log
    assert t.worker(d).wait("welcome")
    d.kill()
    assert os.path.exists(d.worker_sock)  # stale now
    d.start()
    assert t.worker(d).wait("welcome")
    d.stop()
    assert not os.path.exists(d.worker_sock) and not os.path.exists(d.control_sock)
    with open(d.worker_sock, "w") as f:
        f.write("not a socket")
    d.start(ready=False)
    assert d.wait(15) in (71, 77) and open(d.worker_sock).read() == "not a socket"


@limit(60)
def test_few_descriptors(t):
    r = t.redis()
    import resource
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        d = t.daemon(r)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    w = t.worker(d, credits=1, work=0)
    w.wait("welcome")
    many = [connect(d.worker_sock) for _ in range(100)]
    Added(r.db).one("orders", "s")
    w.wait("ok", timeout=20)
    for s in many:
        s.close()
    assert t.worker(d).wait("welcome", timeout=20) and d.is_running()


@limit(60)
def test_doctor_says_when_descriptors_run_out(t):
    import resource
    d = t.daemon(t.redis())

    def rows():
        return [x for x in d.json("doctor") if x["check"] == "descriptors"]
    assert not rows()
    n = len(os.listdir(f"/proc/{d.proc.pid}/fd")) + 100
    resource.prlimit(d.proc.pid, resource.RLIMIT_NOFILE, (n, n))
    many = [connect(d.worker_sock) for _ in range(60)]
    row, = t.wait(rows, 10, "a row")
    assert row["result"] == "warn" and f"of {n} are in use" in row["found"] and "LimitNOFILE" in row["advice"], row
    for s in many:
        s.close()
    t.wait(lambda: not rows(), 10, "there is room again")


@limit(60)
def test_log_formats(t):
    import json
    r = t.redis()
    d = t.daemon(r, cfg={"log": {"format": "json", "level": "info"}})
    d.stop()
    for line in d.log.splitlines():
        assert isinstance(json.loads(line), dict), line
    d = t.daemon(r, cfg={"log": {"format": "journal", "level": "info"}})
    d.stop()
    assert d.log and all(line[0] == "<" and line[2] == ">" for line in d.log.splitlines())


@limit(60)
def test_metrics_endpoint(t):
    r = t.redis()
    d = t.daemon(r, cfg={"metrics": {"listen": f"unix:{t.path('m.sock')}"}})
    w = t.worker(d, credits=2, work=0)
    Added(r.db).many("orders", ["a", "b"])
    w.wait("ok", 2)

    def get(what):
        return http(t.path("m.sock"), what)
    assert get("/livez")[0] == 200 and get("/readyz")[0] == 200 and get("/nope")[0] == 404
    rc, text = get("/metrics")
    assert rc == 200 and "sluice_build_info" in text
    assert any(x.startswith("sluice_assignments_total{") and 'kind="new"' in x and 'service="orders"' in x and x.endswith(" 2")
               for x in text.splitlines()), text
    assert '"a"' not in text
    r.pause()
    t.wait(lambda: get("/readyz")[0] == 503, 20, "not ready without Redis")
    r.cont()
    t.wait(lambda: get("/readyz")[0] == 200, 30, "ready again")
    checks.wait_clean(r.db)
