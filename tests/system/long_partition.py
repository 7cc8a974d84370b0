"""Behind Sentinel, the master's host is cut off the network, ten times under load: its connections hang, and so do those that are made to
it. The same as test_sentinel.py has for masters that are killed or stopped, but nobody is told anything."""
import os
import random
import time

from lib import checks, lab
from lib.case import limit, no_acl
from lib.load import Load
from lib.sentinels import Watched
from test_sentinel import behind, masters, tcp

issue = 17
ROUNDS, RATE = int(os.environ.get("ROUNDS", 10)), int(os.environ.get("RATE", 200))


def state(n):
    """Its own word, by its Unix socket. Sentinel closes every connection of a node that it tells whom to follow: a new one each time."""
    db = n.client()
    try:
        return db.cmd("ROLE")[0]
    finally:
        db.close()


@limit(900)
@no_acl("Sentinels' own users")
def test_the_masters_host_is_cut_off(t):
    if not lab.is_possible():
        return print("= not root, or no namespaces: not tested")
    net = lab.Lab(t)
    hosts = [net.host() for _ in range(3)]
    s = Watched(t, hosts=hosts)
    ds = [behind(t, s, name=x, service={"retry": {"max_retries": 100}}) for x in "ab"]
    ws = [t.worker(d, credits=60, reconnect=True, work=lambda a: random.uniform(0, 0.3)) for d in ds]
    load = Load(s, rate=RATE)
    t.ending(load.stop)

    def progress(n, timeout=60):
        goal = sum(len(w.frames("ok")) for w in ws) + n
        t.wait(lambda: sum(len(w.frames("ok")) for w in ws) >= goal, timeout, f"{n} more done", 0.05)
    progress(100)
    now, served = s.nodes[0], []
    for i in range(ROUNDS):
        t0 = time.monotonic()
        hosts[s.nodes.index(now)].cut()
        new = s.other_master(now, 60)
        t1 = time.monotonic()
        progress(20)
        served.append(time.monotonic() - t1)
        print(f"{i}: another master after {t1 - t0:.1f} s, served {served[-1]:.1f} s later")
        assert state(now) == "master", "it knows of nothing"
        hosts[s.nodes.index(now)].join()
        t.wait(lambda: state(now) == "slave" and new.db.cmd("INFO", "replication").count("state=online") == 2, 60, "it is a replica", 0.1)
        t.wait(lambda: all(masters(d) == [tcp(new)] for d in ds), 20, "both daemons are with the new one")
        now = new
        progress(100)
    added = load.stop()
    checks.wait_clean(s.client(), timeout=90)
    journals = [w.journal for w in ws]
    print(f"= {ROUNDS} partitions of the master at {RATE} streams/s: {len(added.sure)} added, {len(added.maybe)} perhaps; "
          f"served within {max(served):.1f} s of the failover")
    checks.none(checks.lost(added.sure, journals) + checks.overlaps(journals))
    assert max(served) <= 2, served
