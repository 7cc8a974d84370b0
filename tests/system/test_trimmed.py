"""A producer trims the load-balancer stream (XADD MAXLEN, XTRIM) while entries are held: what is lost is called lost. And producers that
name ids themselves, in units that are no milliseconds."""
import re
import time

from lib import checks
from lib.case import limit
from lib.checks import Added
from lib.daemon import http
from lib.redis import entries

issue = 12


def value(m, name, labels):
    return next((float(x.rsplit(" ", 1)[1]) for x in http(m, "/metrics")[1].splitlines() if x.startswith(f"{name}{{{labels}}} ")), None)


def trim(r):
    """What a producer does that wants a bounded stream."""
    for _ in range(10):
        r.db.cmd("XADD", "orders-input", "MAXLEN", "2", "*", "lbs-input", '{"DataStreamName":"later"}')


def held(t, T=10, **kw):
    r, m = t.redis(), t.path("m")
    d = t.daemon(r, T=T, cfg={"metrics": {"listen": "unix:" + m}}, **kw)
    w = t.worker(d, credits=1)
    Added(r.db).one("orders", "s1", {"order": 1})
    a = w.wait("assign")
    d.ctl_ok("pause", "orders")
    trim(r)
    return r, m, d, w, a


def told(t, result, outcome):
    r, m, d, w, a = held(t)
    w.send({**result, "lease": a["lease"]})
    ok = w.wait("ok")
    assert ok["outcome"] == outcome, ok
    assert not [1 for key in ("orders-input", "orders-input-dlq") for _, f in entries(r.db, key) if '"s1"' in f.get("lbs-input", "")]
    lost = 'service="orders",reason="trimmed"'
    if outcome != "lost":
        return
    t.wait(lambda: value(m, "sluice_leases_lost_total", lost) == 1, 5, "counted as lost")
    text = http(m, "/metrics")[1]
    assert not re.search(r'^sluice_(requeues|dead_letters)_total{service="orders".*} [1-9]', text, re.M), "and as nothing else"
    lines = [x for x in d.log.splitlines() if "trimmed" in x]
    assert len(lines) == 1 and " warn " in lines[0] and "stream=s1" in lines[0] and "n=1" in lines[0], lines
    w.send({**result, "lease": a["lease"]})  # after a reconnect, say
    assert w.wait("ok", 2)["outcome"] == "lost"


def test_done(t):
    told(t, {"t": "done"}, "done")


def test_fail(t):
    told(t, {"t": "fail", "reason": "x"}, "lost")


def test_dead(t):
    told(t, {"t": "fail", "dead": True}, "lost")


def test_release(t):
    told(t, {"t": "release"}, "lost")


def test_the_worker_dies(t):
    r, m = t.redis(), t.path("m")
    d = t.daemon(r, cfg={"metrics": {"listen": "unix:" + m}})
    w = t.proc_worker(d, credits=1, work="hold")
    Added(r.db).one("orders", "s1")
    w.wait_for("assign")
    d.ctl_ok("pause", "orders")
    trim(r)
    w.kill()
    d.wait_log("trimmed")
    t.wait(lambda: value(m, "sluice_leases_lost_total", 'service="orders",reason="trimmed"') == 1, 5)
    assert value(m, "sluice_requeues_total", 'service="orders",reason="worker_died"') == 0


@limit(120)
def test_the_owner_dies(t):
    r, m = t.redis(), t.path("m")
    d = t.daemon(r, T=3)
    w = t.worker(d, credits=1)
    Added(r.db).one("orders", "s1")
    w.wait("assign")
    d.kill()
    other = t.daemon(r, T=3, cfg={"metrics": {"listen": "unix:" + m}})
    trim(r)
    t.wait(lambda: "not in the stream any more" in other.log, 30, "said by whoever finds it")
    t.wait(lambda: value(m, "sluice_recovery_entries_total", 'service="orders",result="gone"') >= 1, 5)


def test_many_are_one_warning_a_minute(t):
    r, m = t.redis(), t.path("m")
    d = t.daemon(r)
    w = t.worker(d, credits=30)
    Added(r.db).many("orders", [f"s{i}" for i in range(30)])
    w.wait("assign", 30)
    d.ctl_ok("pause", "orders")
    trim(r)
    for a in list(w.held.values()):
        w.send({"t": "fail", "lease": a["lease"]})
    w.wait("ok", 30)
    assert {f["outcome"] for f in w.frames("ok")} == {"lost"}
    assert len([x for x in d.log.splitlines() if "trimmed" in x]) == 1


def test_doctor_names_it(t):
    r, m, d, w, a = held(t)
    doctor = d.ctl("doctor")
    assert doctor.returncode == 1 and a["id"] in doctor.stdout and "XTRIM" in doctor.stdout, doctor.stdout
    w.send({"t": "done", "lease": a["lease"]})
    w.wait("ok")
    t.wait(lambda: d.ctl("doctor").returncode == 0, 10, "nothing is held that was trimmed")
    assert "must" in d.ctl("doctor").stdout or "never use XTRIM" in d.ctl("doctor").stdout


def test_ids_in_nanoseconds(t):
    ids(t, time.time_ns(), 1_000_000_000)


def test_ids_in_microseconds(t):
    ids(t, time.time_ns() // 1000, 1_000_000)


def test_a_number_of_ones_own_behind_the_dash(t):
    """Larger than any count: it must not lift the token above those that come after it."""
    r = t.redis()
    d = t.daemon(r, T=3)
    w = t.worker(d, credits=1)
    r.db.cmd("XADD", "orders-input", f"{int(time.time() * 1000)}-{2 ** 64 - 1}", "lbs-input", '{"DataStreamName":"s"}')
    first = w.wait("assign")
    assert len([x for x in d.log.splitlines() if "no time in milliseconds" in x]) == 1, "one warning"
    assert "no time in milliseconds" in d.ctl("doctor").stdout
    w.send({"t": "release", "lease": first["lease"], "retry_ms": 0})
    second = w.wait("assign", 2)
    assert second["token"] > first["token"], (first, second)


def ids(t, first, second):
    """Tokens of a stream rise with each of its owners; said once, and by doctor."""
    r = t.redis()
    d = t.daemon(r, T=3, service={"retry": {"max_retries": 9}})
    w = t.worker(d, credits=4)
    for i in range(4):
        r.db.cmd("XADD", "orders-input", f"{first + i * second}-0", "lbs-input", '{"DataStreamName":"s%d"}' % i)
    tokens = {}
    for round in range(3):
        for a in [w.wait("assign", 4 * round + k + 1) for k in range(4)]:
            assert len(a["token"]) == 19 and a["token"] != "9" * 19, a
            assert a["token"] > tokens.get(a["stream"], ""), (a, tokens)
            tokens[a["stream"]] = a["token"]
            w.send({"t": "fail", "lease": a["lease"], "reason": "once more"})
        w.wait("ok", 4 * (round + 1))
    assert len([x for x in d.log.splitlines() if "no time in milliseconds" in x]) == 1, "one warning"
    doctor = d.ctl("doctor")
    assert doctor.returncode == 0 and "no time in milliseconds" in doctor.stdout, doctor.stdout
    w.work = 0
    for a in list(w.held.values()):
        w.finish(a)
    checks.wait_clean(r.db, timeout=30)
