"""What the metrics say when it matters: streams that wait unread, dead letters on another master, a master that is replaced."""
import re
import time

from lib import checks
from lib.case import limit
from lib.checks import Added
from lib.redis import slot_of
from lib.worker import Raw

issue = 5


def metrics(d):
    """{(name, labels as written): value} of what `sluicectl metrics` prints now."""
    return {(m[1], m[2] or ""): float(m[3]) for m in re.finditer(r"^(\w+)(?:\{(.*)\})? (\S+)$", d.ctl_ok("metrics"), re.M)}


def value(d, name, labels='service="orders"'):
    return metrics(d).get((name, labels))


def status(d, service="orders"):
    return next(x for x in d.json("status")[0]["services"] if x["service"] == service)


def test_what_nobody_has_read_waits_too(t):
    """Without a credit nothing is read: that is when users wait."""
    r = t.redis()
    d = t.daemon(r, services=("orders", "bills"))
    age = "sluice_unassigned_oldest_age_seconds"
    assert value(d, age) == 0 and status(d)["unassigned_oldest_age_ms"] is None
    began = time.monotonic()
    Added(r.db).many("orders", ["first", "second"])
    t.wait(lambda: value(d, age) >= 2, 10, "the age of what waits")
    assert value(d, age) <= time.monotonic() - began + 0.1 and value(d, age, 'service="bills"') == 0
    assert 2000 <= status(d)["unassigned_oldest_age_ms"] < 20000 and status(d, "bills")["unassigned_oldest_age_ms"] is None
    assert value(d, "sluice_owned_oldest_age_seconds") == 0
    w = t.worker(d, credits=1)
    first = w.wait("assign")
    time.sleep(1.5)
    assert value(d, age) >= 3, "the second waits still"
    w.finish(first)
    w.wait("assign", 2)
    t.wait(lambda: value(d, age) == 0, 5, "nothing waits")
    w.finish(w.frames("assign")[1])
    w.wait("ok", 2)
    d.ctl_ok("pause", "orders")
    Added(r.db).one("orders", "third")
    t.wait(lambda: value(d, age) >= 1, 10, "paused: it waits")
    d.ctl_ok("resume", "orders")
    assert w.wait("assign", 3)["stream"] == "third"
    t.wait(lambda: value(d, age) == 0, 5, "nothing waits")


def test_a_parked_entry_does_not_wait_for_a_worker(t):
    r = t.redis()
    d = t.daemon(r)
    w = t.worker(d, credits=5)
    Added(r.db).many("orders", ["same", "same"])
    first = w.wait("assign")
    t.wait(lambda: value(d, "sluice_streams_parked", 'service="orders"') == 1, 10, "the second is parked")
    held = t.wait(lambda: value(d, "sluice_owned_oldest_age_seconds") >= 1, 10, "the age of the first")
    assert held and value(d, "sluice_unassigned_oldest_age_seconds") == 0 and status(d)["unassigned_oldest_age_ms"] is None
    w.finish(first)
    assert w.wait("assign", 2)["stream"] == "same"


def test_what_happened_once_is_counted_once(t):
    r = t.redis()
    d = t.daemon(r)
    w = t.worker(d, credits=6)
    Added(r.db).many("orders", ["done", "fail", "release", "dead", "stays"])
    first = {x["stream"]: x for x in (w.wait("assign", n) for n in range(1, 6))}
    w.finish(first["done"])
    w.finish(first["fail"], "fail")
    w.finish(first["release"], "release")
    w.finish(first["dead"], "fail", dead=True)
    w.wait("assign", 7)

    def of(name):
        return {m[1]: v for (n, labels), v in metrics(d).items() if n == name and v
                for m in [re.search(r'(?:result|kind|reason|outcome)="(\w+)"', labels)] if m}
    t.wait(lambda: of("sluice_lease_release_total") == {"ok": 4}, 10, "four locks deleted")
    assert value(d, "sluice_entries_read_total") == 7
    assert of("sluice_assignments_total") == {"new": 6, "recovered": 1}
    assert of("sluice_lease_acquire_total") == {"ok": 7}
    assert of("sluice_requeues_total") == {"fail": 1, "release": 1}
    assert of("sluice_dead_letters_total") == {"rejected": 1}
    assert of("sluice_assignment_duration_seconds_count") == {"done": 1, "fail": 2, "other": 1}
    t.wait(lambda: value(d, "sluice_assign_latency_seconds_count") == 7, 10, "seven assigned")
    d.handover()
    w = t.worker(d, credits=6)  # another one: nobody resumes, so each is given out anew
    t.wait(lambda: of("sluice_lease_acquire_total").get("taken_over") == 3, 10, "the former process' locks")
    time.sleep(1.5)
    assert of("sluice_lease_acquire_total")["taken_over"] == 3


def test_dead_letters_on_another_master_are_counted(t):
    c = t.cluster()
    assert c.master_of("orders-input") != c.master_of("orders-input-dlq"), (slot_of("orders-input"), slot_of("orders-input-dlq"))
    d = t.daemon(c)
    t.wait(lambda: value(d, "sluice_dlq_length") == 0, 10, "none yet")
    w = t.worker(d, credits=9, work=0, result=lambda a: {"t": "fail", "lease": a["lease"], "dead": True})
    d.ctl_ok("add", "orders", "s", "--count", "7")
    w.wait("ok", 7)
    t.wait(lambda: value(d, "sluice_dlq_length") == 7, 10, "seven dead letters")
    assert status(d)["dlq_length"] == 7
    d.ctl_ok("dlq", "purge", "orders", "--limit", "3")
    t.wait(lambda: status(d)["dlq_length"] == 4, 10, "four are left")


@limit(150)
def test_counters_stay_when_a_master_is_replaced(t):
    """rate() and increase() take a counter that falls for one that began again: what is left would count once more."""
    c = t.cluster(replicas=1)
    d = t.daemon(c, T=6, cfg={"redis": {"topology_refresh": "1s"}})
    w = t.worker(d, credits=50, work=0)
    d.ctl_ok("add", "orders", "s", "--count", "300")
    w.wait("ok", 300, timeout=30)
    time.sleep(1.5)  # snapshots are a second old at most
    last, fallen = metrics(d), []

    def look():
        nonlocal last
        now = metrics(d)
        fallen.extend((k, v, now.get(k)) for k, v in last.items()
                      if re.search("_(total|count|bucket)$", k[0]) and "redis=" not in k[1] and "loop=" not in k[1] and now.get(k, 0) < v)
        last = now
    acquired = ("sluice_lease_acquire_total", 'service="orders",result="ok"')
    assert last[acquired] == 300, last[acquired]
    for m in c.masters():
        c.failover(m)
        c.wait_ok()
        for _ in range(20):
            look()
            time.sleep(0.1)
    t.wait(lambda: len(d.json("nodes")) == 3, 20, "three masters again")
    look()
    assert not fallen, fallen[:10]
    d.ctl_ok("add", "orders", "t", "--count", "300")
    w.wait("ok", 600, timeout=30)
    t.wait(lambda: value(d, *acquired) >= 600, 10, "600 locks")
    assert {k[1] for k in metrics(d) if k[0] == "sluice_circuit_breaker_open"} == {f'redis="{x["redis"]}"' for x in d.json("nodes")}
    checks.wait_clean(c.db)


def test_a_run_is_as_long_as_it_was(t):
    """Signs of progress, a connection that dropped and a revoke do not begin it anew."""
    r = t.redis()
    d = t.daemon(r)
    total, began = 'service="orders",outcome="done"', {}

    def spent():
        return value(d, "sluice_assignment_duration_seconds_sum", total)

    def age(stream):
        ms = (time.monotonic() - began[stream]) * 1000
        row = d.json("show", stream)[0]
        assert ms - 100 < row["assigned_ms"] < ms + 100, (row, ms)
        told = re.search(r"has it for (\d+) (\w+)", d.ctl_ok("explain", stream))
        assert not told or (told[2] == "s" and int(told[1]) >= 1), told[0]

    def given(name):
        Added(r.db).one("orders", name)
        a = w.until("assign")
        began[name] = time.monotonic()
        time.sleep(1.1)
        return a["lease"]

    def done(lease, name):
        took, before = time.monotonic() - began[name], spent()
        w.send({"t": "done", "lease": lease})
        w.until("ok")
        assert took - 0.1 < spent() - before < took + 0.3, (name, took, before, spent())

    w = Raw(d.worker_sock).send({"t": "hello", "v": 1, "name": "w", "credits": 2})
    welcome = w.until("welcome")
    lease = given("lively")
    w.send({"t": "progress", "lease": lease, "note": "half"})
    t.wait(lambda: d.json("show", "lively")[0]["note"] == "half", 5, "the note")
    age("lively")
    done(lease, "lively")
    lease = given("dropped")
    w.close()
    t.wait(lambda: d.json("show", "dropped")[0]["state"] == "limbo", 5, "the connection is gone")
    age("dropped")
    w = Raw(d.worker_sock).send({"t": "hello", "v": 1, "name": "w", "credits": 2, "session": welcome["session"], "resume": [lease]})
    assert w.until("welcome")["resumed"] == [lease]
    age("dropped")
    done(lease, "dropped")
    lease = given("revoked")
    d.ctl_ok("release", "revoked")
    w.until("revoke")
    age("revoked")
    done(lease, "revoked")
    w.close()


def test_every_run_has_an_outcome(t):
    """Also those that end with their worker, or are lost."""
    r = t.redis()
    d = t.daemon(r, T=4)

    def counted():
        return {o: value(d, "sluice_assignment_duration_seconds_count", f'service="orders",outcome="{o}"') for o in ("done", "fail", "other")}

    def runs():
        return sum(value(d, "sluice_assignments_total", f'service="orders",kind="{k}"') for k in ("new", "recovered"))
    w = Raw(d.worker_sock).send({"t": "hello", "v": 1, "name": "w", "credits": 1})
    w.until("welcome")
    Added(r.db).one("orders", "s")
    first = w.until("assign")
    time.sleep(0.5)
    w.send({"t": "bye"})
    assert w.is_closed()
    t.wait(lambda: counted() == {"done": 0, "fail": 0, "other": 1}, 5, "the run that ended with bye")
    assert value(d, "sluice_assignment_duration_seconds_sum", 'service="orders",outcome="other"') >= 0.5
    p = t.proc_worker(d, credits=1, work="hold")
    t.wait(lambda: runs() == 2, 5, "it runs again")
    p.kill()
    t.wait(lambda: counted()["other"] == 2, 5, "the run of a worker that died")
    w = Raw(d.worker_sock).send({"t": "hello", "v": 1, "name": "w", "credits": 1})
    w.until("welcome")
    last = w.until("assign")
    assert last["stream"] == first["stream"] and runs() == 3
    r.db.cmd("XACK", "orders-input", "orders-group", last["id"])
    w.until("revoke")
    w.send({"t": "revoked", "lease": last["lease"]})
    t.wait(lambda: counted()["other"] == 3, 5, "the run that was lost")
    assert counted() == {"done": 0, "fail": 0, "other": 3}
    w.close()


def test_connections_are_told_as_they_are(t):
    """Whoever looks right after the daemon is ready, or Redis has gone, does not see how it was a second ago."""
    r = t.redis()
    d = t.daemon(r)

    def states():
        return {re.search(r'role="(\w+)",state="(\w+)"', labels).groups(): n for (name, labels), n in metrics(d).items()
                if name == "sluice_redis_connections"}
    want = {(role, state): state == "ready" for role in ("command", "reader", "subscriber") for state in ("connecting", "ready")}
    t.wait(lambda: states() == want, 0.8, "all three are up")
    assert {c["role"]: c["state"] for c in d.json("nodes")[0]["connections"]} == dict.fromkeys(("command", "reader", "subscriber"), "ready")
    r.kill()
    t.wait(lambda: all(n == (state == "connecting") for (_, state), n in states().items()), 0.8, "all three are down")
