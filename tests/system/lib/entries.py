"""Entries mode under test: a worker that takes entries, producers, and what both must agree on."""
import base64
import json
import os
import threading
import time

from lib.worker import Raw, connect

SERVICE = {"entries": {"enabled": True}}


def ident(text):
    return tuple(map(int, text.split("-")))


def position_key(stream):
    has_tag = "{" in stream and stream.find("}", stream.find("{") + 1) > stream.find("{") + 1
    return f"{stream}-sluice" if has_tag else "{%s}-sluice" % stream


def position(db, stream):
    """The position as a dict of text; empty when there is none."""
    flat = db.cmd("HGETALL", position_key(stream))
    flat = list(flat.items()) if isinstance(flat, dict) else list(zip(flat[::2], flat[1::2]))
    return {text(k): text(v) for k, v in flat}


def text(v):
    return v.decode() if isinstance(v, bytes) else v


def value(v):
    """A name or value of a frame as bytes."""
    return base64.b64decode(v["b64"]) if isinstance(v, dict) else v.encode()


def add(db, stream, n=1, first=0, field="n"):
    """n entries; their ids."""
    return [text(db.cmd("XADD", stream, "*", field, first + i)) for i in range(n)]


def lbs(db, service, stream, info=None):
    return text(db.cmd("XADD", f"{service}-input", "*", "lbs-input", json.dumps({"DataStreamName": stream, "Info": info or {}})))


class Hand:
    """One session, driven by hand."""

    def __init__(self, path, name="hand", credits=1, **hello):
        self.raw, self.kept = Raw(path), []
        self.send(**{"t": "hello", "v": 1, "name": name, "credits": credits, "entries": True, **hello})
        self.welcome = self.raw.until("welcome")

    def send(self, **frame):
        self.raw.send(frame)

    def until(self, t, timeout=15, **match):
        """The next frame of type t; others are kept for whoever asks for them."""
        def is_it(f):
            return f["t"] == t and all(f.get(k) == v for k, v in match.items())
        for i, f in enumerate(self.kept):
            if is_it(f):
                return self.kept.pop(i)
        end = time.monotonic() + timeout
        while True:
            f = self.raw.frame(max(0.01, end - time.monotonic()))
            if f is None:
                raise AssertionError(f"closed while waiting for {t}")
            if f["t"] == "ping":
                self.send(t="pong", n=f["n"])
            elif is_it(f):
                return f
            else:
                self.kept.append(f)

    def assign(self, **match):
        return self.until("assign", **match)

    def ids(self, n, timeout=15, **match):
        """Entries of as many frames as bring n, as [id, fields, tries]."""
        got = []
        while len(got) < n:
            got += self.until("entries", timeout, **match)["e"]
        assert len(got) == n, got
        return got

    def ack(self, lease, id, wait=True):
        self.send(t="ack", lease=lease, id=id)
        return self.acked(lease, id) if wait else None

    def acked(self, lease, id):
        while True:
            f = self.until("ok", lease=lease)
            if f["for"] == "ack" and ident(f["id"]) >= ident(id):
                return f

    def nack(self, lease, id, **more):
        self.send(t="nack", lease=lease, id=id, **more)
        return self.raw_ok(lease, "nack")

    def raw_ok(self, lease, what):
        while True:
            f = self.until("ok", lease=lease)
            if f["for"] == what:
                return f

    def done(self, lease):
        self.send(t="done", lease=lease)
        return self.raw_ok(lease, "done")

    def quiet(self, t, seconds):
        """No frame of type t for so long; answers pings."""
        assert not [f for f in self.kept if f["t"] == t], self.kept
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                f = self.raw.frame(max(0.01, end - time.monotonic()))
            except TimeoutError:
                return
            if f["t"] == "ping":
                self.send(t="pong", n=f["n"])
            assert f["t"] != t, f
            self.kept.append(f)

    def close(self):
        self.raw.close()


class EntryWorker:
    """A worker in a thread that works on entries one after the other per stream. `work(stream, id, fields, tries)` returns
    None (ack), or the fields of a nack. Everything worked on is in .done as (stream, id, token), in order. Comes back by
    itself with session and resume."""

    def __init__(self, path, name, credits=8, work=None, done=None, reconnect=True, services=None):
        self.path, self.name, self.credits, self.work, self.reconnect = path, name, credits, work, reconnect
        self.services = {"services": services} if services else {}
        self.done = done if done is not None else []
        self.leases, self.session, self.error = {}, None, None
        self.is_closing = False
        self.sock = None
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def say(self, **f):
        self.sock.sendall(json.dumps(f).encode() + b"\n")

    def run(self):
        while not self.is_closing:
            try:
                self.talk()
            except (OSError, ValueError) as e:
                self.error = e
            if not self.reconnect:
                return
            time.sleep(0.05)

    def talk(self):
        self.sock = connect(self.path)
        self.sock.settimeout(None)
        hello = {"session": self.session} if self.session else {}
        self.say(t="hello", v=1, name=self.name, credits=self.credits, entries=True, resume=list(self.leases), **self.services, **hello)
        for line in self.sock.makefile("rb"):
            self.on(json.loads(line))

    def on(self, f):
        t = f["t"]
        if t == "welcome":
            self.session = f["session"]
            self.leases = {k: a for k, a in self.leases.items() if k in f["resumed"]}
        elif t == "ping":
            self.say(t="pong", n=f["n"])
        elif t == "assign":
            self.leases[f["lease"]] = f
            f["pos"], f["void"] = ident(f["entries"]["pos"]), False
        elif t == "entries":
            self.entries(f)
        elif t == "ok" and f["for"] == "nack":
            self.leases[f["lease"]]["void"] = False
        elif t in ("revoke", "ended"):
            self.leases.pop(f["lease"], None)
            if t == "revoke":
                self.say(t="revoked", lease=f["lease"])

    def entries(self, f):
        a = self.leases.get(f["lease"])
        for id, fields, *tries in f["e"]:
            if a is None or a["void"] or ident(id) <= a["pos"]:
                continue
            nack = self.work(a["stream"], id, fields, tries[0] if tries else 0) if self.work else None
            if nack is not None:
                self.say(t="nack", lease=f["lease"], id=id, **nack)
                a["void"] = True
                continue
            self.done.append((a["stream"], id, a["token"]))
            a["pos"] = ident(id)
            self.say(t="ack", lease=f["lease"], id=id)

    def close(self):
        self.is_closing = True
        if self.sock:
            self.sock.close()


def check_order(done, added):
    """`done`: (stream, id, …) in order of work; `added`: stream -> ids. Every id is there, the first time in order."""
    first = {}
    for stream, id, *_ in done:
        first.setdefault(stream, {}).setdefault(id, len(first.get(stream, {})))
    for stream, ids in added.items():
        got = sorted(first.get(stream, {}), key=first.get(stream, {}).get)
        assert got == ids, f"{stream}: {len(got)} of {len(ids)} worked on: {got[:5]} … but {ids[:5]} …"
    return sum(len(v) for v in added.values())


def killable(pid):
    try:
        os.kill(pid, 0)
        return True
    except OSError:
        return False


def entries(**kw):
    """A service's settings, in entries mode."""
    return {"entries": {"enabled": True, **kw}}


def hand(t, d, **kw):
    """A Hand at the daemon, closed with the test."""
    h = Hand(d.worker_sock, **kw)
    t.ending(h.close)
    return h
