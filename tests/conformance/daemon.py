"""A scripted sluiced: the daemon's side of worker protocol v1, as sluice-worker(7) tells it, under the test's hand.

It answers `ok`, pings, and watches what every client must keep whatever is tested: hello first, frames of the right shape,
pongs in time, results for leases that are its own. What a test wants to be different it sets: `is_frozen` (no pings, no
answers), `answers` (which results get their `ok`), `reads` (is the socket read?)."""
import json
import os
import select
import socket
import threading
import time

ENDS = ("done", "fail", "release", "revoked")
LIMIT = 1 << 20


def now_ms():
    return time.monotonic() * 1000


class Session:
    """One connection: frames in order with the time they were read; `gone` once it has ended."""

    def __init__(self, daemon, sock, number):
        self.daemon, self.sock, self.number = daemon, sock, number
        self.frames, self.hello, self.is_closed, self.reads, self.pings = [], None, False, True, {}
        self.was_greeted, self.was_welcome, self.n_ping, self.last_pong, self.lock = False, False, 0, now_ms(), threading.RLock()
        threading.Thread(target=self.life, daemon=True).start()

    def raw(self, data):
        with self.lock:
            try:
                self.sock.sendall(data)
            except OSError:
                pass

    def send(self, t, **f):
        frame = {"t": t, **f}
        with self.daemon.cv:
            if t == "assign":
                self.daemon.held[f["lease"]] = frame
            if f.get("until_ms") is not None:
                self.daemon.until = f["until_ms"]
        self.raw(json.dumps(frame).encode() + b"\n")

    def life(self):
        buf = b""
        while not self.is_closed:
            if not self.reads or self.daemon.is_frozen:
                time.sleep(0.01)
                continue
            r, _, _ = select.select([self.sock], [], [], 0.05)
            if not r or not self.reads or self.daemon.is_frozen:
                continue
            try:
                data = self.sock.recv(1 << 16)
            except OSError:
                data = b""
            if not data:
                break
            *lines, buf = (buf + data).split(b"\n")
            for line in lines:
                self.on_line(line)
        with self.daemon.cv:
            self.is_closed = True
            self.daemon.cv.notify_all()
        self.sock.close()

    def on_line(self, line):
        d = self.daemon
        if len(line) > LIMIT:
            return d.wrong(f"a line of {len(line)} bytes")
        try:
            f = json.loads(line.decode())
        except ValueError:
            return d.wrong(f"not a JSON object in UTF-8: {line[:200]!r}")
        if not isinstance(f, dict) or not isinstance(f.get("t"), str):
            return d.wrong(f"not a frame: {line[:200]!r}")
        with d.cv:
            self.frames.append({**f, "ms": now_ms()})
            d.check(self, f)
            d.cv.notify_all()
        d.on_frame(self, f)

    def drop(self):
        """As a daemon that was killed: no err, no warning."""
        self.is_closed = True
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def of(self, t, **match):
        with self.daemon.cv:
            return [f for f in self.frames if f["t"] == t and all(f.get(k) == v for k, v in match.items())]


class Daemon:
    """`lease_ms` T; pings every T/3 with until_ms = now + T - margin."""

    def __init__(self, path, lease_ms=3000, margin_ms=150):
        self.path, self.lease_ms, self.margin_ms, self.ping_ms = path, lease_ms, margin_ms, lease_ms // 3
        self.cv = threading.Condition(threading.RLock())
        self.sessions, self.wrongs, self.held, self.ended, self.results = [], [], {}, set(), {}
        self.until, self.is_frozen, self.is_up, self.n_leases, self.n_sessions = 0, False, False, 0, 0
        self.answers = lambda f: True     # does this result get its ok?
        self.welcome = {}                 # fields that replace those of the next welcomes
        self.clock_ms = 0                 # so far ahead is the clock that its welcomes tell
        self.late_s = 0                   # so long is a welcome under way
        self.resumes = lambda lease: True  # is it still the worker's? True, or the outcome for `gone`
        self.entries = {}                 # lease -> what it is fed: see feed()
        self.knows_sessions = True
        self.listener = None
        self.start()

    # ---- life

    def start(self):
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(16)
        self.is_up = True
        threading.Thread(target=self.accept, args=[self.listener], daemon=True).start()
        threading.Thread(target=self.ping, args=[self.listener], daemon=True).start()

    def stop(self):
        """As kill -9: the connections end, the socket's file stays."""
        self.is_up = False
        listener, self.listener = self.listener, None
        if listener:
            listener.close()
        for s in list(self.sessions):
            if not s.is_closed:
                s.drop()

    def accept(self, listener):
        while self.listener is listener:
            try:
                r, _, _ = select.select([listener], [], [], 0.05)
                if not r or self.is_frozen:
                    if self.is_frozen:
                        time.sleep(0.01)
                    continue
                sock, _ = listener.accept()
            except (OSError, ValueError):
                return
            with self.cv:
                self.n_sessions += 1
                self.sessions.append(Session(self, sock, self.n_sessions))
                self.cv.notify_all()

    def ping(self, listener):
        while self.listener is listener:
            for s in list(self.sessions):
                if s.was_welcome and not s.is_closed and not self.is_frozen:
                    self.ping_one(s)
            time.sleep(self.ping_ms / 1000)

    def ping_one(self, s):
        s.n_ping += 1
        if s.pings and s.reads and now_ms() - min(s.pings.values()) > 3 * self.ping_ms + 1000:
            self.wrong("silent: a ping was not answered for three times ping_ms")
            s.pings.clear()
        if s.reads:
            s.pings[s.n_ping] = now_ms()
        s.send("ping", n=s.n_ping, until_ms=self.next_until())

    def next_until(self):
        return int(now_ms()) + self.lease_ms - self.margin_ms

    def freeze(self):
        """No pings, no answers, nothing new: as a stopped process. Returns the fence."""
        with self.cv:
            self.is_frozen = True
            return self.until

    def thaw(self):
        for s in self.sessions:
            s.pings.clear()
        self.is_frozen = False

    # ---- what holds in every test

    def wrong(self, text):
        with self.cv:
            self.wrongs.append(text)
            self.cv.notify_all()

    def check(self, s, f):
        t, lease = f["t"], f.get("lease")
        if (s.hello is None) != (t == "hello"):
            self.wrong(f"hello is the first frame and no other: {f}")
        if t == "hello":
            s.hello = f
            if f.get("v") != 1 or not isinstance(f.get("name"), str) or not f["name"] or type(f.get("credits")) is not int:
                self.wrong(f"hello wants v 1, name, credits: {f}")
            if "services" in f and f["services"] is not None and not isinstance(f["services"], list):
                self.wrong(f"services is a list: {f}")
            return
        if not s.was_greeted:
            self.wrong(f"{t} before the welcome")
        if t in ENDS + ("progress", "ack", "nack"):
            if not isinstance(lease, str):
                self.wrong(f"{t} without lease: {f}")
            elif lease not in self.held and lease not in self.results and lease not in self.ended:
                self.wrong(f"{t} for a lease that was never given: {f}")
            elif lease in self.ended and t not in ("revoked",):
                self.wrong(f"{t} for a lease that had ended: {f}")
        if t in ("fail", "nack") and "reason" in f and not isinstance(f["reason"], (str, type(None))):
            self.wrong(f"reason is a string: {f}")
        if f.get("retry_ms") is not None and not (type(f["retry_ms"]) is int and 0 <= f["retry_ms"] <= 86400000):
            self.wrong(f"retry_ms is 0 to 86400000: {f}")
        if t not in ENDS + ("credits", "progress", "ping", "pong", "bye", "ack", "nack"):
            self.wrong(f"no such frame: {f}")
        if t == "pong":
            s.pings.pop(f.get("n"), None)

    # ---- frames

    def on_frame(self, s, f):
        t, lease = f["t"], f.get("lease")
        if t == "hello":
            self.greet(s, f)
        elif t in ("done", "fail", "release"):
            self.on_result(s, f)
        elif t == "revoked":
            with self.cv:
                self.held.pop(lease, None)
                self.ended.add(lease)
        elif t == "ping":
            s.send("pong", **({"n": f["n"]} if "n" in f else {}))
        elif t in ("ack", "nack") and lease in self.entries:
            getattr(self.entries[lease], "on_" + t)(s, f)
        elif t == "bye":
            s.drop()

    def on_result(self, s, f):
        lease = f["lease"]
        if not self.answers(f):
            return
        outcome = {"done": "done", "release": "requeued"}.get(f["t"], "dead" if f.get("dead") else "requeued")
        with self.cv:
            self.held.pop(lease, None)
            outcome = self.results.setdefault(lease, (f["t"], outcome))[1]
        s.send("ok", **{"lease": lease, "for": f["t"], "outcome": outcome})

    def greet(self, s, f):
        resumed, gone = [], []
        for lease in f.get("resume") or []:
            with self.cv:
                if lease in self.results:
                    is_mine = self.results[lease][1]
                else:
                    is_mine = self.resumes(lease) if lease in self.held and self.knows_sessions and f.get("session") else "lost"
                if is_mine is True:
                    resumed.append(lease)
                else:
                    gone.append({"lease": lease, "outcome": is_mine})
                    self.held.pop(lease, None)
                    self.ended.add(lease)
        with self.cv:  # what it does not name it does not work on
            for lease in [x for x in self.held if x not in resumed]:
                del self.held[lease]
                self.ended.add(lease)
        s.was_greeted = True
        w = {"v": 1, "server": "conformance", "node": "n1", "session": f"s-{s.number}", "lease_ms": self.lease_ms, "ping_ms": self.ping_ms,
             "resume_ms": 2000, "max_frame": LIMIT, "until_ms": self.next_until(), "now_ms": int(now_ms()) + self.clock_ms, "resumed": resumed, "gone": gone}
        time.sleep(self.late_s)
        s.send("welcome", **{**w, **self.welcome})
        s.was_welcome = True
        for lease in resumed:
            if lease in self.entries:
                self.entries[lease].resumed(s)

    # ---- for tests

    @property
    def last(self):
        """The session in use."""
        with self.cv:
            return self.sessions[-1] if self.sessions else None

    def lease(self):
        self.n_leases += 1
        return f"L{self.n_leases}"

    def assign(self, s, stream, info=None, **more):
        lease = self.lease()
        s.send("assign", **{"lease": lease, "service": "orders", "stream": stream, "id": f"17000000{self.n_leases:05}-0",
                            "token": f"{1700000000000000000 + self.n_leases}", "retry": 0, "info": {} if info is None else info,
                            "until_ms": self.next_until(), **more})
        return lease

    def wait(self, cond, timeout=15, what="a condition"):
        end = time.monotonic() + timeout
        with self.cv:
            while True:
                v = cond()
                if v:
                    return v
                if self.wrongs:
                    raise AssertionError("; ".join(self.wrongs[:3]))
                left = end - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"not within {timeout:g} s: {what}")
                self.cv.wait(min(left, 0.05))

    def wait_session(self, n=1, timeout=20):
        """The n-th connection, once it was welcome."""
        return self.wait(lambda: len(self.sessions) >= n and self.sessions[n - 1].was_welcome and self.sessions[n - 1], timeout,
                         f"connection {n} with a good hello")

    def frames(self, t, **match):
        with self.cv:
            return [f for s in self.sessions for f in s.of(t, **match)]

    def wait_frame(self, t, times=1, timeout=15, **match):
        return self.wait(lambda: len(got := self.frames(t, **match)) >= times and got[times - 1], timeout, f"{times} × {t} {match}")


class Feed:
    """The entries of one lease: given out in order in frames of `batch`, at most `window` not acked; a nack comes again alone
    after `delay` seconds. `acked` is the position, `acks` what came, `given` each id as often as it was sent."""

    def __init__(self, daemon, session, lease, rows, batch=3, window=2, delay=0.1):
        self.daemon, self.session, self.lease, self.rows, self.batch, self.window, self.delay = daemon, session, lease, rows, batch, window, delay
        self.pos, self.next, self.acks, self.nacks, self.given, self.tries, self.flying, self.blocked = -1, 0, [], [], [], {}, [], None
        self.confirms, self.lock = True, threading.RLock()
        daemon.entries[lease] = self
        self.pump()

    def index(self, id):
        return next((i for i, r in enumerate(self.rows) if r[0] == id), None)

    def pump(self):
        with self.lock:
            while self.blocked is None and len(self.flying) < self.window and self.next < len(self.rows):
                self.give(self.rows[self.next:self.next + self.batch])

    def give(self, rows):
        self.next = self.index(rows[-1][0]) + 1
        self.flying.append(self.next - 1)
        self.given += [r[0] for r in rows]
        e = [[r[0], r[1]] + ([self.tries[r[0]]] if self.tries.get(r[0]) else []) for r in rows]
        self.session.send("entries", lease=self.lease, e=e, more=self.next < len(self.rows))

    def passed(self, i):
        self.pos = max(self.pos, i)
        self.flying = [x for x in self.flying if x > self.pos]
        self.next = max(self.next, self.pos + 1)
        if self.blocked is not None and self.pos >= self.blocked:
            self.blocked = None

    def on_ack(self, s, f):
        i = self.index(f.get("id"))
        if i is None:
            return self.daemon.wrong(f"an ack of an id that is not there: {f}")
        with self.lock:
            self.acks.append(f["id"])
            if not self.confirms:
                return
            self.passed(i)
            s.send("ok", **{"lease": self.lease, "for": "ack", "id": f["id"]})
            self.pump()

    def on_nack(self, s, f):
        i = self.index(f.get("id"))
        if i is None or i < self.pos + 1:
            return self.daemon.wrong(f"a nack of an id that is not waiting: {f}")
        with self.lock:
            self.nacks.append(f)
            self.passed(i - 1)
            self.tries[f["id"]] = self.tries.get(f["id"], 0) + 1
            if f.get("dead"):
                self.passed(i)
            self.flying, self.next, self.blocked = [], self.pos + 1, None if f.get("dead") else i
        threading.Thread(target=self.answer_nack, args=[s, f], daemon=True).start()

    def answer_nack(self, s, f):
        ms = f.get("retry_ms") if f.get("retry_ms") is not None else int(self.delay * 1000)
        time.sleep(0.05)
        s.send("ok", **{"lease": self.lease, "for": "nack", "id": f["id"], "outcome": "dead"} if f.get("dead") else
               {"lease": self.lease, "for": "nack", "id": f["id"], "outcome": "waits", "retry_ms": ms})
        if not f.get("dead"):
            time.sleep(ms / 1000)
        with self.lock:
            if self.blocked is not None and not self.flying:
                self.give([self.rows[self.blocked]])
            self.pump()

    def resumed(self, s):
        """From the position again."""
        with self.lock:
            self.session, self.flying, self.next, self.blocked = s, [], self.pos + 1, None
            self.pump()
