"""A daemon that dies, or stops for longer than a lease, at any point of entries mode: order holds, nothing is skipped."""
import os
import re
import signal
import subprocess
import time

from lib.case import limit
from lib.daemon import ROOT, program
from lib.entries import EntryWorker, add, check_order, lbs, position
from test_faults import ENTRIES_MODE

issue = 16
T = 3


class One:
    """One armed daemon, one healthy one, a key with a bad entry and one that is closed when it is empty."""

    def __init__(self, t, db, redis, i, point, action):
        self.t, self.db, self.point, self.action = t, db, point, action
        self.svc, self.key = f"e{i}", f"e{i}:k"
        self.done = []
        service = {"entries": {"enabled": True, "batch": 5, "idle_release": "300ms",
                               "retry": {"max_retries": 1, "initial": "50ms", "factor": 1}}}
        self.ids = add(db, self.key, 12)
        self.bad = self.ids[6]
        self.armed = t.daemon(redis, name=f"{self.svc}a", services=(self.svc,), T=T, service=service, ready=False,
                              env={"SLUICE_FAULT": f"{point}:{action}"})
        self.service, self.redis = service, redis
        self.healthy = None
        self.workers = [self.worker(self.armed)]
        lbs(db, self.svc, self.key)

    def worker(self, d):
        def work(stream, id, fields, tries):
            return {"reason": "no good"} if id == self.bad else None
        w = EntryWorker(d.worker_sock, d.name, credits=1, work=work, done=self.done)
        self.t.ending(w.close)
        return w

    def is_struck(self):
        if not self.armed.is_running():
            return True
        with open(f"/proc/{self.armed.proc.pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] == "T"

    def help(self):
        self.healthy = self.t.daemon(self.redis, name=f"{self.svc}b", services=(self.svc,), T=T, service=self.service, ready=False)
        self.workers.append(self.worker(self.healthy))

    def is_over(self):
        p = position(self.db, self.key)
        return p.get("pos") == self.ids[-1] and self.db.cmd("XLEN", f"{self.svc}-input") == 0

    def check(self):
        check_order([x for x in self.done if x[1] != self.bad], {self.key: [x for x in self.ids if x != self.bad]})
        assert self.db.cmd("XLEN", f"{self.svc}-entries-dlq") >= 1, self.point
        assert self.db.cmd("XLEN", f"{self.svc}-input-dlq") == 0, self.point


def sweep(t, action):
    os.environ["SLUICE_BUILD"] = os.environ.get("SLUICE_FAULT_BUILD") or os.path.join(ROOT, "build", "fault")
    known = subprocess.run([program("sluiced"), "--list-faults"], text=True, check=True, stdout=subprocess.PIPE).stdout.split()
    points = [p for p in known if re.search(ENTRIES_MODE, p)]
    assert len(points) > 30, points
    r = t.redis()
    todo = list(enumerate(points))
    while todo:
        ones = [One(t, r.db, r, i, p, action) for i, p in todo[:6]]
        todo = todo[6:]
        for o in ones:
            t.wait(o.is_struck, 30, f"{o.point} is passed")
            o.help()
        for o in ones:
            t.wait(o.is_over, 60, f"{o.point}: all acknowledged, the entry done")
        for o in ones:
            if action == "stop":
                o.armed.signal(signal.SIGCONT)
        time.sleep(0.5 if action == "stop" else 0)
        for o in ones:
            assert position(r.db, o.key)["pos"] == o.ids[-1], o.point
            o.check()
            o.armed.kill()
            o.healthy.kill()


@limit(240)
def test_killed_at_every_point(t):
    sweep(t, "kill")


@limit(240)
def test_stopped_at_every_point(t):
    sweep(t, "stop")
