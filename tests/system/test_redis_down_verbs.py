"""Redis is down or silent: whoever asks the daemon hears at once that it is Redis, since when and why, and what has not been done."""
import re
import time

from lib.case import limit
from lib.checks import Added
from lib.entries import add, entries, hand, lbs

issue = 5

LOOKS = [("explain", "nobody"), ("ls", "--waiting"), ("dlq", "ls", "orders"), ("dlq", "show", "orders"), ("fleet",), ("delayed", "ls"),
         ("entries-dlq", "ls", "orders"), ("entries-dlq", "show", "orders"), ("scan", "orders")]
WRITES = [("add", "orders", "x"), ("add", "orders", "y", "--in", "5s"), ("dlq", "replay", "orders"), ("dlq", "purge", "orders"),
          ("delayed", "now", "orders"), ("delayed", "drop", "orders"), ("entries-dlq", "replay", "orders"), ("entries-dlq", "purge", "orders")]


def timed(d, *args):
    at = time.monotonic()
    p = d.ctl(*args)
    return p, time.monotonic() - at


def all_name_redis(d, r, cause, most_s=2):
    """Each verb fails in that time, with one line: Redis, since when, for how long, why."""
    down = re.compile(rf"redis {re.escape(r.endpoint)} is down since \d\d:\d\d:\d\d \(\d+ (ms|s)\): .*{cause}")
    for args in LOOKS + WRITES:
        p, s = timed(d, *args)
        assert p.returncode == 1 and s < most_s, (args, s, p)
        line, = p.stderr.splitlines()
        assert down.search(line) and "sluiced" not in line.replace(r.endpoint, ""), (args, line)
        if args in WRITES:
            assert line.endswith("; nothing was sent"), (args, line)


def holding(t, r):
    d = t.daemon(r)
    w = t.worker(d, credits=1)
    Added(r.db).one("orders", "held")
    w.wait("assign")
    return d, w


def answers_what_it_knows(d, r):
    x, = d.json("explain", "held")
    assert any(re.search(rf"{re.escape(r.endpoint)}.* is down since \d\d:\d\d:\d\d \(", b) for b in x["because"]), x
    assert x["state"] != "assigned" or any("has it for" in b for b in x["because"]), x
    p, s = timed(d, "explain", "nobody")
    assert p.stderr.startswith("sluicectl: nobody is not held by this daemon, and redis "), p
    for args in (("ls",), ("show", "held"), ("status",), ("nodes",)):
        p, s = timed(d, *args)
        assert p.returncode == 0 and s < 2, (args, s, p)


def is_down(d):
    s, = d.json("status")
    return s["redis"][0]["state"] == "down"


def doctor_says(d, advice):
    p = d.ctl("doctor")
    row = next(x for x in p.stdout.splitlines() if " connection " in x)
    assert p.returncode == 1 and advice in row and "password" not in row, p


@limit(90)
def test_killed_redis_is_named_at_once(t):
    r = t.redis()
    d, _ = holding(t, r)
    r.kill()
    t.wait(lambda: "refused" in (d.json("status")[0]["redis"][0]["error"] or ""), what="down")
    all_name_redis(d, r, "refused")
    answers_what_it_knows(d, r)
    p, s = timed(d, "topology", "refresh")
    assert p.returncode == 1 and s < 2 and f"redis {r.endpoint} is down since " in p.stderr, (s, p)
    doctor_says(d, "nothing listens there: start Redis, or correct redis.endpoints")


@limit(120)
def test_stopped_redis_is_named_at_once(t):
    """Connections are still accepted, by the kernel: only the daemon knows that nobody answers."""
    r = t.redis()
    d, _ = holding(t, r)
    r.pause()
    t.wait(lambda: is_down(d), 20, "down")
    all_name_redis(d, r, "no answer")
    answers_what_it_knows(d, r)
    p, s = timed(d, "topology", "refresh")
    assert p.returncode == 1 and s < 2 and f"redis {r.endpoint} is down since " in p.stderr, (s, p)
    doctor_says(d, "Redis takes connections and says nothing: is it stopped,")
    r.cont()
    d.wait_ready()
    assert d.ctl("delayed", "ls").returncode == 0 and d.ctl("explain", "nobody").returncode == 1


@limit(90)
def test_silent_redis_is_named_within_the_command_timeout(t):
    """The daemon does not know yet that it is stopped: it is asked, and whoever asks hears whose silence that is."""
    asked = [("delayed", "ls"), ("explain", "nobody"), ("fleet",), ("dlq", "purge", "orders"), ("ls",), ("add", "orders", "x")]
    pairs = [(t.redis(), args) for args in asked]
    daemons = [holding(t, r)[0] for r, _ in pairs]
    for d, (r, args) in zip(daemons, pairs):
        r.pause()
        p, s = timed(d, *args)
        assert s < 4.8, (args, s, p)
        if args == ("ls",):
            assert p.returncode == 0 and "held" in p.stdout, p
            continue
        line, = p.stderr.splitlines()
        assert p.returncode == 1 and ("no answer" in line or "silent" in line), (args, line)
        if args[0] == "add":
            assert "it may have been added all the same" in line, line
        else:
            assert r.endpoint in line, (args, line)
        assert ("nothing was sent" in line) == ("purge" in args), line


@limit(60)
def test_ls_does_not_wait_for_the_lags(t):
    """Entries mode: how far each stream is behind is asked of Redis. Without an answer the rows come all the same, at once."""
    r = t.redis()
    d = t.daemon(r, service=entries())
    h = hand(t, d, credits=8)
    for i in range(8):
        add(r.db, f"orders:s{i}", 3)
        lbs(r.db, "orders", f"orders:s{i}")
        h.assign()
    assert [x["lag"] for x in d.json("ls")] == [3] * 8
    r.pause()
    p, s = timed(d, "--json", "ls")
    assert p.returncode == 0 and s < 1.2 and p.stdout.count('"lag":null') == 8, (s, p)
    p, s = timed(d, "show", "orders:s1")
    assert p.returncode == 0 and s < 1.2, (s, p)
    r.cont()


@limit(60)
def test_redis_is_back_before_the_daemon_tries_again(t):
    """It looks for itself: what it knows may be some seconds old."""
    r = t.redis()
    d = t.daemon(r, cfg={"redis": {"reconnect": {"initial": "5s", "max": "5s"}}})
    r.kill()
    t.wait(lambda: is_down(d), what="down")
    r.start()
    p, s = timed(d, "delayed", "ls")
    assert p.returncode == 0, p


@limit(60)
def test_started_beside_a_stopped_redis(t):
    r = t.redis()
    r.pause()
    d = t.daemon(r, start=False)
    d.start(ready=False)
    t.wait(lambda: d.ctl("version").returncode == 0, what="the control socket")
    for args in LOOKS + WRITES + [("nodes",), ("topology", "refresh")]:
        p, s = timed(d, *args)
        line, = p.stderr.splitlines()
        assert p.returncode == 1 and s < 2 and re.search("Redis has not answered yet|no answer to HELLO", line), (args, s, p)
        assert args[0] != "add" or line.endswith("; nothing was sent"), line


@limit(120)
def test_master_of_a_position_is_named(t):
    """In a cluster a stream may be somewhere else than what names it: who is silent is said, and the others answer."""
    c = t.cluster(node_timeout_ms=60000)
    d = t.daemon(c, cfg={"services": [{"name": "orders", "entries": {"enabled": True}}]})
    lbs = c.master_of("orders-input")
    there = next(n for n in (f"s{i}" for i in range(1000)) if c.master_of(n) is not lbs)
    victim = c.master_of(there)
    victim.kill()
    t.wait(lambda: [x for x in d.json("status")[0]["redis"] if x["redis"] == victim.endpoint and x["state"] == "down"], what="down")
    p, s = timed(d, "delayed", "now", "orders", there)
    assert p.returncode == 1 and s < 2 and f"redis {victim.endpoint} is down since " in p.stderr, (s, p)
    p, s = timed(d, "delayed", "ls", "orders")
    assert p.returncode == 0 and s < 2, (s, p)
