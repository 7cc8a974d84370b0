"""What the metrics say when it matters: streams that wait unread, dead letters on another master, a master that is replaced."""
import re
import time

from lib import checks
from lib.case import limit
from lib.checks import Added

issue = 5


def metrics(d):
    """{(name, labels as written): value} of what `sluicectl metrics` prints now."""
    return {(m[1], m[2] or ""): float(m[3]) for m in re.finditer(r"^(\w+)(?:\{(.*)\})? (\S+)$", d.ctl_ok("metrics"), re.M)}


def value(d, name, labels='service="orders"'):
    return metrics(d).get((name, labels))


def status(d, service="orders"):
    return next(x for x in d.json("status")[0]["services"] if x["service"] == service)


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
    assert value(d, "sluice_assign_latency_seconds_count") == 7
    d.handover()
    w = t.worker(d, credits=6)  # another one: nobody resumes, so each is given out anew
    t.wait(lambda: of("sluice_lease_acquire_total").get("taken_over") == 3, 10, "the former process' locks")
    time.sleep(1.5)
    assert of("sluice_lease_acquire_total")["taken_over"] == 3


@limit(150)
