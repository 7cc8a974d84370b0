"""A master, its replicas and real Sentinels that watch over them."""
import os

from lib import servers
from lib.redis import Redis, RedisError
from lib.servers import Process, free_port, loopback, spawn, wait_until

NAME = "mymaster"


class Sentinel(Process):
    def __init__(self, dir, name, master, quorum, password=None, lines=()):
        self.dir = os.path.join(dir, name)
        os.makedirs(self.dir)
        self.host, self.port, self.name = loopback(), free_port(), name
        self.conf = os.path.join(self.dir, "conf")
        with open(self.conf, "w") as f:
            f.write("\n".join([f"port {self.port}", f"bind {self.host}", f"dir {self.dir}", "protected-mode no", f"sentinel announce-ip {self.host}",
                               f"sentinel monitor {NAME} {master.host} {master.port} {quorum}", f"sentinel down-after-milliseconds {NAME} 1000",
                               f"sentinel failover-timeout {NAME} 3000", f"sentinel parallel-syncs {NAME} 2",
                               *([f"requirepass {password}"] if password else []), *lines]) + "\n")
        self.db = Redis((self.host, self.port), password)

    @property
    def endpoint(self):
        return f"{self.host}:{self.port}"

    def start(self):
        self.proc = spawn([servers.SERVER, self.conf, "--sentinel"], os.path.join(self.dir, "log"))
        wait_until(lambda: self.db.cmd("PING") == "PONG", 15, f"{self.name} up")
        return self

    def kill(self):
        super().kill()
        self.db.close()

    def master(self):
        host, port = self.db.cmd("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)
        return host, int(port)


class Watched:
    """nodes[0] starts as the master. `hosts`: of a lab, one for each node; Sentinels are with us."""

    def __init__(self, t, replicas=2, sentinels=3, password=None, args=(), hosts=()):
        self.t = t
        self.nodes = []
        for i in range(1 + replicas):
            own = ["--replica-announce-ip", hosts[i].address if hosts else loopback(), "--repl-diskless-sync", "yes", *args]
            if i:
                own += ["--replicaof", self.nodes[0].host, str(self.nodes[0].port)]
            self.nodes.append(t.redis(name=f"n{i}", args=own, start=False))
            if hosts:
                self.nodes[i].move_to(hosts[i])
        for n in self.nodes:
            n.start()
        self.sentinels = [Sentinel(t.dir, f"sentinel{i}", self.nodes[0], sentinels // 2 + 1, password) for i in range(sentinels)]
        for s in self.sentinels:
            t.ending(s.kill)
            s.start()
        wait_until(self.is_whole, 30, "Sentinels know each other and all replicas")

    def is_whole(self):
        for s in self.sentinels:
            if len(s.db.cmd("SENTINEL", "SENTINELS", NAME)) != len(self.sentinels) - 1:
                return False
            if len(s.db.cmd("SENTINEL", "REPLICAS", NAME)) != len(self.nodes) - 1:
                return False
        info = self.nodes[0].db.cmd("INFO", "replication")
        return info.count("state=online") == len(self.nodes) - 1

    @property
    def endpoints(self):
        return [s.endpoint for s in self.sentinels]

    def master(self):
        """By the Sentinels' majority."""
        said = [s.master() for s in self.sentinels if s.is_running()]
        best = max(set(said), key=said.count)
        return next(n for n in self.nodes if n.tcp == best)

    n_replicas = 1

    def client(self, **kw):
        return WatchedClient(self, kw.get("timeout", 10))

    def other_master(self, old, timeout=30):
        """Once all Sentinels agree on another master than `old`, and it is one."""
        def found():
            said = {s.master() for s in self.sentinels if s.is_running()}
            if len(said) != 1:
                return None
            n = next((n for n in self.nodes if n.tcp in said), None)
            return n if n and n is not old and n.db.cmd("ROLE")[0] == "master" else None
        return wait_until(found, timeout, "another master")

    def whole_master(self):
        """The master that all other nodes follow; None: there is none."""
        for n in self.nodes:
            try:
                if n.db.cmd("INFO", "replication").count("state=online") == len(self.nodes) - 1:
                    return n
            except (RedisError, OSError):
                continue
        return None


class WatchedClient:
    """Goes to what says that it is a master, by the Sentinels' word."""
    ranges = []

    def __init__(self, watched, timeout):
        self.watched, self.timeout, self.conns = watched, timeout, {}
        self.ask = {s.port: Redis((s.host, s.port), s.db.password, timeout) for s in watched.sentinels}

    def node_for(self, _key):
        for s in self.watched.sentinels:
            try:
                host, port = self.ask[s.port].cmd("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)
                break
            except OSError:
                continue
        else:
            raise ConnectionError("no Sentinel")
        addr = (host, int(port))
        return self.conns.setdefault(addr, Redis(addr, None, self.timeout))

    def cmd(self, *args):
        return self.node_for(None).cmd(*args)

    def pipe(self, cmds, **kw):
        return self.node_for(None).pipe(cmds, **kw)

    def masters(self):
        return [self.node_for(None)]
