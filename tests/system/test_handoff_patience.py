"""Maintenance as real servers do it: the new endpoint accepts late, hangs, or is the one we are at; the old one ends early, or
goes silent; nothing is lost and the reason is told."""
import os
import threading
import time

from lib import checks, gate, servers
from lib.case import limit, no_acl
from lib.checks import Added
from lib.gate import moving, note
from lib.maintenance import SEP, Stream, all_there, connections, metric, roles, setup, wait_metric, with_hosts

issue = 12


def until(at, ms):
    """Sleeps until `ms` after `at` (CLOCK_MONOTONIC, ms)."""
    time.sleep(max(0, (at + ms - time.monotonic() * 1000) / 1000))


def later(at, ms, what, *args, **kw):
    def run():
        until(at, ms)
        what(*args, **kw)
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def watch(t, d, g, at, T):
    """All connections at g, the first time that this is so: ms after `at`."""
    t.wait(lambda: all_there(g), T, "all connections at the new endpoint", every=0.05)
    return time.monotonic() * 1000 - at


def all_served(t, r, d, w, load):
    """Nothing failed, nothing is lost: entries once, every event once."""
    add = load.stop()
    time.sleep(0.3)
    load.touch(0, load.n_events // 50, 50)
    checks.wait_clean(r.db, timeout=30)
    checks.all_good(add.sure, [w.journal])
    assert set(checks.finished([w.journal]).values()) == {1}, "each entry handled once"
    t.wait(lambda: metric(d, "sluice_keyspace_events_total", result="ok") >= load.n_events, 10, "every event")
    time.sleep(1.2)
    n = metric(d, "sluice_keyspace_events_total", result="ok")
    assert n == load.n_events, f"{n} events of {load.n_events}"
    for word in ("unanswered", "revoke", " lost: "):
        assert word not in d.log, [x for x in d.log.splitlines() if word in x][:5]


@limit(60)
def test_endpoint_that_accepts_late(t):
    """15 s are announced, the new endpoint accepts from +8.6 s: moved before the old one is cut at +15.7 s."""
    r, g, d, w = setup(t)
    g[1].ask("refuse")
    load = Stream(r)
    time.sleep(1)
    at = g[0].push(moving(1, 15, g[1].endpoint))
    later(at, 8600, g[1].ask, "again")
    moved = watch(t, d, g[1], at, 16)
    t.wait(lambda: not [c for c in g[0].conns(open=True) if c["roles"]], 4, "the old ones are left")
    left = time.monotonic() * 1000 - at
    until(at, 15700)
    g[0].ask("close")
    print(f"= accepts from 8.6 s: there after {moved:.0f} ms, the old ones left after {left:.0f} ms")
    assert moved < 15000 and left < 15700
    time.sleep(1)
    assert metric(d, "sluice_redis_reconnects_total") == 0, d.log[-2000:]
    wait_metric(t, d, 1, 5, "sluice_handoffs_total", result="ok")
    all_served(t, r, d, w, load)


@limit(60)
def test_old_one_ends_before_the_next_attempt(t):
    """The new endpoint accepts from +1.5 s, the old one is closed at +5 s, the next attempt would be at +7.5 s."""
    r, g, d, w = setup(t, cfg={"maintenance": {"max_handoff_retries": 1}})
    g[1].ask("refuse")
    at = g[0].push(moving(1, 15, g[1].endpoint))
    later(at, 1500, g[1].ask, "again")
    until(at, 5000)
    g[0].ask("refuse")
    cut = g[0].ask("close")["ms"]
    moved = watch(t, d, g[1], cut, 10)
    Added(r.db).many("orders", ["x", "y"])
    w.wait("ok", 2, timeout=5)
    print(f"= cut at 5 s: at the new endpoint after {moved:.0f} ms")
    assert moved < 1000
    t.wait(lambda: len(g[1].conns(open=True)) == 4, 3, "the topology's, too")


@limit(60)
def test_old_one_ends_and_both_refuse_for_a_while(t):
    """Announced and configured address in turn until one works: whichever it is, it is found within a second."""
    for n, first in enumerate((1, 0)):
        r, g, d, w = setup(t, cfg={"maintenance": {"max_handoff_retries": 1}, "redis": {"reconnect": {"max": "30s"}}})
        for x in g:
            x.ask("refuse")
        g[0].push(moving(n, 30, g[1].endpoint))
        time.sleep(1)
        g[0].ask("close")
        time.sleep(5)
        at = g[first].ask("again")["ms"]
        moved = watch(t, d, g[first], at, 10)
        print(f"= both refuse for 5 s: back {moved:.0f} ms after {'the announced' if first else 'the configured'} one accepts")
        assert moved < 1500
        d.stop()


@limit(60)
def test_fifty_services_and_an_endpoint_that_refuses_at_first(t):
    r, gs = t.redis(), gate.Gates(t)
    g = [gs.gate(r), gs.gate(r)]
    d = t.daemon([g[0].endpoint], services=[f"s{i}" for i in range(50)], cfg={"redis": {"keyspace_events": "require"}})

    def there(x):
        return len(x.conns(open=True))
    t.wait(lambda: there(g[0]) == 53, 20, "52 connections and the topology's")
    g[1].ask("refuse")
    at = g[0].push(moving(1, 5, g[1].endpoint))
    later(at, 300, g[1].ask, "again")
    t.wait(lambda: there(g[1]) == 53, 6, "all connections at the new endpoint", every=0.05)
    moved = time.monotonic() * 1000 - at
    t.wait(lambda: there(g[0]) == 0, 6, "none at the old one")
    print(f"= 52 connections, 300 ms of 5 s refused: moved after {moved:.0f} ms")
    assert moved < 5000 and metric(d, "sluice_redis_reconnects_total") == 0
    wait_metric(t, d, 1, 5, "sluice_handoffs_total", result="ok")
    assert metric(d, "sluice_handoffs_total", result="failed") == 0 and "circuit breaker" not in d.log


@limit(60)
def test_endpoint_that_hangs_until_half_the_time(t):
    r, g, d, w = setup(t)
    g[1].ask("mode", mode="hang")
    load = Stream(r, entries=50, events=100)
    at = g[0].push(moving(1, 8, g[1].endpoint))
    later(at, 4000, g[1].ask, "mode", mode="normal")
    moved = watch(t, d, g[1], at, 9)
    print(f"= hangs until 4 s of 8 s: moved after {moved:.0f} ms")
    assert moved < 8000 and metric(d, "sluice_redis_reconnects_total") == 0
    all_served(t, r, d, w, load)


@limit(60)
def test_own_address_is_announced(t):
    """The address that is named is the one we are at: each connection is renewed before the time is up."""
    r, g, d, w = setup(t, gates=1)
    load = Stream(r, entries=50, events=100)
    time.sleep(0.5)
    before = {c["id"] for c in g[0].conns(open=True)}
    at = g[0].push(moving(1, 5, g[0].endpoint))
    t.wait(lambda: not before & {c["id"] for c in g[0].conns(open=True)}, 6, "all are younger than the announcement")
    took = time.monotonic() * 1000 - at
    print(f"= own address: renewed after {took:.0f} ms")
    assert took < 5000 and all_there(g[0])
    n = len(g[0].conns())
    g[0].push(moving(1, 1, g[0].endpoint))  # sent again to the younger ones
    all_served(t, r, d, w, load)
    assert len(g[0].conns()) == n, "no loop"


def named(t, cfg=None):
    """A daemon at redis.test, which the test may let lead elsewhere: lead(address)."""
    r, gs, hosts = t.redis(), gate.Gates(t), t.path("hosts")
    one, two = servers.loopback(), servers.loopback(64)

    def lead(*addresses):
        with open(hosts, "w") as f:
            f.write("".join(f"{a} redis.test\n" for a in addresses))
    lead(one)
    wrap = with_hosts(t, hosts)
    if not wrap:
        return None
    a = gs.gate(r)
    b = gs.gate(r, port=a.port, host=two)
    d = t.daemon([f"redis.test:{a.port}"], cfg={"redis": {"keyspace_events": "require"}, **(cfg or {})}, wrap=wrap)
    w = t.worker(d, credits=10, work=0)
    t.wait(lambda: all_there(a), 10)
    return r, a, b, d, w, lead


@limit(60)
def test_own_name_is_announced(t):
    """It is resolved anew until it leads elsewhere; where it never does, what it gives is taken before the time is up."""
    s = named(t)
    if not s:
        return
    r, a, b, d, w, lead = s
    at = a.push(moving(1, 9, f"redis.test:{a.port}"))
    until(at, 3000)
    assert all_there(a) and not b.conns()
    lead(b.host)
    t.wait(lambda: all_there(b), 4, "where the name leads now")
    moved = time.monotonic() * 1000 - at
    print(f"= own name, which leads elsewhere after 3 s: there after {moved:.0f} ms")
    assert 3000 < moved < 5000
    t.wait(lambda: not [c for c in a.conns(open=True) if c["roles"]], 4)
    before = {c["id"] for c in b.conns(open=True) if c["roles"]}
    time.sleep(max(0, at / 1000 + 10 - time.monotonic()))
    at = b.push(moving(2, 4, f"redis.test:{a.port}"))
    t.wait(lambda: not before & {c["id"] for c in b.conns(open=True)}, 6, "renewed")
    took = time.monotonic() * 1000 - at
    print(f"= own name, which stays: renewed after {took:.0f} ms of 4 s")
    assert took < 4000 and all_there(b) and metric(d, "sluice_redis_reconnects_total") == 0


def why_it_failed(t, g, d, words, seconds=2):
    at = g[0].push(moving(1, seconds, g[1].endpoint))
    wait_metric(t, d, 1, seconds + 4, "sluice_handoffs_total", result="failed")
    line = next(x for x in d.log.splitlines() if "handoff seq=1 " in x)
    assert words in line, line
    t.wait(lambda: any(words in (c["error"] or "") for c in connections(d).values()), 5, f"nodes says {words}")
    assert words in d.ctl_ok("nodes")
    until(at, seconds * 1000 + 200)
    g[0].push(moving(2, 1, g[1].endpoint))  # the breaker is open meanwhile, or not: the words are the same
    wait_metric(t, d, 2, 6, "sluice_handoffs_total", result="failed")
    line = next(x for x in d.log.splitlines() if "handoff seq=2 " in x)
    assert words in line, line


@limit(60)
def test_the_reason_survives(t):
    for mode, words, cfg in (("wrongpass", "WRONGPASS invalid username-password pair", {}),
                             ("loading", "LOADING Redis is loading", {}),
                             ("hang", "no answer to HELLO", {}),
                             ("rst", "connection reset by peer", {}),
                             ("nosupport", "maintenance notifications refused: ERR", {"mode": "enabled"}),
                             ("mute", "no answer to CLIENT MAINT_NOTIFICATIONS", {"mode": "enabled"})):
        r, g, d, w = setup(t, cfg={"maintenance": {"circuit_breaker": {"failures": 2}, **cfg}})
        g[1].ask("mode", mode=mode)
        why_it_failed(t, g, d, words)
        d.stop()


@limit(60)
def test_nodes_shows_where_each_connection_is(t):
    r, g, d, w = setup(t)
    t.wait(lambda: {c["address"] for c in connections(d).values()} == {g[0].endpoint}, 5, "the configured address")
    g[0].push(moving(1, 4, g[1].endpoint))
    t.wait(lambda: {(c["address"], c["peer"]) for c in connections(d).values()} == {(g[1].endpoint, g[1].endpoint)}, 8, "the new one")
    assert f"@{g[1].endpoint}" in d.ctl_ok("nodes")


@limit(60)
def test_proxy_that_ends_at_the_opt_in(t):
    """auto: one failed try a connection, then without; the line names the command. Also at a new endpoint."""
    for mode, words in (("mute", "no answer to CLIENT MAINT_NOTIFICATIONS for"),
                        ("closeoptin", "the server closed the connection (CLIENT MAINT_NOTIFICATIONS was not answered)")):
        r = t.redis()
        gs = gate.Gates(t)
        g = [gs.gate(r, mode=mode), gs.gate(r, mode=mode)]
        d = t.daemon([g[0].endpoint], cfg={"redis": {"keyspace_events": "require", "connect_timeout": "1s"}})
        w = t.worker(d, credits=5, work=0)
        t.wait(lambda: all_there(g[0]), 10, "in service without")
        assert words in d.log, d.log
        assert f"redis={g[0].endpoint} has no maintenance notifications, works without: CLIENT MAINT_NOTIFICATIONS ended" in d.log
        tries = [c for c in g[0].conns() if not c["roles"] and c["closed"]]
        assert len(tries) == 4, f"one failed try for each connection: {len(tries)}"
        g[0].push(moving(1, 6, g[1].endpoint))
        t.wait(lambda: all_there(g[1]), 8, "at the new endpoint, without there, too")
        Added(r.db).many("orders", ["x", "y"])
        w.wait("ok", 2)
        d.stop()


@limit(60)
def test_old_one_goes_silent(t):
    """50 ms after MOVING the old endpoint says nothing any more and closes nothing: intake goes on within a second, what was
    asked there is asked again, no work is stopped."""
    r, g, d, w = setup(t, credits=10, work=0.05)
    load = Stream(r, entries=50, events=0)
    w.wait("assign", 50)
    at = g[0].push(moving(1, 15, g[1].endpoint))
    until(at, 50)
    g[0].ask("stall", ms=30000)
    silent = time.monotonic()
    time.sleep(8)
    add = load.stop()
    times = [x["ms"] / 1000 for x in w.records("assign") if x["ms"] / 1000 >= silent - 0.1]
    gaps = [(b - a, a - silent) for a, b in zip(times, times[1:])]
    print(f"= the old one is silent: longest time without an assign {1e3 * max(gaps)[0]:.0f} ms, {1e3 * max(gaps)[1]:.0f} ms after")
    assert max(gaps)[0] < 1, sorted(gaps)[-3:]
    assert not w.frames("revoke")
    checks.wait_clean(r.db, timeout=40)
    checks.all_good(add.sure, [w.journal])


@limit(60)
def test_disabled_obeys_nothing(t):
    """Whatever is pushed: no move, no relaxation, no line; also after a reload of a daemon that had asked."""
    r, g, d, w = setup(t, cfg={"maintenance": {"mode": "disabled"}})
    pushes = moving(1, 0, g[1].endpoint) + note("MIGRATING", 2, 1, "[]") + moving(3, 1, None)
    for n in range(2):
        t.wait(lambda: len(g[0].conns(open=True)) == 4, 10, "the topology's, too")
        ids = {c["id"] for c in g[0].conns(open=True)}
        g[0].push(pushes)
        time.sleep(2)
        assert ids == {c["id"] for c in g[0].conns(open=True)} and not g[1].conns()
        assert "maintenance: M" not in d.log and metric(d, "sluice_maintenance_notifications_total") == 0
        if n == 0:
            d.write(maintenance={"mode": "auto"})
            d.ctl_ok("reload")
            g[0].ask("close")
            t.wait(lambda: all_there(g[0]), 10)
            assert {c["opted"] for c in g[0].conns(open=True)} == {"internal-ip"}
            d.write(maintenance={"mode": "disabled"})
            d.ctl_ok("reload")


@limit(60)
def test_new_endpoint_with_two_addresses(t):
    """The first one dead, or mute: moved within 5 s, by way of the other; the line says nothing of it."""
    for mode in ("dead", "mute"):
        s = named(t)
        if not s:
            return
        r, a, b, d, w, lead = s
        c = a.gates.gate(r, port=a.port, host=servers.loopback(128))
        b.ask("refuse") if mode == "dead" else b.ask("mode", mode="hang")
        at = a.push(moving(1, 5, f"redis.test:{a.port}"))
        lead(b.host, c.host)
        t.wait(lambda: all_there(c), 6, "at the address that answers")
        moved = time.monotonic() * 1000 - at
        print(f"= two addresses, the first {mode}: moved after {moved:.0f} ms of 5 s")
        assert moved < 5000 and metric(d, "sluice_redis_reconnects_total") == 0
        t.wait(lambda: {x["peer"] for x in connections(d).values()} == {c.endpoint}, 5, "nodes shows who answers")
        d.stop()


@no_acl("it makes a user of its own")
@limit(60)
def test_password_that_changed_on_disk(t):
    """It is read again: for the next connections, for one that was refused, at the new endpoint; nobody reloads."""
    r, path = t.redis(), t.path("password")
    gs = gate.Gates(t)
    g = [gs.gate(r), gs.gate(r)]

    def write(word):
        with open(path + ".new", "w") as f:
            f.write(word + "\n")
        os.rename(path + ".new", path)
    write("one-key")
    admin = r.client()
    admin.cmd("ACL", "SETUSER", "worker", "on", ">one-key", "~*", "&*", "+@all")
    d = t.daemon([g[0].endpoint], cfg={"redis": {"username": "worker", "password": {"file": path}, "keyspace_events": "require"}})
    w = t.worker(d, credits=5, work=0)
    t.wait(lambda: all_there(g[0]), 10)
    before = {c["id"] for c in g[0].conns(open=True)}
    admin.cmd("ACL", "SETUSER", "worker", ">two-key", "<one-key")
    g[0].push(moving(1, 15, g[1].endpoint))
    t.wait(lambda: any("WRONGPASS" in (c["error"] or "") for c in connections(d).values()), 5, "refused at the new endpoint")
    assert before == {c["id"] for c in g[0].conns(open=True)}, "the old ones stay who they are"
    write("two-key")
    t.wait(lambda: all_there(g[1]), 10, "moved with the new password")
    assert "redis.password has changed" in d.log and "two-key" not in d.log
    admin.cmd("ACL", "SETUSER", "worker", ">three-key", "<two-key")
    g[1].ask("close")
    d.wait_log("WRONGPASS")
    time.sleep(2)
    write("three-key")
    t.wait(lambda: {"command", "reader", "subscriber"} <= set(roles(g[0].conns(open=True) + g[1].conns(open=True))), 4,
           "back within a second or two")
    Added(r.client()).many("orders", ["x", "y"])
    w.wait("ok", 2)


@limit(60)
def test_the_same_lock_expires_again_and_again(t):
    """Also while two subscribers overlap, each time is one event: none is taken for the other's, none counts twice."""
    r, g, d, w = setup(t, credits=1)
    db, n = r.client(), 0
    began = time.monotonic()
    while time.monotonic() - began < 5:
        if n == 20:
            g[0].push(moving(1, 5, g[1].endpoint))
        db.cmd("SET", f"again{SEP}1-1", "v", "PX", 10)
        time.sleep(0.02)
        db.cmd("EXISTS", f"again{SEP}1-1")
        n += 1
    assert all_there(g[1])
    t.wait(lambda: metric(d, "sluice_keyspace_events_total", result="ok") >= n, 5, f"{n} events")
    time.sleep(1.2)
    got, dropped = (metric(d, "sluice_keyspace_events_total", result=x) for x in ("ok", "dropped"))
    assert got == n and dropped > 0, f"{got} events of {n}, {dropped} of them twice"
