"""Relaxed windows, leases, slots and settings while maintenance is announced."""
import signal
import time

from lib import checks, gate, servers
from lib.case import limit, no_acl
from lib.checks import Added
from lib.gate import moving, note
from lib.maintenance import BLOCK_MS, all_there, metric, setup, wait_metric
from lib.redis import slot_of

issue = 4


@limit(60)
def test_relaxed_window_keeps_slow_commands(t):
    """The server is slow for longer than the command time-out: announced, nothing is cut; unannounced, it is."""
    r, g, d, w = setup(t, gates=1, cfg={"redis": {"command_timeout": "1s", "connect_timeout": "500ms"}})
    ids = {c["id"] for c in g[0].conns(open=True)}
    g[0].push(note("MIGRATING", 0, 2, '["27"]'))
    wait_metric(t, d, 3, 5, "sluice_relaxed_connections")
    assert "relaxed" in d.ctl_ok("--json", "nodes")
    t.wait(lambda: d.json("status")[0]["redis"][0]["state"] == "relaxed", 5, "status tells it too")
    g[0].ask("stall", ms=4000)
    add = Added(r.db)
    add.many("orders", ["a", "b", "c"])
    w.wait("ok", 3, timeout=15)
    assert metric(d, "sluice_redis_reconnects_total") == 0 and not w.frames("revoke")
    assert ids == {c["id"] for c in g[0].conns(open=True)}, "idle connections neither, nor the topology's"
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
def test_relaxed_timeout_never_tightens_and_ends_at_its_cap(t):
    """relaxed_timeout below command_timeout and below BLOCK: no command, no blocking read is cut; MIGRATED never comes."""
    r, g, d, w = setup(t, gates=1, cfg={"maintenance": {"relaxed_timeout": "100ms", "relaxed_cap": "8s"}})
    ids = {c["id"] for c in g[0].conns(open=True)}
    at = g[0].push(note("MIGRATING", 0, 2, '["27"]'))
    wait_metric(t, d, 3, 5, "sluice_relaxed_connections")
    time.sleep(2.5 * BLOCK_MS / 1000)  # reads that find nothing
    g[0].ask("stall", ms=1500)  # longer than relaxed_timeout, shorter than command_timeout
    add = Added(r.db)
    add.many("orders", ["a", "b", "c"])
    w.wait("ok", 3, timeout=10)
    assert ids <= {c["id"] for c in g[0].conns(open=True)} and metric(d, "sluice_redis_reconnects_total") == 0
    t.wait(lambda: metric(d, "sluice_relaxed_connections") == 0, 15, every=0.1)
    took = time.monotonic() * 1000 - at
    assert took > 7500, f"relaxed for {took:.0f} ms"
    checks.wait_clean(r.db)
    checks.all_good(add.sure, [w.journal])


@limit(60)
def test_after_the_cap_time_outs_are_as_configured(t):
    r, g, d, w = setup(t, gates=1, cfg={"redis": {"command_timeout": "1s"}, "maintenance": {"relaxed_cap": "1500ms"}})
    g[0].push(note("FAILING_OVER", 0, 2, '["21"]'))
    wait_metric(t, d, 3, 5, "sluice_relaxed_connections")
    t.wait(lambda: metric(d, "sluice_relaxed_connections") == 0, 5)
    g[0].ask("stall", ms=4000)
    Added(r.db).many("orders", ["d"])
    wait_metric(t, d, 1, 8, "sluice_redis_reconnects_total")
    w.wait("ok", 1, timeout=15)


@limit(60)
def test_replacement_gets_relaxed_time(t):
    """The new endpoint answers later than connect_timeout, sooner than relaxed_timeout."""
    r, g, d, w = setup(t, cfg={"redis": {"connect_timeout": "500ms"}, "maintenance": {"max_handoff_retries": 1}})
    g[1].ask("lag", ms={"up": 1200})
    g[0].push(moving(1, 10, g[1].endpoint))
    wait_metric(t, d, 1, 12, "sluice_handoffs_total", result="ok")
    g[1].ask("lag", ms={})
    t.wait(lambda: all_there(g[1]), 8)
    assert metric(d, "sluice_redis_reconnects_total") == 0


@limit(60)
def test_leases_are_renewed_at_once(t):
    """On any announcement, all of them, without waiting for their turn."""
    r, g, d, w = setup(t, gates=1, credits=20, work=None)
    Added(r.db).many("orders", [f"s{i}" for i in range(20)])
    w.wait("assign", 20)

    def settled():
        """Renewals so far, none of them under way."""
        while (n := g[0].count("GETEX")) != (time.sleep(0.4) or g[0].count("GETEX")):
            pass
        return n
    before = g[0].count("GETEX")
    t.wait(lambda: g[0].count("GETEX") >= before + 20, 8, "renewed in turn")
    for n, push in enumerate((note("MIGRATING", 1, 2, "[]"), note("FAILING_OVER", 2, 2, "[]"), note("SMIGRATING", 3, "1-5"),
                              moving(4, 20, None))):
        before = settled()
        g[0].push(push)
        t.wait(lambda: g[0].count("GETEX") >= before + 20, 2, f"renewed at announcement {n}")
    assert not w.frames("revoke")


@limit(60)
def test_the_stop_work_deadline_is_not_relaxed(t):
    """The server is silent in a relaxed window of a minute: workers stop in time all the same, then all goes on."""
    T = 4
    r, g, d, w = setup(t, gates=1, T=T, credits=5, work=None, cfg={"maintenance": {"relaxed_timeout": "60s"}})
    add = Added(r.db)
    add.many("orders", ["a", "b", "c"])
    w.wait("assign", 3)
    g[0].push(note("MIGRATING", 0, 2, "[]"))
    wait_metric(t, d, 3, 5, "sluice_relaxed_connections")
    at = time.monotonic()
    g[0].ask("stall", ms=2.5 * T * 1000)
    t.wait(lambda: len(w.held) == 0, T + 2, "they stopped")
    took = time.monotonic() - at
    assert took < T + 1, f"stopped after {took:.1f} s"
    assert metric(d, "sluice_redis_reconnects_total") == 0, "the connections are relaxed"
    t.wait(lambda: len(w.held) == 3, 40, "assigned again")
    for a in list(w.held.values()):
        w.finish(a)
    checks.wait_clean(r.db, timeout=30)
    checks.all_good(add.sure, [w.journal])


@no_acl("CONFIG denied is a warning of its own")
def test_server_without_support(t):
    r = t.redis()
    auto = t.daemon(r)
    time.sleep(1)
    assert auto.log.count("maintenance notifications") == 1 and "warn" not in auto.log and "error" not in auto.log.split("ready")[0]
    must = t.daemon(r, ready=False, cfg={"maintenance": {"mode": "enabled"}})
    must.wait_log("maintenance notifications refused: ERR unknown subcommand 'MAINT_NOTIFICATIONS'")
    assert must.ctl("status", "--ready").returncode == 1
    time.sleep(2)
    assert len(refusals(must)) == 1, must.log


def reload(t, d, **cfg):
    n = d.log.count("reloaded file=")
    d.write(**cfg)
    d.signal(signal.SIGHUP)
    t.wait(lambda: d.log.count("reloaded file=") > n, 10, "reloaded")


@limit(60)
def test_settings_are_reloaded(t):
    r, g, d, w = setup(t, cfg={"maintenance": {"mode": "disabled"}})
    assert {c["opted"] for c in g[0].conns()} == {None}
    reload(t, d, maintenance={"mode": "auto", "endpoint_type": "external-fqdn", "relaxed_cap": "1s"})
    assert {c["opted"] for c in g[0].conns()} == {None}, "connections that are up stay as they are"
    g[0].ask("close")
    t.wait(lambda: all_there(g[0]), 10)
    assert {c["opted"] for c in g[0].conns(open=True)} == {"external-fqdn"}, "each new one asks, the topology's too"
    g[0].push(note("MIGRATING", 0, 2, "[]"))
    wait_metric(t, d, 1, 5, "sluice_relaxed_connections")
    t.wait(lambda: metric(d, "sluice_relaxed_connections") == 0, 5, "the new cap")
    g[1].ask("refuse")
    reload(t, d, maintenance={"max_handoff_retries": 1, "circuit_breaker": {"failures": 1, "reset": "2s"}})
    g[0].push(moving(1, 5, g[1].endpoint))
    d.wait_log("open failures=1 reset_ms=2000")
    d.write(maintenance={"max_handoff_retries": 11})
    p = d.ctl("reload")
    assert p.returncode == 78 and "max_handoff_retries" in p.stdout + p.stderr, p
    assert all_there(g[0])


def refusals(d):
    """What is said at the default level: every attempt is refused, the words are the same."""
    return [x for x in d.log.splitlines() if "maintenance notifications refused" in x and " debug " not in x]


@limit(60)
def test_support_that_goes_away(t):
    """enabled: a refusal keeps a connection out of service, also after earlier successes; it comes when support is back."""
    r, g, d, w = setup(t, gates=1, cfg={"maintenance": {"mode": "enabled"}})
    g[0].ask("mode", mode="nosupport")
    g[0].ask("close")
    d.wait_log("maintenance notifications refused: ERR unknown subcommand 'MAINT_NOTIFICATIONS'")
    time.sleep(2)
    assert not all_there(g[0]) and d.ctl("status", "--ready").returncode == 1
    assert len([x for x in refusals(d) if "shard=0" in x]) == 1, refusals(d)
    g[0].ask("mode", mode="normal")
    t.wait(lambda: all_there(g[0]), 15)
    Added(r.db).many("orders", ["x"])
    w.wait("ok", 1)


@limit(60)
def test_support_that_comes(t):
    """auto: a refusal costs one info line and nothing else; each new connection asks again."""
    r = t.redis()
    g = gate.Gates(t).gate(r, mode="nosupport")
    d = t.daemon([g.endpoint], cfg={"redis": {"keyspace_events": "require"}})
    w = t.worker(d, credits=5, work=0)
    t.wait(lambda: all_there(g), 10)
    assert d.log.count("no maintenance notifications, works without") == 1
    assert {c["opted"] for c in g.conns()} == {None}
    g.ask("mode", mode="normal")
    g.ask("close")
    t.wait(lambda: all_there(g), 10)
    assert {c["opted"] for c in g.conns(open=True)} == {"internal-ip"}
    Added(r.db).many("orders", ["x"])
    w.wait("ok", 1)


def services_everywhere():
    """Three names whose load-balancer streams live on three masters."""
    found = {}
    for i in range(1000):
        found.setdefault(slot_of(f"svc{i}-input") * 3 // 16384, f"svc{i}")
    return [found[m] for m in range(3)]


@limit(120)
def test_slots_moved_is_one_reload(t):
    """SMIGRATED on nine connections, three of each master, asks for the topology once; a question that fails is asked
    again; the daemon follows the slots."""
    c = t.cluster()
    gs = gate.Gates(t)
    ports = [(n.port, servers.free_port()) for n in c.nodes]
    rewrite = [(f":{a}\r\n", f":{b}\r\n") for a, b in ports] + [(f":{a}", f":{b}") for a, b in ports]
    g = [gs.gate(n, port=b, rewrite=rewrite) for n, (_, b) in zip(c.nodes, ports)]
    names = services_everywhere()
    d = t.daemon([x.endpoint for x in g], services=names, cfg={"redis": {"topology_refresh": "10m", "keyspace_events": "require"}})
    w = t.worker(d, credits=20, work=0.01)
    add = Added(c.db)
    for s in names:
        add.many(s, [f"{s}-{i}" for i in range(20)])
    w.wait("ok", 60, timeout=20)
    t.wait(lambda: all(all_there(x) for x in g), 10, "nine connections")

    def asked():
        return sum(x.count("CLUSTER") for x in g)
    t.wait(lambda: sum(len(x.conns(open=True)) for x in g) == 10, 10, "nine, and the topology's")
    before = asked()
    for x in g:
        x.push(note("SMIGRATING", 18, "8892-8991"))
    wait_metric(t, d, 9, 5, "sluice_relaxed_connections")
    c.move_slot(5000, c.nodes[2])
    for x in g:
        x.push(gate.smigrated(19, (g[0].endpoint, g[2].endpoint, "5000"), (g[0].endpoint, "bad")))
    t.wait(lambda: metric(d, "sluice_relaxed_connections") == 0, 5)
    time.sleep(1)
    # INFO and SLOTS, and the same of another node, as the map is a new one
    assert asked() == before + 4, [x.count("CLUSTER") for x in g]

    for x in g:
        x.ask("fail", command="CLUSTER", n=1)
    lbs = slot_of(f"{names[0]}-input")
    c.move_slot(lbs, c.nodes[2])
    for x in g:
        x.push(gate.smigrated(20, (g[0].endpoint, g[2].endpoint, str(lbs))))
    t.wait(lambda: asked() >= before + 9, 10, "refused by all three, asked again")
    for s in names:
        add.many(s, [f"{s}-b{i}" for i in range(20)])
    w.wait("ok", 120, timeout=20)
    t.wait(lambda: len([x for x in g[2].conns(open=True) if "reader" in x["roles"]]) == 2, 10, "its reader has followed")
    t.wait(lambda: "reader" not in sum((x["roles"] for x in g[0].conns(open=True)), []), 10, "and the old one is gone")
    checks.wait_clean(c.db, services=names, timeout=30)
    checks.all_good(add.sure, [w.journal])
