"""One master of a cluster is down: a list shows what the others tell, says what is missing and why, and exits 1."""
from lib.case import limit
from lib.entries import lbs

issue = 5
NAMES = [f"svc{i}" for i in range(6)]


def half_dead(t):
    """A daemon of some services, and whose load-balancer streams are gone with one master and whose are not."""
    c = t.cluster(node_timeout_ms=60000)
    d = t.daemon(c, services=NAMES)
    for n in NAMES:
        lbs(c.db, n, f"unread-{n}")
        d.ctl_ok("add", n, f"later-{n}", "--in", "1h")
    victim = c.master_of("svc0-input")
    gone = [n for n in NAMES if c.master_of(f"{n}-input") is victim]
    rest = [n for n in NAMES if n not in gone]
    assert rest, "they are on several masters"
    victim.kill()
    t.wait(lambda: [x for x in d.json("status")[0]["redis"] if x["redis"] == victim.endpoint and x["state"] == "down"], what="down")
    return c, d, victim, gone, rest


def missing(p, victim, gone):
    line, = p.stderr.splitlines()
    assert p.returncode == 1 and f"redis {victim.endpoint} is down since " in line and line.endswith(f"refused; missing: {', '.join(gone)}"), p


@limit(120)
def test_lists_show_what_they_can(t):
    c, d, victim, gone, rest = half_dead(t)
    for args, rows in ((("fleet",), 1), (("delayed", "ls"), 1), (("ls", "--waiting"), 2)):
        p = d.ctl("--no-headers", *args)
        missing(p, victim, gone)
        assert [x.split()[0] for x in p.stdout.splitlines()] == sorted(rest * rows), (args, p)
        for n in (gone[0], rest[0]):
            p = d.ctl(*args, *(["--service"] if args[0] == "ls" else []), n)
            assert p.returncode == (n in gone) and "missing" not in p.stderr, p
    p = d.ctl("delayed", "ls", "--stream", f"later-{gone[0]}")
    missing(p, victim, gone)
    assert d.ctl("delayed", "ls", "--stream", f"later-{rest[0]}").stdout.count("later") == 1


@limit(120)
def test_explain_looks_through_the_others(t):
    c, d, victim, gone, rest = half_dead(t)
    for n, state in ((f"unread-{rest[0]}", "waiting"), (f"later-{rest[0]}", "delayed")):
        x, = d.json("explain", n)
        assert (x["service"], x["state"]) == (rest[0], state), x
    for n in (f"unread-{gone[0]}", "nobody"):
        p = d.ctl("explain", n)
        line, = p.stderr.splitlines()
        assert p.returncode == 1 and line.startswith(f"sluicectl: {n} is not held by this daemon, and redis {victim.endpoint} is down since "), p
        assert all(x in line.partition("; missing: ")[2].split(", ") for x in gone), line
    p = d.ctl("explain", f"unread-{gone[0]}", "--service", gone[0])
    assert p.returncode == 1 and f"redis {victim.endpoint} is down since " in p.stderr, p


@limit(120)
def test_explain_knows_the_owner_without_its_lock(t):
    """The lock's master is down, that of the load-balancer stream is not."""
    c = t.cluster(node_timeout_ms=60000)
    a, b = (t.daemon(c, name=n) for n in "ab")
    w = t.worker(a, credits=30)
    for i in range(30):
        lbs(c.db, "orders", f"s{i}")
    w.wait("assign", 30)
    locks = {f["stream"]: c.master_of(f"{f['stream']}<MUTEX_KEY_SEP>{f['id']}") for f in w.frames("assign")}
    name, victim = next((n, m) for n, m in locks.items() if m is not c.master_of("orders-input"))
    victim.kill()
    t.wait(lambda: [x for x in b.json("status")[0]["redis"] if x["redis"] == victim.endpoint and x["state"] == "down"], what="down")
    x, = b.json("explain", name)
    assert (x["state"], x["owner"], x["running"]) == ("elsewhere", a.consumer, False), x
    assert any(f"its lock is held is not known: redis {victim.endpoint} is down since" in w for w in x["because"]), x
