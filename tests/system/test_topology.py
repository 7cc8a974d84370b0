"""Which map is true, and what a master that does not answer may stop: maps with odd rows, redirections without a host, nodes that
are cut off, slots without a master, shards that cannot start, addresses that change."""
import json
import os
import resource
import threading
import time

from lib import checks, servers
from lib.bus import BusCluster
from lib.case import limit, no_acl
from lib.certs import Authority
from lib.checks import Added
from lib.daemon import http, program
from lib.entries import EntryWorker, add, check_order, entries
from lib.liar import Liar
from lib.redis import SEP, RedisError, slot_of
from lib.servers import loopback, spawn
from lib.worker import connect

issue = 12


def lines(d, *words):
    """Lines of the log with all the words."""
    return [x for x in d.log.splitlines() if all(w in x for w in words)]


def one_done(w, db, stream, timeout=15):
    n = len(w.frames("ok"))
    Added(db).one("orders", stream)
    w.wait("ok", n + 1, timeout)


def addresses(d):
    return [x["redis"] for x in d.json("nodes")]


# ---- redirections and rows without a host

def half_moved(c, slot, src, dst):
    dst.db.cmd("CLUSTER", "SETSLOT", slot, "IMPORTING", src.id)
    src.db.cmd("CLUSTER", "SETSLOT", slot, "MIGRATING", dst.id)
    while keys := src.db.cmd("CLUSTER", "GETKEYSINSLOT", slot, 10):
        src.db.cmd("MIGRATE", dst.host, dst.port, "", 0, 5000, "KEYS", *keys)


def unknown_endpoints(t, asking):
    c = t.cluster(args=["--cluster-preferred-endpoint-type", "unknown-endpoint"])
    d = t.daemon(c.endpoints[:1], T=3, cfg={"redis": {"topology_refresh": "60s"}}, service={"same_stream": "allow"} if asking else None)
    w = t.worker(d, credits=4, work=0)
    slot = slot_of("orders-input")
    src, dst, other = c.nodes  # slots are spread in this order
    one_done(w, src.db, "s1")
    half_moved(c, slot, src, dst)
    if asking:  # the entry is there already: only an ASK leads to it
        n = len(w.frames("ok"))
        dst.db.pipe([("ASKING",), ("XADD", "orders-input", "*", "lbs-input", '{"DataStreamName":"asked","Info":{}}')])
        w.wait("ok", n + 1, 15)
    for n in (dst, src, other):
        n.db.cmd("CLUSTER", "SETSLOT", slot, "NODE", dst.id)
    try:
        src.db.cmd("XLEN", "orders-input")
        raise AssertionError("no MOVED")
    except RedisError as e:
        assert str(e) == f"MOVED {slot} :{dst.port}", e
    one_done(w, dst.db, "s2")
    t.wait(lambda: sorted(addresses(d)) == sorted(n.endpoint for n in c.nodes), 20, "nodes shows masters only")
    assert not lines(d, "not started"), d.log[-3000:]


@limit(60)
def test_moved_without_a_host_means_the_host_that_said_it(t):
    unknown_endpoints(t, asking=False)


@limit(60)
def test_ask_without_a_host_means_the_host_that_said_it(t):
    unknown_endpoints(t, asking=True)


@limit(60)
@no_acl("the endpoint is a path")
def test_a_path_is_no_host_of_a_row(t):
    """A node of a cluster asked at its Unix socket: rows without a host do not get the path for one."""
    c = t.cluster(args=["--cluster-preferred-endpoint-type", "unknown-endpoint"])
    d = t.daemon([f"unix:{c.nodes[0].path}"], T=3)
    w = t.worker(d, credits=4, work=0)
    one_done(w, c.nodes[0].db, "s1")
    assert sorted(addresses(d)) == sorted(n.endpoint for n in c.nodes), addresses(d)


@limit(60)
def test_a_question_mark_is_never_dialled(t):
    """Hostnames preferred and not set: the host of every row is "?"."""
    c = t.cluster(args=["--cluster-preferred-endpoint-type", "hostname"])
    assert c.nodes[0].db.cmd("CLUSTER", "SLOTS")[0][2][0] == "?"
    d = t.daemon(c.endpoints[:1], T=3, cfg={"redis": {"topology_refresh": "60s"}})
    w = t.worker(d, credits=4, work=0)
    one_done(w, c.nodes[0].db, "s1")
    slot, (src, dst, other) = slot_of("orders-input"), c.nodes
    half_moved(c, slot, src, dst)
    for n in (dst, src, other):
        n.db.cmd("CLUSTER", "SETSLOT", slot, "NODE", dst.id)
    one_done(w, dst.db, "s2")
    assert not lines(d, "?:"), d.log[-3000:]


@limit(60)
@no_acl("TLS and a user of its own")
def test_port_0_of_a_node_with_tls_only(t):
    """tls-cluster is off, the plain port closed: 7.0 reports port 0. It is the port that was asked."""
    host, ca = loopback(), Authority(t.path("ca"))
    crt, key = ca.issue(f"IP:{host}")
    s = servers.Server(t.dir, "n0", cluster=True)
    t.ending(s.kill)
    tls = servers.free_port()
    s.argv[s.argv.index("--port") + 1] = "0"
    s.argv += ["--cluster-enabled", "yes", "--cluster-port", str(servers.free_port() + 10000), "--tls-port", str(tls), "--tls-cert-file", crt,
               "--tls-key-file", key, "--tls-ca-cert-file", ca.crt, "--tls-auth-clients", "no"]
    s.start()
    s.db.cmd("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    t.wait(lambda: "cluster_state:ok" in s.db.cmd("CLUSTER", "INFO"), 20, "cluster ok")
    d = t.daemon([f"{host}:{tls}"], T=3, cfg={"redis": {"tls": {"enabled": True, "ca_file": ca.crt}}})
    w = t.worker(d, credits=1, work=0)
    one_done(w, s.db, "s1")
    assert addresses(d) == [f"{host}:{tls}"]


# ---- which map is true

def bus_cluster(t, **kw):
    c = BusCluster(t.path("c"), **kw)
    t.ending(c.kill)
    return c.start()


def cut_off(t, c):
    """nodes[0] says cluster_state:fail and keeps its old map, the others go on without it."""
    c.cut()
    t.wait(lambda: "cluster_state:fail" in c.nodes[0].db.cmd("CLUSTER", "INFO"), 20, "the node knows that it is cut off")
    t.wait(lambda: "cluster_state:ok" in c.nodes[1].db.cmd("CLUSTER", "INFO") and
           c.owners(c.nodes[0]) != c.owners(c.nodes[1]), 20, "its replica has taken over")


@limit(90)
def test_a_node_that_is_cut_off_is_not_believed(t):
    c = bus_cluster(t, replicas=1)
    cut_off(t, c)
    m = t.path("m")
    d = t.daemon(c.endpoints[:1], T=3, ready=False, cfg={"metrics": {"listen": f"unix:{m}"}})
    t.wait(lambda: d.ctl("status").returncode == 0, 10)
    d.wait_log("cluster_state:fail")
    p = d.ctl("status", "--ready")
    assert p.returncode == 1 and "cluster_state:fail" in p.stderr and c.nodes[0].endpoint in p.stderr, p
    assert http(m, "/readyz")[0] == 503
    p = d.ctl("add", "orders", "x")
    assert p.returncode == 1 and "cluster_state:fail" in p.stderr, p
    w = t.worker(d, credits=4, work=0)
    c.join()
    d.wait_ready(40)
    one_done(w, c.client(), "s1")


@limit(90)
def test_another_node_is_asked_when_one_is_cut_off(t):
    """The first endpoint is cut off while the daemon runs: no map flips, work goes on with the others."""
    c = bus_cluster(t, replicas=1)
    d = t.daemon(c.endpoints[:2], T=3, cfg={"redis": {"topology_refresh": "500ms"}})
    w = t.worker(d, credits=4, work=0)
    one_done(w, c.client(), "s0")
    cut_off(t, c)
    db = servers.ClusterClient([n.tcp for n in c.nodes[1:]])
    t.ending(db.close)
    for i in range(3):
        one_done(w, db, f"s{i + 1}", 30)
    at = len(lines(d, "topology cluster"))
    new = next(n for n in c.nodes[1:] if c.owners(c.nodes[1]).get(n.id) and n not in c.nodes[:3])
    t.wait(lambda: c.nodes[0].endpoint not in addresses(d) and new.endpoint in addresses(d), 20, "the new map is in use")
    seen = len(lines(d, "topology cluster"))
    end = time.monotonic() + 5
    while time.monotonic() < end:
        assert c.nodes[0].endpoint not in addresses(d)
        time.sleep(0.1)
    assert len(lines(d, "topology cluster")) == seen, lines(d, "topology cluster")[at:]
    d.wait_ready()


@limit(60)
def test_one_node_with_an_old_map_is_outvoted(t):
    """It is well by its own word, at the cluster's epoch, and the first that is asked."""
    c = t.cluster()
    liar = Liar(c.nodes[0])
    t.ending(liar.close)
    d = t.daemon([liar.endpoint, c.nodes[1].endpoint], T=3, cfg={"redis": {"topology_refresh": "300ms"}})
    w = t.worker(d, credits=4, work=0)
    one_done(w, c.db, "s0")
    liar.stick_to(c.nodes[0].db.cmd("CLUSTER", "SLOTS"))
    c.move_slot(slot_of("orders-input"), c.nodes[1])
    for i in range(4):
        n = liar.n_lies
        one_done(w, c.nodes[1].db, f"s{i + 1}")
        t.wait(lambda: liar.n_lies > n or d.ctl("topology", "refresh") is None, 10, "it lies again")
    assert len(lines(d, "topology cluster")) <= 2, lines(d, "topology cluster")
    assert not lines(d, "do not agree"), d.log[-2000:]


def is_reset(n):
    n.db.cmd("FLUSHALL")
    try:
        return n.db.cmd("CLUSTER", "RESET", "HARD")
    except RedisError:  # keys: the daemon has made its group again in between
        return False


@limit(60)
def test_a_cluster_made_anew_is_taken(t):
    """Its epochs begin again, far below what was seen."""
    c = t.cluster()
    c.nodes[0].db.cmd("CLUSTER", "BUMPEPOCH")
    d = t.daemon(c, T=3, cfg={"redis": {"topology_refresh": "500ms"}})
    w = t.worker(d, credits=4, work=0)
    one_done(w, c.db, "s1")
    for n in c.nodes:
        t.wait(lambda: is_reset(n), 10, "the node is empty")
    for i, n in enumerate(c.nodes):  # the slots go round by one
        n.id = n.db.cmd("CLUSTER", "MYID")
        first = (i + 1) % 3 * 5461
        n.db.cmd("CLUSTER", "ADDSLOTSRANGE", first, first + 5460 if first < 10922 else 16383)
        n.db.cmd("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
    for n in c.nodes[1:]:
        c.nodes[0].db.cmd("CLUSTER", "MEET", n.host, n.port)
    c.wait_ok()
    one_done(w, servers.ClusterClient([n.tcp for n in c.nodes]), "s2", 40)
    d.wait_ready()


@limit(60)
def test_a_daemon_with_the_old_acl_file_goes_on(t):
    """CLUSTER INFO is not allowed to it: one map is as good as another then, and that is said once."""
    c = t.cluster()
    for n in c.nodes:
        n.db.cmd("ACL", "SETUSER", "old", "on", "nopass", "~*", "&*", "+@all", "-cluster|info")
    d = t.daemon(c, T=3, cfg={"redis": {"username": "old", "password": {"env": "OLD_PASSWORD"}, "topology_refresh": "500ms"}}, env={"OLD_PASSWORD": "x"})
    w = t.worker(d, credits=4, work=0)
    one_done(w, c.db, "s1")
    new = c.nodes[1]
    c.move_slot(slot_of("orders-input"), new)
    one_done(w, c.db, "s2")
    assert len(lines(d, "CLUSTER INFO")) == 1, lines(d, "CLUSTER INFO")


@limit(90)
def test_a_cluster_that_may_not_be_asked_is_no_standalone_server(t):
    """The right comes later: not ready until then, in the server's words, nothing is begun; lost again, the last map stays."""
    c = t.cluster()
    cluster = lambda right: [n.db.cmd("ACL", "SETUSER", "late", "on", "nopass", "~*", "&*", "+@all", right) for n in c.nodes]  # noqa: E731
    cluster("-cluster")
    d = t.daemon(c, T=3, ready=False, env={"LATE_PASSWORD": "x"}, cfg={"log": {"level": "info"}, "redis": {
        "username": "late", "password": {"env": "LATE_PASSWORD"}, "topology_refresh": "500ms"}})
    d.wait_log("NOPERM")
    w = t.worker(d, credits=10, work=0)
    Added(c.db).many("orders", [f"s{i}" for i in range(5)])
    time.sleep(3)
    r = d.ctl("status", "--ready")
    assert r.returncode == 1 and "NOPERM" in r.stdout + r.stderr, r
    assert "standalone" not in d.log and not w.frames("assign"), d.log
    assert len(d.log.splitlines()) < 12, d.log
    cluster("+cluster")
    w.wait("ok", 5, timeout=10)
    d.wait_ready()
    cluster("-cluster")
    d.wait_log("topology cannot be read, the last one stays")
    one_done(w, c.db, "after")
    cluster("+cluster")
    t.wait(lambda: d.ctl("status", "--ready").returncode == 0, 20, "ready again")
    assert d.log.count(" started") == 3 and "stopped" not in d.log, d.log


@limit(90)
def test_one_master_of_a_cluster_taken_for_a_standalone_server(t):
    """redis.topology is wrong: what others have waits, and it is said what to change. Shards came and went ten times a second, "ready"."""
    for has_lbs in (True, False):
        c = t.cluster()
        node = next(n for n in c.nodes if (n is c.master_of("orders-input")) == has_lbs)
        d = t.daemon(node, T=3, ready=False, cfg={"log": {"level": "info"}, "redis": {"topology": "standalone", "topology_refresh": "500ms"}})
        d.wait_log(" started")
        w = t.worker(d, credits=10, work=0)
        names = [f"s{i}" for i in range(20)]
        Added(c.db).many("orders", names)
        words = "set redis.topology to auto"
        t.wait(lambda: words in d.ctl("status", "--ready").stderr, 10, "not ready, with the reason")
        time.sleep(4)
        assert words in d.log and words in d.ctl("doctor").stdout and d.log.count(" started") == 1, d.log
        assert len(d.log.splitlines()) < 20, d.log
        assert bool(w.frames("assign")) == has_lbs  # those whose locks are there
        d.stop()
        d = t.daemon(c, T=3)
        w = t.worker(d, credits=10, work=0)
        t.wait(lambda: c.db.cmd("XLEN", "orders-input") == 0, 20, "all done")
        d.kill()


@limit(60)
def test_a_replica_promoted_by_hand(t):
    """How one Redis without Sentinel is upgraded: the daemon follows. Not ready for 15 s, and the line of the test above, were untrue."""
    here = ["--bind-source-addr", loopback(), "--replica-announce-ip", loopback()]
    a, b = t.redis(), t.redis(args=here)
    b.db.cmd("REPLICAOF", a.host, a.port)
    t.wait(lambda: "master_link_status:up" in b.db.cmd("INFO", "replication"), 10, "in step")
    t.wait(lambda: "state=online" in a.db.cmd("INFO", "replication"), 10, "which the master knows, too")
    endpoints = [f"{x.host}:{x.port}" for x in (a, b)]
    d = t.daemon(endpoints, cfg={"log": {"level": "info"}, "redis": {"topology_refresh": "1s"}})
    w = t.worker(d, credits=40, work=lambda f: None if f["stream"][0] == "h" else 0.1)
    Added(a.db).many("orders", [f"h{i}" for i in range(20)])
    w.wait("assign", 20)
    Added(a.db).many("orders", [f"s{i}" for i in range(500)])
    a.db.cmd("FAILOVER", "TO", b.host, b.port)
    t.wait(lambda: b.db.cmd("ROLE")[0] == "master", 10, "promoted")
    t.wait(lambda: endpoints[1] in d.ctl("nodes").stdout, 10, "followed")
    time.sleep(1)
    d.wait_ready(5)
    t.wait(lambda: b.db.cmd("XLEN", "orders-input") == 20, 30, "the rest is done")
    assert "MOVED" not in d.log and not w.frames("revoke") and len(w.frames("assign")) == 520, d.log


@limit(60)
def test_slot_of_the_lbs_without_a_master(t):
    c = t.cluster(args=["--cluster-require-full-coverage", "no"])
    m = t.path("m")
    d = t.daemon(c, T=3, cfg={"redis": {"topology_refresh": "500ms"}, "metrics": {"listen": f"unix:{m}"}})
    w = t.worker(d, credits=4, work=0)
    one_done(w, c.db, "s1")
    slot = slot_of("orders-input")
    for n in c.nodes:
        try:
            n.db.cmd("CLUSTER", "DELSLOTS", slot)
        except RedisError:
            pass  # not known there any more
    words = f"service orders: slot {slot} has no master"
    t.wait(lambda: words in d.ctl("status", "--ready").stderr, 20, "not ready")
    status, body = http(m, "/readyz")
    assert status == 503 and words in body, body
    assert words in d.ctl("status").stdout
    s, = d.json("status")
    assert s["ready"] is False and words in s["reasons"], s
    p = d.ctl("explain", "orders-nothing")
    assert f"slot {slot}" in p.stdout + p.stderr, p
    p = d.ctl("add", "orders", "x")
    assert p.returncode == 1 and f"slot {slot} has no master" in p.stderr, p
    assert len(lines(d, f"slot {slot} has no master")) == 1, d.log[-2000:]
    c.nodes[0].db.cmd("CLUSTER", "ADDSLOTS", slot)
    d.wait_ready()
    t.wait(lambda: "cluster_state:ok" in c.nodes[0].db.cmd("CLUSTER", "INFO"), 20)
    n = len(w.frames("ok"))
    c.nodes[0].db.cmd("XADD", "orders-input", "*", "lbs-input", '{"DataStreamName":"s2","Info":{}}')
    w.wait("ok", n + 1, 15)


# ---- shards that come and go

@limit(300)
@no_acl("its own server")
def test_600_addresses_in_one_life(t):
    """One server at every address of 127/8 announces a new one 600 times: as many as nodes of a cloud in a year."""
    a, b = (int(x) for x in loopback().split(".")[1:3])
    s = servers.Server(t.dir, "n0", cluster=True)
    s.argv[s.argv.index("--bind") + 1] = "0.0.0.0"
    s.port = 20000 + os.getpid() % 10000
    s.argv[s.argv.index("--port") + 1] = str(s.port)
    s.argv += ["--cluster-enabled", "yes", "--cluster-announce-ip", f"127.{a}.{b}.1", "--cluster-port", str(s.port + 10000)]
    t.ending(s.kill)
    s.start()
    s.db.cmd("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    t.wait(lambda: "cluster_state:ok" in s.db.cmd("CLUSTER", "INFO"), 20, "cluster ok")
    d = t.daemon([f"{loopback()}:{s.port}"], T=3, cfg={"redis": {"topology_refresh": "60s"}, "log": {"level": "info"}})
    w = t.worker(d, credits=4, work=0)
    for i in range(600):
        ip = f"127.{a + 1 + i // 250}.{b}.{1 + i % 250}"
        s.db.cmd("CONFIG", "SET", "cluster-announce-ip", ip)

        def is_seen():
            d.ctl("topology", "refresh")
            return f"{ip}:{s.port}" in addresses(d)
        t.wait(is_seen, 20, f"address {i}: {ip}", 0.02)
        if i % 50 == 49 or i > 510 and i % 10 == 0:
            one_done(w, s.db, f"x{i}")
            assert d.ctl("status", "--ready").returncode == 0 or d.wait_ready() is None
    t.wait(lambda: len(addresses(d)) == 1, 20, "former addresses are gone")
    with open(f"/proc/{d.proc.pid}/status") as f:
        n = next(int(x.split()[1]) for x in f if x.startswith("Threads"))
    assert n < 20, n
    assert not lines(d, " error ")


@limit(90)
@no_acl("a user of the system of its own")
def test_a_thread_that_is_refused_for_a_while(t):
    """TasksMax is reached when a master fails over: the shard starts later, what was meant for it is not lost."""
    uid = 54321 + os.getpid() % 5000
    if os.getuid() != 0:
        return print("skipped: needs root to run the daemon as another user")
    as_other = ["setpriv", "--reuid", str(uid), "--clear-groups"]
    for path in (os.path.dirname(t.dir), t.dir):
        os.chmod(path, 0o711)
    c = t.cluster(replicas=1)
    os.makedirs(t.path("d9"))
    os.chmod(t.path("d9"), 0o777)
    d = t.daemon(c, name="d9", T=6, wrap=as_other, cfg={"redis": {"topology_refresh": "1s"}, "workers": {"mode": "0666"}}, start=False)
    os.chmod(d.conf, 0o644)
    d.start()
    w = t.worker(d, credits=4)
    Added(c.db).one("orders", "held")
    w.wait("assign", 1)
    pid = d.proc.pid

    def limit_to(n):
        assert t.run([*as_other, "prlimit", "--pid", str(pid), f"--nproc={n}:"]).returncode == 0
    limit_to(len(os.listdir(f"/proc/{pid}/task")) - 1)  # that of the former master's shard will have gone
    m = c.master_of("orders-input")
    new = c.failover(m)
    c.wait_ok()
    d.wait_log("not started")
    w.finish(next(iter(w.held.values())))  # its answer waits for the shard
    p = d.ctl("status", "--ready")
    assert p.returncode == 1 and f"{new.endpoint}: " in p.stderr and "thread" in p.stderr, p
    t0 = time.monotonic()
    t.wait(lambda: time.monotonic() > t0 + 3 and not w.frames("ok"), 10, "three seconds without a thread")
    limit_to(len(os.listdir(f"/proc/{pid}/task")) + 50)
    t0 = time.monotonic()
    Added(c.db).one("orders", "s2")
    w.wait("ok", 1, 20)
    w.wait("assign", 2, 20)
    took = time.monotonic() - t0
    print(f"= threads to be had again: served {took:.2f} s after")
    assert took < 2, f"served {took:.1f} s after threads were to be had again"
    assert len(lines(d, " error ")) <= 3, lines(d, " error ")
    t.wait(lambda: d.ctl("status", "--ready").returncode == 0, 20, "ready")
    assert sorted(addresses(d)) == sorted(x.endpoint for x in c.masters()), addresses(d)


@limit(90)
def test_descriptors_that_run_out_when_a_shard_is_to_start(t):
    """No loop can be made: the shard starts later, the process lives."""
    c = t.cluster(replicas=1)
    d = t.daemon(c, T=6, cfg={"redis": {"topology_refresh": "1s"}})
    w = t.worker(d, credits=4)
    Added(c.db).one("orders", "held")
    w.wait("assign", 1)
    pid = d.proc.pid
    hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]

    def room(n):
        """At most n descriptors above the highest that is open."""
        top = max(int(x) for x in os.listdir(f"/proc/{pid}/fd"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (top + 1 + n, hard))
    taken = [connect(d.worker_sock) for _ in range(20)]  # the gaps below it are filled
    t.wait(lambda: len(os.listdir(f"/proc/{pid}/fd")) > 20, 10)
    room(1)
    new = c.failover(c.master_of("orders-input"))
    d.wait_log("not started", 20)
    assert any("no descriptors" in x for x in lines(d, "not started")), lines(d, "not started")
    for x in taken:
        x.close()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
    w.finish(next(iter(w.held.values())))
    w.wait("ok", 1, 20)
    t.wait(lambda: new.endpoint in addresses(d) and d.ctl("status", "--ready").returncode == 0, 20, "all is well again")


# ---- unlocks

@limit(120)
def test_no_lock_of_a_finished_entry_outlives_a_failover(t):
    """Work is finished while a master's replica takes over: each lock is deleted where its slot is now."""
    c = t.cluster(replicas=1)
    d = t.daemon(c, T=10, cfg={"redis": {"topology_refresh": "1s"}})
    w = t.worker(d, credits=400)
    added = Added(c.db)
    added.many("orders", [f"s{i}" for i in range(300)])
    w.wait("assign", 300, 30)
    todo, failed = list(w.held.values()), []

    def finish():
        for a in todo:
            w.finish(a)
            time.sleep(0.004)
    th = threading.Thread(target=finish)
    th.start()
    for m in c.masters()[:2]:
        try:
            c.failover(m)
        except AssertionError as e:
            failed.append(e)
    th.join()
    w.wait("ok", 300, 30)
    c.wait_ok()
    t.wait(lambda: not checks.locks(c.db), 3, "no lock is left", 0.1)
    assert not failed, failed


# ---- a master that does not answer

@limit(120)
def test_what_waits_for_a_dead_master_leaves_its_credit_to_others(t):
    """A third of all locks, and of all data streams, are there. Their entries had every credit within seconds, and what lives on the
    other two masters stood still for as long as that one was away."""
    c = t.cluster(aof=True, args=["--cluster-require-full-coverage", "no"])
    lbs = [c.master_of(f"{x}-input") for x in ("orders", "events")]
    dead = next(n for n in c.masters() if n not in lbs)
    d = t.daemon(c, T=6, services=("orders", "events"), start=False)
    d.cfg["services"][1].update(entries(idle_release="1s"), same_stream="coalesce")
    d.write()
    d.start()
    w = t.worker(d, credits=4, work=0, services=["orders"])
    keys = [f"k{i}" for i in range(40)]
    added = {k: add(c.db, k, 3) for k in keys}
    alive = [k for k in keys if c.master_of(k) is not dead]
    streams = [f"s{i}" for i in range(60)]
    dead.stop()
    t.wait(lambda: "cluster_state:ok" in lbs[0].db.cmd("CLUSTER", "INFO"), 10)
    t0 = time.monotonic()
    for n, k in zip(streams, keys + alive):
        lbs[0].db.cmd("XADD", "orders-input", "*", "lbs-input", json.dumps({"DataStreamName": n}))
        lbs[1].db.cmd("XADD", "events-input", "*", "lbs-input", json.dumps({"DataStreamName": k}))
    e = EntryWorker(d.worker_sock, "e", credits=4, services=["events"])
    t.ending(e.close)
    w.wait("ok", len(streams), 30)  # also those whose lock was there: a new id has another one
    t.wait(lambda: {k for k, *_ in e.done} >= set(alive), 30, "all keys of the two masters")
    print(f"= all that could be done was after {time.monotonic() - t0:.1f} s")
    dead.start()
    c.wait_ok()
    t.wait(lambda: len({x[:2] for x in e.done}) == 120, 30, "the keys of the third, too")
    assert check_order(e.done, added) == 120
    assert max(a["retry"] for a in w.frames("assign")) == 0, "nobody has failed"
    checks.wait_clean(c.db, ("orders", "events"), timeout=20)
    checks.none(checks.overlaps([w.journal]) + checks.lost(streams, [w.journal]))


RUN = """import json, os, signal, sys, time
out = os.environ["OUT"] + "/" + os.environ["SLUICE_STREAM"]
def stop(*_):
    open(out + ".stopped", "w").close()
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
open(out + ".began", "a").close()
time.sleep(600)
"""


def one_of_three_masters_dies(t, round):
    c = servers.Cluster(t.path(f"c{round}"), node_timeout_ms=5000, args=["--cluster-require-full-coverage", "no"])
    t.ending(c.kill)
    c.start()
    d = t.daemon(c, name=f"d{round}", T=10)
    out, script = t.path(f"out{round}"), t.path("run.py")
    os.makedirs(out)
    with open(script, "w") as f:
        f.write(RUN)
    p = spawn([program("sluice-run"), "-s", d.worker_sock, "-n", "24", "--", "python3", script], t.path(f"run{round}.log"),
              env=dict(os.environ, OUT=out))
    t.ending(p.kill)
    ids = {}
    for i in range(24):  # over a whole round of renewals, so that each lease has its own time
        ids[f"s{i}"] = Added(c.db).one("orders", f"s{i}")
        time.sleep(0.14)
    t.wait(lambda: sum(x.endswith(".began") for x in os.listdir(out)) == 24, 30, "24 commands run")
    lbs = c.master_of("orders-input")
    dead = next(n for n in c.masters() if n is not lbs)
    on_dead = set()
    for s, i in ids.items():
        if c.master_of(s + SEP + i) is dead:
            on_dead.add(s)
    assert on_dead and len(on_dead) < 24, on_dead
    time.sleep((round * 0.37) % 3.3)  # the moment within the round of renewals
    dead.kill()
    stopped = lambda: {x.split(".")[0] for x in os.listdir(out) if x.endswith(".stopped")}  # noqa: E731
    t.wait(lambda: on_dead <= stopped(), 20, "streams with their lock on the dead master stop")
    end = time.monotonic() + 10  # more than T: nothing else stops
    while time.monotonic() < end:
        assert stopped() == on_dead, (stopped(), on_dead)
        time.sleep(0.2)
    p.kill()
    p.wait()
    d.kill()
    c.kill()


@limit(240)
def test_one_of_three_masters_dies_the_others_streams_go_on(t):
    for i in range(int(os.environ.get("ROUNDS", 3))):
        one_of_three_masters_dies(t, i)
