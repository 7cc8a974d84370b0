"""sluicectl: the verbs of issue 2, text and --json, and its exit codes."""
import json
import time

from lib import checks
from lib.checks import Added
from lib.daemon import program
from lib.redis import entries

issue = 2


def setup(t, **kw):
    r = t.redis()
    return r, t.daemon(r, services=("orders", "bills"), node="n1", **kw)


def test_status(t):
    r, d = setup(t)
    s, = d.json("status")
    assert s["ready"] is True and s["node"] == "n1" and s["pid"] == d.proc.pid
    assert {x["service"] for x in s["services"]} == {"orders", "bills"}
    w = t.worker(d, credits=5)
    Added(r.db).many("orders", ["a", "b"])
    w.wait("assign", 2)
    o = next(x for x in d.json("status")[0]["services"] if x["service"] == "orders")
    assert o["owned"]["assigned"] == 2 and o["credits"] == 5 and o["credits_in_use"] == 2 and o["paused"] is False
    text = d.ctl_ok("status")
    assert "orders" in text and "n1" in text and "\x1b" not in text
    assert d.ctl("status", "--ready").returncode == 0


def test_ls_and_show(t):
    r, d = setup(t)
    w = t.worker(d, name="alice", credits=5)
    add = Added(r.db)
    ids = add.many("orders", ["a", "b"]) + add.many("bills", ["c"])
    w.wait("assign", 3)
    rows = {x["stream"]: x for x in d.json("ls")}
    assert set(rows) == {"a", "b", "c"} and {x["id"] for x in rows.values()} == set(ids)
    assert rows["c"]["service"] == "bills" and rows["a"]["worker"] == "alice" and rows["a"]["state"] == "assigned"
    assert [x["stream"] for x in d.json("ls", "--service", "bills")] == ["c"]
    assert d.json("ls", "--state", "parked") == [] and len(d.json("ls", "--state", "assigned")) == 3
    assert d.json("ls", "--older-than", "1h") == []
    head, *lines = d.ctl_ok("ls").splitlines()
    assert len(lines) == 3 and "STREAM" in head.upper() and len(d.ctl_ok("--no-headers", "ls").splitlines()) == 3
    s, = d.json("show", "a")
    assert s["stream"] == "a" and s["lock"].startswith("a<MUTEX_KEY_SEP>") and s["lock_value"].startswith("redis-consumer-n1/")
    assert "c" in {x["stream"] for x in d.json("show", ids[2])}  # two streams may have given out the same id
    assert d.ctl("show", "nope").returncode == 1 and d.ctl("ls", "--service", "nope").returncode == 1
    assert d.ctl("show").returncode == 64 and d.ctl("ls", "--state", "silly").returncode == 64


def test_workers_and_nodes(t):
    r, d = setup(t)
    w = t.worker(d, name="alice", credits=7, services=["bills"])
    w.wait("welcome")
    x, = d.json("workers")
    assert x["name"] == "alice" and x["credits"] == 7 and x["in_use"] == 0 and x["services"] == ["bills"]
    assert w.session not in str(x) and x["pid"] > 0, "the key that resumes a session is a secret"
    assert "alice" in d.ctl_ok("workers")
    n, = d.json("nodes")
    assert any(c["role"] == "command" and c["state"] == "ready" for c in n["connections"])
    assert d.ctl_ok("nodes")


def test_nodes_of_a_cluster(t):
    c = t.cluster()
    d = t.daemon(c)
    t.wait(lambda: {x["redis"] for x in d.json("nodes")} == {f"{n.host}:{n.port}" for n in c.nodes}, what="three masters")


def test_add(t):
    r, d = setup(t)
    row, = d.json("add", "orders", "one", "--info", '{"n": 12345678901234567890, "u": "é"}')
    assert row["stream"] == "one" and row["id"] == entries(r.db, "orders-input")[0][0]
    d.ctl_ok("add", "orders", "many", "--count", "5")
    assert r.db.cmd("XLEN", "orders-input") == 6
    w = t.worker(d, credits=10, work=0)
    w.wait("ok", 6)
    assert w.wait("assign", stream="one")["info"] == {"n": 12345678901234567890, "u": "é"}
    assert len({a["stream"] for a in w.frames("assign")}) == 6
    for args, rc in ((("add", "nope", "s"), 1), (("add", "orders", "s", "--info", "{not json"), 64), (("add", "orders"), 64),
                     (("add", "orders", "s", "--count", "0"), 64), (("add", "orders", "s", "--count", "x"), 64)):
        p = d.ctl(*args)
        assert p.returncode == rc and p.stderr, (args, p)
    assert r.db.cmd("XLEN", "orders-input") == 0


def test_add_while_redis_hangs(t):
    """It is answered before sluicectl gives up, and not repeated: the first one may be in Redis already."""
    r, d = setup(t)
    r.pause()
    p = d.ctl("add", "orders", "s")
    assert p.returncode == 1 and "may have been added" in p.stderr, p
    r.cont()
    t.wait(lambda: d.ctl("status", "--ready").returncode == 0, 20, "Redis again")
    w = t.worker(d, credits=9)
    time.sleep(1)
    assert len(w.frames("assign")) <= 1 and r.db.cmd("XLEN", "orders-input") <= 1


def test_pause_and_resume(t):
    r, d = setup(t)
    w = t.worker(d, credits=10, work=0)
    d.ctl_ok("pause", "orders")
    add = Added(r.db)
    add.one("orders", "waits")
    add.one("bills", "runs")
    assert w.wait("assign")["stream"] == "runs"
    w.wait("ping", 2, timeout=15)
    assert r.db.cmd("XLEN", "orders-input") == 1 and checks.pending(r.db, "orders") == 0
    assert next(x for x in d.json("status")[0]["services"] if x["service"] == "orders")["paused"] is True
    d.ctl_ok("resume", "orders")
    w.wait("ok", 2)
    d.ctl_ok("pause")
    add.one("bills", "later")
    d.ctl_ok("resume")
    w.wait("ok", 3)
    assert d.ctl("pause", "nope").returncode == 1


def test_release_and_requeue(t):
    r, d = setup(t)
    w = t.worker(d, credits=1)
    id = Added(r.db).one("orders", "s")
    w.wait("assign")
    d.ctl_ok("release", "s")
    f = w.wait("revoke")
    assert f["reason"] == "operator"
    a = w.wait("assign", 2)
    assert a["id"] != id and a["retry"] == 0
    d.ctl_ok("requeue", a["id"])
    b = w.wait("assign", 3)
    assert b["id"] != a["id"] and b["retry"] in (0, 1)
    w.finish(b)
    checks.wait_clean(r.db)
    assert d.ctl("release", "nope").returncode == 1 and d.ctl("requeue").returncode == 64


def test_version(t):
    _, d = setup(t)
    v, = d.json("version")
    assert v["version"] and v["version"] in d.ctl_ok("version")


def test_exit_codes(t):
    p = t.run([program("sluicectl"), "--socket", t.path("none.sock"), "status"])
    assert p.returncode == 69 and len(p.stderr.splitlines()) == 1, p
    assert t.run([program("sluicectl"), "--socket", t.path("none.sock"), "frob"]).returncode == 64
    assert t.run([program("sluicectl")]).returncode == 64
    assert t.run([program("sluicectl"), "--timeout", "soon", "status"]).returncode == 64


def test_timeout_when_the_daemon_hangs(t):
    _, d = setup(t)
    d.pause()
    start = time.monotonic()
    p = d.ctl("--timeout", "500ms", "status")
    assert p.returncode == 69 and time.monotonic() - start < 5
    d.cont()


def test_json_is_one_object_per_line_for_every_verb(t):
    r, d = setup(t)
    w = t.worker(d, credits=3)
    Added(r.db).many("orders", ["a", "b"])
    w.wait("assign", 2)
    for args in (["status"], ["ls"], ["show", "a"], ["workers"], ["nodes"], ["pause"], ["resume"], ["add", "bills", "x"], ["version"],
                 ["release", "b"]):
        for line in d.ctl_ok("--json", *args).splitlines():
            assert isinstance(json.loads(line), dict), (args, line)


def test_many_requests_at_once(t):
    import subprocess
    _, d = setup(t)
    ps = [subprocess.Popen([program("sluicectl"), "--socket", d.control_sock, "status"], stdout=subprocess.DEVNULL) for _ in range(40)]
    assert [p.wait(20) for p in ps] == [0] * 40


# ---- issue 3

def test_dlq_and_scan(t):
    r, d = setup(t)
    w = t.worker(d, credits=9, work=0, result=lambda a: {"t": "fail", "lease": a["lease"], "dead": True, "reason": f"bad {a['stream']}"})
    Added(r.db).many("orders", ["a", "b", "c"], {"n": 2**70})
    checks.wait_clean(r.db, ("orders",), dlq=3)
    rows = d.json("dlq", "ls", "orders")
    assert sorted(x["stream"] for x in rows) == ["a", "b", "c"] and {x["reason"] for x in rows} == {"rejected"}
    assert len(d.json("dlq", "show", "orders")) == 3
    w.result = None
    d.ctl_ok("dlq", "replay", "orders", "--dry-run")
    assert r.db.cmd("XLEN", "orders-input-dlq") == 3
    d.ctl_ok("dlq", "replay", "orders", "--stream", "a")
    a = w.wait("assign", 2, stream="a")
    assert a["info"] == {"n": 2**70} and a["retry"] == 0
    d.ctl_ok("dlq", "purge", "orders", "--dry-run")
    assert r.db.cmd("XLEN", "orders-input-dlq") == 2
    d.ctl_ok("dlq", "purge", "orders")
    checks.wait_clean(r.db)
    assert d.json("scan", "orders") and d.ctl("scan", "nope").returncode == 1 and d.ctl("dlq", "ls", "nope").returncode == 1
    d.ctl_ok("topology", "refresh")


test_dlq_and_scan.issue = 3


def test_a_filter_that_nothing_can_match_is_said(t):
    """A reason that there is not is a wrong argument; a stream or id without a dead letter is an answer: none."""
    r, d = setup(t)
    t.worker(d, credits=9, work=0, result=lambda a: {"t": "fail", "lease": a["lease"], "dead": True})
    Added(r.db).many("orders", ["a", "b"])
    checks.wait_clean(r.db, ("orders",), dlq=2)
    for group in ("dlq", "entries-dlq"):
        for verb in ("ls", "show", "replay", "purge"):
            p = d.ctl(group, verb, "orders", "--reason", "bogus")
            assert (p.returncode, p.stdout) == (64, "") and p.stderr.count("\n") == 1, (group, verb, p)
            assert p.stderr == f"sluicectl: {group} {verb}: --reason must be one of max_retries_exceeded, unparseable, " \
                f"too_large, rejected, operator, wrong_type, bad_name, not \"bogus\"; see sluicectl help {group} {verb}\n", p.stderr
            for one in (["--id", "9-9"], ["--stream", "nope"], ["--stream", "nope", "--id", "9-9"]):
                p = d.ctl(group, verb, "orders", *one)
                assert p.returncode == 1 and "there is no dead letter" in p.stderr and one[-1] in p.stderr, (group, verb, p)
            assert d.ctl(group, verb, "orders", "--reason", "operator").returncode == 0
    assert r.db.cmd("XLEN", "orders-input-dlq") == 2
    d.ctl_ok("dlq", "purge", "orders", "--reason", "rejected", "--stream", "a")
    assert [x["stream"] for x in d.json("dlq", "ls", "orders")] == ["b"]


test_a_filter_that_nothing_can_match_is_said.issue = 3


def test_explain(t):
    r, d = setup(t)
    w = t.worker(d, credits=1)
    Added(r.db).many("orders", ["runs", "runs", "waits"])
    w.wait("assign")
    assert d.json("explain", "runs")[0]["running"] is True
    assert d.json("explain", "waits")[0]["running"] is False
    assert d.ctl("explain", "nope").returncode == 1


test_explain.issue = 3


def test_explain_of_what_this_daemon_does_not_hold(t):
    """Another daemon's, with and without the registry's help; waiting; dead; by name and by id; the others of many services."""
    for same_stream in ("serialize", "allow"):
        r = t.redis()
        d = t.daemon(r, services=("bills", "orders"), service={"same_stream": same_stream}, node="here")
        other = t.daemon(r, services=("bills", "orders"), service={"same_stream": same_stream}, node="there")
        w = t.worker(other, credits=521, services=["orders"])
        add = Added(r.db)
        first = add.many("orders", [f"many{i}" for i in range(520)] + ["theirs"])[-1]  # more than a page
        w.wait("assign", 521, timeout=30)  # no credit is left: nothing more is read
        waits = add.one("orders", "waits")
        r.db.cmd("XADD", "orders-input-dlq", "*", "lbs-input", '{"DataStreamName":"died","Info":{}}', "_dlq_reason", "operator")
        for name in ("theirs", first):
            x, = d.json("explain", name)
            assert x["state"] == "elsewhere" and x["running"] and x["owner"] == "redis-consumer-there" and x["service"] == "orders", x
        for name in ("waits", waits):
            x, = d.json("explain", name)
            assert x["state"] == "waiting" and not x["running"] and x["id"] == waits and "no worker serves orders" in x["because"], x
        x, = d.json("explain", "died")
        assert x["state"] == "dead" and "dlq replay orders" in x["advice"], x
        for name in ("nobody", "1-1"):
            p = d.ctl("explain", name)
            assert p.returncode == 1 and "not known here, in Redis or among the dead letters" in p.stderr, p
        x, = d.json("explain", "theirs", "--service", "orders")
        assert x["id"] == first and d.ctl("explain", "theirs", "--service", "bills").returncode == 1
        d.kill(), other.kill()


test_explain_of_what_this_daemon_does_not_hold.issue = 5


def test_dlq_and_explain_in_a_cluster(t):
    """The dead letters, the stream and the locks live on different masters."""
    c = t.cluster()
    d = t.daemon(c)
    w = t.worker(d, credits=9, work=0, result=lambda a: {"t": "fail", "lease": a["lease"], "dead": True, "reason": "bad"})
    d.ctl_ok("add", "orders", "s", "--count", "7")
    t.wait(lambda: len(d.json("dlq", "ls", "orders")) == 7, what="seven dead letters")
    x, = d.json("explain", "s-3")
    assert x["state"] == "dead" and "rejected" in x["because"][0] and "dlq replay orders" in x["advice"], x
    w.result = None
    rows = d.json("dlq", "replay", "orders", "--limit", "2", "--rate", "20/s")
    assert [x["result"] for x in rows] == ["replayed"] * 2
    t.wait(lambda: sum(x["outcome"] == "done" for x in w.frames("ok")) == 2, what="two done")
    assert {x["result"] for x in d.json("dlq", "purge", "orders")} == {"purged"}
    assert d.json("dlq", "ls", "orders") == []
    assert {x["change"] for x in d.json("topology", "refresh")} == {"same"}


test_dlq_and_explain_in_a_cluster.issue = 3


def test_doctor_events_metrics(t):
    r, d = setup(t)
    rows = {x["check"]: x for x in d.json("doctor")}
    assert rows["eviction"]["result"] == "ok" and rows["permissions"]["result"] == "ok" and rows["slots"]["result"] == "ok", rows
    r.db.cmd("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    p = d.ctl("--json", "doctor")
    assert p.returncode == 1 and any(x["check"] == "eviction" and x["result"] == "fail" for x in map(json.loads, p.stdout.splitlines()))
    d.ctl_ok("pause", "orders")
    assert any("paused" in x["text"] for x in d.json("events"))
    assert "sluice_build_info" in d.ctl_ok("metrics")
    row, = d.json("drain", "--wait")
    assert row["draining"] is True and row["owned"] == 0
    assert d.json("undrain")[0]["draining"] is False


test_doctor_events_metrics.issue = 5
