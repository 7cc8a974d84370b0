"""Producers add an entry, then name its stream; workers come and go with the entries. None waits for longer than it may."""
import os
import random
import threading
import time

from lib.case import limit
from lib.entries import EntryWorker, check_order, ident, lbs, position, text

issue = 16
SECONDS = float(os.environ.get("SLUICE_WAKEUPS_SECONDS", 4))  # longer: 300 and more
POLL_MAX = 1.0


class Producer(threading.Thread):
    def __init__(self, db, keys, rng, end):
        super().__init__(daemon=True)
        self.db, self.keys, self.rng, self.end_at = db, keys, rng, end
        self.added, self.error = [], None

    def run(self):
        try:
            while time.monotonic() < self.end_at:
                k = self.rng.choice(self.keys)
                self.added.append((k, text(self.db.cmd("XADD", k, "*", "n", 1))))
                if self.rng.random() < 0.3:
                    time.sleep(self.rng.uniform(0, 0.02))
                lbs(self.db, "orders", k)
                time.sleep(self.rng.choice([0, 0.005, 0.05, self.rng.uniform(0.15, 0.3)]))  # around idle_release, too
        except Exception as e:  # noqa: BLE001 - told by the test
            self.error = e


@limit(60 + 2 * SECONDS)
def test_no_entry_waits_when_producers_and_idle_release_meet(t):
    r = t.redis()
    d = t.daemon(r, service={"same_stream": "coalesce",
                             "entries": {"enabled": True, "idle_release": "200ms", "poll_max": f"{POLL_MAX:.0f}s"}})
    seed = random.randrange(1 << 30)
    print(f"seed {seed}, {SECONDS:.0f} s")
    late, lock = [], threading.Lock()

    def work(stream, id, fields, tries):
        waited = time.time() - ident(id)[0] / 1000
        if waited > POLL_MAX + 1:
            with lock:
                late.append((stream, id, round(waited, 2)))
    workers = [EntryWorker(d.worker_sock, f"w{i}", credits=2, work=work) for i in range(2)]
    for w in workers:
        t.ending(w.close)
    keys = [f"orders:{i}" for i in range(4)]
    end = time.monotonic() + SECONDS
    producers = [Producer(r.client(), keys, random.Random(seed + i), end) for i in range(4)]
    for p in producers:
        p.start()
    for p in producers:
        p.join()
        assert p.error is None, p.error
    added = {k: sorted((id for p in producers for s, id in p.added if s == k), key=ident) for k in keys}
    n = sum(map(len, added.values()))
    t.wait(lambda: sum(len({(s, id) for s, id, _ in w.done}) for w in workers) >= n, POLL_MAX + 10, "everything is delivered")
    assert not late, (seed, late[:10])
    t.wait(lambda: r.db.cmd("XLEN", "orders-input") == 0, 10, "every run has ended")
    assert all(position(r.db, k)["pos"] == ids[-1] for k, ids in added.items())
    merged = [x for w in workers for x in w.done]
    check_order(sorted(merged, key=lambda x: x[2]), added)  # runs of a key follow each other by token
