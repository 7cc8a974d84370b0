"""A loop that is stuck stops the watchdog, whichever it is; the others go on meanwhile, and a stop does not wait for it.

The build variant V=fault hangs one thread at a point of its work (src/run/fault.h)."""
import os
import time

from lib.case import limit
from lib.checks import Added
from lib.daemon import ROOT
from lib.notify import Notify
from lib.redis import slot_of
from lib.servers import wait_until

issue = 5
USEC = 600000
SILENCE = 2.0  # without WATCHDOG=1, which comes every 0.3 s


def fault_build():
    os.environ["SLUICE_BUILD"] = os.environ.get("SLUICE_FAULT_BUILD") or os.path.join(ROOT, "build", "fault")


class Watched:
    """A daemon with a watchdog, one of whose threads hangs at a point."""

    def __init__(self, t, redis, point, **kw):
        self.n = Notify(t.path(t.name("n")))
        self.d = t.daemon(redis, services=(t.name("svc"),), cfg={"metrics": {"listen": f"unix:{t.path(t.name('m'))}"}},
                          env={"NOTIFY_SOCKET": self.n.path, "WATCHDOG_USEC": str(USEC), "SLUICE_FAULT": f"{point}:hang"}, T=4, **kw)
        self.service = self.d.cfg["services"][0]["name"]
        self.n.wait("WATCHDOG=1", 2)
        self.add = Added(redis.db)
        self.w = t.worker(self.d, credits=5, keeps_fence=False)
        self.w.wait("welcome")

    def silence(self):
        at = self.n.times("WATCHDOG=1")
        return time.monotonic() - at[-1]

    def wait_for_silence(self):
        wait_until(lambda: f"fault point {self.point_name()} passed" in self.d.log, 15, "the thread hangs")
        wait_until(lambda: self.silence() > SILENCE, 30, "no WATCHDOG=1 any more")
        time.sleep(1)
        assert self.silence() > SILENCE + 0.9, "it came again"
        assert self.d.is_running()

    def point_name(self):
        return self.d.env["SLUICE_FAULT"].split(":")[0]


def tag_of(c, node):
    """A hash tag whose slot that master serves."""
    c.db.refresh()
    return next(f"t{i}" for i in range(1000) for a, b, addr in c.db.ranges if addr == node.tcp and a <= slot_of(f"t{i}") <= b)


@limit(90)
def test_each_loop_that_is_stuck_stops_the_watchdog(t):
    fault_build()
    c = t.cluster()
    coordinator = Watched(t, c, "read.progress")
    shards = [Watched(t, c, "send.renew") for _ in c.nodes]
    for x, node in zip(shards, c.nodes):  # its lock lives on that master, so that master's shard renews it
        x.add.one(x.service, f"{{{tag_of(c, node)}}}s")
        x.w.wait("assign")
    coordinator.add.one(coordinator.service, "s")
    coordinator.w.send({"t": "progress", "lease": coordinator.w.wait("assign")["lease"]})
    for x in [coordinator, *shards]:
        x.wait_for_silence()
    for i, (x, node) in enumerate(zip(shards, c.nodes)):
        x.d.wait_log("loop stuck", 15)
        assert x.d.log.count("loop stuck") == 1, "said once"
        at, = [r for r in x.d.json("nodes") if r["redis"] == node.endpoint]  # the coordinator still answers
        stuck = int(x.d.log.split("loop stuck")[0].rsplit("shard=", 1)[1].split()[0])
        addr = next(line for line in x.d.log.splitlines() if f"shard={stuck} " in line and "started" in line)
        assert node.endpoint in addr, (i, addr, at)


@limit(90)
def test_a_stop_does_not_wait_for_a_stuck_loop(t):
    fault_build()
    c = t.cluster()
    x = Watched(t, c, "send.renew")
    x.add.one(x.service, f"{{{tag_of(c, c.nodes[0])}}}s")
    x.w.wait("assign")
    x.wait_for_silence()
    assert x.d.stop(timeout=30) == 70
    assert "not waiting for it" in x.d.log and not os.path.exists(x.d.worker_sock)


@limit(60)
def test_with_one_master_there_is_one_loop(t):
    """Nothing goes on beside a shard that is stuck: the service manager ends it, and workers stop by their own fence."""
    fault_build()
    x = Watched(t, t.redis(), "send.renew")
    tasks = [open(f"/proc/{x.d.proc.pid}/task/{n}/comm").read().strip() for n in os.listdir(f"/proc/{x.d.proc.pid}/task")]
    assert "shard-0" not in tasks, tasks
    x.add.one(x.service, "s")
    x.w.wait("assign")
    x.wait_for_silence()
