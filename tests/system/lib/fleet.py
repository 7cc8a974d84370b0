"""Workers that hold streams while something happens to the daemon, and what they and Redis must have seen of it."""
import threading
import time

from lib import checks
from lib.checks import Added


def hold(t, d, n_workers, per, **kw):
    """`n_workers` with `per` streams each in work."""
    ws = [t.worker(d, credits=per, reconnect=True, **kw) for _ in range(n_workers)]
    add = Added(d.redis.db)
    add.many("orders", [f"s{i}" for i in range(n_workers * per)])
    for w in ws:
        w.wait("assign", per, timeout=60)
    return ws, add


def unnoticed(ws):
    for w in ws:
        assert not w.frames("closed", d="ev") and len(w.frames("open", d="ev")) == 1, f"{w.name} saw its connection close"
        assert len(w.frames("welcome")) == 1 and not w.frames("revoke") and not w.frames("fence", d="ev") and not w.frames("err")


def kept(t, d, ws, per):
    """All are with the daemon, with what they had; nobody was told to stop, or did."""
    def together():
        rows = d.json("workers")
        return len(rows) == len(ws) and all(r["state"] == "active" and r["in_use"] == per for r in rows)
    t.wait(together, 30, "every worker is back with what it holds", 0.1)
    for w in ws:
        assert len(w.frames("assign")) == per and not w.frames("revoke") and not w.frames("fence", d="ev") and not w.frames("err"), w.name
        assert not any(f["gone"] for f in w.frames("welcome")), w.name


def finish(t, d, ws, add):
    """All is done: each once, nothing is left."""
    for w in ws:
        for a in list(w.held.values()):
            w.finish(a)
    checks.wait_clean(d.redis.db, timeout=60)
    for w in ws:
        t.wait(lambda: not w.unacked, 10, f"every done of {w.name} is answered")
    checks.all_good(add.sure, [w.journal for w in ws])
    assert set(checks.finished([w.journal for w in ws]).values()) == {1}


class Locks:
    """Samples how long every lock of an entry still lasts, as Redis says. `low_ms` is the least that can have been left at
    any moment, also between two samples; `gone` are those that were not there."""

    def __init__(self, t, d, n):
        self.db, self.keys = d.redis.client(), [k for k, _ in checks.locks(d.redis.db)]
        assert len(self.keys) == n, f"{len(self.keys)} locks of {n}"
        self.low_ms, self.n_samples, self.gone, self.is_over = float("inf"), 0, set(), threading.Event()
        self.thread = threading.Thread(target=self.loop, daemon=True)
        self.thread.start()
        t.ending(self.end)

    def loop(self):
        left = at = None
        while not self.is_over.is_set():
            begin = time.monotonic()
            ttl = self.db.pipe([("PTTL", k) for k in self.keys])
            if left is not None:
                self.low_ms = min(self.low_ms, left - (time.monotonic() - at) * 1000)
            left, at = min(ttl), begin
            self.gone |= {k for k, ms in zip(self.keys, ttl) if ms < 0}
            self.n_samples += 1
            self.is_over.wait(0.1)

    def end(self):
        self.is_over.set()
        self.thread.join(10)
