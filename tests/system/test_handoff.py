"""Maintenance notifications end to end: a gate in front of a real redis-server announces, sluiced moves."""
import os
import random
import re
import threading
import time

from lib import checks, gate, servers
from lib.case import limit
from lib.checks import Added
from lib.gate import moving, note
from lib.redis import SEP

issue = 4


def rows(*texts):
    """Rows of the table of behaviours that a passing run prints."""
    def mark(f):
        f.rows = texts
        return f
    return mark

BLOCK_MS = 2000


def metric(d, name, **labels):
    """The sum of a metric's samples with these labels."""
    total = 0.0
    for line in d.ctl_ok("metrics").splitlines():
        m = re.match(r"(\w+)(?:\{(.*)\})? (\S+)$", line)
        if m and m[1] == name and all(f'{k}="{v}"' in (m[2] or "") for k, v in labels.items()):
            total += float(m[3])
    return total


def wait_metric(t, d, want, timeout, name, **labels):
    t.wait(lambda: metric(d, name, **labels) >= want, timeout, f"{name} {labels} >= {want}", every=0.2)


def command_times(d):
    """[(le, commands so far)]"""
    return [(float(re.search(r'le="([^"]+)"', line)[1].replace("+Inf", "inf")), float(line.split()[-1]))
            for line in d.ctl_ok("metrics").splitlines() if line.startswith("sluice_redis_command_duration_seconds_bucket")]


def p99(since, until):
    """Upper bound of the bucket with the 99th percentile of the commands between the two, seconds."""
    n = [(le, b - a) for (le, a), (_, b) in zip(since, until)]
    return next(le for le, x in n if x >= 0.99 * n[-1][1])


def roles(conns):
    return sorted(r for c in conns for r in c["roles"])


def all_there(g):
    """The three kinds of connection live at this gate."""
    return {"command", "reader", "subscriber"} <= set(roles(g.conns(open=True)))


class Stream(threading.Thread):
    """Adds entries and keys that expire, at a steady rate, on a connection of its own to the server."""

    def __init__(self, redis, entries=100, events=500):
        super().__init__(daemon=True)
        self.db, self.entries, self.events = redis.client(), entries, events
        self.added, self.n_events, self.is_stopping = Added(self.db), 0, threading.Event()
        self.start()

    def run(self):
        n, start = 0, time.monotonic()
        while not self.is_stopping.wait(max(0, start + n * 0.1 - time.monotonic())):
            if self.entries:
                self.added.many("orders", [f"s{n}-{i}" for i in range(self.entries // 10)])
            k = self.events // 10
            self.db.pipe([("SET", f"e{n}x{i}{SEP}1-{n * 1000 + i}", "v", "PX", 30) for i in range(k)])
            self.n_events += k
            if n % 5 == 4:
                self.touch(n - 4, n, k)
            n += 1

    def touch(self, a, b, k):
        """Redis expires what is read: nothing stays behind."""
        self.db.pipe([("EXISTS", f"e{n}x{i}{SEP}1-{n * 1000 + i}") for n in range(a, b) for i in range(k)])

    def stop(self):
        self.is_stopping.set()
        self.join(30)
        return self.added


def setup(t, cfg=None, gates=2, T=10, credits=50, work=0.01, **kw):
    r = t.redis()
    gs = gate.Gates(t)
    g = [gs.gate(r) for _ in range(gates)]
    d = t.daemon([g[0].endpoint], T=T, cfg={"redis": {"keyspace_events": "require"}, **(cfg or {})}, **kw)
    w = t.worker(d, credits=credits, work=work) if credits else None
    t.wait(lambda: all_there(g[0]), 10, "all connections at the first gate")
    return r, g, d, w


def nothing_left_at(t, g, since, before, slack=1000):
    """The connections that `before` names: closed by sluiced, nothing sent later than 1 s (reader: its BLOCK + 1 s)."""
    ids = {c["id"] for c in before}
    t.wait(lambda: not [c for c in g.conns(open=True) if c["id"] in ids], 8, "old connections are closed")
    for c in g.conns():
        if c["id"] not in ids:
            continue
        late = c["last_rx"] - since
        assert late < slack + (BLOCK_MS if "reader" in c["roles"] else 0), f"sent {late:.0f} ms after the notification: {c}"
        assert c["by"] == "client", f"closed by {c['by']}: {c}"


@limit(150)
@rows("500 commands/s, 500 events/s, 100 entries/s, ten moves in a row: 0 failed, 0 lost, 0 doubled, each entry once",
      "C, S, B: nothing sent on the old connection 1 s after the notification (B: its BLOCK + 1 s), closed by us",
      "one notification counted and one line per move, whatever the number of connections", "p99 of commands within 10 x steady")
def test_ten_moves_under_load(t):
    r, g, d, w = setup(t, cfg={"log": {"level": "info"}}, credits=100)
    load = Stream(r)
    t.wait(lambda: len(w.frames("ok")) > 300, 20)
    start = command_times(d)
    time.sleep(2)
    middle = command_times(d)
    for n in range(10):
        old, new = g[n % 2], g[(n + 1) % 2]
        before = old.conns(open=True)
        at = old.push(moving(n, 5, new.endpoint))
        t.wait(lambda: all_there(new), 5, f"move {n}: all connections at the new gate")
        nothing_left_at(t, old, at, before)
    add = load.stop()
    time.sleep(1.1)  # a snapshot
    steady, moving_on = p99(start, middle), p99(middle, command_times(d))
    assert moving_on <= max(10 * steady, 0.05), f"p99 {moving_on} s, steady {steady} s"
    print("p99", steady, moving_on)
    time.sleep(0.3)
    load.touch(0, load.n_events // 50, 50)
    checks.wait_clean(r.db, timeout=30)
    checks.all_good(add.sure, [w.journal])
    assert set(checks.finished([w.journal]).values()) == {1}, "each entry handled once"
    t.wait(lambda: metric(d, "sluice_keyspace_events_total", result="ok") >= load.n_events, 10, "every event")
    time.sleep(1.2)  # the snapshot after it
    n = metric(d, "sluice_keyspace_events_total", result="ok")
    assert n == load.n_events, f"{n} events of {load.n_events}, dropped {metric(d, 'sluice_keyspace_events_total', result='dropped')}"
    assert metric(d, "sluice_redis_reconnects_total") == 0, d.log[-2000:]
    wait_metric(t, d, 10, 5, "sluice_handoffs_total", result="ok")
    assert metric(d, "sluice_handoffs_total") == 10
    assert metric(d, "sluice_maintenance_notifications_total", kind="moving", result="acted") == 10
    for word in ("lost", "revoke", "cannot", "unanswered"):
        assert word not in d.log, [x for x in d.log.splitlines() if word in x][:5]
    assert d.log.count(" done: moved=") == 10


@limit(60)
@rows("S: no event is lost and none doubled when the old side delivers late, or the new side subscribes late")
def test_slow_sides(t):
    r, g, d, _ = setup(t)
    load = Stream(r, entries=0)
    for n, (old_lag, new_lag) in enumerate([({"down": 200}, {}), ({}, {"up": 700})]):
        old, new = g[n % 2], g[(n + 1) % 2]
        old.ask("lag", ms=old_lag)
        new.ask("lag", ms=new_lag)
        time.sleep(0.5)
        old.push(moving(n, 5, new.endpoint))
        t.wait(lambda: all_there(new) and not all_there(old), 10)
        time.sleep(1)
    load.stop()
    time.sleep(0.3)
    load.touch(0, load.n_events // 50, 50)
    time.sleep(2.5)
    n = metric(d, "sluice_keyspace_events_total", result="ok")
    assert n == load.n_events, f"{n} events of {load.n_events}"
    assert metric(d, "sluice_redis_reconnects_total") == 0


@limit(60)
@rows("null endpoint with 6 s: all connections move between 2.5 s and 4 s to the configured address; sent again: nothing")
def test_null_endpoint_moves_at_half_the_time(t):
    r, g, d, w = setup(t, gates=1)
    before = g[0].conns(open=True)
    at = g[0].push(moving(3, 6, None))
    t.wait(lambda: not [c for c in g[0].conns(open=True) if c["id"] in {b["id"] for b in before}], 10, "all are new")
    for c in g[0].conns():
        if c["id"] in {b["id"] for b in before}:
            continue
        assert 2500 < c["opened"] - at < 4000, f"opened {c['opened'] - at:.0f} ms after it"
    assert all_there(g[0]) and metric(d, "sluice_redis_reconnects_total") == 0
    again = len(g[0].conns())
    g[0].push(moving(3, 3, None))  # sent again to late joiners
    time.sleep(2)
    assert len(g[0].conns()) == again


def trouble(t, mode, cfg=None):
    """A bad new endpoint: the old connections serve until they close, then the configured address."""
    r, g, d, w = setup(t, cfg={"redis": {"keyspace_events": "require", "connect_timeout": "500ms"}, "maintenance": {
        "relaxed_timeout": "500ms", "handoff_timeout": "1s", "circuit_breaker": {"failures": 2, "reset": "3s", "half_open": 1}}, **(cfg or {})})
    bad = g[1]
    if mode == "refuse":
        bad.ask("refuse")
    else:
        bad.ask("mode", mode=mode)
    add = Added(r.db)
    before = [c for c in g[0].conns(open=True) if c["roles"]]
    g[0].push(moving(1, 4, bad.endpoint))
    was_open = False
    for n in range(20):
        add.many("orders", [f"a{n}-{i}" for i in range(5)])
        was_open = was_open or d.json("status")[0]["redis"][0]["breaker_open"]
        time.sleep(0.2)
    assert was_open, "status tells of the open breaker"
    w.wait("ok", 100, timeout=10)
    assert {c["id"] for c in before} <= {c["id"] for c in g[0].conns(open=True)}, "the old ones serve on"
    wait_metric(t, d, 1, 15, "sluice_handoffs_total", result="failed")
    assert "circuit breaker" in d.log and metric(d, "sluice_redis_reconnects_total") == 0
    g[0].ask("close")
    t.wait(lambda: all_there(g[0]), 10, "the configured address again")
    add.many("orders", ["z1", "z2"])
    checks.wait_clean(r.db, timeout=30)
    checks.all_good(add.sure, [w.journal])
    return r, g, d, w


@limit(60)
@rows("endpoint that refuses: the old connections serve until they close, then the configured address",
      "the circuit breaker opens, half-opens by time and closes")
def test_endpoint_that_refuses_and_breaker_half_opens(t):
    r, g, d, w = trouble(t, "refuse")
    time.sleep(3)
    g[1].ask("again")
    g[0].push(moving(2, 5, g[1].endpoint))
    t.wait(lambda: all_there(g[1]), 8, "a new try after the breaker's reset")
    assert "half-open" in d.log and d.log.count(" closed") >= 1


@limit(60)
@rows("endpoint that hangs: the same")
def test_endpoint_that_hangs(t):
    trouble(t, "hang")


@limit(60)
@rows("endpoint that refuses the password: the same")
def test_endpoint_with_a_wrong_password(t):
    trouble(t, "wrongpass")


def make_certs(t, name):
    """A CA-less certificate for DNS:name: trusted when it is the ca_file itself."""
    key, crt = t.path(f"{name}.key"), t.path(f"{name}.crt")
    p = t.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key,
               "-out", crt, "-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName={name}"])
    assert p.returncode == 0, p.stderr
    return crt, key


@limit(60)
@rows("TLS: the name that is dialled is verified; a wrong certificate is trouble, not a word is said to that server")
def test_tls_name_is_verified(t):
    """The first endpoint's certificate names its IP; the second's only a DNS name: trouble, never unverified."""
    r, gs = t.redis(), gate.Gates(t)
    host = servers.loopback()
    good, bad = make_certs(t, f"IP:{host}"), make_certs(t, "DNS:elsewhere.example")
    a, b = gs.gate(r, cert=good[0], key=good[1]), gs.gate(r, cert=bad[0], key=bad[1])
    c = gs.gate(r, cert=good[0], key=good[1])
    with open(t.path("ca"), "w") as f:
        f.write(open(good[0]).read() + open(bad[0]).read())
    d = t.daemon([a.endpoint], cfg={"redis": {"tls": {"enabled": True, "ca_file": t.path("ca")}},
                                    "maintenance": {"max_handoff_retries": 1}})
    w = t.worker(d, credits=10, work=0)
    t.wait(lambda: all_there(a), 10)
    assert {x["opted"] for x in a.conns(open=True)} == {"internal-fqdn"}, a.conns(open=True)
    a.push(moving(1, 3, b.endpoint))
    wait_metric(t, d, 1, 10, "sluice_handoffs_total", result="failed")
    assert all_there(a) and not [x for x in b.conns() if x["n"]], "nothing was said to the wrong server"
    a.push(moving(2, 5, c.endpoint))
    t.wait(lambda: all_there(c), 8, "a good one works")
    Added(r.db).many("orders", ["x", "y"])
    w.wait("ok", 2)


@limit(60)
@rows("MIGRATING: slow commands and blocking reads are not cut; MIGRATED ends it; replayed completions change nothing")
def test_relaxed_window_keeps_slow_commands(t):
    """The server is slow for longer than the command time-out: announced, nothing is cut; unannounced, it is."""
    r, g, d, w = setup(t, gates=1, cfg={"redis": {"command_timeout": "1s", "keyspace_events": "require"}})
    g[0].push(note("MIGRATING", 0, 2, '["27"]'))
    wait_metric(t, d, 3, 5, "sluice_relaxed_connections")
    assert "relaxed" in d.ctl_ok("--json", "nodes")
    t.wait(lambda: d.json("status")[0]["redis"][0]["state"] == "relaxed", 5, "status tells it too")
    g[0].ask("stall", ms=4000)
    add = Added(r.db)
    add.many("orders", ["a", "b", "c"])
    w.wait("ok", 3, timeout=15)
    assert metric(d, "sluice_redis_reconnects_total") == 0 and not w.frames("revoke")
    g[0].push(note("MIGRATED", 1, '["27"]'))
    t.wait(lambda: metric(d, "sluice_relaxed_connections") == 0, 5)
    g[0].push(note("MIGRATED", 1, '["27"]') + note("FAILED_OVER", 0, '["1"]'))  # replayed: nothing
    g[0].ask("stall", ms=4000)
    add.many("orders", ["d"])
    wait_metric(t, d, 1, 8, "sluice_redis_reconnects_total")
    w.wait("ok", 4, timeout=15)
    checks.wait_clean(r.db, timeout=30)
    checks.all_good(add.sure, [w.journal])


@limit(60)
@rows("in the window reconnects go to the new endpoint, after it to the configured address; the same MOVING twice")
def test_reconnects_in_the_window_go_to_the_new_endpoint(t):
    """The old connections close at once: as fast as that, and after the window the configured address."""
    r, g, d, w = setup(t)
    g[0].push(moving(1, 4, g[1].endpoint) + moving(1, 4, g[1].endpoint))
    g[0].ask("close")
    t.wait(lambda: all_there(g[1]), 5, "at the new endpoint")
    time.sleep(4.5)
    g[1].ask("close")
    t.wait(lambda: all_there(g[0]), 8, "at the configured address")
    Added(r.db).many("orders", ["x", "y"])
    w.wait("ok", 2)


@limit(60)
@rows("a stop in the middle of a handoff ends in time")
def test_stop_in_the_middle(t):
    r, g, d, w = setup(t)
    g[1].ask("mode", mode="hang")
    g[0].push(moving(1, 5, g[1].endpoint))
    t.wait(lambda: len(g[1].conns(open=True)) >= 2, 5)
    assert d.stop(timeout=5) == 0


@rows("no support: auto is quiet with one info line, enabled refuses in one clear line")
def test_server_without_support(t):
    r = t.redis()
    auto = t.daemon(r)
    time.sleep(1)
    assert auto.log.count("maintenance notifications") == 1 and "warn" not in auto.log and "error" not in auto.log.split("ready")[0]
    must = t.daemon(r, ready=False, cfg={"maintenance": {"mode": "enabled"}})
    must.wait_log("maintenance notifications refused: ERR unknown subcommand 'MAINT_NOTIFICATIONS'")
    assert must.ctl("status", "--ready").returncode == 1
    time.sleep(2)
    assert must.log.count("maintenance notifications refused") <= 4, must.log


@limit(120)
@rows("SMIGRATED on every connection of three masters: one topology reload, wrong entries skipped")
def test_slots_moved_is_one_reload(t):
    """SMIGRATED on every connection of every master asks for the topology once, and the daemon follows the slots."""
    c = t.cluster()
    gs = gate.Gates(t)
    ports = [(n.port, servers.free_port()) for n in c.nodes]
    rewrite = [(f":{a}\r\n", f":{b}\r\n") for a, b in ports] + [(f":{a}", f":{b}") for a, b in ports]
    g = [gs.gate(n, port=b, rewrite=rewrite) for n, (_, b) in zip(c.nodes, ports)]
    d = t.daemon([x.endpoint for x in g], cfg={"redis": {"topology_refresh": "10m"}})
    w = t.worker(d, credits=20, work=0.01)
    add = Added(c.db)
    add.many("orders", [f"s{i}" for i in range(50)])
    w.wait("ok", 50, timeout=20)
    asked = sum(x.count("CLUSTER") for x in g)
    for x in g:
        x.push(note("SMIGRATING", 18, "8892-8991"))
    c.move_slot(5000, c.nodes[2])
    for x in g:
        assert len(x.conns(open=True)) >= 2
        x.push(gate.smigrated(19, (g[0].endpoint, g[2].endpoint, "5000"), (g[0].endpoint, "bad")))
    time.sleep(1)
    assert sum(x.count("CLUSTER") for x in g) == asked + 1, [x.count("CLUSTER") for x in g]
    assert metric(d, "sluice_maintenance_notifications_total", kind="smigrated", result="acted") >= 1
    add.many("orders", [f"t{i}" for i in range(50)])
    w.wait("ok", 100, timeout=20)


def n_fds(d):
    return len(os.listdir(f"/proc/{d.proc.pid}/fd"))


def rss_kib(d):
    with open(f"/proc/{d.proc.pid}/status") as f:
        return int(re.search(r"VmRSS:\s+(\d+)", f.read())[1])


@limit(120)
@rows("random rounds under load: connections, descriptors and memory as at the start, each entry once")
def test_random_rounds(t):
    """SLUICE_ROUNDS rounds (default 40) of anything: moves to good, bad and null endpoints, cuts, starts and ends."""
    r, g, d, w = setup(t, cfg={"redis": {"keyspace_events": "require", "connect_timeout": "1s"},
                               "maintenance": {"circuit_breaker": {"reset": "500ms"}, "handoff_timeout": "1s"}})
    gates = g[0].gates
    hang = gates.gate(r, mode="hang")
    load, rnd, seq = Stream(r, entries=50, events=50), random.Random(1), 0
    t.wait(lambda: len(w.frames("ok")) > 50, 20)
    fds, rss = n_fds(d), rss_kib(d)
    for _ in range(int(os.environ.get("SLUICE_ROUNDS", 40))):
        seq += rnd.randrange(3)
        here, window = rnd.choice(g), rnd.choice([0, 1, 2, 5])
        what = rnd.randrange(8)
        if what < 4:
            here.push(moving(seq, window, rnd.choice([g[0].endpoint, g[1].endpoint, hang.endpoint, "127.0.0.1:1", None])))
        elif what == 4:
            here.push(note("MIGRATING", seq, 1, "[]") + note("FAILING_OVER", seq + 1, 1))
        elif what == 5:
            here.push(note("MIGRATED", seq, "[]") + note("FAILED_OVER", seq) + note("NEVER_HEARD", seq))
        elif what == 6:
            here.ask("close")
        time.sleep(rnd.uniform(0.05, 0.3))
    add = load.stop()
    checks.wait_clean(r.db, timeout=40)
    checks.all_good(add.sure, [w.journal])
    t.wait(lambda: metric(d, "sluice_handoffs_active") == 0, 20)
    t.wait(lambda: sum(len(x.conns(open=True)) for x in (*g, hang)) == 4, 20, "four connections as at the start")
    t.wait(lambda: n_fds(d) <= fds, 15, f"{n_fds(d)} descriptors, {fds} at the start")
    assert rss_kib(d) < rss + 8192, f"{rss_kib(d)} KiB, {rss} at the start"
    assert d.is_running() and "revoke" not in d.log
