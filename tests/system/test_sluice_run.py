#!/usr/bin/env python3
"""Holds sluice-run to its contract, against a daemon played by this script.

usage: test_sluice_run.py BUILD_DIR [NAME...]     prints `ok name` lines; exit 1 when one fails
It needs neither sluiced nor Redis. run.py runs these tests too.
"""
import functools
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

PROGRAM = os.path.join(os.environ.get("SLUICE_BUILD", "build"), "sluice-run")
PATIENCE = 30.0  # how long anything may take, on a busy machine too, before it counts as never


def now_ms():
    return time.monotonic() * 1000


def wait_until(condition, what):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "never: " + what
        time.sleep(0.005)


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Daemon:
    """One listening socket and the connection of one worker."""

    def __init__(self, path, listen=True):
        self.path = path
        self.listener = self.conn = None
        self.serial = 0
        if listen:
            self.listen()

    def listen(self):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.settimeout(PATIENCE)
        self.listener.bind(self.path)
        self.listener.listen(8)

    def accept(self):
        self.conn, _ = self.listener.accept()
        self.conn.settimeout(PATIENCE)
        self.lines = self.conn.makefile("rb")
        hello = self.receive("hello")
        return hello

    def welcome(self, **fields):
        frame = dict(t="welcome", v=1, server="fake", node="n", session="s1", lease_ms=10000, ping_ms=3333,
                     resume_ms=5000, max_frame=1048576, until_ms=now_ms() + 60000, resumed=[], gone=[])
        frame.update(fields)
        self.send(**frame)

    def greet(self, **fields):
        hello = self.accept()
        self.welcome(**fields)
        return hello

    def send(self, **frame):
        self.conn.sendall(json.dumps(frame).encode() + b"\n")

    def receive(self, want=None):
        line = self.lines.readline()
        assert line, "connection closed, expected " + str(want)
        frame = json.loads(line)
        assert want is None or frame["t"] == want, f"expected {want}, got {frame}"
        return frame

    def expect_end(self):
        assert self.lines.readline() == b"", "more frames than expected"

    def assign(self, lease="L1", until_in=60000, **fields):
        self.serial += 1
        frame = dict(t="assign", lease=lease, service="orders", stream="orders:7", id="1700000000000-0",
                     token="1700000000000000000", retry=0, info={}, until_ms=now_ms() + until_in)
        frame.update(fields)
        self.send(**frame)
        return frame["until_ms"]

    def ok(self, lease="L1", what="done", outcome="done"):
        self.send(t="ok", lease=lease, outcome=outcome, **{"for": what})

    def hang_up(self, stop_listening=False):
        if stop_listening:
            self.listener.close()
            os.unlink(self.path)
        self.lines.close()
        self.conn.close()


class World:
    """A directory, a daemon and one sluice-run."""

    def __init__(self, listen):
        self.dir = tempfile.mkdtemp(prefix="sluice-run-")
        self.daemon = Daemon(self.at("sock"), listen)
        self.process = None

    def at(self, name):
        return os.path.join(self.dir, name)

    def run(self, *options, shell=None, command=None, **popen):
        command = command or ["sh", "-c", shell or "exit 0"]
        args = [PROGRAM, "-s", self.at("sock"), *options, "--", *command]
        popen.setdefault("stderr", open(self.at("stderr"), "wb"))
        self.process = subprocess.Popen(args, cwd=self.dir, stdout=open(self.at("stdout"), "wb"), **popen)

    def read(self, name):
        try:
            with open(self.at(name), encoding="utf-8", errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def wait_for(self, name, text=""):
        wait_until(lambda: os.path.exists(self.at(name)) and text in self.read(name), f"{name} with {text!r}")
        return self.read(name)

    def wait_line(self, name):
        wait_until(lambda: self.read(name).endswith("\n"), f"{name} with a line")
        return self.read(name)

    def pid_in(self, name):
        return int(self.wait_line(name))

    def touch(self, name):
        open(self.at(name), "w").close()

    def signal(self, sig=signal.SIGTERM):
        self.process.send_signal(sig)

    def exit_code(self):
        return self.process.wait(PATIENCE)

    def stop(self):
        """SIGTERM with nothing running: credits 0, bye, exit 0."""
        self.signal()
        assert self.daemon.receive("credits")["n"] == 0
        self.daemon.receive("bye")
        assert self.exit_code() == 0

    def close(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for s in (self.daemon.conn, self.daemon.listener):
            if s:
                s.close()
        shutil.rmtree(self.dir, ignore_errors=True)


# ---- command line


def run_program(*args):
    done = subprocess.run([PROGRAM, *args], capture_output=True, text=True, timeout=PATIENCE)
    return done.returncode, done.stdout, done.stderr


def test_usage(w):
    for args in ([], ["--"], ["-n", "0", "--", "x"], ["-n", "10001", "--", "x"], ["-n", "1x", "--", "x"], ["-s"],
                 ["--nope", "--", "x"], ["--kill-after", "5", "--", "x"], ["--kill-after", "-5s", "--", "x"],
                 ["--on-term", "wait", "--", "x"],
                 ["-s", "/" + "x" * 108, "--", "x"]):
        code, out, err = run_program(*args)
        assert (code, out) == (64, "") and err.startswith("sluice-run: "), (args, code, out, err)
        assert err.count("\n") == 1 and err.endswith("; see sluice-run --help\n"), (args, err)
    for option in ("--help", "-h"):
        code, out, err = run_program(option)
        assert code == 0 and "COMMAND" in out and not err, option
    code, out, err = run_program("--version")
    assert code == 0 and out.startswith("sluice-run ") and not err
    for option in ("--help", "--version"):
        with open("/dev/full", "w") as full:
            p = subprocess.run([PROGRAM, option], stdout=full, stderr=subprocess.PIPE, text=True, timeout=20)
        assert (p.returncode, p.stderr) == (71, "sluice-run: cannot write the output: No space left on device\n"), p


def test_hello(w):
    w.run("-n", "7", "--service", "orders", "--service", 'bi"lls', "--name", "w-1")
    hello = w.daemon.greet()
    assert hello == {"t": "hello", "v": 1, "name": "w-1", "credits": 7, "services": ["orders", 'bi"lls']}, hello
    w.stop()


def test_hello_defaults(w):
    w.run(command=["/bin/true"])
    hello = w.daemon.greet()
    assert hello["credits"] == 1 and hello["name"] == f"true@{os.environ.get('POD_NAME') or socket.gethostname()}:{w.process.pid}" and "services" not in hello, hello
    w.stop()


# ---- one stream


def test_command_gets_environment_and_info(w):
    w.run(shell="env > env; cat > info")
    w.daemon.greet()
    w.daemon.conn.sendall(
        b'{"t":"assign","lease":"L1","service":"orders","stream":"orders:\\u00e9 7","id":"17-1","token":"0017","retry":3,'
        b'"trace":{"traceparent":"00-ab","baggage":"k=v"},"info":{"big":123456789012345678901234567890,"x":1.10,"y":1e400,"d":1,"d":2,"s":"a\\nb"},"until_ms":%d}\r\n'
        % (now_ms() + 60000))
    assert w.daemon.receive() == {"t": "done", "lease": "L1"}
    w.daemon.ok()
    env = dict(line.split("=", 1) for line in w.read("env").splitlines() if "=" in line)
    expected = {"SLUICE_SERVICE": "orders", "SLUICE_STREAM": "orders:é 7", "SLUICE_ID": "17-1", "SLUICE_TOKEN": "0017",
                "SLUICE_RETRY": "3", "SLUICE_LEASE": "L1", "TRACEPARENT": "00-ab", "TRACESTATE": None, "BAGGAGE": "k=v"}
    assert {k: env.get(k) for k in expected} == expected, env
    info = w.read("info")
    assert info == '{"big":123456789012345678901234567890,"x":1.10,"y":1e400,"d":1,"d":2,"s":"a\\nb"}\n', info
    w.stop()


def test_a_long_info_nobody_reads(w):
    w.run(shell="exit 0")
    w.daemon.greet()
    w.daemon.assign(info={"x": "y" * 1000000})
    w.daemon.receive("done")


def result_of(w, shell, lease="L1"):
    w.daemon.assign(lease, info=shell)
    frame = w.daemon.receive()
    assert frame["lease"] == lease
    w.daemon.ok(lease, frame["t"], "done")
    return frame


def test_exit_codes_and_reasons(w):
    w.run(command=["python3", "-c", "import json,os,sys; os.execvp('sh', ['sh', '-c', json.load(sys.stdin)])"])
    w.daemon.greet()
    assert result_of(w, "exit 0") == {"t": "done", "lease": "L1"}
    assert result_of(w, "exit 75") == {"t": "release", "lease": "L1"}
    assert result_of(w, "exit 3") == {"t": "fail", "lease": "L1", "reason": "exit status 3"}
    frame = result_of(w, "echo first >&2; echo 'bad \"disk\"' >&2; echo >&2; exit 65")
    assert frame == {"t": "fail", "lease": "L1", "reason": 'exit status 65: bad "disk"', "dead": True}, frame
    assert result_of(w, "printf 'a\\nno end' >&2; exit 1")["reason"] == "exit status 1: no end"
    assert result_of(w, "echo dying >&2; kill -9 $$")["reason"] == "killed by signal 9 (Killed): dying"
    assert "dead" not in result_of(w, "kill -SEGV $$")
    assert result_of(w, "printf '\\303(\\377caf\\303\\251\\001' >&2; exit 1")["reason"] == "exit status 1: ?(?café "
    for text in ("x" * 3000, "é" * 3000):
        reason = result_of(w, f"echo {text} >&2; exit 1")["reason"]
        assert 1020 <= len(reason.encode()) <= 1024 and reason.startswith("exit status 1: " + text[:100]), len(reason)
    stderr = w.wait_for("stderr", "é" * 3000)
    assert 'first\nbad "disk"\n' in stderr and "x" * 3000 in stderr
    w.stop()


def test_names_and_reasons_without_control_characters(w):
    """Those beyond ASCII, too: on a terminal U+009B is ESC [."""
    w.run(shell="printf 'bad\\302\\233\\177\\033name\\n' >&2; exit 1")
    w.daemon.greet()
    w.daemon.assign(stream="a\u009b31m\u0085b\x7f\x1b[0m\u00a0\u00db")
    assert w.daemon.receive("fail")["reason"] == "exit status 1: bad   name"
    w.daemon.ok(what="fail", outcome="requeued")
    assert "stream a 31m b  [0m\u00a0\u00db failed: exit status 1: bad   name\n" in w.wait_for("stderr", "failed")
    w.stop()


def test_a_command_that_does_not_exist(w):
    w.run(command=["/does/not/exist"])
    w.daemon.greet()
    w.daemon.assign()
    w.daemon.receive("release")


def test_a_command_that_cannot_be_started_takes_no_work_for_a_while(w):
    """Three in a row: credits 0, then one try after 2 s, then 4 s; all of them again once it can be started."""
    script = os.path.join(w.dir, "late")
    w.run("-n", "4", command=[script])
    w.daemon.greet()
    for n in range(3):
        w.daemon.assign(lease=f"L{n}")
        assert "retry_ms" not in w.daemon.receive("release")
        w.daemon.ok(f"L{n}", "release", "requeued")
    start = time.monotonic()
    assert w.daemon.receive("credits")["n"] == 0
    assert w.daemon.receive("credits")["n"] == 1 and 1.9 < time.monotonic() - start < 4
    w.daemon.assign(lease="L4")
    w.daemon.receive("release")
    assert w.daemon.receive("credits")["n"] == 0
    with open(script, "w") as f:
        f.write("#!/bin/sh\nexit 0\n")
    os.chmod(script, 0o755)
    assert w.daemon.receive("credits")["n"] == 1
    w.daemon.assign(lease="L5")
    w.daemon.receive("done")
    assert w.daemon.receive("credits")["n"] == 4
    log = w.read("stderr")
    assert log.count("no new work until it can") == 1 and log.count("can be started again") == 1, log


def test_no_process_to_be_had_takes_no_work_for_a_while(w):
    """Out of descriptors, say: three streams given back, then it is like a command that cannot be started."""
    w.run("-n", "3", command=["true"])
    w.daemon.greet()
    most = resource.prlimit(w.process.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(w.process.pid, resource.RLIMIT_NOFILE, (4, most))
    for n in range(3):
        w.daemon.assign(lease=f"L{n}")
    assert {w.daemon.receive("release")["lease"] for _ in range(3)} == {"L0", "L1", "L2"}
    assert w.daemon.receive("credits")["n"] == 0
    for n in range(3):
        w.daemon.ok(f"L{n}", "release", "requeued")
    assert w.daemon.receive("credits")["n"] == 1
    w.daemon.assign(lease="L3")
    w.daemon.receive("release")
    assert w.daemon.receive("credits")["n"] == 0
    resource.prlimit(w.process.pid, resource.RLIMIT_NOFILE, (most, most))
    assert w.daemon.receive("credits")["n"] == 1
    w.daemon.assign(lease="L4")
    w.daemon.receive("done")
    assert w.daemon.receive("credits")["n"] == 3
    log = w.read("stderr")
    assert log.count("true cannot be started (no process: Too many open files): no new work until it can") == 1, log
    assert log.count("can be started again") == 1, log


def test_a_door_that_stays_shut_is_said_once(w):
    """Whoever is turned away says so once for each reason, however often it comes back, and again after a welcome."""
    w.run()
    for _ in range(4):
        w.daemon.accept()
        w.daemon.send(t="err", code="too_many_sessions", msg="too many sessions", fatal=True)
        w.daemon.hang_up()
    for _ in range(2):
        w.daemon.accept()
        w.daemon.hang_up()
    w.daemon.greet()
    w.wait_for("stderr", "connected to")
    log = w.read("stderr")
    assert log.count("too_many_sessions") == 1, log
    assert log.count("connection to sluiced lost") == 1, log
    w.daemon.hang_up()
    w.daemon.accept()
    assert w.read("stderr").count("connection to sluiced lost") == 2


def test_an_idle_stream_does_not_keep_the_credit_of_the_next_try(w):
    """--each: what is assigned in the pause goes back at once; after it, what has no entry does so after 2 s."""
    pos = {"pos": "0-0"}
    w.run("-n", "4", "--each", command=["/does/not/exist"])
    w.daemon.greet(now_ms=now_ms())
    w.daemon.assign("HELD", entries=pos)
    for n in range(3):
        w.daemon.assign(f"L{n}", entries=pos)
        w.daemon.send(t="entries", lease=f"L{n}", e=[["1-0", ["n", "1"]]], more=False)
        assert w.daemon.receive() == {"t": "release", "lease": f"L{n}"}
    assert w.daemon.receive() == {"t": "credits", "n": 0}
    assert w.daemon.receive() == {"t": "release", "lease": "HELD"}
    w.daemon.assign("CROSSED", entries=pos)
    assert w.daemon.receive() == {"t": "release", "lease": "CROSSED"}
    assert w.daemon.receive() == {"t": "credits", "n": 1}
    start = time.monotonic()
    w.daemon.assign("IDLE", entries=pos)
    assert w.daemon.receive() == {"t": "release", "lease": "IDLE"} and 1.9 < time.monotonic() - start < 4
    w.daemon.assign("TRIES", entries=pos)
    w.daemon.send(t="entries", lease="TRIES", e=[["1-0", ["n", "1"]]], more=False)
    assert w.daemon.receive() == {"t": "release", "lease": "TRIES"}
    w.daemon.receive("credits")


def test_stdout_is_inherited(w):
    w.run(shell="echo out $SLUICE_STREAM")
    w.daemon.greet()
    w.daemon.assign()
    w.daemon.receive("done")
    assert w.read("stdout") == "out orders:7\n"


def test_commands_inherit_no_descriptors_and_plain_signals(w):
    w.run(shell="ls -l /proc/self/fd > fds; grep -E 'Sig(Blk|Ign)' /proc/self/status > signals")
    w.daemon.greet()
    w.daemon.assign()
    w.daemon.receive("done")
    fds = w.read("fds")
    assert "socket:" not in fds and "signalfd" not in fds and fds.count("->") == 4, fds  # 3 is ls's directory
    # 32 and 33 are libc's own, nobody else can set them
    assert [int(line.split()[1], 16) & ~(3 << 31) for line in w.read("signals").splitlines()] == [0, 0], w.read("signals")


def test_started_with_signals_ignored_and_blocked(w):
    """As some supervisors do. Without SIGCHLD no end of a command would be seen."""
    def spoil():
        for sig in (signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM):
            signal.signal(sig, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1])
    w.run(shell="grep -E 'Sig(Blk|Ign)' /proc/self/status > signals; exit 3", preexec_fn=spoil)
    w.daemon.greet()
    w.daemon.assign()
    assert w.daemon.receive("fail")["reason"] == "exit status 3"
    w.daemon.ok("L1", "fail", "requeued")
    assert [int(line.split()[1], 16) & ~(3 << 31) for line in w.read("signals").splitlines()] == [0, 0], w.read("signals")
    w.stop()


def test_what_a_command_leaves_behind_ends_with_it(w):
    w.run(shell="sleep 1000 & echo $! > pid")
    w.daemon.greet()
    w.daemon.assign()
    w.daemon.receive("done")
    pid = w.pid_in("pid")
    wait_until(lambda: not is_alive(pid), "the end of the rest of the group")


def test_ping_and_unknown_frames(w):
    w.run()
    w.daemon.greet()
    w.daemon.send(t="something", new=[1])
    w.daemon.send(t="ping", n=41, until_ms=now_ms() + 60000)
    assert w.daemon.receive() == {"t": "pong", "n": 41}
    w.daemon.send(t="drain", grace_ms=1000)
    w.daemon.send(t="ping")
    assert w.daemon.receive() == {"t": "pong"}
    w.stop()
    assert "drain" in w.read("stderr")


def test_200_at_once(w):
    w.run("-n", "200", shell="echo $$ > pid-$SLUICE_LEASE; while [ ! -e go ]; do sleep 2; done")
    w.daemon.greet()
    for i in range(200):
        w.daemon.assign(f"L{i}")
    wait_until(lambda: sum(name.startswith("pid-") for name in os.listdir(w.dir)) == 200, "200 commands")
    w.touch("go")
    done = {w.daemon.receive("done")["lease"] for _ in range(200)}
    assert len(done) == 200
    for lease in done:
        w.daemon.ok(lease)
    w.stop()


# ---- revoke

IGNORES_TERM = "trap '' TERM; echo $$ > pid; while :; do sleep 0.02; done"
HEARS_TERM = "sleep 1000 & echo $! > group; trap 'echo stopped > log; exit 0' TERM; echo $$ > pid; wait"


def revoked_after(w, grace_ms):
    begin = now_ms()
    w.daemon.send(t="revoke", lease="L1", reason="operator", grace_ms=grace_ms)
    assert w.daemon.receive() == {"t": "revoked", "lease": "L1"}
    return now_ms() - begin


def test_revoke_is_sigterm_to_the_group(w):
    w.run(shell=HEARS_TERM)
    w.daemon.greet()
    w.daemon.assign()
    pid, other = w.pid_in("pid"), w.pid_in("group")
    assert revoked_after(w, 60000) < 5000
    assert w.read("log") == "stopped\n" and not is_alive(pid)
    wait_until(lambda: not is_alive(other), "the end of the group")
    w.stop()


def test_revoke_kills_within_the_grace(w):
    w.run(shell=IGNORES_TERM)
    w.daemon.greet()
    w.daemon.assign()
    pid = w.pid_in("pid")
    took = revoked_after(w, 1500)
    assert 1000 < took < 1500 and not is_alive(pid), took
    w.stop()


def test_kill_after_shortens_the_grace(w):
    w.run("--kill-after", "100ms", shell=IGNORES_TERM)
    w.daemon.greet()
    w.daemon.assign()
    w.pid_in("pid")
    took = revoked_after(w, 60000)
    assert 80 < took < 3000, took


def test_revoke_of_a_stopped_command(w):
    w.run(shell=HEARS_TERM)
    w.daemon.greet()
    w.daemon.assign()
    os.kill(w.pid_in("pid"), signal.SIGSTOP)
    assert revoked_after(w, 60000) < 5000


def test_revoke_of_what_does_not_run(w):
    w.run()
    w.daemon.greet()
    revoked_after(w, 60000)
    w.stop()


# ---- the fence

BEATS = """import signal, time
signal.signal(signal.SIGTERM, lambda *_: open("term", "w").write(str(time.monotonic() * 1000)))
while True:
    open("beat.new", "w").write(str(time.monotonic() * 1000) + "\\n")
    __import__("os").replace("beat.new", "beat")
    time.sleep(0.001)
"""


FENCE_IN = 3000  # ms: a command has begun by then, on a busy machine too


def expect_stopped_by(w, until_ms):
    wait_until(lambda: now_ms() > until_ms, "time to pass")
    beat = float(w.read("beat"))
    assert beat <= until_ms, f"worked {beat - until_ms:.0f} ms past its fence"
    assert beat > until_ms - 1000, f"stopped {until_ms - beat:.0f} ms before its fence"
    assert float(w.read("term")) < until_ms, "no SIGTERM before"


def test_fence(w):
    w.run(command=["python3", "-c", BEATS])
    w.daemon.greet()
    until = w.daemon.assign(until_in=FENCE_IN)
    w.wait_for("beat")
    expect_stopped_by(w, until)
    assert w.daemon.receive() == {"t": "revoked", "lease": "L1"}
    w.stop()


def test_ping_moves_the_fence(w):
    w.run(command=["python3", "-c", BEATS])
    w.daemon.greet()
    first = w.daemon.assign(until_in=FENCE_IN)
    w.wait_for("beat")
    until = first + 700
    w.daemon.send(t="ping", n=1, until_ms=until)
    w.daemon.receive("pong")
    expect_stopped_by(w, until)
    assert float(w.read("beat")) > first
    w.daemon.receive("revoked")


def test_a_fence_that_comes_again_is_said_once(w):
    """Each frame with a time moves the fence; the command ignores SIGTERM and is at it until it is killed."""
    w.run(shell="trap '' TERM; touch started; while :; do sleep 0.02; done")
    w.daemon.greet()
    until = w.daemon.assign(until_in=FENCE_IN)
    w.wait_for("started")
    w.wait_for("stderr", "not renewed in time")
    w.daemon.send(t="ping", n=1, until_ms=until)
    w.daemon.receive("pong")
    w.daemon.receive("revoked")
    said = [x for x in w.read("stderr").splitlines() if "not renewed in time" in x]
    assert len(said) == 1, said
    w.stop()


def test_an_earlier_fence_counts_for_all(w):
    w.run("-n", "2", command=["python3", "-c", "import os\nif os.environ['SLUICE_LEASE'] == 'B': os.mkdir('b'), os.chdir('b')\n" + BEATS])
    w.daemon.greet()
    w.daemon.assign("A", until_in=60000)
    w.wait_for("beat")
    until = w.daemon.assign("B", until_in=FENCE_IN)
    expect_stopped_by(w, until)
    assert {w.daemon.receive("revoked")["lease"], w.daemon.receive("revoked")["lease"]} == {"A", "B"}


def test_fence_without_a_daemon(w):
    w.run(command=["python3", "-c", BEATS])
    w.daemon.greet()
    until = w.daemon.assign(until_in=FENCE_IN)
    w.wait_for("beat")
    w.daemon.hang_up(stop_listening=True)
    expect_stopped_by(w, until)
    w.daemon.listen()
    assert w.daemon.accept()["resume"] == ["L1"]
    w.daemon.welcome(session="s2", resumed=["L1"])
    assert w.daemon.receive() == {"t": "revoked", "lease": "L1"}
    w.stop()


def test_fence_while_nobody_reads_our_stderr(w):
    read_end, write_end = os.pipe()
    w.run(command=["python3", "-c", "import threading, sys\n"
                   "threading.Thread(target=lambda: [sys.stderr.write('x' * 4095 + '\\n') for _ in iter(int, 1)], daemon=True).start()\n"
                   + BEATS], stderr=write_end)
    os.close(write_end)
    w.daemon.greet()
    until = w.daemon.assign(until_in=FENCE_IN)
    w.wait_for("beat")
    expect_stopped_by(w, until)
    w.daemon.receive("revoked")
    w.daemon.send(t="ping", n=5)
    w.daemon.receive("pong")
    os.close(read_end)


SLOW_FORK = r"""#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>
pid_t fork(void)
{
	usleep(100000);
	return ((pid_t(*)(void))dlsym(RTLD_NEXT, "fork"))();
}
"""
N_STARTS = 30  # of a tenth of a second each: twice as long as a fence


def run_where_a_start_takes_long(w, *options):
    """As on a machine whose processor is short."""
    with open(w.at("slow.c"), "w") as f:
        f.write(SLOW_FORK)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", w.at("slow.so"), w.at("slow.c"), "-ldl"], check=True)
    env = dict(os.environ, LD_PRELOAD=w.at("slow.so"), ASAN_OPTIONS=os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0")
    w.run("-n", str(N_STARTS), *options, command=["true"], env=env)
    w.daemon.greet(now_ms=now_ms())


def ping_until(w, what, n):
    """The fence is moved ten times as often as it comes; n answers `what` come meanwhile, and no other."""
    serial, answers = 0, []
    while len(answers) < n:
        serial += 1
        w.daemon.send(t="ping", n=serial, until_ms=now_ms() + 1500)
        while (frame := w.daemon.receive()) != {"t": "pong", "n": serial}:
            assert frame["t"] == what, frame
            answers.append(frame)
            if what == "done":
                w.daemon.ok(frame["lease"])
        time.sleep(0.1)
    assert "not renewed" not in w.read("stderr")


def test_a_ping_does_not_wait_for_commands_that_start(w):
    run_where_a_start_takes_long(w)
    for i in range(N_STARTS):
        w.daemon.assign(f"L{i}", until_in=1500, stream=f"orders:{i}")
    ping_until(w, "done", N_STARTS)


def test_a_ping_does_not_wait_for_the_next_commands(w):
    """Each stream has its next entry here: a command that ends is the start of another."""
    run_where_a_start_takes_long(w, "--each")
    for i in range(N_STARTS // 3):
        w.daemon.assign(f"L{i}", until_in=1500, stream=f"orders:{i}", entries={"pos": "0-0"})
        w.daemon.send(t="entries", lease=f"L{i}", more=False, e=[[f"{k}-0", ["n", str(k)]] for k in range(1, 7)])
    ping_until(w, "ack", N_STARTS * 2)


# ---- sluice-run itself is stopped


def state_of(pid):
    with open(f"/proc/{pid}/stat") as f:
        return f.read().rsplit(")", 1)[1].split()[0]


def test_the_fence_holds_while_we_are_stopped(w):
    """A debugger, a frozen parent: the guard does it."""
    w.run(command=["python3", "-c", BEATS])
    w.daemon.greet()
    until = w.daemon.assign(until_in=FENCE_IN) + 500
    w.wait_for("beat")
    w.daemon.send(t="ping", n=1, until_ms=until)
    w.daemon.receive("pong")
    w.signal(signal.SIGSTOP)
    expect_stopped_by(w, until)
    assert float(w.read("beat")) > until - 500, "before its last fence"
    w.signal(signal.SIGCONT)
    assert w.daemon.receive() == {"t": "revoked", "lease": "L1"}
    assert "stream orders:7: not renewed in time" in w.wait_line("stderr")
    assert "failed" not in w.read("stderr"), w.read("stderr")
    w.stop()


def test_a_deaf_command_is_killed_while_we_are_stopped(w):
    w.run("-n", "2", shell="trap '' TERM; sh -c \"trap '' TERM; echo \\$\\$ > inner-$SLUICE_LEASE; while :; do sleep 0.02; done\" & wait")
    w.daemon.greet()
    w.daemon.assign("A", until_in=60000)
    until = w.daemon.assign("B", until_in=FENCE_IN)  # counts for both
    pids = [w.pid_in("inner-" + lease) for lease in "AB"]
    w.signal(signal.SIGSTOP)
    wait_until(lambda: not any(is_alive(pid) for pid in pids), "their end")
    assert until - 300 < now_ms() < until + 100, now_ms() - until
    w.signal(signal.SIGCONT)
    assert {w.daemon.receive("revoked")["lease"] for _ in "AB"} == {"A", "B"}
    w.stop()


def test_kill_after_holds_while_we_are_stopped(w):
    w.run("--kill-after", "50ms", shell=IGNORES_TERM)
    w.daemon.greet()
    until = w.daemon.assign(until_in=FENCE_IN)
    pid = w.pid_in("pid")
    w.signal(signal.SIGSTOP)
    wait_until(lambda: not is_alive(pid), "its end")
    assert now_ms() < until - 300, until - now_ms()  # SIGTERM came three quarters on


def test_a_revoke_holds_while_we_are_stopped(w):
    w.run(shell=IGNORES_TERM)
    w.daemon.greet()
    w.daemon.assign()
    pid = w.pid_in("pid")
    w.daemon.send(t="revoke", lease="L1", reason="operator", grace_ms=1500)
    w.wait_for("stderr", "revoked: operator")
    w.signal(signal.SIGSTOP)
    begin = now_ms()
    wait_until(lambda: not is_alive(pid), "its end")
    assert now_ms() - begin < 1500
    w.signal(signal.SIGCONT)
    assert w.daemon.receive() == {"t": "revoked", "lease": "L1"}


def test_what_ends_while_we_are_stopped_has_its_result(w):
    w.run("-n", "2", shell="echo $$ > pid-$SLUICE_LEASE; while [ ! -e go ]; do sleep 0.02; done; [ $SLUICE_LEASE = A ]")
    w.daemon.greet()
    w.daemon.assign("A", until_in=FENCE_IN)
    until = w.daemon.assign("B", until_in=FENCE_IN)
    pids = [w.pid_in(f"pid-{lease}") for lease in "AB"]
    w.signal(signal.SIGSTOP)
    w.touch("go")
    wait_until(lambda: not any(is_alive(pid) for pid in pids), "their end")
    wait_until(lambda: now_ms() > until, "time to pass")
    w.signal(signal.SIGCONT)
    got = {f["lease"]: f["t"] for f in (w.daemon.receive(), w.daemon.receive())}
    assert got == {"A": "done", "B": "fail"}, got


def test_stopped_for_less_than_the_fence_nothing_happens(w):
    w.run(shell="trap 'touch term' TERM; echo $$ > pid; while [ ! -e go ]; do sleep 0.02; done")
    w.daemon.greet()
    until = w.daemon.assign(until_in=FENCE_IN)
    w.pid_in("pid")
    w.signal(signal.SIGSTOP)
    w.daemon.send(t="ping", n=1, until_ms=until + 60000)
    time.sleep(0.2)
    w.signal(signal.SIGCONT)
    w.daemon.receive("pong")
    wait_until(lambda: now_ms() > until, "time to pass")
    w.touch("go")
    assert w.daemon.receive() == {"t": "done", "lease": "L1"}
    assert not os.path.exists(w.at("term"))


def test_ctrl_z_stops_the_commands_too(w):
    w.run("-n", "2", shell="sleep 1000 & echo $! > other-$SLUICE_LEASE; echo $$ > pid-$SLUICE_LEASE; while [ ! -e go ]; do sleep 0.02; done",
          preexec_fn=os.setpgrp)  # a shell's job
    w.daemon.greet()
    for lease in "AB":
        w.daemon.assign(lease)
    pids = [w.pid_in(name + lease) for name in ("pid-", "other-") for lease in "AB"] + [w.process.pid]
    for _ in range(2):
        w.signal(signal.SIGTSTP)
        wait_until(lambda: all(state_of(pid) == "T" for pid in pids), "all stopped")
        w.signal(signal.SIGCONT)
        wait_until(lambda: all(state_of(pid) in "SR" for pid in pids), "all go on")
    w.touch("go")
    assert {w.daemon.receive("done")["lease"] for _ in "AB"} == {"A", "B"}


def test_ctrl_z_past_the_fence(w):
    """What was stopped with us hears SIGTERM before the fence, and does no more work after it."""
    w.run("-n", "2", command=["python3", "-c", "import os\nif os.environ['SLUICE_LEASE'] == 'B': os.mkdir('b'), os.chdir('b')\n" + BEATS], preexec_fn=os.setpgrp)
    w.daemon.greet()
    w.daemon.assign("A", until_in=FENCE_IN)
    until = w.daemon.assign("B", until_in=FENCE_IN)
    w.wait_for("beat")
    w.wait_for("b/beat")
    w.signal(signal.SIGTSTP)
    wait_until(lambda: state_of(w.process.pid) == "T", "we are stopped")
    stopped = now_ms()
    wait_until(lambda: now_ms() > until, "time to pass")
    w.signal(signal.SIGCONT)
    assert {w.daemon.receive("revoked")["lease"] for _ in "AB"} == {"A", "B"}
    for name in ("beat", "b/beat"):
        beat, term = float(w.read(name)), float(w.read(name.replace("beat", "term")))
        assert stopped < term < until and beat < until, (stopped, beat, term, until)
    w.stop()


def test_a_shell_without_job_control(w):
    """SIGTSTP stays ignored when it was at the start."""
    w.run(shell="echo $$ > pid; while [ ! -e go ]; do sleep 0.02; done", preexec_fn=lambda: signal.signal(signal.SIGTSTP, signal.SIG_IGN))
    w.daemon.greet()
    w.daemon.assign()
    pid = w.pid_in("pid")
    w.signal(signal.SIGTSTP)
    w.daemon.send(t="ping", n=1)
    w.daemon.receive("pong")
    assert state_of(pid) != "T"
    w.touch("go")
    w.daemon.receive("done")


def guard_of(w):
    """It has a session of its own and nobody as its parent: found by the memory that it shares with sluice-run."""
    def shared(pid):
        with open(f"/proc/{pid}/maps") as f:
            return {line.split()[4] for line in f if "/dev/zero" in line}
    mine = shared(w.process.pid)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/comm") as f:
                if f.read() == "sluice-guard\n" and shared(pid) & mine:
                    return int(pid)
        except OSError:
            pass
    return None


def test_a_guard_that_dies_is_replaced(w):
    w.run(command=["python3", "-c", BEATS])
    w.daemon.greet()
    until = w.daemon.assign(until_in=FENCE_IN)
    w.wait_for("beat")
    old = guard_of(w)
    os.kill(old, signal.SIGKILL)
    w.wait_for("stderr", "sluice-guard has ended: another one is started")
    w.signal(signal.SIGSTOP)
    expect_stopped_by(w, until)
    w.signal(signal.SIGCONT)
    w.daemon.receive("revoked")
    assert guard_of(w) != old
    w.stop()
    wait_until(lambda: guard_of(w) is None if is_alive(w.process.pid) else True, "its end")


# ---- losing the daemon


def test_waits_for_the_socket(w):
    w.run()
    w.wait_for("stderr", "trying again")
    time.sleep(0.35)  # two more tries, to see that they are not said
    w.daemon.listen()
    w.daemon.greet()
    w.stop()
    assert w.read("stderr").count("trying again") == 1, w.read("stderr")


test_waits_for_the_socket.listen = False


def test_resumes_after_a_lost_connection(w):
    w.run("-n", "2", shell="echo $$ > pid-$SLUICE_LEASE; while [ ! -e go ]; do sleep 0.02; done")
    w.daemon.greet(session="s-1")
    w.daemon.assign("A")
    w.daemon.assign("B")
    pids = {lease: w.pid_in("pid-" + lease) for lease in "AB"}
    w.daemon.hang_up()
    hello = w.daemon.accept()
    assert hello["session"] == "s-1" and sorted(hello["resume"]) == ["A", "B"] and hello["credits"] == 2, hello
    w.daemon.welcome(session="s-2", resumed=["A", "B"])
    w.daemon.send(t="ping", n=1)
    w.daemon.receive("pong")
    assert all(is_alive(pid) for pid in pids.values())
    w.touch("go")
    assert {w.daemon.receive("done")["lease"], w.daemon.receive("done")["lease"]} == {"A", "B"}
    w.daemon.hang_up()
    assert w.daemon.accept()["session"] == "s-2"


def test_tells_results_again_until_ok(w):
    w.run("-n", "3", shell='case $SLUICE_LEASE in B) echo why >&2; exit 4;; C) echo $$ > pid; while [ ! -e go ]; do sleep 0.02; done;; esac')
    w.daemon.greet()
    w.daemon.assign("A")
    assert w.daemon.receive("done")["lease"] == "A"
    w.daemon.assign("B")
    w.daemon.receive("fail")
    w.daemon.assign("C")
    pid = w.pid_in("pid")
    w.daemon.hang_up(stop_listening=True)
    w.touch("go")  # ends while nobody listens
    wait_until(lambda: not is_alive(pid), "the end of C")
    w.daemon.listen()
    assert sorted(w.daemon.accept()["resume"]) == ["A", "B", "C"]
    w.daemon.welcome(resumed=["B", "C"], gone=[{"lease": "A", "outcome": "done"}])
    frames = [w.daemon.receive(), w.daemon.receive()]
    assert sorted((f["t"], f["lease"]) for f in frames) == [("done", "C"), ("fail", "B")], frames
    w.daemon.ok("B", "fail", "requeued")
    w.daemon.ok("C")
    w.daemon.send(t="ping", n=1)
    w.daemon.receive("pong")
    w.daemon.hang_up()
    assert w.daemon.greet()["resume"] == []
    w.stop()


def test_kills_what_is_gone_or_not_listed(w):
    w.run("-n", "3", shell="trap '' TERM; echo $$ > pid-$SLUICE_LEASE; while :; do sleep 0.02; done")
    w.daemon.greet()
    for lease in "ABC":
        w.daemon.assign(lease)
    pids = {lease: w.pid_in("pid-" + lease) for lease in "ABC"}
    w.daemon.hang_up()
    w.daemon.greet(resumed=["C"], gone=[{"lease": "A", "outcome": "lost"}])
    wait_until(lambda: not is_alive(pids["A"]) and not is_alive(pids["B"]), "the end of A and B")
    assert is_alive(pids["C"])
    w.daemon.send(t="ping", n=1)
    w.daemon.receive("pong")  # and no word about A and B
    w.daemon.send(t="err", code="not_owner", msg="no", lease="C", fatal=False)
    wait_until(lambda: not is_alive(pids["C"]), "the end of C")
    w.stop()


def test_refused_results_are_given_up(w):
    w.run()
    w.daemon.greet()
    w.daemon.assign()
    w.daemon.receive("done")
    w.daemon.send(t="err", code="not_owner", msg="somebody else's", lease="L1", fatal=False)
    w.stop()
    assert "somebody else's" in w.read("stderr")


def test_fatal_errors(w):
    for code, exit_code in (("bad_version", 69), ("unauthorized", 77), ("bad_hello", 78)):
        w.run()
        w.daemon.accept()
        w.daemon.send(t="err", code=code, msg="because", fatal=True)
        assert w.exit_code() == exit_code
        assert w.read("stderr") == f"sluice-run: sluiced refuses us: {code}: because\n", w.read("stderr")
    w.run()
    w.daemon.accept()
    w.daemon.send(t="err", code="too_many_sessions", msg="full", fatal=True)
    w.daemon.hang_up()
    w.daemon.greet()
    w.daemon.conn.sendall(b"what?\n")
    w.daemon.expect_end()
    w.daemon.greet()
    w.stop()


def test_a_lease_that_comes_back_while_its_process_dies(w):
    w.run(shell=IGNORES_TERM)
    w.daemon.greet()
    w.daemon.assign("A")
    pid = w.pid_in("pid")
    w.daemon.hang_up()
    w.daemon.accept()
    both = dict(t="welcome", session="s2", lease_ms=10000, until_ms=now_ms() + 60000, resumed=[], gone=[]), dict(
        t="assign", lease="A", service="orders", stream="x", id="1-0", token="1", retry=0, info={}, until_ms=now_ms() + 60000)
    w.daemon.conn.sendall(b"".join(json.dumps(frame).encode() + b"\n" for frame in both))
    assert w.daemon.receive() == {"t": "release", "lease": "A"}
    wait_until(lambda: not is_alive(pid), "the end of A")


# ---- stopping sluice-run


def test_sigterm_finishes_the_work(w):
    w.run("-n", "2", shell="echo $$ > pid; while [ ! -e go ]; do sleep 0.02; done")
    w.daemon.greet()
    w.daemon.assign("A")
    w.pid_in("pid")
    w.signal()
    assert w.daemon.receive() == {"t": "credits", "n": 0}
    w.daemon.assign("B")  # crossed our credits 0
    assert w.daemon.receive() == {"t": "release", "lease": "B"}
    w.daemon.hang_up()
    assert w.daemon.greet(resumed=["A"])["credits"] == 0
    w.touch("go")
    assert w.daemon.receive() == {"t": "done", "lease": "A"}
    w.daemon.ok("A")
    assert w.daemon.receive() == {"t": "bye"}
    w.daemon.expect_end()
    assert w.exit_code() == 0


def test_sigterm_gives_the_work_back(w):
    """--on-term release: what is stopped goes back, what ends well or for ever meanwhile has its result, what does not end is killed."""
    w.run("-n", "9", "--on-term", "release", "--kill-after", "300ms", shell="""
case $SLUICE_LEASE in
    LONG) trap 'exit 3' TERM ;;
    DONE) trap 'exit 0' TERM ;;
    DEAD) trap 'exit 65' TERM ;;
    DEAF) trap '' TERM ;;
esac
echo $$ > pid-$SLUICE_LEASE
while :; do sleep 0.02; done""")
    w.daemon.greet()
    leases = ("LONG", "PLAIN", "DONE", "DEAD", "DEAF", "REVOKED")
    for lease in leases:
        w.daemon.assign(lease)
    pids = [w.pid_in(f"pid-{lease}") for lease in leases]
    w.daemon.send(t="revoke", lease="REVOKED", reason="operator", grace_ms=5000)
    assert w.daemon.receive() == {"t": "revoked", "lease": "REVOKED"}
    w.signal()
    assert w.daemon.receive() == {"t": "credits", "n": 0}
    got = [w.daemon.receive() for _ in range(5)]
    assert {f["lease"]: f["t"] for f in got} == {"LONG": "release", "PLAIN": "release", "DONE": "done", "DEAD": "fail", "DEAF": "release"}, got
    assert got[-1]["lease"] == "DEAF" and next(f for f in got if f["lease"] == "DEAD")["dead"] is True
    assert not any(is_alive(p) for p in pids)
    for f in got[1:]:
        w.daemon.ok(f["lease"], f["t"])
    assert w.process.poll() is None, "it waits until each is confirmed"
    w.daemon.ok(got[0]["lease"], got[0]["t"])
    assert w.daemon.receive() == {"t": "bye"}
    assert w.exit_code() == 0


def test_a_revoke_of_what_is_given_back(w):
    w.run("--on-term", "release", shell=IGNORES_TERM)
    w.daemon.greet()
    w.daemon.assign()
    pid = w.pid_in("pid")
    w.signal()
    w.daemon.receive("credits")
    w.daemon.send(t="revoke", lease="L1", reason="lost", grace_ms=400)
    assert w.daemon.receive() == {"t": "revoked", "lease": "L1"}
    assert not is_alive(pid)
    assert w.daemon.receive() == {"t": "bye"}
    assert w.exit_code() == 0


def test_sigterm_before_the_welcome(w):
    w.run()
    w.daemon.accept()
    w.stop()


def test_second_signal_kills(w):
    w.run(shell=IGNORES_TERM)
    w.daemon.greet()
    w.daemon.assign()
    pid = w.pid_in("pid")
    w.signal(signal.SIGINT)
    w.daemon.receive("credits")
    w.signal(signal.SIGINT)
    assert w.daemon.receive() == {"t": "revoked", "lease": "L1"}
    assert w.daemon.receive() == {"t": "bye"}
    assert w.exit_code() == 130 and not is_alive(pid)


def test_sigterm_without_a_daemon(w):
    w.run()
    w.wait_for("stderr", "trying again")
    w.signal()
    assert w.exit_code() == 0


test_sigterm_without_a_daemon.listen = False


def test_kill_9_leaves_nothing_running(w):
    w.run("-n", "2", shell="sh -c 'echo $$ > inner-$SLUICE_LEASE; sleep 1000; :' & echo $$ > outer-$SLUICE_LEASE; wait")
    w.daemon.greet()
    w.daemon.assign("A")
    w.daemon.assign("B")
    pids = [w.pid_in(name + lease) for name in ("inner-", "outer-") for lease in "AB"]
    w.signal(signal.SIGKILL)
    wait_until(lambda: not any(is_alive(pid) for pid in pids), "the end of everything")


# ---- the example workers


def run_example(w, *args):
    w.process = subprocess.Popen(args, cwd=w.dir, stdout=open(w.at("stdout"), "wb"), stderr=open(w.at("stderr"), "wb"))
    return w.daemon.greet(session="s-1")


def example(name):
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "etc", "examples", name)


def expect_plain_work(w):
    w.daemon.assign("A", info={"seconds": 0})
    w.daemon.assign("B", info={"seconds": 60, "more": [{"seconds": 0}]})
    w.daemon.assign("C", info=5, stream='with "quotes" \u00e9')
    assert {w.daemon.receive("done")["lease"], w.daemon.receive("done")["lease"]} == {"A", "C"}
    w.daemon.ok("A")
    w.daemon.ok("C")
    w.daemon.conn.sendall(b'null\n{"t":"weather","lease":"B"}\n{"t":null}\n{"t":"drain","grace_ms":null}\n')  # not for it
    w.daemon.send(t="ping", n=12, until_ms=now_ms() + 60000, more=None)
    assert w.daemon.receive() == {"t": "pong", "n": 12}


def expect_credits_free_at_done(w, n):
    """The next streams may come as soon as the daemon has `done`, long before its `ok`."""
    for round in "abc":
        for i in range(n):
            w.daemon.assign(f"{round}{i}", info={"seconds": 0})
        assert {w.daemon.receive("done")["lease"] for _ in range(n)} == {f"{round}{i}" for i in range(n)}
    for lease in (f"{round}{i}" for round in "abc" for i in range(n)):
        w.daemon.ok(lease)


def expect_deep(w, answer):
    """One entry's Info that Python cannot read: the others are not touched."""
    w.daemon.send(t="ping", n=1, until_ms=now_ms() + 60000)
    assert w.daemon.receive() == {"t": "pong", "n": 1}
    deep = "[" * 5000 + "]" * 5000
    w.daemon.conn.sendall(f'{{"t":"assign","lease":"deep","service":"orders","stream":"s","id":"1-0","info":{deep}}}\n'.encode())
    frame = w.daemon.receive(answer)
    assert frame["lease"] == "deep"


def expect_other_clock(w):
    w.daemon.hang_up()
    w.daemon.greet(now_ms=now_ms() - 1000000)
    assert w.exit_code() == 1 and "time namespace" in w.read("stderr")


def expect_fence(w):
    until = w.daemon.assign("X", info={"seconds": 60}, until_in=1500)
    assert w.daemon.receive() == {"t": "revoked", "lease": "X"} and now_ms() < until


def expect_fence_alone(w):
    """The worker is stopped, its work is not."""
    until = w.daemon.assign("Y", info={"seconds": 60}, until_in=1500)

    def work():
        with open(f"/proc/{w.process.pid}/task/{w.process.pid}/children") as f:
            return [int(x) for x in f.read().split() if is_alive(int(x))]
    wait_until(work, "its process")
    time.sleep(0.2)
    w.signal(signal.SIGSTOP)
    wait_until(lambda: not work() or now_ms() > until, "its end")
    assert not work(), "it worked past its fence"
    w.daemon.send(t="ping", n=1, until_ms=now_ms() + 60000)
    w.signal(signal.SIGCONT)
    got = [w.daemon.receive(), w.daemon.receive()]
    assert {"t": "revoked", "lease": "Y"} in got and {"t": "pong", "n": 1} in got, got


def test_example_python(w):
    assert run_example(w, sys.executable, example("worker.py"), w.at("sock"))["credits"] == 4
    expect_plain_work(w)
    expect_credits_free_at_done(w, 3)
    w.daemon.assign("D", info={"seconds": "x"})
    assert "TypeError" in w.daemon.receive("fail")["reason"]
    w.daemon.ok("D", "fail", "requeued")
    w.daemon.send(t="revoke", lease="B", reason="operator", grace_ms=1000)
    assert w.daemon.receive() == {"t": "revoked", "lease": "B"}
    expect_fence(w)
    expect_fence_alone(w)
    expect_deep(w, "fail")
    expect_other_clock(w)


def test_example_c(w):
    subprocess.run(["cc", "-std=c17", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", w.at("worker"), example("worker.c")], check=True)
    assert run_example(w, w.at("worker"), "-s", w.at("sock"), "-n", "3")["credits"] == 3
    expect_plain_work(w)
    expect_credits_free_at_done(w, 20)
    w.daemon.send(t="revoke", lease="B", reason="operator", grace_ms=1000)
    assert w.daemon.receive() == {"t": "revoked", "lease": "B"}
    expect_fence(w)
    expect_fence_alone(w)
    expect_deep(w, "done")
    expect_other_clock(w)


def test_example_fenced(w):
    assert run_example(w, sys.executable, example("worker_fenced.py"), w.at("sock"), "3")["credits"] == 3
    expect_plain_work(w)
    expect_credits_free_at_done(w, 20)
    w.daemon.send(t="revoke", lease="B", reason="operator", grace_ms=1000)
    assert w.daemon.receive() == {"t": "revoked", "lease": "B"}
    expect_fence(w)
    expect_fence_alone(w)
    w.daemon.assign("E", info={"seconds": 0})
    w.daemon.receive("done")
    w.daemon.assign("F", info={"seconds": "x"})
    assert "TypeError" in w.daemon.receive("fail")["reason"]
    expect_deep(w, "fail")
    w.daemon.assign("G", info={"seconds": 60})
    w.daemon.conn.sendall(b'{"t":"assign","lease":"H","inf')  # killed in the middle of a frame
    w.daemon.hang_up()
    hello = w.daemon.greet(resumed=["E", "G"], gone=[{"lease": "F", "outcome": "requeued"}])
    assert hello["session"] == "s-1" and sorted(hello["resume"]) == ["E", "F", "G"], hello
    assert w.daemon.receive() == {"t": "done", "lease": "E"}
    w.daemon.ok("E")
    w.signal()
    assert w.daemon.receive() == {"t": "credits", "n": 0}
    w.daemon.send(t="revoke", lease="G", reason="drain", grace_ms=1000)
    assert w.daemon.receive() == {"t": "revoked", "lease": "G"}
    assert w.daemon.receive() == {"t": "bye"}
    assert w.exit_code() == 0, w.read("stderr")


TIDY = """
try:
    open("t", "w").close()
    time.sleep(60)
except Stopped:
    open("tidy", "w").close()
    raise
"""
STUBBORN = """
while True:
    try:
        open("s", "w").close()
        time.sleep(60)
    except Stopped:
        open("asked", "w").close()
"""


def test_example_fenced_offers_more_than_done(w):
    """Give back, reject, tell how far it is; be asked before it is killed; what it left running goes with it."""
    with open(example("worker_fenced.py")) as f:
        text, n = re.subn(r"(?m)^    time\.sleep\(info.*$", "    exec(info['do'], dict(globals(), job=job, progress=progress))", f.read())
    assert n == 1
    with open(w.at("worker.py"), "w") as f:
        f.write(text)
    run_example(w, sys.executable, w.at("worker.py"), w.at("sock"), "9")

    def answer(do):
        w.daemon.assign("A", info={"do": do})
        frame = w.daemon.receive()
        w.daemon.ok("A", frame["t"], "requeued")
        return frame
    assert answer("raise GiveBack") == {"t": "release", "lease": "A"}
    assert answer("raise Reject('no')") == {"t": "fail", "lease": "A", "reason": "Reject: no", "dead": True}
    assert answer("sys.exit(3)")["reason"] == "SystemExit: 3"
    assert answer("os.kill(os.getpid(), 9)")["reason"] == "its process was killed"
    assert answer("import subprocess; open('left', 'w').write(f\"{subprocess.Popen(['sleep', '1000']).pid}\\n\")")["t"] == "done"
    wait_until(lambda: not is_alive(w.pid_in("left")), "the end of what it left running")
    w.daemon.assign("P", info={"do": "progress('half'); time.sleep(60)"})
    assert w.daemon.receive() == {"t": "progress", "lease": "P", "note": "half"}
    w.daemon.assign("T", info={"do": TIDY})
    w.daemon.assign("S", info={"do": STUBBORN})
    wait_until(lambda: os.path.exists(w.at("t")) and os.path.exists(w.at("s")), "both have begun")
    began = now_ms()
    for lease in ("P", "T", "S"):
        w.daemon.send(t="revoke", lease=lease, reason="operator", grace_ms=3000)
    assert {w.daemon.receive("revoked")["lease"] for _ in "PT"} == {"P", "T"} and os.path.exists(w.at("tidy"))
    assert w.daemon.receive() == {"t": "revoked", "lease": "S"} and os.path.exists(w.at("asked"))
    assert 2000 < now_ms() - began


def test_example_fenced_stopped_before_its_welcome(w):
    w.process = subprocess.Popen([sys.executable, example("worker_fenced.py"), w.at("sock")], stderr=open(w.at("stderr"), "wb"))
    w.daemon.accept()
    w.signal()
    time.sleep(0.2)
    w.daemon.welcome()
    assert w.daemon.receive() == {"t": "credits", "n": 0} and w.daemon.receive() == {"t": "bye"}
    assert w.exit_code() == 0, w.read("stderr")


def test_example_shell(w):
    os.environ["PATH"] = os.path.dirname(PROGRAM) + ":" + os.environ["PATH"]
    run_example(w, "sh", example("worker.sh"), "-s", w.at("sock"))
    w.daemon.assign(info={"a": 1})
    w.daemon.receive("done")
    assert w.read("stdout") == 'orders:7 (token 1700000000000000000): {"a":1}\n'


# ---- running the tests


def in_a_world(test):
    """run.py hands a Case to a test, main() below nothing."""
    @functools.wraps(test)
    def run(case=None):
        w = World(getattr(test, "listen", True))
        try:
            test(w)
        except BaseException:
            print("--- stderr of sluice-run:\n" + w.read("stderr")[-3000:], flush=True)
            raise
        finally:
            w.close()
    return run


TESTS = {name[5:]: in_a_world(fn) for name, fn in globals().items() if name.startswith("test_")}
globals().update({"test_" + name: fn for name, fn in TESTS.items()})


def main():
    global PROGRAM
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    PROGRAM = os.path.join(os.path.abspath(sys.argv[1]), "sluice-run")
    chosen = sys.argv[2:] or list(TESTS)
    failed = 0
    for name in chosen:
        begin = time.monotonic()
        try:
            TESTS[name]()
            print(f"ok {name} ({time.monotonic() - begin:.2f} s)", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED {name}\n{traceback.format_exc()}", flush=True)
    print(f"{len(chosen) - failed} of {len(chosen)} ok")
    sys.exit(1 if failed or not chosen else 0)


if __name__ == "__main__":
    main()
