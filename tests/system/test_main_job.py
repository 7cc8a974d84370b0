"""From the load-balancer stream to a worker and back: standalone and a 3-master cluster."""
import decimal
import json
import os
import random
import re

from lib import acl, checks
from lib.case import limit
from lib.checks import Added
from lib.redis import SEP, RedisError, entries
from lib.worker import Raw

issue = 2
N = int(os.environ.get("SLUICE_TEST_ENTRIES", 3000))  # 20000 for the full job

INFOS = [{}, {"n": 2**63 - 1, "m": -2**63, "big": 2**64, "huge": 10**60}, {"u": "zażółć 日本語 🦀 \u2028 \x7f", "e": "\\\"\n\t\x01"},
         {"a": [{"b": {"c": [[], {}, [None, True, False, 0, -0.5, 1e300]]}}]}, {"text": "x" * 65536}, {"": "", "k.v": {"": []}},
         {"f": 0.1, "t": 1.5e-9}]


def mixed(i):
    name = random.Random(i).choice(["orders:%d", "user-%d/ünï", "{tag}:%d", "a b %d", "%d", "sensor%d" + "x" * 150]) % i
    info = {**INFOS[i % len(INFOS)], "i": i} if i % 97 == 4 or i % len(INFOS) != 4 else {"i": i}
    return name, info


def whole_job(t, redis, n, services=("orders", "bills", "mail")):
    """n entries over the services; every worker sees exactly what was added; nothing stays in Redis."""
    d = t.daemon(redis, services=services)
    ws = [t.worker(d, credits=c, work=0, services=s) for c, s in ((1, None), (50, None), (200, None), (100, services[:1]))]
    expected, add = {}, Added(redis.db)
    for i in range(n):
        name, info = mixed(i)
        expected[name] = (services[i % len(services)], info)
    for s in services:
        add.many(s, [k for k, v in expected.items() if v[0] == s], lambda k: expected[k][1])
    checks.wait_clean(redis.db, services, timeout=60 + n / 100)
    t.wait(lambda: sum(len(w.frames("ok")) for w in ws) == n, 10, "every done has its ok")
    for w in ws:
        for a in w.frames("assign"):
            service, info = expected[a["stream"]]
            assert a["service"] == service and a["retry"] == 0 and a["info"] == info, f"{a['stream']}: not what was added"
            assert len(a["token"]) == 19 and a["token"].isdigit() and len(a["lease"].encode()) <= 64
            ms, _, seq = a["id"].partition("-")
            assert int(a["token"]) == int(ms) * 10**6 + int(seq)
        assert all(f["outcome"] == "done" and f["for"] == "done" for f in w.frames("ok"))
    assert all(a["service"] == services[0] for a in ws[3].frames("assign"))
    journals = [w.journal for w in ws]
    checks.all_good(expected, journals)
    assert set(checks.finished(journals).values()) == {1}
    for w in ws:
        assert not w.frames("err") and not w.frames("revoke"), w.frames("err")
    assert d.is_running()


@limit(90 + N // 20)
def test_whole_job_standalone(t):
    whole_job(t, t.redis(), N)


@limit(90 + N // 20)
def test_whole_job_cluster(t):
    whole_job(t, t.cluster(), N)


def test_decimals_and_big_integers_pass_unchanged(t):
    r = t.redis()
    d = t.daemon(r)
    info = '{"d":0.1000000000000000055511151231257827,"z":-0.0,"e":1.25E+400,"i":123456789012345678901234567890,"s":"\\u00e9\\ud83e\\udd80"}'
    r.db.cmd("XADD", "orders-input", "*", "lbs-input", '{"DataStreamName": "s", "Info": %s}' % info)
    c = Raw(d.worker_sock).send({"t": "hello", "v": 1, "name": "raw", "credits": 1})
    c.sock.settimeout(10)
    while b'"assign"' not in c.buf or not c.buf.endswith(b"\n"):
        c.buf += c.sock.recv(65536)
    line = next(x for x in c.buf.split(b"\n") if b'"assign"' in x)
    exact = {"parse_float": decimal.Decimal}
    assert json.loads(line, **exact)["info"] == json.loads(info, **exact), line


def test_locks_are_given_back_by_delifeq_where_the_server_has_it(t):
    """Else, and where the user may not, by a script: after one question, whose refusal is no operator's matter."""
    r = t.redis()
    try:
        has_it = r.db.cmd("DELIFEQ", "none", "x") == 0 and not acl.is_on()
    except RedisError:
        has_it = False
    r.db.cmd("CONFIG", "RESETSTAT")
    d = t.daemon(r)
    t.worker(d, credits=1, work=0)
    Added(r.db).many("orders", [f"s{i}" for i in range(20)])
    checks.wait_clean(r.db)
    stats = r.db.cmd("INFO", "commandstats")
    asked = int((re.search(r"cmdstat_delifeq:calls=(\d+)", stats) or [0, 0])[1])
    assert asked == (20 if has_it else 0), stats
    assert ("cmdstat_del:" in stats) != has_it, stats
    assert "DELIFEQ" not in d.log.upper(), d.log


def test_group_is_created_and_keeps_others(t):
    r = t.redis()
    r.db.cmd("XADD", "orders-input", "*", "lbs-input", '{"DataStreamName":"old","Info":{}}')
    d = t.daemon(r)
    g = r.db.cmd("XINFO", "GROUPS", "orders-input")[0]
    assert dict(zip(g[::2], g[1::2]))["name"] == "orders-group"
    w = t.worker(d, credits=1, work=0)
    assert w.wait("assign")["stream"] == "old"  # group_start "0"
    checks.wait_clean(r.db)
    assert d.json("status")[0]["ready"] is True


def test_group_start_at_the_end(t):
    r = t.redis()
    old = Added(r.db).one("orders", "old")
    d = t.daemon(r, service={"group_start": "$"})
    w = t.worker(d, credits=5, work=0)
    Added(r.db).one("orders", "new")
    assert w.wait("assign")["stream"] == "new"
    w.wait("ok")
    assert [i for i, _ in entries(r.db, "orders-input")] == [old]


def test_two_existing_consumers_with_the_default_name(t):
    """The consumer is redis-consumer-<node id>; the lock's value starts with it."""
    r = t.redis()
    d = t.daemon(r, node="node-7")
    w = t.worker(d, credits=1)
    id = Added(r.db).one("orders", "s")
    w.wait("assign")
    assert r.db.cmd("XPENDING", "orders-input", "orders-group")[3][0][0] == "redis-consumer-node-7"
    assert r.db.cmd("GET", f"s{SEP}{id}").startswith("redis-consumer-node-7/")
    assert 0 < r.db.cmd("PTTL", f"s{SEP}{id}") <= 10000
    assert r.db.cmd("HGETALL", "{orders-input}-active") == ["s", id]


def test_node_id_from_the_environment(t):
    r = t.redis()
    for env, want in (({"POD_NAME": "pod-1", "POD_IP": "10.0.0.9"}, "pod-1"), ({"POD_NAME": "", "POD_IP": "10.0.0.9"}, "10.0.0.9")):
        d = t.daemon(r, env=env, cfg={"node": {"id": ""}})
        assert t.worker(d).wait("welcome")["node"] == want
        d.stop()


def test_no_credits_nothing_is_read(t):
    r = t.redis()
    d = t.daemon(r, T=4)
    w = t.worker(d, credits=0)
    Added(r.db).many("orders", ["a", "b", "c"])
    w.wait("ping", 3, timeout=15)  # two ping intervals: time enough to read what must not be read
    assert checks.pending(r.db, "orders") == 0 and not w.frames("assign")
    w.send({"t": "credits", "n": 2})
    w.wait("assign", 2)
    w.wait("ping", 5, timeout=15)
    assert checks.pending(r.db, "orders") == 2 and len(w.frames("assign")) == 2
    w.send({"t": "credits", "n": 0})
    w.finish(w.frames("assign")[0])
    w.wait("ok")
    w.wait("ping", 6, timeout=15)
    assert len(w.frames("assign")) == 2 and checks.pending(r.db, "orders") == 1


def test_never_more_than_credits_while_they_change(t):
    r = t.redis()
    d = t.daemon(r)
    ws = [t.worker(d, credits=c, work=lambda a: random.uniform(0, 0.05)) for c in (1, 7, 0)]
    add = Added(r.db)
    add.many("orders", [f"s{i}" for i in range(600)])
    for n in (3, 0, 10, 1, 5):
        for w in ws:
            k = len(w.frames("ok"))
            w.send({"t": "credits", "n": n})
            if n:
                w.wait("ok", k + 5, timeout=20)
    checks.wait_clean(r.db, timeout=60)
    checks.all_good(add.sure, [w.journal for w in ws])


def test_second_entry_of_a_running_stream_waits(t):
    r = t.redis()
    d = t.daemon(r)
    w = t.worker(d, credits=5)
    ids = Added(r.db).many("orders", ["s", "s", "other", "s"])
    w.wait("assign", 2)
    w.wait("ping", 2, timeout=15)
    assert sorted(a["stream"] for a in w.frames("assign")) == ["other", "s"]
    for n in (1, 2, 3):
        a = w.wait("assign", n, stream="s")
        assert a["id"] == (ids[0], ids[1], ids[3])[n - 1]
        assert len(w.frames("assign", stream="s")) == n
        w.finish(a)
    w.finish(w.wait("assign", stream="other"))
    checks.wait_clean(r.db)
    checks.none(checks.overlaps([w.journal]) + checks.token_order([w.journal]))


def test_second_entry_waits_for_a_failed_first(t):
    """The second stays second: a requeued first entry runs again before it, or after it, but never beside it."""
    r = t.redis()
    d = t.daemon(r)
    w = t.worker(d, credits=5, work=0.05, result=lambda a: {"t": "fail" if not a["retry"] else "done", "lease": a["lease"]})
    Added(r.db).many("orders", ["s", "s", "s"])
    checks.wait_clean(r.db)
    checks.none(checks.overlaps([w.journal]))
    assert len(w.frames("assign")) == 6


def test_same_stream_allow(t):
    r = t.redis()
    d = t.daemon(r, service={"same_stream": "allow"})
    w = t.worker(d, credits=5)
    Added(r.db).many("orders", ["s", "s", "s"])
    w.wait("assign", 3)
    for a in w.frames("assign"):
        w.finish(a)
    checks.wait_clean(r.db)
    checks.none(checks.overlaps([w.journal], by="id"))


def test_same_stream_on_two_daemons_waits(t):
    r = t.redis()
    ds = [t.daemon(r), t.daemon(r)]
    ws = [t.worker(d, credits=1, work=0.2) for d in ds]
    add = Added(r.db)
    add.many("orders", ["s"] * 6 + ["t"] * 6)
    checks.wait_clean(r.db, timeout=60)
    checks.none(checks.overlaps([w.journal for w in ws]))
    assert sum(checks.finished([w.journal for w in ws]).values()) == 12


def test_max_streams(t):
    r = t.redis()
    d = t.daemon(r, service={"max_streams": 3})
    w = t.worker(d, credits=10)
    Added(r.db).many("orders", [f"s{i}" for i in range(8)])
    w.wait("assign", 3)
    w.wait("ping", 2, timeout=15)
    assert len(w.frames("assign")) == 3 and checks.pending(r.db, "orders") == 3
    w.finish(w.frames("assign")[0])
    w.wait("assign", 4)


def test_two_daemons_share_the_work(t):
    c = t.cluster()
    ds = [t.daemon(c), t.daemon(c)]
    ws = [t.worker(d, credits=20, work=0.02) for d in ds for _ in range(2)]
    add = Added(c.db)
    add.many("orders", [f"s{i}" for i in range(800)])
    checks.wait_clean(c.db, timeout=60)
    checks.all_good(add.sure, [w.journal for w in ws])
    assert all(w.frames("ok") for w in ws) and set(checks.finished([w.journal for w in ws]).values()) == {1}


def test_fair_between_workers(t):
    """No worker with free credits goes without while another has many."""
    r = t.redis()
    d = t.daemon(r)
    ws = [t.worker(d, credits=10) for _ in range(4)]
    for w in ws:
        w.wait("welcome")
    Added(r.db).many("orders", [f"s{i}" for i in range(20)])
    t.wait(lambda: sum(len(w.frames("assign")) for w in ws) == 20)
    assert min(len(w.frames("assign")) for w in ws) >= 2, [len(w.frames("assign")) for w in ws]


def test_sluice_run(t):
    from lib.daemon import program
    from lib.servers import spawn
    r = t.redis()
    d = t.daemon(r)
    out = t.path("seen")
    script = (f'cat > {t.path("info")}.$SLUICE_STREAM; echo "$SLUICE_SERVICE $SLUICE_STREAM $SLUICE_ID $SLUICE_TOKEN $SLUICE_RETRY" >> {out};'
              'case $SLUICE_STREAM in back) [ -e back.seen ] || { touch back.seen; exit 75; };; bad) echo why >&2; exit 65;;'
              ' fail) [ $SLUICE_RETRY = 2 ] || exit 3;; esac')
    p = spawn([program("sluice-run"), "-s", d.worker_sock, "-n", "3", "--", "sh", "-c", script], t.path("run.log"), cwd=t.dir)
    add = Added(r.db)
    add.many("orders", ["good", "back", "bad", "fail"], lambda n: {"n": 10**30, "name": n})
    checks.wait_clean(r.db, dlq=1)
    rows = [x.split() for x in open(out)]
    assert [x[4] for x in rows if x[1] == "fail"] == ["0", "1", "2"]
    assert [x[4] for x in rows if x[1] == "back"] == ["0", "0"]
    assert all(x[0] == "orders" and len(x[3]) == 19 for x in rows)
    assert json.load(open(t.path("info.good"))) == {"n": 10**30, "name": "good"}
    dead, = checks.dead_letters(r.db)
    assert dead["_dlq_reason"] == "rejected" and "why" in dead["_dlq_error"] and '"bad"' in dead["lbs-input"]
    p.terminate()
    assert p.wait(10) == 0


def test_sluice_run_finishes_at_sigterm_and_stops_at_revoke(t):
    from lib.daemon import program
    from lib.servers import spawn
    r = t.redis()
    d = t.daemon(r)
    script = 'echo start $SLUICE_STREAM >> log; trap "echo term $SLUICE_STREAM >> log; exit 1" TERM; [ $SLUICE_STREAM = long ] && ' \
             'while :; do sleep 0.05; done; sleep 1; echo end $SLUICE_STREAM >> log'
    p = spawn([program("sluice-run"), "-s", d.worker_sock, "-n", "2", "--", "sh", "-c", script], t.path("run.log"), cwd=t.dir)
    log = t.path("log")
    add = Added(r.db)
    add.one("orders", "long")
    t.wait(lambda: "start long" in open(log).read(), what="long runs")
    d.ctl_ok("pause", "orders")
    d.ctl_ok("release", "long")
    t.wait(lambda: "term long" in open(log).read(), what="long got SIGTERM")
    t.wait(lambda: checks.pending(r.db, "orders") == 0, what="long is back")
    r.db.cmd("XTRIM", "orders-input", "MAXLEN", 0)
    d.ctl_ok("resume", "orders")
    add.one("orders", "short")
    t.wait(lambda: "start short" in open(log).read(), what="short runs")
    p.terminate()
    assert p.wait(10) == 0
    assert "end short" in open(log).read() and "term short" not in open(log).read()
    checks.wait_clean(r.db, registry=None)  # the trimmed entry has left its turn behind
