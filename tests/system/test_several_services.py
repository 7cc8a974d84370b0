"""Several services share the credits of a daemon: who has work gets them, whoever else there is."""
from lib import checks, servers
from lib.case import limit
from lib.checks import Added
from lib.redis import slot_of

issue = 15


def names(n):
    return tuple(f"s{i}" for i in range(n))


def service_on(c, i):
    """A name whose load-balancer stream is on the master i of three."""
    return next(n for n in names(100) if slot_of(f"{n}-input") * 3 // 16384 == i)


def served(t, n, **kw):
    """A daemon with n services of a Redis of its own, and a worker: (Added, daemon, worker)."""
    r = t.redis()
    d = t.daemon(r, services=names(n))
    w = t.worker(d, **kw)
    w.wait("welcome")
    return Added(r.db), d, w


@limit(60)
def test_a_burst_gets_the_credits_that_idle_services_do_not_use(t):
    """Long before the reads of the others, which wait for 2 s and keep credits meanwhile, end by themselves."""
    for n_services, credits in ((2, 4), (3, 3), (3, 10), (8, 10)):
        added, _, w = served(t, n_services, credits=credits)
        for i in range(credits):
            added.one("s0", f"a{i}")
        w.wait("assign", credits)
        at = [x["ms"] for x in w.records("assign")]
        assert at[-1] - at[0] < 1500, (n_services, credits, at)


@limit(60)
def test_one_credit_goes_round(t):
    """One that has run is not kept out by those that are empty, nor are they by its backlog."""
    services = names(5)
    added, _, w = served(t, 5, credits=1, work=0)
    for i in range(10):
        added.one("s0", f"a{i}")
    w.wait("ok", 10)
    for i in range(20):
        added.one(services[i % 5], f"b{i}")
    w.wait("ok", 30)
    checks.wait_clean(added.db, services)


@limit(60)
def test_a_backlog_does_not_keep_the_others_out(t):
    added, _, w = served(t, 3, credits=2, work=0.02)
    for i in range(400):
        added.one("s0", f"a{i}")
    w.wait("ok", 5)
    added.one("s2", "late")
    w.wait("assign", service="s2")
    assert len(w.frames("assign")) < 200, "long before the backlog is over"


@limit(60)
def test_a_master_that_is_down_keeps_no_credit_from_the_others(t):
    """Its service had work, and waits for a credit that it could not use."""
    c = t.cluster(args=["--cluster-require-full-coverage", "no"])
    here, there = service_on(c, 0), service_on(c, 1)
    d = t.daemon(c, services=(here, there), T=10)
    w = t.worker(d, credits=1, work=0)
    w.wait("welcome")
    db = servers.ClusterClient([n.tcp for n in c.nodes])
    added = Added(db)
    for i in range(5):
        added.one(there, f"{{{there}-input}}{i}")  # its lock is there, too
    w.wait("ok", 5)
    c.nodes[1].pause()
    try:
        for i in range(5):
            added.one(here, f"{{{here}-input}}{i}")
        w.wait("assign", 5, service=here, timeout=20)
    finally:
        c.nodes[1].cont()


@limit(60)
def test_explain_says_that_other_services_have_the_credits(t):
    added, d, w = served(t, 2, credits=1)
    added.one("s0", "runs")
    w.wait("assign")
    added.one("s1", "waits")
    t.wait(lambda: "0 streams in work, and 1 of other services, and no credit is free" in d.ctl("explain", "waits").stdout, 10,
           "it is said")
