"""Redis refuses: OOM, MISCONF, NOREPLICAS, READONLY, a right that is missing, a wrong password. Told in the log, in status and /readyz,
by explain, add and doctor, and counted; over when it is over."""
import os
import re
import time

from lib import checks
from lib.case import limit, no_acl
from lib.checks import Added
from lib.redis import SEP
from lib.daemon import http
from lib.manual import items, page
from lib.notify import Notify

issue = 12


def metrics(m):
    """{name with labels as written: value} of a scrape."""
    code, text = http(m, "/metrics")
    assert code == 200
    return {x.rsplit(" ", 1)[0]: float(x.rsplit(" ", 1)[1]) for x in text.splitlines() if x and x[0] != "#"}


def answers(m):
    """The page is served: its socket is there a moment before somebody listens."""
    try:
        return http(m, "/metrics")[0] == 200
    except OSError:
        return False


def refused(m, error):
    return sum(v for k, v in metrics(m).items() if k.startswith("sluice_redis_refused_total{") and f'error="{error}"' in k)


def is_not_ready(d, m, words):
    r = d.ctl("status", "--ready")
    code, body = http(m, "/readyz")
    return r.returncode == 1 and words in r.stdout + r.stderr and code == 503 and words in body


def one_refusal(t, r, error, refuse, allow, stream="waits", explained=True):
    """`refuse` and `allow` change the server. Everything must name `error`, and be well again after `allow`."""
    n = Notify(t.path("notify"))
    m = t.path("m")
    d = t.daemon(r, cfg={"metrics": {"listen": "unix:" + m}}, env={"NOTIFY_SOCKET": n.path})
    assert metrics(m)["sluice_ready"] == 1 and refused(m, error) == 0
    w = t.worker(d, credits=1)
    add = Added(r.db)
    add.many("orders", ["held", stream])
    held = w.wait("assign")
    refuse()
    began = time.monotonic()
    w.send({"t": "credits", "n": 2})
    t.wait(lambda: is_not_ready(d, m, error), 15, "not ready, in words")
    assert time.monotonic() - began < 12, "after a few seconds"
    t.wait(lambda: any(x.startswith("STATUS=not ready: ") and error in x for x in n.lines()), 5, "STATUS has the words")
    t.wait(lambda: metrics(m)["sluice_ready"] == 0, 5, "sluice_ready 0")
    assert refused(m, error) > 0
    if explained:
        t.wait(lambda: error in d.ctl("explain", stream).stdout, 5, "the words in explain")
    began = time.monotonic()
    a = d.ctl("add", "orders", "more")
    assert a.returncode == 1 and error in a.stderr and "no answer" not in a.stderr, (a.stdout, a.stderr)
    assert time.monotonic() - began < 2, "at once"
    doctor = d.ctl("doctor")
    assert doctor.returncode == 1 and error in doctor.stdout, doctor.stdout + doctor.stderr
    lines = [x for x in d.log.splitlines() if re.search(rf"refuses.*{error}", x)]
    assert lines and re.search(r" n=\d+", lines[0]), d.log[-2000:]
    assert len(lines) <= 4, "one line a minute for each kind of command:\n" + "\n".join(lines)
    allow()
    t.wait(lambda: d.ctl("status", "--ready").returncode == 0, 20, "ready again")
    t.wait(lambda: metrics(m)["sluice_ready"] == 1 and http(m, "/readyz")[0] == 200, 5, "sluice_ready 1")
    w.work = 0
    for a in list(w.held.values()):
        w.finish(a)
    checks.wait_clean(r.db, timeout=40)
    checks.all_good(add.sure, [w.journal])
    return held


def test_out_of_memory(t):
    r = t.redis()
    one_refusal(t, r, "OOM", lambda: r.db.cmd("CONFIG", "SET", "maxmemory", "1"), lambda: r.db.cmd("CONFIG", "SET", "maxmemory", "0"))


def test_misconf(t):
    """A snapshot that fails, with save points: Redis takes no writes."""
    r = t.redis()
    blocker = os.path.join(r.dir, "dump.rdb")

    def saved(status):
        r.db.cmd("BGSAVE")
        t.wait(lambda: "rdb_bgsave_in_progress:0" in r.db.cmd("INFO", "persistence"), 10)
        return f"rdb_last_bgsave_status:{status}" in r.db.cmd("INFO", "persistence")

    def refuse():
        os.mkdir(blocker)
        r.db.cmd("CONFIG", "SET", "save", "3600 1")
        t.wait(lambda: saved("err"), 15, "a snapshot that fails")

    def allow():
        os.rmdir(blocker)
        t.wait(lambda: saved("ok"), 15, "a snapshot that works")
    one_refusal(t, r, "MISCONF", refuse, allow)


def test_noreplicas(t):
    r = t.redis()
    one_refusal(t, r, "NOREPLICAS", lambda: r.db.cmd("CONFIG", "SET", "min-replicas-to-write", "1"),
                lambda: r.db.cmd("CONFIG", "SET", "min-replicas-to-write", "0"))


def test_readonly(t):
    """A replica, as after a failover that the endpoint did not follow."""
    r = t.redis()
    one_refusal(t, r, "READONLY", lambda: r.db.cmd("REPLICAOF", "127.0.0.1", "1"), lambda: r.db.cmd("REPLICAOF", "NO", "ONE"))


@no_acl("the rights of the default user are changed")
def test_a_right_is_missing(t):
    r = t.redis()
    one_refusal(t, r, "NOPERM", lambda: r.db.cmd("ACL", "SETUSER", "default", "-set", "-xadd"),
                lambda: r.db.cmd("ACL", "SETUSER", "default", "+set", "+xadd"))


@no_acl("the rights of the default user are changed")
@limit(60)
def test_a_right_that_a_script_lacks_is_told_as_such(t):
    """Redis 7 does not name the command: who reads it is told who does."""
    for right in ("zcount", "zcard", "hget"):
        r = t.redis()
        d = t.daemon(r)
        r.db.cmd("ACL", "SETUSER", "default", f"-{right}")
        Added(r.db).one("orders", "s")
        t.worker(d, credits=1, work=0)
        t.wait(lambda: d.ctl("status", "--ready").returncode == 1, 20, f"not ready without {right}")
        why = d.ctl("status", "--ready").stderr
        assert "NOPERM" in why or "can't run this command" in why and "sluicectl doctor says which right is missing" in why, why
        assert f"missing: +{right}" in d.ctl("doctor").stdout
        r.db.cmd("ACL", "SETUSER", "default", f"+{right}")
        d.wait_ready()


@limit(60)
def test_explain_tells_one_refusal_once(t):
    """The lock's master and that of the load-balancer stream are one."""
    r = t.redis()
    d = t.daemon(r)
    r.db.cmd("SET", "{orders-input}-active", "not a hash")
    t.worker(d, credits=1)
    Added(r.db).one("orders", "s")
    t.wait(lambda: "WRONGTYPE" in d.ctl("explain", "s").stdout, 10, "why it is not taken")
    assert d.ctl("explain", "s").stdout.count("WRONGTYPE") == 1, d.ctl("explain", "s").stdout


@limit(60)
def test_explain_blames_no_key_of_another_service(t):
    """A stream lacks a worker; that a key of another service has a wrong type is not why it waits, and is said last."""
    r = t.redis()
    d = t.daemon(r, services=("orders", "bills"))
    r.db.cmd("SET", "orders-input", "not a stream")
    t.wait(lambda: "WRONGTYPE" in d.ctl("status").stdout, 20, "the key is found")
    Added(r.db).one("bills", "b")
    x, = d.json("explain", "b")
    assert any("no worker serves bills" in w for w in x["because"]) and x["advice"] == "start a worker for bills", x
    assert not any("WRONGTYPE" in w for w in x["because"]), x
    t.worker(d, credits=0)
    t.wait(lambda: "takes no work now" in d.ctl_ok("explain", "b"), 10, "what the worker does is why")
    x, = d.json("explain", "b", "--service", "bills")
    assert not any("WRONGTYPE" in w for w in x["because"]), x


@no_acl("the rights of the default user are changed")
@limit(60)
def test_renewals_alone_are_refused(t):
    """Nothing is given out that would be taken back before it ends, over and over; what was waiting goes on with the right."""
    r = t.redis()
    m = t.path("m")
    d = t.daemon(r, T=3, cfg={"metrics": {"listen": "unix:" + m}})
    w = t.worker(d, credits=2)
    r.db.cmd("ACL", "SETUSER", "default", "-getex")
    Added(r.db).many("orders", ["a", "b"])
    for lease in {f["lease"] for f in (w.wait("revoke", 1), w.wait("revoke", 2))}:
        w.send({"t": "revoked", "lease": lease})
    t.wait(lambda: is_not_ready(d, m, "getex"), 15, "not ready, in words")
    n = len(w.frames("assign"))
    time.sleep(6)
    assert len(w.frames("assign")) == n == 2, w.frames("assign")
    assert "getex" in d.ctl("explain", "a").stdout
    doctor = d.ctl("doctor")
    assert doctor.returncode == 1 and "getex" in doctor.stdout.lower(), doctor.stdout
    r.db.cmd("ACL", "SETUSER", "default", "+getex")
    w.wait("assign", 4, 15)
    t.wait(lambda: d.ctl("status", "--ready").returncode == 0, 5, "ready again")
    for a in list(w.held.values()):
        w.finish(a)
    checks.wait_clean(r.db, timeout=20)


def test_a_refusal_of_the_operators_add_alone_is_told_too(t):
    """Nothing is being worked on: the daemon itself tries until Redis takes writes again."""
    r = t.redis()
    m = t.path("m")
    d = t.daemon(r, cfg={"metrics": {"listen": "unix:" + m}})
    r.db.cmd("CONFIG", "SET", "maxmemory", "1")
    a = d.ctl("add", "orders", "s")
    assert a.returncode == 1 and "OOM" in a.stderr
    t.wait(lambda: is_not_ready(d, m, "OOM"), 15, "not ready")
    time.sleep(12)
    assert is_not_ready(d, m, "OOM"), "still: nothing has changed"
    r.db.cmd("CONFIG", "SET", "maxmemory", "0")
    t.wait(lambda: d.ctl("status", "--ready").returncode == 0, 15, "ready again")
    assert not [k for k in r.db.cmd("KEYS", "*") if "doctor" in k], "its trial leaves nothing"


def test_an_idle_daemon_finds_out_by_itself(t):
    r = t.redis()
    m = t.path("m")
    d = t.daemon(r, cfg={"metrics": {"listen": "unix:" + m}})
    r.db.cmd("CONFIG", "SET", "maxmemory", "1")
    t.wait(lambda: is_not_ready(d, m, "OOM"), 25, "not ready without any work")
    assert "OOM" in d.log


@limit(120)
def test_one_master_of_three_refuses(t):
    """Named by address; doctor tries each master, also those that only hold locks."""
    c = t.cluster()
    m = t.path("m")
    d = t.daemon(c, cfg={"metrics": {"listen": "unix:" + m}})
    w = t.worker(d, credits=50)
    victim = next(n for n in c.masters() if n is not c.master_of("orders-input"))
    assert d.ctl("doctor").returncode == 0, d.ctl("doctor").stdout
    victim.db.cmd("CONFIG", "SET", "maxmemory", "1")
    Added(c.db).many("orders", [f"s{i}" for i in range(30)])
    t.wait(lambda: is_not_ready(d, m, victim.endpoint) and is_not_ready(d, m, "OOM"), 15, "not ready: that master")
    doctor = d.ctl("doctor")
    assert doctor.returncode == 1
    writes = [x for x in d.ctl("--json", "doctor").stdout.splitlines() if '"write"' in x]
    assert len(writes) == 3 and sum('"fail"' in x for x in writes) == 1, writes
    assert w.frames("assign"), "the other masters' streams run"
    victim.db.cmd("CONFIG", "SET", "maxmemory", "0")
    w.wait("assign", 30, timeout=30)
    d.wait_ready()


@limit(120)
def test_streams_whose_locks_cannot_be_taken_keep_no_credits(t):
    """One master of three takes no lock, or does not answer: streams on the others run, however few credits there are."""
    c = t.cluster(node_timeout_ms=30000)
    d = t.daemon(c)
    w = t.worker(d, credits=4, work=0)
    victim = next(n for n in c.masters() if n is not c.master_of("orders-input"))
    for what, hurt, heal in (("refuses", lambda: victim.db.cmd("CONFIG", "SET", "maxmemory", "1"), lambda: victim.db.cmd("CONFIG", "SET", "maxmemory", "0")),
                             ("stopped", victim.pause, victim.cont)):
        names = [f"{what}-{i}" for i in range(150)]
        hurt()
        ids = dict(zip(names, Added(c.db).many("orders", names)))
        good = {n for n, id in ids.items() if c.master_of(n + SEP + id) is not victim}
        assert 50 < len(good) < 140

        def done():
            return set(checks.finished([w.journal])) & set(names)
        t.wait(lambda: done() >= good, 20, f"{what}: those of the other masters are done", 0.1)
        assert done() == good
        heal()
        t.wait(lambda: len(done()) == len(names), 30, f"{what}: and the others", 0.1)
        checks.wait_clean(c.db, timeout=20)
    assert set(checks.finished([w.journal]).values()) == {1}


# ---- passwords

def first_scrape(m):
    """Every metric of the manual is there, by a scrape."""
    names = {k.split("{")[0] for k in metrics(m)}
    told = [head for (head,), _ in items(page("sluice-metrics.7").splitlines(), "Li")]
    missing = [n for n in told if not names & {n, n + "_count"}]
    assert len(told) > 60 and not missing, missing


def test_every_series_is_there_without_redis(t):
    r = t.redis(start=False)
    m = t.path("m")
    d = t.daemon(r, ready=False, cfg={"metrics": {"listen": "unix:" + m}})
    t.wait(lambda: answers(m), 10, "the page of metrics")
    first_scrape(m)
    got = metrics(m)
    assert got["sluice_ready"] == 0 and got['sluice_paused{service="orders"}'] == 0 and got["sluice_draining"] == 0
    assert sum(v for k, v in got.items() if k.startswith("sluice_redis_connections{") and 'state="ready"' in k) == 0
    assert any("sluice_redis_connections{" in k and 'role="command",state="ready"' in k for k in got), "SluicedRedisDown fires"
    r.start()
    d.wait_ready()
    first_scrape(m)
    t.wait(lambda: metrics(m)["sluice_ready"] == 1, 5, "ready")


def test_wrong_password_at_start(t):
    r = t.redis(password="right")
    m = t.path("m")
    d = t.daemon(r, start=False, cfg={"metrics": {"listen": "unix:" + m}})
    d.env["TEST_REDIS_PASSWORD"] = "wrong"
    d.start(ready=False)
    d.wait_log("WRONGPASS")
    first_scrape(m)
    assert is_not_ready(d, m, "WRONGPASS") and metrics(m)["sluice_ready"] == 0
    t.wait(lambda: refused(m, "WRONGPASS") > 0, 10, "counted")
    a = d.ctl("add", "orders", "s")
    assert a.returncode == 1 and "WRONGPASS" in a.stderr, a.stderr
    doctor = d.ctl("doctor")
    assert doctor.returncode == 1 and "WRONGPASS" in doctor.stdout
    e = d.ctl("explain", "s")
    assert e.returncode == 1 and "WRONGPASS" in e.stderr, e.stderr


def test_password_changed_under_a_running_daemon(t):
    r = t.redis(password="right")
    m = t.path("m")
    d = t.daemon(r, cfg={"metrics": {"listen": "unix:" + m}})
    me = r.db.cmd("CLIENT", "ID")
    r.db.cmd("CONFIG", "SET", "requirepass", "new")
    for row in r.db.cmd("CLIENT", "LIST").splitlines():
        id = int(dict(x.split("=", 1) for x in row.split())["id"])
        if id != me:
            r.db.pipe([("CLIENT", "KILL", "ID", id)])
    t.wait(lambda: is_not_ready(d, m, "WRONGPASS"), 15, "not ready, in words")
    t.wait(lambda: refused(m, "WRONGPASS") > 0 and metrics(m)["sluice_ready"] == 0, 10, "counted")
    a = d.ctl("add", "orders", "s")
    assert a.returncode == 1 and "WRONGPASS" in a.stderr, a.stderr
    assert len([x for x in d.log.splitlines() if "WRONGPASS" in x]) <= 5
    r.db.cmd("CONFIG", "SET", "requirepass", "right")
    d.wait_ready()


def test_gauges_of_the_operators_doing(t):
    r = t.redis()
    m = t.path("m")
    d = t.daemon(r, services=("orders", "bills"), cfg={"metrics": {"listen": "unix:" + m}})
    d.ctl_ok("pause", "bills")
    got = metrics(m)
    assert got['sluice_paused{service="bills"}'] == 1 and got['sluice_paused{service="orders"}'] == 0
    assert got["sluice_draining"] == 0 and got["sluice_config_reload_success"] == 1
    d.ctl_ok("drain")
    assert metrics(m)["sluice_draining"] == 1
    d.ctl_ok("undrain")
    assert metrics(m)["sluice_draining"] == 0
    t.wait(lambda: any(k.startswith("sluice_clock_offset_seconds{") and abs(v) < 1 for k, v in metrics(m).items()), 10, "one clock")
    good = open(d.conf).read()
    with open(d.conf, "w") as f:
        f.write(good + "nonsense: 1\n")
    assert d.ctl("reload").returncode == 78 and metrics(m)["sluice_config_reload_success"] == 0
    with open(d.conf, "w") as f:
        f.write(good)
    d.ctl_ok("reload")
    assert metrics(m)["sluice_config_reload_success"] == 1
    assert got["process_open_fds"] > 5 and got["process_resident_memory_bytes"] > 1 << 20 and got["process_start_time_seconds"] > 1.7e9


@no_acl("the replica logs in as the default user")
def test_replicas_that_wait_replicas_misses(t):
    """`done` waits for a replica that is not there: told like a refusal, and over when there is one."""
    r = t.redis()
    m = t.path("m")
    d = t.daemon(r, service={"wait_replicas": 1}, cfg={"metrics": {"listen": "unix:" + m}})
    w = t.worker(d, credits=1)
    Added(r.db).one("orders", "alone")
    w.finish(w.wait("assign"))
    words = "NOREPLICAS confirmed by 0, services[].wait_replicas is 1"
    t.wait(lambda: is_not_ready(d, m, words), 20, "not ready, and why")
    assert words in d.ctl_ok("explain", "alone") and refused(m, "NOREPLICAS") > 0
    assert len([x for x in d.log.splitlines() if " warn " in x and f"redis refuses: {words}" in x]) == 1, d.log
    assert not w.frames("ok")
    t.redis(args=["--replicaof", r.host, str(r.port)])
    w.wait("ok", 1, 20)
    t.wait(lambda: d.ctl("status", "--ready").returncode == 0, 15, "ready again")
