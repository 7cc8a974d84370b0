"""What workers, the service manager and the metrics are told in odd moments: nulls and lone surrogates, clocks that are not shared, a
manager's queue that is full, look-ups counted for what they are."""
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time

from lib import checks
from lib.case import limit
from lib.checks import Added
from lib.daemon import program
from lib.redis import entries, pairs
from lib.worker import Raw

issue = 12


# ---- F16: frames as languages write them

def test_null_is_left_out(t):
    r = t.redis()
    d = t.daemon(r)
    w = Raw(d.worker_sock).send({"t": "hello", "v": 1, "name": "w", "credits": 1, "session": None, "services": None, "resume": None})
    w.until("welcome")
    Added(r.db).one("orders", "s1")
    a = w.until("assign")
    w.send({"t": "progress", "lease": a["lease"], "note": None})
    w.send({"t": "fail", "lease": a["lease"], "reason": None, "dead": None})
    assert w.until("ok")["outcome"] == "requeued"
    w.send({"t": "ping", "n": None})
    assert "n" not in w.until("pong")
    w.close()


def test_a_lone_surrogate_is_replaced(t):
    """Half an emoji in an error message, as JavaScript, Java and Python write it."""
    r = t.redis()
    d = t.daemon(r)
    w = Raw(d.worker_sock).send(b'{"t":"hello","v":1,"name":"w\\ud83d","credits":1}\n')
    w.until("welcome")
    assert d.json("workers")[0]["name"] == "w\ufffd"
    Added(r.db).one("orders", "s1")
    a = w.until("assign")
    w.send(b'{"t":"progress","lease":"%s","note":"\\udc00 half"}\n' % a["lease"].encode())
    t.wait(lambda: d.json("show", "s1")[0]["note"] == "\ufffd half", 5, "the note")
    w.send(b'{"t":"fail","dead":true,"lease":"%s","reason":"cut \\ud83d"}\n' % a["lease"].encode())
    assert w.until("ok")["outcome"] == "dead"
    assert entries(r.db, "orders-input-dlq")[0][1]["_dlq_error"] == "cut \ufffd"
    w.close()


def test_periodic_lookups_are_counted_as_periodic(t):
    r = t.redis()
    d = t.daemon(r, cfg={"redis": {"topology_refresh": "1s"}})

    def count(reason):
        m = re.search(rf'^sluice_topology_refresh_total{{reason="{reason}",result="ok"}} (\d+)', d.ctl_ok("metrics"), re.M)
        return int(m[1])
    assert count("other") == 1, "the one at the start"
    t.wait(lambda: count("periodic") >= 2, 10, "one a second")
    d.ctl_ok("topology", "refresh")
    assert count("other") == 2 and count("moved") == 0


# ---- F13: one clock

class FakeDaemon:
    """Listens; each connection gets a welcome with a clock of its own."""

    def __init__(self, t, offset_ms):
        self.path, self.offset_ms, self.hellos = t.path("fake.sock"), offset_ms, []
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(self.path)
        self.sock.listen()
        t.ending(self.sock.close)
        threading.Thread(target=self.loop, daemon=True).start()

    def loop(self):
        while True:
            try:
                c, _ = self.sock.accept()
            except OSError:
                return
            f = c.makefile("rwb")
            self.hellos.append(json.loads(f.readline()))
            now = time.monotonic() * 1000 + self.offset_ms
            f.write(json.dumps({"t": "welcome", "v": 1, "server": "fake", "node": "n", "session": "s" * 32, "lease_ms": 10000, "ping_ms": 3333,
                                "resume_ms": 5000, "max_frame": 1 << 20, "until_ms": int(now + 10000), "now_ms": int(now),
                                "resumed": [], "gone": []}).encode() + b"\n")
            f.flush()
            self.last = (c, f)


def test_a_worker_without_our_clock_leaves(t):
    for offset in (1_000_000, -1_000_000, 11_000):
        t.dir, keep = t.path(f"o{offset}"), t.dir
        os.makedirs(t.dir)
        d = FakeDaemon(t, offset)
        p = t.run([program("sluice-run"), "-s", d.path, "--", "true"], timeout=20)
        assert p.returncode == 78 and "clock" in p.stderr, (p.returncode, p.stderr)
        assert abs(int(re.search(r"clock is (-?\d+) ms", p.stderr)[1]) - offset) < 1000, (offset, p.stderr)
        assert len(d.hellos) == 1, "it does not come again"
        t.dir = keep


def test_a_worker_with_our_clock_stays(t):
    for offset in (0, 9_000, -9_000):
        t.dir, keep = t.path(f"o{offset}"), t.dir
        os.makedirs(t.dir)
        d = FakeDaemon(t, offset)
        try:
            t.run([program("sluice-run"), "-s", d.path, "--", "true"], timeout=1.5)
            raise AssertionError("it left")
        except subprocess.TimeoutExpired:
            pass
        t.dir = keep


def test_welcome_says_what_time_it_is(t):
    d = t.daemon(t.redis())
    before = time.monotonic() * 1000
    w = Raw(d.worker_sock).send({"t": "hello", "v": 1, "name": "w", "credits": 0})
    f = w.until("welcome")
    assert before - 100 <= f["now_ms"] <= time.monotonic() * 1000 + 100, f
    w.close()


# ---- F9: a manager that is busy

class BusyManager:
    """The service manager's end of NOTIFY_SOCKET; nobody reads until drain()."""

    def __init__(self, t):
        self.path = t.path("notify")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(self.path)
        self.sock.settimeout(0.2)
        t.ending(self.sock.close)

    def fill(self):
        """Another unit's messages fill its queue."""
        f = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        f.setblocking(False)
        f.connect(self.path)
        try:
            while True:
                f.send(b"STATUS=noise")
        except BlockingIOError:
            pass
        f.close()

    def drain(self, seconds=0.2):
        out, end = [], time.monotonic() + seconds
        while True:
            try:
                m = self.sock.recv(65536).decode()
            except OSError:
                m = None
            if m and m != "STATUS=noise":
                out.append(m)
            if time.monotonic() > end and m is None:
                return out

    def wait(self, t, *words, timeout=10):
        got = []

        def all_there():
            got.extend(self.drain())
            return all(any(w in x for x in got) for w in words)
        t.wait(all_there, timeout, f"{words}; got {got}")
        return got


def test_ready_is_said_again_until_it_is_sent(t):
    m = BusyManager(t)
    m.fill()
    d = t.daemon(t.redis(), env={"NOTIFY_SOCKET": m.path})
    time.sleep(1.5)
    m.wait(t, "READY=1", "STATUS=ready")
    assert d.is_running()


def test_a_reload_in_a_busy_moment_ends(t):
    """RELOADING=1 that gets through without READY=1: the unit would stay "reloading" for ever."""
    m = BusyManager(t)
    d = t.daemon(t.redis(), env={"NOTIFY_SOCKET": m.path})
    m.wait(t, "READY=1")
    m.fill()
    m.sock.recv(100)  # room for exactly one
    d.signal(signal.SIGHUP)
    d.wait_log("reload") if "reload" in d.log else time.sleep(0.5)
    got = m.wait(t, "RELOADING=1", "READY=1")
    words = [x.split("\n")[0] for x in got if "READY=1" in x or "RELOADING=1" in x]
    assert words.index("RELOADING=1") < len(words) - 1 - words[::-1].index("READY=1"), words


def test_stopping_is_said_when_there_is_room(t):
    m = BusyManager(t)
    r = t.redis()
    d = t.daemon(r, env={"NOTIFY_SOCKET": m.path}, cfg={"shutdown": {"mode": "drain", "drain_timeout": "20s"}})
    w = t.worker(d, credits=1)
    Added(r.db).one("orders", "s")
    a = w.wait("assign")
    m.wait(t, "READY=1")
    m.fill()
    d.signal(signal.SIGTERM)
    d.wait_log("stopping")
    m.wait(t, "STOPPING=1", "EXTEND_TIMEOUT_USEC")
    w.finish(a)
    assert d.wait(15) == 0


# ---- how long a drain has gone on

def test_a_drain_is_as_old_as_it_is(t):
    r = t.redis()
    d = t.daemon(r, cfg={"shutdown": {"mode": "drain", "drain_timeout": "5s"}})
    w = Raw(d.worker_sock).send({"t": "hello", "v": 1, "name": "w", "credits": 1})
    w.until("welcome")
    Added(r.db).one("orders", "s1")
    w.until("assign")
    assert d.json("drain")[0]["elapsed_ms"] < 500
    time.sleep(1.1)
    assert 1100 <= d.json("drain")[0]["elapsed_ms"] < 3000, "asked again: it goes on"
    assert re.search(r"^draining: 1 stream owned, 1 worker, for 1\.\ds$", d.ctl_ok("drain"), re.M)
    assert d.json("undrain")[0]["elapsed_ms"] == 0
    assert d.ctl_ok("undrain") == "not draining: 1 stream owned, 1 worker\n"
    d.signal(signal.SIGTERM)
    t.wait(lambda: not d.json("status")[0]["ready"], 5, "it stops")
    time.sleep(1.1)
    assert 1100 <= d.json("drain")[0]["elapsed_ms"] < 3000, "the same when the process ends"
    w.close()
