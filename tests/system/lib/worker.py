"""A scriptable worker on the worker socket, in a thread (Worker) or as a process that can be killed (ProcWorker).

The journal is a list of records {"ms", "w", "d", "f"}: CLOCK_MONOTONIC ms, worker, direction "in" | "out" | "ev", frame.
Events: fence (until_ms passed, work stopped), open, closed, dead (written by whoever killed it).
A session's until_ms stops all its work, as the contract asks; `keeps_fence=False` is the simple worker."""
import heapq
import json
import os
import random
import select
import socket
import subprocess
import sys
import threading
import time

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from lib import servers  # noqa: E402


def now_ms():
    return time.monotonic() * 1000


def connect(path, timeout=10):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    s.settimeout(timeout)
    try:
        s.connect(path)
    except OSError:
        s.close()
        raise
    return s


class Raw:
    """A bare connection for protocol tests: bytes out, frames in."""

    def __init__(self, path):
        self.sock, self.buf = connect(path), b""

    def send(self, data):
        if isinstance(data, dict):
            data = json.dumps(data).encode() + b"\n"
        try:
            self.sock.sendall(data)
        except OSError:
            pass  # the daemon may close first: what it said before is still to be read
        return self

    def frame(self, timeout=10):
        """The next frame, None at the end of the connection."""
        end = time.monotonic() + timeout
        while b"\n" not in self.buf:
            self.sock.settimeout(max(0.01, end - time.monotonic()))
            try:
                d = self.sock.recv(1 << 16)
            except ConnectionError:
                d = b""
            if not d:
                return None
            self.buf += d
        line, self.buf = self.buf.split(b"\n", 1)
        return json.loads(line)

    def until(self, t, timeout=10, **match):
        """Skips to the next frame of type t; answers pings on the way."""
        end = time.monotonic() + timeout
        while True:
            f = self.frame(max(0.01, end - time.monotonic()))
            if f is None:
                raise AssertionError(f"closed while waiting for {t}")
            if f["t"] == "ping":
                self.send({"t": "pong", "n": f.get("n", 0)})
            if f["t"] == t and all(f.get(k) == v for k, v in match.items()):
                return f

    def is_closed(self, timeout=10):
        """Reads to the end of the connection."""
        try:
            while self.frame(timeout) is not None:
                pass
            return True
        except TimeoutError:
            return False

    def close(self):
        self.sock.close()


class Worker:
    """`work`: None = hold until told; seconds, or f(assign) -> seconds or None. `result`: f(assign) -> the frame that
    ends the work (default done). `reconnect` comes back by itself with session and resume."""

    def __init__(self, path, name, credits=0, services=None, work=None, result=None, reconnect=False, keeps_fence=True,
                 answers_revoke=True, journal=None, start=True, threaded=True):
        self.path, self.name, self.services, self.work, self.result = path, name, services, work, result
        self.credits, self.reconnect, self.keeps_fence, self.answers_revoke = credits, reconnect, keeps_fence, answers_revoke
        self.journal, self.file = [], os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if journal else None
        self.cv = threading.Condition(threading.RLock())
        self.held, self.unacked, self.due = {}, {}, []
        self.session = self.until = None
        self.sock, self.buf, self.wake = None, bytearray(), socket.socketpair()
        self.is_mute = self.is_stalled = self.is_stopping = False
        self.is_closed = threading.Event()
        self.retry_at, self.backoff, self.n_due = None, 0.1, 0
        if start:
            self.open()
            if threaded:
                threading.Thread(target=self.loop, daemon=True).start()

    # ---- journal
    def note(self, d, f):
        rec = {"ms": now_ms(), "w": self.name, "d": d, "f": f}
        with self.cv:
            self.journal.append(rec)
            if self.file is not None:
                os.write(self.file, json.dumps(rec).encode() + b"\n")
            self.cv.notify_all()

    def frames(self, t, d="in", **match):
        with self.cv:
            return [r["f"] for r in self.journal if r["d"] == d and r["f"]["t"] == t
                    and all(r["f"].get(k) == v for k, v in match.items())]

    def records(self, t, d="in", **match):
        with self.cv:
            return [r for r in self.journal if r["d"] == d and r["f"]["t"] == t
                    and all(r["f"].get(k) == v for k, v in match.items())]

    def wait(self, t, n=1, timeout=10, d="in", **match):
        """The n-th frame of type t that matches; waits for it."""
        end = time.monotonic() + timeout
        with self.cv:
            while True:
                got = self.frames(t, d, **match)
                if len(got) >= n:
                    return got[n - 1]
                left = end - time.monotonic()
                if left <= 0:
                    last = [r["f"] for r in self.journal[-8:]]
                    raise AssertionError(f"{self.name}: {len(got)} of {n} × {t} {match} in {timeout:g} s; last frames {last}")
                self.cv.wait(left)

    # ---- talking
    def open(self, resume=None):
        self.sock, self.buf = connect(self.path), bytearray()
        hello = {"t": "hello", "v": 1, "name": self.name, "credits": self.credits}
        if self.services is not None:
            hello["services"] = list(self.services)
        if self.session:
            hello["session"] = self.session
            hello["resume"] = list(self.held) + list(self.unacked) if resume is None else resume
        self.note("ev", {"t": "open"})
        self.send(hello)

    def send(self, f):
        """One frame. What ends a lease's work frees it here, before it is sent."""
        with self.cv:
            if f["t"] in ("done", "fail", "release", "revoked"):
                a = self.held.pop(f.get("lease"), None)
                if a and f["t"] != "revoked":
                    self.unacked[f["lease"]] = f
            if f["t"] == "credits":
                self.credits = f["n"]
            self.note("out", f)
            try:
                if self.sock:
                    self.sock.settimeout(20)
                    self.sock.sendall(json.dumps(f).encode() + b"\n")
            except OSError:
                pass  # the loop sees the end of the connection

    def send_together(self, frames):
        """Results of several leases, as one write: one turn of the daemon sees them all."""
        with self.cv:
            for f in frames:
                if self.held.pop(f["lease"], None):
                    self.unacked[f["lease"]] = f
                self.note("out", f)
            try:
                if self.sock:
                    self.sock.sendall(b"".join(json.dumps(f).encode() + b"\n" for f in frames))
            except OSError:
                pass  # as in send

    def finish(self, assign, t="done", **kw):
        self.send({"t": t, "lease": assign["lease"], **kw})

    def drop(self):
        """Closes the connection without bye; the process lives."""
        with self.cv:
            if self.sock:
                self.sock.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.reconnect, self.is_stopping = False, True
        self.poke()
        self.is_closed.wait(5)

    def poke(self):
        self.wake[1].send(b"x")

    def stall(self, on=True):
        """Stops reading, as a hung worker does."""
        self.is_stalled = on
        self.poke()

    # ---- loop
    def loop(self):
        try:
            while not self.is_stopping:
                self.turn()
        finally:
            if self.sock:
                self.sock.close()
            self.note("ev", {"t": "closed"})
            self.is_closed.set()

    def turn(self):
        now = time.monotonic()
        times = [t for t in (self.due[0][0] if self.due else None, self.retry_at,
                             self.until / 1000 if self.until and self.held and self.keeps_fence else None) if t]
        p = select.poll()
        for s in [self.wake[0]] + ([self.sock] if self.sock and not self.is_stalled else []):
            p.register(s, select.POLLIN)
        r = [fd for fd, _ in p.poll(1000 * max(0, min(times + [now + 5]) - now))]
        if self.wake[0].fileno() in r:
            self.wake[0].recv(64)
        self.fence()
        if self.sock and self.sock.fileno() in r:
            self.receive()
        self.end_due()
        if self.retry_at and time.monotonic() >= self.retry_at:
            self.come_back()

    def receive(self):
        try:
            data = self.sock.recv(1 << 20)
        except OSError:
            data = b""
        if not data:
            with self.cv:
                self.sock.close()
                self.sock = None
            self.note("ev", {"t": "closed"})
            if self.reconnect:
                self.retry_at = time.monotonic() + self.backoff * random.uniform(0.5, 1)
            return
        self.buf += data
        *lines, rest = self.buf.split(b"\n")
        self.buf = bytearray(rest)
        for line in lines:
            f = json.loads(line)
            self.note("in", f)
            self.handle(f)

    def come_back(self):
        self.retry_at = None
        try:
            self.open()
        except OSError:
            self.backoff = min(2, self.backoff * 2)
            self.retry_at = time.monotonic() + self.backoff * random.uniform(0.5, 1)

    def handle(self, f):
        t = f["t"]
        if "until_ms" in f:
            self.until = f["until_ms"]
        if t == "welcome":
            self.session, self.backoff = f["session"], 0.1
            for g in f.get("gone", []):
                self.held.pop(g["lease"], None)
                self.unacked.pop(g["lease"], None)
            for lease in f.get("resumed", []):
                if lease in self.unacked:
                    self.send(self.unacked[lease])
        elif t == "assign":
            with self.cv:
                self.held[f["lease"]] = f
            s = self.work(f) if callable(self.work) else self.work
            if s is not None:
                self.n_due += 1
                heapq.heappush(self.due, (time.monotonic() + s, self.n_due, f))
        elif t == "ok":
            self.unacked.pop(f["lease"], None)
        elif t == "err" and "lease" in f:
            self.unacked.pop(f["lease"], None)
        elif t == "ping" and not self.is_mute:
            self.send({"t": "pong", "n": f.get("n", 0)})
        elif t == "revoke" and self.answers_revoke:
            self.send({"t": "revoked", "lease": f["lease"]})

    def end_due(self):
        while self.due and self.due[0][0] <= time.monotonic():
            a = heapq.heappop(self.due)[2]
            if a["lease"] in self.held:
                self.send(self.result(a) if self.result else {"t": "done", "lease": a["lease"]})

    def fence(self):
        if self.keeps_fence and self.held and self.until and now_ms() >= self.until:
            with self.cv:
                self.note("ev", {"t": "fence", "until_ms": self.until, "leases": list(self.held)})
                self.held.clear()


def main():
    import argparse
    import signal
    p = argparse.ArgumentParser()
    for a, kw in {"--socket": {}, "--name": {}, "--credits": {"type": int}, "--journal": {}, "--service": {"action": "append"},
                  "--work": {"default": "0"}, "--hang": {"type": float, "default": 0}, "--fail-first": {"type": int}}.items():
        p.add_argument(a, **kw)
    o = p.parse_args()
    lo, _, hi = o.work.partition("-")
    rnd = random.Random(o.name)

    def work(_a):
        if o.work == "hold" or rnd.random() < o.hang:
            return None
        return rnd.uniform(float(lo), float(hi or lo))

    def result(a):
        if o.fail_first is not None and a["retry"] == 0:
            return {"t": "fail", "lease": a["lease"], "retry_ms": o.fail_first}
        return {"t": "done", "lease": a["lease"]}
    w = Worker(o.socket, o.name, o.credits, o.service, work, result, reconnect=True, journal=o.journal, start=False)
    signal.signal(signal.SIGTERM, lambda *_: (w.send({"t": "bye"}), os._exit(0)))
    w.come_back()
    w.loop()


class ProcWorker(servers.Process):
    """The same worker as a process of its own. `work`: "0.1-0.3" seconds, or "hold". `fail_first`: what has no retry yet fails and asks to
    come back after so many ms."""

    def __init__(self, dir, path, name, credits=1, work="0", services=(), hang=0, fail_first=None, start=True):
        self.name, self.file = name, os.path.join(dir, name + ".journal")
        self.argv = [sys.executable, os.path.abspath(__file__), "--socket", path, "--name", name, "--credits", str(credits),
                     "--journal", self.file, "--work", work, "--hang", str(hang), *(["--fail-first", str(fail_first)] if fail_first is not None else [])]
        for s in services:
            self.argv += ["--service", s]
        self.log = os.path.join(dir, name + ".log")
        if start:
            self.start()

    def start(self):
        self.proc = servers.spawn(self.argv, self.log)
        return self

    @property
    def journal(self):
        try:
            with open(self.file) as f:
                return [json.loads(line) for line in f if line.endswith("\n")]
        except FileNotFoundError:
            return []

    def frames(self, t, d="in", **match):
        return [r["f"] for r in self.journal if r["d"] == d and r["f"]["t"] == t
                and all(r["f"].get(k) == v for k, v in match.items())]

    def wait_for(self, t, n=1, timeout=10):
        return servers.wait_until(lambda: len(got := self.frames(t)) >= n and got, timeout, f"{self.name}: {n} × {t}")

    def kill(self):
        was_running, ms = self.is_running(), now_ms()
        super().kill()
        if was_running:
            with open(self.file, "a") as f:
                f.write(json.dumps({"ms": ms, "w": self.name, "d": "ev", "f": {"t": "dead"}}) + "\n")


if __name__ == "__main__":
    main()
