"""A steady producer for tests in which Redis itself is in trouble."""
import threading
import time

from lib.checks import Added


class Load:
    """Adds unique streams at `rate` per second, from a thread with a client of its own, until stop()."""

    def __init__(self, redis, services=("orders",), rate=50, prefix="s"):
        self.added, self.services, self.rate, self.prefix = Added(redis.client(patience=0.5, timeout=1), getattr(redis, "n_replicas", 0)), services, rate, prefix
        self.n, self.is_stopping = 0, threading.Event()
        self.thread = threading.Thread(target=self.loop, daemon=True)
        self.thread.start()

    def loop(self):
        start = time.monotonic()
        while not self.is_stopping.wait(max(0, start + self.n / self.rate - time.monotonic())):
            self.n += 1
            self.added.replicated(self.services[self.n % len(self.services)], f"{self.prefix}{self.n}")
            if time.monotonic() - start > self.n / self.rate + 1:  # Redis was away: no burst afterwards
                start = time.monotonic() - self.n / self.rate

    def stop(self):
        self.is_stopping.set()
        self.thread.join(30)
        return self.added
