"""A consumer that behaves as redis-stream-client-go does in the same group.

Lock `<stream><MUTEX_KEY_SEP><id>` = consumer name, SET NX PX 2 s, extended each second, with SET NX when it is missing;
done = XACK, XDEL, DEL as separate calls; recovery = XPENDING IDLE, EXISTS lock, XACK, then XADD with _retry_count."""
import json
import random
import threading
import time

from lib.redis import SEP, RedisError, pairs
from lib.worker import now_ms


class GoConsumer:
    """`db` and `db2` are two clients of its own (reader and the rest). work: seconds, f(stream) or None = hold."""

    def __init__(self, db, db2, service, name, work=0.1, ttl_ms=2000, scan_every=2.0, min_idle_ms=6000, max_retries=3):
        self.rdb, self.db, self.service, self.name, self.work = db, db2, service, f"redis-consumer-{name}", work
        self.lbs, self.group = f"{service}-input", f"{service}-group"
        self.ttl_ms, self.scan_every, self.min_idle_ms, self.max_retries = ttl_ms, scan_every, min_idle_ms, max_retries
        self.journal, self.held, self.lock = [], {}, threading.RLock()
        self.n_recovered = self.n_lost_lock = 0
        self.is_stopping, self.running = False, threading.Event()
        self.running.set()
        try:
            self.db.cmd("XGROUP", "CREATE", self.lbs, self.group, "0", "MKSTREAM")
        except RedisError as e:
            if "BUSYGROUP" not in str(e):
                raise
        self.threads = [threading.Thread(target=self.guard, args=(f,), daemon=True) for f in (self.read, self.keep, self.scan)]
        for t in self.threads:
            t.start()

    def note(self, t, stream, id):
        with self.lock:
            self.journal.append({"ms": now_ms(), "w": self.name, "d": "in" if t == "assign" else "out",
                                 "f": {"t": t, "lease": id, "service": self.service, "stream": stream, "id": id}})

    def pause(self):
        """As SIGSTOP would: nothing runs, and it does not know."""
        self.running.clear()

    def cont(self):
        self.running.set()

    def stop(self):
        """As kill -9 would: everything stays in Redis."""
        self.is_stopping = True
        self.running.set()
        for t in self.threads:
            t.join(5)
        with self.lock:
            for id, (stream, _, _) in self.held.items():
                self.note("dead", stream, id)
            self.held.clear()

    def guard(self, step):
        while not self.is_stopping:
            self.running.wait()
            try:
                step()
            except (OSError, RedisError):
                time.sleep(0.1)

    def read(self):
        r = self.rdb.cmd("XREADGROUP", "GROUP", self.group, self.name, "COUNT", 10, "BLOCK", 300, "STREAMS", self.lbs, ">")
        for id, flat in (r[0][1] if r else []):
            stream = json.loads(pairs(flat)["lbs-input"])["DataStreamName"]
            key = stream + SEP + id
            with self.lock:
                if self.db.cmd("SET", key, self.name, "NX", "PX", self.ttl_ms) != "OK":
                    continue
                s = self.work(stream) if callable(self.work) else self.work
                self.held[id] = (stream, key, None if s is None else time.monotonic() + s)
                self.note("assign", stream, id)

    def keep(self):
        """Extends each second, finishes what is due."""
        for _ in range(20):
            time.sleep(0.05)
            self.running.wait()
            with self.lock:
                due = [i for i, (_, _, at) in self.held.items() if at and time.monotonic() >= at]
            for id in due:
                self.done(id)
        with self.lock:
            for id, (stream, key, _) in list(self.held.items()):
                v = self.db.cmd("GET", key)
                if v == self.name:
                    self.db.cmd("PEXPIRE", key, self.ttl_ms)
                elif v is None:
                    self.db.cmd("SET", key, self.name, "NX", "PX", self.ttl_ms)
                else:
                    self.n_lost_lock += 1
                    del self.held[id]
                    self.note("revoked", stream, id)

    def done(self, id):
        with self.lock:
            stream, key, _ = self.held.pop(id)
            self.note("done", stream, id)
            self.db.cmd("XACK", self.lbs, self.group, id)
            self.db.cmd("XDEL", self.lbs, id)
            self.db.cmd("DEL", key)

    def scan(self):
        end = time.monotonic() + self.scan_every * random.uniform(0.9, 1.1)
        while time.monotonic() < end and not self.is_stopping:
            time.sleep(0.05)
        self.running.wait()
        with self.lock:
            pend = self.db.cmd("XPENDING", self.lbs, self.group, "IDLE", self.min_idle_ms, "-", "+", 100)
            for id, _, _, _ in pend:
                rows = self.db.cmd("XRANGE", self.lbs, id, id)
                if id in self.held or not rows:
                    continue
                fields = pairs(rows[0][1])
                stream = json.loads(fields["lbs-input"])["DataStreamName"]
                if self.db.cmd("EXISTS", stream + SEP + id):
                    continue
                if self.db.cmd("XACK", self.lbs, self.group, id) != 1:
                    continue
                fields["_retry_count"] = str(int(fields.get("_retry_count", 0)) + 1)
                self.db.cmd("XADD", self.lbs, "*", *[x for kv in fields.items() for x in kv])
                self.db.cmd("XDEL", self.lbs, id)
                self.n_recovered += 1
