"""One test's surroundings: a short temporary directory and everything started in it, ended in reverse order."""
import os
import subprocess
import sys

from lib import acl, daemon, gofleet, servers, worker
from lib.servers import wait_until  # noqa: F401  (tests use t.wait)


def limit(seconds):
    def mark(f):
        f.limit = seconds
        return f
    return mark


def issue(n):
    def mark(f):
        f.issue = n
        return f
    return mark


def no_acl(why):
    """This test cannot run with the user of etc/sluiced.acl: `why`. With $SLUICE_TEST_ACL it runs as without."""
    def mark(f):
        f.no_acl = why
        return f
    return mark


class Case:
    def __init__(self, dir):
        self.dir, self._end, self._n = dir, [], 0
        os.makedirs(dir, exist_ok=True)

    def ending(self, f):
        self._end.append(f)

    def path(self, name):
        return os.path.join(self.dir, name)

    def name(self, prefix):
        self._n += 1
        return f"{prefix}{self._n}"

    def redis(self, name=None, start=True, **kw):
        s = servers.Server(self.dir, name or self.name("r"), **kw)
        self.ending(s.kill)
        return s.start() if start else s

    def cluster(self, **kw):
        c = servers.Cluster(self.path(self.name("c")), **kw)
        self.ending(c.kill)
        return c.start()

    def daemon(self, redis, name=None, start=True, ready=True, **kw):
        d = daemon.Daemon(self.dir, name or self.name("d"), redis, **kw)
        self.ending(d.end)
        return d.start(ready) if start else d

    def worker(self, d, name=None, **kw):
        w = worker.Worker(getattr(d, "worker_sock", d), name or self.name("w"), **kw)
        self.ending(w.close)
        return w

    def proc_worker(self, d, name=None, **kw):
        w = worker.ProcWorker(self.dir, getattr(d, "worker_sock", d), name or self.name("p"), **kw)
        self.ending(w.kill)
        return w

    def go(self, redis, service="orders", name=None, **kw):
        g = gofleet.GoConsumer(redis.client(), redis.client(), service, name or self.name("go"), **kw)
        self.ending(g.stop)
        return g

    def run(self, argv, timeout=60, **kw):
        kw.setdefault("stdout", subprocess.PIPE)
        kw.setdefault("stderr", subprocess.PIPE)
        return subprocess.run(argv, timeout=timeout, text=True, stdin=subprocess.DEVNULL, **kw)

    def nothing_denied(self):
        """No command, key or channel was denied to the daemons' Redis user."""
        found = [x for s in acl.SERVERS if s.is_running() for x in acl.denied(s)]
        assert not found, f"denied to the user of etc/sluiced.acl: {found}"

    def wait(self, *a, **kw):
        return wait_until(*a, **kw)

    def close(self):
        for f in reversed(self._end):
            try:
                f()
            except Exception as e:  # every one gets its turn
                print(f"ending {f}: {e!r}", file=sys.stderr)
        self._end = []
