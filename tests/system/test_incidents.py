"""Incidents of an operator's night. For each: the line in the log, what explain says, doctor's word, and the alert of
etc/prometheus-alerts.yml whose series are there, with the seconds until each. One table, printed at the end."""
import os
import re
import time

from lib.case import limit, no_acl
from lib.checks import Added
from lib.daemon import ROOT, http

issue = 12
ALERTS = open(os.path.join(ROOT, "etc", "prometheus-alerts.yml")).read()


class Night:
    def __init__(self, t, **kw):
        self.t, self.m, self.rows = t, t.path("m"), []
        kw.setdefault("cfg", {}).setdefault("metrics", {"listen": "unix:" + self.m})
        self.r = t.redis(password=kw.pop("redis_password", None))
        self.d = t.daemon(self.r, start=False, **kw)

    def metrics(self):
        return {x.rsplit(" ", 1)[0]: float(x.rsplit(" ", 1)[1]) for x in http(self.m, "/metrics")[1].splitlines() if x and x[0] != "#"}

    def until(self, f, seconds, what):
        """What f() gives and when, from self.began."""
        v = self.t.wait(f, seconds, what)
        return v, time.monotonic() - self.began

    def line(self, pattern, seconds=15):
        m, at = self.until(lambda: re.search(pattern, self.d.log), seconds, f"a line {pattern}")
        return f"{m[0][:70]} ({at:.1f} s)"

    def explain(self, stream, words, seconds=15):
        def said():
            a = self.d.ctl("explain", stream)
            return [x.strip() for x in (a.stdout + a.stderr).splitlines() if words in x]
        v, at = self.until(said, seconds, f"explain says {words}")
        return f"{v[0][:90]} ({at:.1f} s)"

    def doctor(self, words, rc=1):
        a = self.d.ctl("doctor")
        assert a.returncode == rc and words in a.stdout + a.stderr, (a.returncode, a.stdout, a.stderr)
        return next(re.sub(r"\s+", " ", x)[:70] for x in (a.stdout + a.stderr).splitlines() if words in x)

    def alert(self, name, series, seconds=15):
        """The alert is in the file, and what it asks for has happened: series is a condition on the metrics."""
        assert f"alert: {name}\n" in ALERTS, name
        _, at = self.until(lambda: series(self.metrics()), seconds, f"{name}'s series")
        return f"{name} ({at:.1f} s)"

    def print(self, incident, *cells):
        print(f"= {incident:24} | " + " | ".join(cells))


def total(m, name, *labels):
    return sum(v for k, v in m.items() if k.split("{")[0] == name and all(x in k for x in labels))


def no_command_conn(m):
    return total(m, "sluice_redis_connections", 'role="command"', 'state="ready"') == 0 and \
        any(k.startswith("sluice_redis_connections{") for k in m)


def held(n):
    """A worker with one credit has `held`; `waits` is not read."""
    n.d.start()
    w = n.t.worker(n.d, credits=1)
    Added(n.r.db).many("orders", ["held", "waits"])
    w.wait("assign")
    n.began = time.monotonic()
    return w


def test_redis_down(t):
    n = Night(t)
    held(n)
    n.r.kill()
    n.print("Redis down", n.line(r"redis=\S+ .*(refused|closed|lost|No such file).*"), n.explain("waits", "redis"),
            n.doctor("connection"), n.alert("SluicedRedisDown", no_command_conn))
    assert n.metrics()["sluice_ready"] == 0


def test_wrong_password_at_start(t):
    n = Night(t, redis_password="right")
    n.d.env["TEST_REDIS_PASSWORD"] = "wrong"
    n.began = time.monotonic()
    n.d.start(ready=False)
    n.print("wrong password, start", n.line(r"waiting for Redis: .*WRONGPASS.*"), n.explain("any", "WRONGPASS"), n.doctor("WRONGPASS"),
            n.alert("SluicedRedisDown", no_command_conn))


def test_wrong_password_by_rotation(t):
    n = Night(t, redis_password="right")
    held(n)
    me = n.r.db.cmd("CLIENT", "ID")
    n.r.db.cmd("CONFIG", "SET", "requirepass", "new")
    for row in n.r.db.cmd("CLIENT", "LIST").splitlines():
        id = int(dict(x.split("=", 1) for x in row.split())["id"])
        if id != me:
            n.r.db.pipe([("CLIENT", "KILL", "ID", id)])
    n.print("wrong password, rotated", n.line(r"redis=\S+ .*WRONGPASS.*"), n.explain("waits", "WRONGPASS"), n.doctor("WRONGPASS"),
            n.alert("SluicedRedisDown", no_command_conn))


def refused(t, incident, error, refuse, doctor=None, names=("SluicedRedisRefuses", "SluicedNotReady")):
    n = Night(t)
    w = held(n)
    refuse(n.r)
    w.send({"t": "credits", "n": 2})
    name = next(x for x in names if f"alert: {x}\n" in ALERTS)
    n.print(incident, n.line(rf"[^ ]+ [^ ]+: redis refuses: {error}.*"), n.explain("waits", error), n.doctor(doctor or error),
            n.alert(name, lambda m: m["sluice_ready"] == 0 and total(m, "sluice_redis_refused_total", f'error="{error}"') > 0
                    and total(m, "sluice_unassigned_oldest_age_seconds") > 0))


@no_acl("the rights of the default user are changed")
def test_a_right_missing(t):
    refused(t, "a right missing", "NOPERM", lambda r: r.db.cmd("ACL", "SETUSER", "default", "-set"), doctor="missing: +set")


def test_maxmemory(t):
    refused(t, "maxmemory", "OOM", lambda r: r.db.cmd("CONFIG", "SET", "maxmemory", "1"))


def test_misconf(t):
    def refuse(r):
        os.mkdir(os.path.join(r.dir, "dump.rdb"))
        r.db.cmd("CONFIG", "SET", "save", "3600 1")

        def failed():
            r.db.cmd("BGSAVE")
            t.wait(lambda: "rdb_bgsave_in_progress:0" in r.db.cmd("INFO", "persistence"), 10)
            return "rdb_last_bgsave_status:err" in r.db.cmd("INFO", "persistence")
        t.wait(failed, 15)
    refused(t, "MISCONF", "MISCONF", refuse)


def test_noreplicas(t):
    refused(t, "NOREPLICAS", "NOREPLICAS", lambda r: r.db.cmd("CONFIG", "SET", "min-replicas-to-write", "1"))


def test_readonly(t):
    refused(t, "READONLY", "READONLY", lambda r: r.db.cmd("REPLICAOF", "127.0.0.1", "1"))


def test_no_workers(t):
    n = Night(t)
    n.d.start()
    n.began = time.monotonic()
    Added(n.r.db).many("orders", ["waits"])
    n.print("no workers", n.line(r"ready\b.*"), n.explain("waits", "no worker serves orders"), n.doctor("write", rc=0),
            n.alert("SluicedNoWorkers", lambda m: total(m, "sluice_credits") == 0 and total(m, "sluice_lbs_length") == 1))


def test_all_credits_used(t):
    n = Night(t)
    held(n)
    n.print("all credits used", n.line(r"connected credits=1.*"), n.explain("waits", "waiting for credits"), n.doctor("write", rc=0),
            n.alert("SluicedWorkersFull", lambda m: total(m, "sluice_credits_in_use") == total(m, "sluice_credits") == 1))


@limit(60)
def test_a_worker_that_hangs(t):
    n = Night(t, T=3, cfg={"workers": {"progress_timeout": "1s"}})
    n.d.start()
    w = n.t.worker(n.d, credits=1, answers_revoke=False)
    n.began = time.monotonic()
    Added(n.r.db).many("orders", ["held", "waits"])
    w.wait("assign")
    n.print("a worker hangs", n.line(r"has said nothing about its work on stream=held"), n.line(r"was told to stop stream=held and has not"),
            n.explain("waits", "that it was told to stop and has not"), n.doctor("write", rc=0),
            n.alert("SluicedWorkersFull", lambda m: total(m, "sluice_credits_in_use") == total(m, "sluice_credits") == 1))


@limit(60)
def test_lost_data(t):
    n = Night(t)
    held(n)
    n.r.db.cmd("FLUSHALL")
    n.print("data lost", n.line(r"the consumer group is gone: making it again"), n.explain("waits", "was found gone since"),
            n.doctor("was found gone since", rc=0))


@limit(120)
def test_a_worker_that_crashes_again_and_again(t):
    n = Night(t)
    n.d.start()
    Added(n.r.db).many("orders", ["poison"])
    n.began = time.monotonic()
    for i in range(6):
        w = t.proc_worker(n.d, name=f"crash{i}", credits=1, work="hold")
        t.wait(lambda: w.frames("assign") or w.frames("welcome"), 15)
        if i < 2:
            w.wait_for("assign", timeout=30)
        w.kill()
    n.print("worker crash loop", n.line(r"worker=crash\S+ pid=\d+ died.*"), n.explain("poison", "poison", 30), n.doctor("write", rc=0),
            n.alert("SluicedWorkersCrash", lambda m: total(m, "sluice_worker_disconnects_total", 'reason="died"') > 5))
