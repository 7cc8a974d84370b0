"""What stays open for long against a real daemon: top in a terminal, events --follow; and doctor's exit codes."""
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

from lib.case import limit
from lib.checks import Added
from lib.daemon import merge, program

issue = 5
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"


class Terminal:
    """sluicectl in a terminal of its own; what it draws is kept from the last clear."""

    def __init__(self, t, d, *args, rows=24, cols=80):
        argv = [program("sluicectl"), "--socket", d.control_sock, *args]
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
            os.environ["TERM"] = "xterm"
            os.environ.pop("NO_COLOR", None)
            os.execv(argv[0], argv)
        self.text, self.status = "", None
        self.resize(rows, cols)
        t.ending(self.close)

    def resize(self, rows, cols):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def read(self, seconds):
        if select.select([self.fd], [], [], seconds)[0]:
            try:
                self.text += os.read(self.fd, 65536).decode(errors="replace")
            except OSError:
                return False
        return True

    def wait(self, *words, seconds=20):
        """Until all words stand on one screen drawn after now."""
        self.text, end = "", time.monotonic() + seconds
        while time.monotonic() < end:
            if any(all(w in frame for w in words) for frame in self.text.split("\x1b[H")):
                return self.text
            if not self.read(0.1):
                break
        raise AssertionError(f"not on the screen: {words}; {self.text[-1500:]!r}")

    def frame(self):
        """One whole screen: its lines without escapes."""
        self.text = ""
        while self.text.count("\x1b[H") < 2 and self.read(2):
            pass
        body = self.text.split("\x1b[H")[1]
        return [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", x).rstrip("\r") for x in body.split("\n")]

    def is_raw(self):
        return not termios.tcgetattr(self.fd)[3] & (termios.ECHO | termios.ICANON)

    def key(self, data):
        os.write(self.fd, data)

    def end(self, seconds=20):
        """Its wait status, after the terminal was put back."""
        end = time.monotonic() + seconds
        while self.status is None and time.monotonic() < end:
            self.read(0.05)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = status if pid else None
        assert self.status is not None, "it does not end"
        assert LEAVE in self.text and not self.is_raw(), "the terminal is as it was"
        return self.status

    def close(self):
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)


def setup(t):
    r = t.redis()
    d = t.daemon(r, node="n1")
    w = t.worker(d, name="alice", credits=30, reconnect=True)
    Added(r.db).many("orders", [f"stream-{i}" for i in range(30)])
    w.wait("assign", 30)
    return r, d, w


@limit(60)
def test_top_follows_the_window_and_ends_with_q(t):
    _, d, _ = setup(t)
    top = Terminal(t, d, "top")
    assert ENTER in top.wait("n1", "orders", "alice", "stream-0", "q quit") and top.is_raw()
    for rows, cols in ((40, 200), (10, 40), (3, 10), (1, 1), (24, 80)):
        top.resize(rows, cols)
        top.wait("\x1b[J")
        lines = top.frame()
        assert len(lines) <= rows and all(len(x) <= cols for x in lines), (rows, cols, lines)
    top.key(b"x")  # no meaning: nothing happens
    top.wait("n1", "stream-0")
    top.key(b"q")
    assert os.WEXITSTATUS(top.end()) == 0


@limit(60)
def test_top_ends_with_control_c(t):
    _, d, _ = setup(t)
    top = Terminal(t, d, "top")
    top.wait("stream-0")
    top.key(b"\x03")
    status = top.end()
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGINT, status


@limit(60)
def test_top_when_the_daemon_goes_and_comes_back(t):
    r, d, w = setup(t)
    top = Terminal(t, d, "top", cols=160)
    top.wait("stream-0", "alice")
    d.kill()
    top.wait("connection refused")
    d.pause()
    d.start()
    top.wait("ready", "stream-0")
    t.wait(lambda: "refused" not in "".join(top.frame()), what="nothing is said of it any more")
    top.wait("alice")
    d.pause()  # hangs: nothing comes, the keys work
    top.wait("timeout", seconds=30)
    top.key(b"q")
    d.cont()
    assert os.WEXITSTATUS(top.end()) == 0


def follow(d, *args):
    return subprocess.Popen([program("sluicectl"), "--socket", d.control_sock, "--json", "events", "--follow", *args],
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@limit(60)
def test_events_follow_the_daemon_to_its_end(t):
    r, d, _ = setup(t)
    for end, word in (("stop", "stopping"), ("kill", "closed the connection")):
        p = follow(d)
        assert "n1" in json.loads(p.stdout.readline())["text"]
        d.ctl_ok("pause", "orders")
        while "orders paused" not in json.loads(p.stdout.readline())["text"]:
            pass
        getattr(d, end)()
        out, err = p.communicate(timeout=20)
        assert all(json.loads(x) for x in out.splitlines())
        assert p.returncode == 69 and len(err.splitlines()) == 1 and word in err, (end, p.returncode, err)
        d.start()
    p = follow(d)
    p.stdout.readline()
    p.send_signal(signal.SIGINT)
    _, err = p.communicate(timeout=20)
    assert p.returncode in (0, -signal.SIGINT) and not err, (p.returncode, err)


@limit(60)
def test_events_of_a_reader_that_does_not_read(t):
    """It loses its connection, not the daemon its memory; the others go on."""
    r, d, w = setup(t)
    slow, quick = follow(d), follow(d)
    for p in (slow, quick):
        p.stdout.readline()
    reader = subprocess.Popen(["cat"], stdin=quick.stdout, stdout=subprocess.DEVNULL)
    t.wait(lambda: d.signal(signal.SIGUSR1) or "events came faster than they were read" in d.log or slow_ended(d), 40, "it is ended", 0.01)
    assert quick.poll() is None and d.is_running()
    for p in (slow, quick, reader):
        p.kill()
        p.wait()
    assert not w.frames("revoke") and not w.frames("closed", d="ev")


def slow_ended(d):
    """Of the two followers the daemon serves one less."""
    with open("/proc/net/unix") as f:
        n = len(re.findall(re.escape(d.control_sock) + "$", f.read(), re.M))
    return n <= 2  # the listener, one follower


@limit(60)
def test_doctor_says_what_is_wrong_and_how_bad(t):
    r = t.redis()
    d = t.daemon(r)
    rows = d.json("doctor")
    assert all(x["result"] in ("ok", "warn", "skipped") for x in rows), rows
    assert any(x["result"] == "warn" for x in rows) and d.ctl("doctor").returncode == 0, "a warning alone is no failure"
    r.db.cmd("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    p = d.ctl("doctor")
    assert p.returncode == 1 and "eviction" in p.stdout and len(p.stderr.splitlines()) <= 1, p
    r.db.cmd("CONFIG", "SET", "maxmemory-policy", "noeviction")
    r.pause()
    p = d.ctl("--timeout", "20s", "doctor", timeout=40)
    assert p.returncode == 1 and "connection" in p.stdout, p
    r.cont()
    t.wait(lambda: d.ctl("doctor").returncode == 0, 20, "well again")
    r.kill()
    t.wait(lambda: d.ctl("status", "--ready").returncode == 1, what="it has noticed")
    p = d.ctl("doctor")
    assert p.returncode == 1 and "onnect" in p.stdout + p.stderr, p
    d.kill()
    assert d.ctl("doctor").returncode == 69


@limit(60)
def test_doctor_says_when_leases_are_too_many_for_their_ttl(t):
    """By what a service may hold, and by what its workers' credits bring; on one core 2 s bear 6,660 leases, 10 s none of these."""
    r, core = t.redis(), ["taskset", "-c", str(min(os.sched_getaffinity(0)))]

    def leases(d):
        row, = [x for x in d.json("doctor") if x["check"] == "leases"]
        return row["result"], row["found"], row["advice"]
    d = t.daemon(r, T=2, wrap=core, services=("a", "b"), service={"max_streams": 6000})
    result, found, _ = leases(d)
    assert result == "ok" and "ttl 2000 ms bears 6660 leases on 1 core " in found, found
    w = t.worker(d, credits=6000)
    t.wait(lambda: leases(d)[0] == "warn", 20, "two services of 6,000 credits")
    assert "lease.ttl" in leases(d)[2], leases(d)
    w.close()
    t.wait(lambda: leases(d)[0] == "ok", 20, "no worker")
    merge(d.cfg["services"][1], {"max_streams": 7000})
    d.write()
    d.ctl_ok("reload")
    result, found, advice = leases(d)
    assert result == "warn" and "b: " in found and "max_streams 7000" in found and "max_streams" in advice, found
    assert d.ctl("doctor").returncode == 0, "a warning alone is no failure"
    for s in d.cfg["services"]:
        s["lease"]["ttl"] = "10s"
        s["recovery"]["min_idle"] = "30s"
    d.write()
    d.ctl_ok("reload")
    assert leases(d)[0] == "ok", leases(d)
