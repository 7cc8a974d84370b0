"""Real redis-server processes: standalone and cluster.

Every process started here dies with the process that started it (PR_SET_PDEATHSIG), so spawn from the main thread.
Each test process has its own loopback address, 127.x.y.z from its pid: parallel tests cannot take each other's ports."""
import ctypes
import os
import signal
import subprocess
import time

from lib import acl
from lib.redis import N_SLOTS, ClusterClient, Redis, RedisError, slot_of

SERVER = os.environ.get("SLUICE_REDIS_SERVER") or "redis-server"
LIBC = ctypes.CDLL(None, use_errno=True)
_next_port = [7000]


def loopback(other=0):
    """This process's; other: 0, 64 or 128, a second and a third one."""
    pid = os.getpid()
    return f"127.{16 + other + (pid >> 16 & 63)}.{pid >> 8 & 255}.{pid & 255}"


def free_port():
    _next_port[0] += 1
    return _next_port[0]


def die_with_parent():
    LIBC.prctl(1, signal.SIGKILL)


def spawn(argv, log, **kw):
    with open(log, "ab") as f:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=f, stderr=f, preexec_fn=die_with_parent, **kw)


def wait_until(cond, timeout=10, what=None, every=0.02):
    """Returns the first true value of cond(); connection trouble counts as false."""
    end = time.monotonic() + timeout
    while True:
        try:
            v = cond()
        except (OSError, RedisError) as e:
            v, what = None, f"{what or 'condition'} ({e})" if time.monotonic() > end else what
        if v:
            return v
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout:g} s: {what or cond}")
        time.sleep(every)


class Process:
    """Something we started: signals, end, exit status."""
    proc = None

    def signal(self, sig):
        if self.proc and self.proc.poll() is None:
            self.proc.send_signal(sig)

    def pause(self):
        self.signal(signal.SIGSTOP)

    def cont(self):
        self.signal(signal.SIGCONT)

    def kill(self):
        self.signal(signal.SIGKILL)
        if self.proc:
            self.proc.wait()

    def wait(self, timeout=10):
        return self.proc.wait(timeout)

    def is_running(self):
        return self.proc is not None and self.proc.poll() is None


class Server(Process):
    """One redis-server on a unix socket and a port of our loopback address."""

    def __init__(self, dir, name="redis", password=None, aof=False, args=(), cluster=False):
        self.dir = os.path.join(dir, name)
        os.makedirs(self.dir, exist_ok=True)
        self.name, self.password, self.host, self.port = name, password, loopback(), free_port()
        self.path = os.path.join(self.dir, "sock")
        self.argv = [SERVER, "--port", str(self.port), "--bind", self.host, "--unixsocket", self.path, "--dir", self.dir,
                     "--save", "", "--appendonly", "yes" if aof else "no", "--appendfsync", "always",
                     "--protected-mode", "no", "--daemonize", "no", "--repl-diskless-sync-delay", "0",
                     "--repl-ping-replica-period", "1", "--enable-debug-command", "yes"]
        if password:
            self.argv += ["--requirepass", password]
        self.argv += list(args)
        self.is_cluster = cluster
        self.has_acl = acl.is_on() and not password and "--user" not in args  # a password: the test is about the default user
        if self.has_acl:
            acl.SERVERS.append(self)
            if "--notify-keyspace-events" not in args:
                self.argv += ["--notify-keyspace-events", "Kx"]
        self.db = Redis(self.path, password)

    @property
    def tcp(self):
        return self.host, self.port

    def move_to(self, host):
        """Before it starts: it will run on this host of a lab, at its address."""
        self.argv = host.inside(*(host.address if x == self.host else x for x in self.argv))
        self.host = host.address

    @property
    def endpoint(self):
        return f"{self.host}:{self.port}" if self.is_cluster else f"unix:{self.path}"

    @property
    def endpoints(self):
        return [self.endpoint]

    def launch(self):
        self.proc = spawn(self.argv + (["--user", *acl.user()] if self.has_acl else []), os.path.join(self.dir, "log"))
        return self

    def start(self):
        self.launch()
        return self.wait_up()

    def wait_up(self):
        def up():
            if self.proc.poll() is not None:
                raise AssertionError(f"{self.name} ended: {open(os.path.join(self.dir, 'log')).read()[-600:]}")
            return self.db.cmd("PING") == "PONG"
        wait_until(up, 15, f"{self.name} up", 0.005)
        return self

    def kill(self):
        super().kill()
        self.db.close()

    def stop(self):
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        if self.proc:
            self.wait(15)
        self.db.close()

    def client(self, **kw):
        kw.pop("patience", None)  # a cluster's
        return Redis(self.path, self.password, **kw)


class Cluster:
    """`masters` × (1 + `replicas`) nodes, slots spread evenly. nodes[i] for i < masters started as masters; the
    replicas of master i are nodes[masters + i], nodes[2 * masters + i], …"""

    def __init__(self, dir, masters=3, replicas=0, node_timeout_ms=1000, aof=False, args=()):
        self.n_masters, self.n_replicas = masters, replicas
        self.nodes = [Server(dir, f"n{i}", aof=aof, cluster=True, args=[
            "--cluster-enabled", "yes", "--cluster-announce-ip", loopback(), "--bind-source-addr", loopback(), "--cluster-node-timeout", str(node_timeout_ms),
            "--cluster-replica-validity-factor", "0", "--cluster-migration-barrier", "99",
            "--cluster-allow-replica-migration", "no", *args]) for i in range(masters * (1 + replicas))]
        self.db = ClusterClient([n.tcp for n in self.nodes])

    def client(self, **kw):
        return ClusterClient([n.tcp for n in self.nodes], **kw)

    @property
    def endpoints(self):
        return [n.endpoint for n in self.nodes[:3]]

    def start(self):
        for n in self.nodes:
            n.launch()
        per = N_SLOTS / self.n_masters
        for i, n in enumerate(self.nodes):
            n.wait_up()
            n.id = n.db.cmd("CLUSTER", "MYID")
            n.db.cmd("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
            if i < self.n_masters:
                n.db.cmd("CLUSTER", "ADDSLOTSRANGE", round(i * per), round((i + 1) * per) - 1)
        for n in self.nodes[1:]:
            self.nodes[0].db.cmd("CLUSTER", "MEET", n.host, n.port)
        wait_until(lambda: all(self.view(n) == len(self.nodes) for n in self.nodes), 20, "all nodes know each other")
        for i, n in enumerate(self.nodes[self.n_masters:]):
            n.db.cmd("CLUSTER", "REPLICATE", self.nodes[i % self.n_masters].id)
        self.wait_ok()
        return self

    @staticmethod
    def view(node):
        rows = [r.split() for r in node.db.cmd("CLUSTER", "NODES").splitlines()]
        return sum("handshake" not in r[2] and r[7] == "connected" for r in rows)

    def info(self, node, section="replication"):
        return dict(r.split(":", 1) for r in node.db.cmd("INFO", section).splitlines() if ":" in r)

    def role(self, node):
        return self.info(node)["role"]

    def wait_ok(self, timeout=30):
        """All running nodes agree that the cluster is whole; replicas are in sync."""
        live = [n for n in self.nodes if n.is_running()]

        def ok():
            for n in live:
                if "cluster_state:ok" not in n.db.cmd("CLUSTER", "INFO"):
                    return False
                i = self.info(n)
                if i["role"] == "slave" and i["master_link_status"] != "up":
                    return False
            return len({tuple(sorted(self.owners(n).items())) for n in live}) == 1
        wait_until(ok, timeout, "cluster ok")
        self.db.ranges = []

    @staticmethod
    def owners(node):
        out = {}
        for row in node.db.cmd("CLUSTER", "SLOTS"):
            out[row[2][2]] = out.get(row[2][2], 0) + row[1] - row[0] + 1
        return out

    def master_of(self, key):
        """The node that serves key's slot now."""
        addr = self.db.node_for(key).addr
        return next(n for n in self.nodes if n.tcp == addr)

    def masters(self):
        addrs = {m.addr for m in self.db.masters()}
        return [n for n in self.nodes if n.tcp in addrs]

    def replica_of(self, master):
        """A running replica of `master` that is in sync, or None."""
        for n in self.nodes:
            if n is master or not n.is_running():
                continue
            i = self.info(n)
            if i["role"] == "slave" and int(i["master_port"]) == master.port:
                return n
        return None

    def failover(self, master, option=None, timeout=20):
        """Manual failover: master's replica takes over; returns the new master."""
        rep = wait_until(lambda: self.replica_of(master), timeout, f"{master.name} has a replica")
        rep.db.cmd("CLUSTER", "FAILOVER", *([option] if option else []))
        wait_until(lambda: self.role(rep) == "master", timeout, f"{rep.name} becomes master")
        return rep

    def move_slot(self, slot, dst, keys_at_once=100):
        """Moves a slot with its keys to node `dst`, as redis-cli does."""
        self.db.refresh()
        src = next(n for n in self.nodes for a, b, addr in self.db.ranges if a <= slot <= b and addr == n.tcp)
        if src is dst:
            return
        dst.db.cmd("CLUSTER", "SETSLOT", slot, "IMPORTING", src.id)
        src.db.cmd("CLUSTER", "SETSLOT", slot, "MIGRATING", dst.id)
        while keys := src.db.cmd("CLUSTER", "GETKEYSINSLOT", slot, keys_at_once):
            src.db.cmd("MIGRATE", dst.host, dst.port, "", 0, 5000, "KEYS", *keys)
        for n in [dst, src] + [n for n in self.masters() if n not in (dst, src)]:
            try:
                n.db.cmd("CLUSTER", "SETSLOT", slot, "NODE", dst.id)
            except RedisError as e:  # a master that gave its last slot away is a replica by itself
                if "only with masters" not in str(e):
                    raise

    def migrate_slots(self, first, last, dst, timeout=30):
        """Moves slots of one master to node `dst`, keys and all at once."""
        self.db.refresh()
        src = next(n for n in self.nodes for a, b, addr in self.db.ranges if a <= first <= b and addr == n.tcp)
        src.db.cmd("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", first, last, "NODE", dst.id)
        wait_until(lambda: all(self.has_slots(n, dst, first, last) for n in self.nodes), timeout, f"{dst.name} has slots {first}-{last}")

    @staticmethod
    def has_slots(node, owner, first, last):
        """As node sees it."""
        return any(row[0] <= first and last <= row[1] and row[2][2] == owner.id for row in node.db.cmd("CLUSTER", "SLOTS"))

    def move_key(self, key, dst):
        self.move_slot(slot_of(key), dst)

    def kill(self):
        for n in self.nodes:
            n.kill()
        self.db.close()

    stop = kill
