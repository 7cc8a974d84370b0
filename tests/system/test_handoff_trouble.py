"""Maintenance end to end when the new endpoint is bad, or notifications come in any number and order."""
import re
import time

from lib import checks, gate, servers
from lib.case import limit
from lib.checks import Added
from lib.daemon import merge
from lib.gate import moving, note
from lib.maintenance import Stream, all_there, connections, make_certs, metric, reader_overlap, setup, tls, wait_metric, with_hosts

issue = 4


def trouble(t, mode, cfg=None, certs=None):
    """A bad new endpoint: the old connections serve until they close, then the configured address."""
    r, g, d, w = setup(t, certs=certs, cfg=merge({"redis": {"connect_timeout": "500ms"}, "maintenance": {
        "relaxed_timeout": "500ms", "handoff_timeout": "1s", "circuit_breaker": {"failures": 2, "reset": "3s", "half_open": 1}}}, cfg or {}))
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
def test_endpoint_that_refuses_and_breaker_half_opens(t):
    r, g, d, w = trouble(t, "refuse")
    time.sleep(3)
    g[1].ask("again")
    g[0].push(moving(2, 5, g[1].endpoint))
    t.wait(lambda: all_there(g[1]), 8, "a new try after the breaker's reset")
    assert "half-open" in d.log and d.log.count(" closed") >= 1


@limit(60)
def test_endpoint_that_hangs(t):
    trouble(t, "hang")


@limit(60)
def test_endpoint_with_a_wrong_password(t):
    trouble(t, "wrongpass")


@limit(60)
def test_endpoint_that_loads(t):
    trouble(t, "loading")


@limit(60)
def test_endpoint_that_does_not_answer_the_opt_in(t):
    trouble(t, "mute", cfg={"maintenance": {"mode": "enabled"}})


@limit(60)
def test_endpoint_with_a_wrong_certificate(t):
    good, bad = make_certs(t, f"IP:{servers.loopback()}"), make_certs(t, "DNS:elsewhere.example")
    r, g, d, w = trouble(t, "normal", certs=[good, bad], cfg=tls(t, good, bad))
    assert not [c for c in g[1].conns() if c["n"]], "nothing was said to the wrong server"
    line = next(x for x in d.log.splitlines() if "handoff seq=1 " in x)
    assert "certificate" in line or "not valid for" in line, line


@limit(60)
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
def test_tls_server_name_goes_before_the_dialled_name(t):
    """Three IP endpoints: two show the certificate of tls.server_name, one shows its own address's."""
    name, own = make_certs(t, "DNS:redis.example"), make_certs(t, f"IP:{servers.loopback()}")
    r, g, d, w = setup(t, gates=3, certs=[name, own, name], cfg=merge(tls(t, name, own), {
        "redis": {"tls": {"server_name": "redis.example"}}, "maintenance": {"max_handoff_retries": 1}}))
    g[0].push(moving(1, 3, g[1].endpoint))
    wait_metric(t, d, 1, 10, "sluice_handoffs_total", result="failed")
    assert all_there(g[0]) and not [c for c in g[1].conns() if c["n"]]
    g[0].push(moving(2, 5, g[2].endpoint))
    t.wait(lambda: all_there(g[2]), 8, "the name is there")
    assert {n for x in g for n in x.ask("stats")["names"]} == {"redis.example"}


@limit(60)
def test_tls_names_that_are_dialled(t):
    """Endpoints by name: each one's certificate must have the name that is dialled, which is the one asked for (SNI)."""
    hosts = t.path("hosts")
    with open(hosts, "w") as f:
        f.write(f"{servers.loopback()} one.test two.test three.test\n")
    wrap = with_hosts(t, hosts)
    if not wrap:
        return
    one, two = make_certs(t, "DNS:one.test"), make_certs(t, "DNS:two.test")
    r, gs = t.redis(), gate.Gates(t)
    g = [gs.gate(r, cert=c[0], key=c[1]) for c in (one, two, two)]
    d = t.daemon([f"one.test:{g[0].port}"], cfg=merge(tls(t, one, two), {"redis": {"keyspace_events": "require"},
                                                                         "maintenance": {"max_handoff_retries": 1}}), wrap=wrap)
    t.worker(d, credits=5, work=0)
    t.wait(lambda: all_there(g[0]), 10)
    g[0].push(moving(1, 3, f"three.test:{g[2].port}"))  # shows two.test
    wait_metric(t, d, 1, 10, "sluice_handoffs_total", result="failed")
    assert all_there(g[0]) and not [c for c in g[2].conns() if c["n"]]
    g[0].push(moving(2, 5, f"two.test:{g[1].port}"))
    t.wait(lambda: all_there(g[1]), 8, "a name with its certificate")
    assert [set(x.ask("stats")["names"]) for x in g] == [{"one.test"}, {"two.test"}, {"three.test"}]
    assert {c["opted"] for c in g[1].conns(open=True) if c["roles"]} == {"internal-fqdn"}


@limit(60)
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


@limit(60)
def test_null_endpoint_resolves_the_name_anew(t):
    """The configured name leads elsewhere when its time has come: there the connections go, between 2.5 s and 4 s."""
    r, gs, hosts = t.redis(), gate.Gates(t), t.path("hosts")
    before, after = servers.loopback(), servers.loopback(64)
    with open(hosts, "w") as f:
        f.write(f"{before} redis.test\n")
    wrap = with_hosts(t, hosts)
    if not wrap:
        return
    a = gs.gate(r)
    b = gs.gate(r, port=a.port, host=after)
    d = t.daemon([f"redis.test:{a.port}"], cfg={"redis": {"keyspace_events": "require"}}, wrap=wrap)
    w = t.worker(d, credits=10, work=0)
    t.wait(lambda: all_there(a), 10)
    old = {c["id"] for c in a.conns(open=True) if c["roles"]}
    at = a.push(moving(3, 6, None))
    with open(hosts, "w") as f:
        f.write(f"{after} redis.test\n")
    t.wait(lambda: all_there(b), 10, "all connections where the name leads now")
    t.wait(lambda: not old & {c["id"] for c in a.conns(open=True)}, 8, "the old ones are closed")
    for c in b.conns():
        if c["roles"]:
            assert 2500 < c["opened"] - at < 4000, f"opened {c['opened'] - at:.0f} ms after it: {c}"
    assert metric(d, "sluice_redis_reconnects_total") == 0
    Added(r.db).many("orders", ["x", "y"])
    w.wait("ok", 2)


@limit(90)
def test_several_notifications(t):
    """Newer, older, twice, late ones; moves that succeed, fail, are overtaken or come too late: counters, lines, states."""
    r, g, d, w = setup(t, gates=4, cfg={"log": {"level": "info"}, "redis": {"connect_timeout": "3s"}, "maintenance": {
        "relaxed_timeout": "3s", "post_handoff_relaxed": "500ms", "max_handoff_retries": 1, "handoff_timeout": "5s"}})
    hang = g[3]
    hang.ask("mode", mode="hang")
    load = Stream(r, entries=20, events=10)
    t.wait(lambda: {c["handoff"] for c in connections(d).values()} == {"idle"}, 5, "idle says idle")

    g[0].push(moving(5, 9, hang.endpoint) * 2)
    t.wait(lambda: {c["handoff"] for c in connections(d).values()} == {"handing-off"}, 5, "nodes shows three that move")
    g[0].push(moving(6, 9, g[1].endpoint))
    t.wait(lambda: all_there(g[1]), 8, "the newer one wins")
    g[1].push(moving(6, 5, g[1].endpoint) + moving(4, 9, g[2].endpoint))
    wait_metric(t, d, 1, 5, "sluice_maintenance_notifications_total", kind="moving", result="stale")
    time.sleep(1)
    assert all_there(g[1]) and not g[2].conns(), "an older one changes nothing"

    g[1].ask("lag", ms={"down": 2500})  # what is in flight keeps the old connections open
    g[1].push(moving(7, 4, g[2].endpoint))
    t.wait(lambda: all_there(g[2]), 5)
    n = len(hang.conns())
    stale = metric(d, "sluice_maintenance_notifications_total", kind="moving", result="stale")
    assert g[1].push(moving(8, 9, hang.endpoint)) and g[1].conns(open=True), "read on connections that were left"
    t.wait(lambda: "draining" in {c["handoff"] for c in connections(d).values()}, 5, "nodes shows what drains", every=0.1)
    wait_metric(t, d, stale + 1, 5, "sluice_maintenance_notifications_total", kind="moving", result="stale")
    t.wait(lambda: {c["handoff"] for c in connections(d).values()} == {"idle"}, 10, "all is quiet again")
    assert len(hang.conns()) == n and all_there(g[2]), "a late one changes nothing"

    g[2].push(moving(9, 3, hang.endpoint))
    t.wait(lambda: len(hang.conns(open=True)) >= 2, 5)
    g[2].ask("close")  # before the new one is ready
    t.wait(lambda: all_there(g[0]), 15, "the configured address")
    g[1].ask("refuse")
    g[0].push(moving(10, 3, g[1].endpoint))
    wait_metric(t, d, 1, 10, "sluice_handoffs_total", result="failed")

    add = load.stop()
    checks.wait_clean(r.db, timeout=30)
    checks.all_good(add.sure, [w.journal])
    for result, n in (("ok", 2), ("superseded", 1), ("fallback", 1), ("failed", 1)):
        wait_metric(t, d, n, 5, "sluice_handoffs_total", result=result)
        assert metric(d, "sluice_handoffs_total", result=result) == n, result
    assert metric(d, "sluice_maintenance_notifications_total", kind="moving", result="acted") == 5
    assert metric(d, "sluice_maintenance_notifications_total", kind="moving", result="duplicate") >= 5
    for seq, end in ((5, "superseded"), (6, "done: moved=3"), (7, "done: moved=3"), (9, ".*the old connections ended first"), (10, "failed: ")):
        assert d.log.count(f"maintenance: MOVING seq={seq} ") == 1, f"one line for the notification {seq}"
        assert len(re.findall(f"handoff seq={seq} to .*", d.log)) == 1 and re.search(f"handoff seq={seq} to \\S+ {end}", d.log), \
            f"one line for the handoff {seq}: {re.findall('.*handoff seq=.*', d.log)}"
    assert "seq=8 " not in d.log


@limit(60)
def test_a_storm_of_moves(t):
    """Each connection hears hundreds, and none hears one when another does: the last one counts, nothing is lost."""
    r, g, d, w = setup(t, cfg={"log": {"level": "info"}, "maintenance": {"post_handoff_relaxed": "500ms"}})
    load = Stream(r, entries=20, events=10)
    for end in (None, g[1].endpoint, g[0].endpoint):
        for n in range(20):
            g[0].push("".join(moving(n * 20 + i, (n + i) % 3, end if i % 2 else None) for i in range(20)))
    assert d.is_running(), d.log[-300:]
    t.wait(lambda: {c["handoff"] for c in connections(d).values()} == {"idle"}, 20, "all is quiet again")
    add = load.stop()
    checks.wait_clean(r.db, timeout=30)
    checks.all_good(add.sure, [w.journal])


@limit(60)
def test_nodes_shows_every_connection(t):
    """Fifty services: 52 connections, each with its state, all of them relaxed when that is announced."""
    r = t.redis()
    g = gate.Gates(t).gate(r)
    d = t.daemon([g.endpoint], services=[f"s{i}" for i in range(50)], cfg={"redis": {"keyspace_events": "require"}})

    def states():
        return [c["handoff"] for n in d.json("nodes") for c in n["connections"] if c["state"] == "ready"]
    t.wait(lambda: states() == ["idle"] * 52, 20, "52 idle connections")
    g.push(note("MIGRATING", 1, 2, "[]"))
    t.wait(lambda: states() == ["relaxed"] * 52 and metric(d, "sluice_relaxed_connections") == 52, 10, "52 relaxed ones")
    g.push(note("MIGRATED", 2, "[]"))
    t.wait(lambda: states() == ["idle"] * 52, 10, "idle again")


@limit(60)
def test_entry_that_the_old_connection_lost(t):
    """It was delivered to the old reader, but the answer never came: found in our own pending list at once, not by a scan."""
    r, g, d, w = setup(t, cfg={"maintenance": {"handoff_timeout": "3s"}})
    g[0].ask("swallow", role="reader", n=1)
    add = Added(r.db)
    add.many("orders", ["lost"])
    g[0].push(moving(1, 10, g[1].endpoint))
    w.wait("ok", 1, timeout=8)  # a recovery scan would come much later
    t.wait(lambda: all_there(g[1]), 8)
    checks.wait_clean(r.db)
    checks.all_good(add.sure, [w.journal])


@limit(120)
def test_one_master_of_three_moves(t):
    """Connections to other addresses are untouched; the shard works at its new endpoint under load, one reader per LBS key."""
    c = t.cluster()
    gs = gate.Gates(t)
    ports = [(n.port, servers.free_port()) for n in c.nodes]
    rewrite = [(f":{a}\r\n", f":{b}\r\n") for a, b in ports] + [(f":{a}", f":{b}") for a, b in ports]
    g = [gs.gate(n, port=b, rewrite=rewrite) for n, (_, b) in zip(c.nodes, ports)]
    home = c.nodes.index(c.master_of("orders-input"))
    extra = gs.gate(c.nodes[home], rewrite=rewrite)
    d = t.daemon([x.endpoint for x in g], cfg={"redis": {"keyspace_events": "require", "topology_refresh": "10m"}})
    w = t.worker(d, credits=20, work=0.01)
    t.wait(lambda: all_there(g[home]), 10)
    others = [x for x in g if x is not g[home]]
    t.wait(lambda: all(len([y for y in x.conns(open=True) if y["roles"]]) >= 2 for x in others), 10)
    before = {x.name: {y["id"] for y in x.conns(open=True) if y["roles"]} for x in others}
    add = Added(c.db)
    g[home].push(moving(1, 5, extra.endpoint))
    for n in range(20):
        add.many("orders", [f"s{n}-{i}" for i in range(5)])
        time.sleep(0.1)
    t.wait(lambda: all_there(extra), 8)
    w.wait("ok", 100, timeout=20)
    t.wait(lambda: not [x for x in g[home].conns(open=True) if x["roles"]], 8, "the old ones are closed")
    for x in others:
        assert before[x.name] <= {y["id"] for y in x.conns(open=True)}, "another address was disturbed"
    assert [len([y for y in x.conns() if "reader" in y["roles"]]) for x in (g[home], extra)] == [1, 1]
    assert reader_overlap(g[home], extra) < 1000, "two readers of one LBS key"
    assert metric(d, "sluice_redis_reconnects_total") == 0
    checks.wait_clean(c.db, timeout=30)
    checks.all_good(add.sure, [w.journal])
