#!/usr/bin/python3
"""chaos_replies.py [--seed N] [--seconds N] [--topology standalone|cluster|sentinel] [--lies] [--rate N] [--build DIR] [--dir DIR] [--keep]:
one daemon behind addresses that disturb what Redis says (lib/front.py): maintenance pushes right and wrong, errors of every class before
and after a command was done, cut, slow and silent connections. --lies: replies of another shape, too, and maps that cannot be; then nobody
can promise order, one owner or that nothing is lost, but the daemon lives, becomes ready and gets done with all that is there.

After each round Redis is let alone, and all must be well in the times of chaos_rounds.py. The seed gives what is drawn, not its timing.
Exit status 0 = nothing found."""
import os
import random
import socket
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True
from chaos_rounds import Rounds, drive, options  # noqa: E402
from lib import servers  # noqa: E402
from lib.daemon import merge  # noqa: E402
from lib.front import Fronts  # noqa: E402
from lib.odd import Odd  # noqa: E402
from lib.vitals import Limits  # noqa: E402

T = 5
MASTER = "mymaster"
LOOKS = [["status"], ["nodes"], ["doctor"], ["explain", "orders.k1"], ["explain", "feed.k1"], ["dlq", "ls", "orders"], ["fleet"],
         ["delayed", "ls", "orders"], ["ls"], ["ls", "--waiting"], ["metrics"], ["--json", "fleet"], ["--json", "doctor"],
         ["entries-dlq", "ls", "feed"], ["workers"]]
RETRY = {"retry": {"max_retries": 50, "max": "1s", "factor": 2, "initial": "100ms", "release_delay": "100ms"}, "recovery": {"interval": "5s"}}
SERVICES = {"orders": {}, "merged": {"same_stream": "coalesce"},
            "feed": {"same_stream": "coalesce",
                     "entries": {"enabled": True, "batch": 20, "idle_release": "300ms", "retry": {"max_retries": 50, "max": "1s"}}}}


class Replies(Rounds):
    feeds, merging = ("feed",), ("merged", "feed")

    def set_up(self):
        o = self.o
        self.is_honest = not o.lies
        if o.lies:  # a map of 600 masters is believed until it is read again, of one of them or at the configured address
            self.bounds, self.ready_within = Limits(descriptors=6000, rss_kib=2_000_000, log_per_s=200_000), 90
        host, silent = servers.loopback(), self.silent_port()
        self.c = self.t.cluster() if o.topology == "cluster" else self.t.redis()
        nodes = self.c.nodes if o.topology == "cluster" else [self.c]
        odd = Odd(random.Random(o.seed + 2), o.topology == "cluster", o.lies, [f"127.0.0.1:{silent}", f"unix:{nodes[0].path}"])
        self.fronts = Fronts(host, random.Random(o.seed + 3), odd)
        ports = [(n, servers.free_port(), servers.free_port()) for n in nodes]
        rewrite = [(b"%d" % n.port, b"%d" % port) for n, port, _ in ports] if o.topology == "cluster" else []
        for n, port, other in ports:
            a, b = self.fronts.add(n, port, rewrite), self.fronts.add(n, other, rewrite)
            a.peers = b.peers = [a, b]
        self.daemons = [self.make_daemon([f"{host}:{port}" for _, port, _ in ports])]
        self.workers = [self.restless(self.daemons[0], f"w{i}", 8, is_calm=i % 2 == 0) for i in range(4)]
        threading.Thread(target=self.look_around, daemon=True).start()

    def silent_port(self):
        """A port that takes no connection and refuses none."""
        self.silent = [socket.create_server(("127.0.0.1", 0), backlog=0)]
        for _ in range(3):
            s = socket.socket()
            s.setblocking(False)
            s.connect_ex(self.silent[0].getsockname())
            self.silent.append(s)
        return self.silent[0].getsockname()[1]

    def make_daemon(self, endpoints):
        redis = {"connect_timeout": "1s", "topology_refresh": "2s", "reconnect": {"initial": "50ms", "max": "1s"}}
        if self.o.topology == "sentinel":
            endpoints = [self.fronts.add_sentinel(servers.free_port(), MASTER, self.fronts.fronts[0]) for _ in range(2)]
            redis.update(topology="sentinel", sentinel={"master": MASTER})
        maintenance = {"relaxed_timeout": "2s", "relaxed_cap": "5s", "post_handoff_relaxed": "1s", "handoff_timeout": "2s",
                       "circuit_breaker": {"failures": 2, "reset": "2s", "half_open": 1}}
        d = self.t.daemon(endpoints, T=T, services=list(SERVICES), service=RETRY, start=False,
                          cfg={"redis": redis, "maintenance": maintenance, "log": {"level": "info"}})
        for s in d.cfg["services"]:
            merge(s, SERVICES[s["name"]])
        d.write()
        return d.start()

    def look_around(self):
        """Verbs that ask only, all the time: none may hang or crash."""
        rnd = random.Random(self.o.seed + 4)
        while not self.is_over_yet():
            if self.daemons[0].is_running():
                self.ctl(self.daemons[0], *rnd.choice(LOOKS))
            time.sleep(0.2)

    def is_over_yet(self):
        return hasattr(self, "is_over") and self.is_over.is_set()

    def disturb(self, seconds):
        self.fronts.begin()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.2)
            self.alive()

    def calm(self):
        self.fronts.calm()
        self.counts.update(self.fronts.counts)
        self.fronts.counts.clear()


def more(p):
    p.add_argument("--lies", action="store_true", help="replies of another shape, too")


def main():
    o = options(__doc__, more, ("standalone", "cluster", "sentinel"))
    return drive(Replies, o, "alive, ready, nothing left" if o.lies else "nothing lost, one owner, each key in order")


if __name__ == "__main__":
    sys.exit(main())
