#!/usr/bin/env python3
"""sluicectl against a fake daemon that answers with canned rows.

usage: test_sluicectl_cli.py BUILD_DIR [test_name ...]

Other tests run beside this one, and a process may wait for a core for seconds: nothing here counts on less than PATIENCE, but where the
time-out itself is looked at.
"""
import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time

CTL = ""
PATIENCE = 60  # seconds


class Daemon:
    """Listens at `path`; answers each request with rows and a final line, or as `script` says."""

    def __init__(self, rows=(), end=None, script=None):
        self.dir = tempfile.TemporaryDirectory(dir="/tmp")  # short, and open to other users
        self.path = os.path.join(self.dir.name, "control.sock")
        self.rows, self.script = rows, script
        self.end = end or {"end": True, "exit": 0}
        self.requests = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def __enter__(self):
        return self

    def go(self):
        if self.listener.fileno() >= 0:
            self.listener.shutdown(socket.SHUT_RDWR)  # not close: the thread might accept for the next one, by its number
            self.thread.join(5)
            self.listener.close()

    def __exit__(self, *_):
        self.go()
        self.dir.cleanup()

    def serve(self):
        while True:
            try:
                conn, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=(conn,), daemon=True).start()

    def answer(self, conn):
        with conn:
            try:
                request = json.loads(conn.makefile("rb").readline())
                self.requests.append(request)
                if self.script:
                    self.script(conn, request)
                    return
                for row in self.rows:
                    send(conn, row)
                send(conn, self.end)
            except OSError:
                pass


def send(conn, row):
    conn.sendall(json.dumps(row).encode() + b"\n")


def ctl(*args, socket_path=None, env=None, **kw):
    patient = [] if any("--timeout" in x for x in args) else ["--timeout", f"{PATIENCE}s"]
    command = [CTL] + patient + (["--socket", socket_path] if socket_path else []) + list(args)
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env={**os.environ, **(env or {})}, **kw)


def ask(daemon, *args, **kw):
    return ctl(*args, socket_path=daemon.path, **kw)


def expect(got, want, what=""):
    assert got == want, f"{what}\n got: {got!r}\nwant: {want!r}"


STREAM = {"service": "orders", "stream": "orders:7", "id": "1700000000000-0", "lease": "L1", "state": "assigned",
          "worker": "w1", "retry": 1, "age_ms": 245000, "assigned_ms": 1500, "until_ms": None, "token": "1" * 19,
          "note": "50 %"}
OWNED = {"locking": 0, "parked": 1, "ready": 2, "assigned": 3, "revoking": 0, "limbo": 0, "finishing": 0, "lost": 0}
STATUS = {"ready": False, "draining": True, "reasons": ["no master for slots 0-5460"], "node": "n1",
          "version": "0.1.0", "pid": 7, "uptime_ms": 93784000, "workers": 2,
          "redis": [{"redis": "10.0.0.1:6379", "state": "down", "slots": "0-5460", "breaker_open": True,
                     "down_ms": 4200, "error": "connection refused"}],
          "services": [{"service": "orders", "paused": True, "owned": OWNED, "credits": 8, "credits_in_use": 3,
                        "workers": 2, "lbs_length": 12, "lbs_pending": 6, "unassigned_oldest_age_ms": 800,
                        "owned_oldest_age_ms": None, "dlq_length": 4}]}


def test_sends_one_request_line_with_typed_arguments():
    with Daemon() as d:
        ask(d, "ls", "--service", "orders", "--state=limbo", "--older-than", "5m", "--limit", "3")
        ask(d, "add", "orders", "orders:7", "--count", "2", "--info", '{"n": 123456789012345678901234567890}')
        ask(d, "dlq", "purge", "orders", "--reason", "too_large", "--id", "1-0", "--rate", "10/s", "--dry-run")
        ask(d, "topology", "refresh")
        ask(d, "show", "--", "--odd")
        expect(d.requests, [
            {"v": 1, "verb": "ls",
             "args": {"service": "orders", "state": "limbo", "older_than_ms": 300000, "limit": 3}},
            {"v": 1, "verb": "add", "args": {"service": "orders", "stream": "orders:7", "count": 2,
                                             "info": {"n": 123456789012345678901234567890}}},
            {"v": 1, "verb": "dlq purge", "args": {"service": "orders", "reason": "too_large", "id": "1-0",
                                                   "rate_per_s": 10, "dry_run": True}},
            {"v": 1, "verb": "topology refresh", "args": {}},
            {"v": 1, "verb": "show", "args": {"stream": "--odd"}}])


def test_options_stand_before_or_after_the_verb():
    with Daemon([STREAM]) as d:
        a = ctl("--json", "ls", "--socket=" + d.path)
        b = ctl("ls", "--socket", d.path, "--json")
        expect((a.returncode, a.stdout), (0, b.stdout))


def test_json_is_the_rows_as_they_came():
    with Daemon([STREAM, STREAM]) as d:
        r = ask(d, "ls", "--json")
        expect(r.returncode, 0)
        expect([json.loads(x) for x in r.stdout.splitlines()], [STREAM, STREAM])
    exact = b'{"n":123456789012345678901234567890, "x":1.10}\n'
    with Daemon(script=lambda c, _: c.sendall(exact + b'{"end":true,"exit":0}\n')) as d:
        expect(ask(d, "ls", "--json").stdout, exact.decode())


def test_tables_are_aligned_and_ages_readable():
    second = dict(STREAM, stream="a-much-longer-name:é", worker=None, assigned_ms=None, state="ready", note=None)
    with Daemon([STREAM, second]) as d:
        lines = ask(d, "ls").stdout.splitlines()
        expect(lines[0].split(), "SERVICE STREAM ID STATE WORKER RETRY AGE ASSIGNED FENCE NOTE".split())
        expect(lines[1].split(), "orders orders:7 1700000000000-0 assigned w1 1 4m05s 1.5s - 50 %".split())
        expect(lines[2].split()[3:], "ready - 1 4m05s - - -".split())
        expect(lines[0].index("ID"), lines[2].index("1700000000000-0"), "columns")
        bare = ask(d, "ls", "--no-headers").stdout.splitlines()
        expect([x.split() for x in bare], [x.split() for x in lines[1:]])


def test_nothing_drives_the_terminal():
    evil = dict(STREAM, note="\x1b[2J\u009b1m\x07bell", worker="a\nb")
    with Daemon([evil], {"end": True, "exit": 1, "error": "x\x1b[0m"}) as d:
        for verb in (["ls"], ["show", "x"]):
            r = ask(d, *verb)
            assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\x80-\x9f]", r.stdout + r.stderr), repr(r.stdout + r.stderr)
        expect(len(ask(d, "ls").stdout.splitlines()), 2)


def test_status_says_why_it_is_not_ready():
    with Daemon([STATUS]) as d:
        out = ask(d, "status").stdout
        for words in ("n1: not ready, draining, up 1d02h", "no master for slots 0-5460", "connection refused", "4.2s",
                      "orders"):
            assert words in out, out
        expect(json.loads(ask(d, "status", "--json").stdout), STATUS)
    with Daemon([STATUS], {"end": True, "exit": 1}) as d:
        r = ask(d, "status", "--ready")
        expect((r.returncode, r.stdout, r.stderr), (1, "not ready: no master for slots 0-5460\n", ""))
        expect(d.requests[-1]["args"], {"ready": True})
    with Daemon([STATUS], {"end": True, "exit": 1, "error": "no master for slots 0-5460"}) as d:
        r = ask(d, "status", "--ready")
        expect((r.returncode, r.stdout, r.stderr), (1, "not ready\n", "sluicectl: no master for slots 0-5460\n"), "the reason once")


def test_exit_code_and_sentence_come_from_the_final_line():
    for code in (1, 64, 77, 78):
        with Daemon(end={"end": True, "exit": code, "error": "no stream orders:9"}) as d:
            for extra in ([], ["--json"]):
                r = ask(d, "show", "orders:9", *extra)
                expect((r.returncode, r.stdout, r.stderr), (code, "", "sluicectl: no stream orders:9\n"))


def test_reload_prints_every_setting_and_exits_78_when_rejected():
    rows = [{"setting": "log.level", "result": "applied", "from": "info", "to": "debug", "problem": None},
            {"setting": "node.id", "result": "needs_restart", "from": "a", "to": "b", "problem": None},
            {"setting": "x", "result": "rejected", "from": None, "to": None, "problem": "f:1:1: x: unknown key"}]
    with Daemon(rows, {"end": True, "exit": 78, "error": "nothing was applied"}) as d:
        r = ask(d, "reload")
        expect(r.returncode, 78)
        for word in ("applied", "needs_restart", "rejected", "f:1:1: x: unknown key"):
            assert word in r.stdout, r.stdout


def test_other_views():
    explain = {"service": "orders", "stream": "o:1", "id": "1-0", "state": "parked", "owner": "redis-consumer-a",
               "running": False, "because": ["o:1 already runs as 0-9"], "next": "it starts when 0-9 is done",
               "advice": None}
    with Daemon([explain]) as d:
        expect(ask(d, "explain", "o:1").stdout,
               "o:1 (orders 1-0): parked, it does not run, owner redis-consumer-a\n"
               "  because o:1 already runs as 0-9\n  next  it starts when 0-9 is done\n")
    blocked = {"service": "s", "stream": "o:1", "id": "1-0", "state": "blocked", "owner": "c", "running": True, "because": [], "next": None,
               "advice": None}
    with Daemon([blocked]) as d:
        expect(ask(d, "explain", "o:1").stdout, "o:1 (s 1-0): blocked, its worker waits to try an entry again, owner c\n")
    node = {"redis": "h:1", "role": "master", "slots": "0-99", "state": "connected", "breaker": "closed",
            "lag_ms": 1,
            "connections": [{"role": "command", "state": "ready", "handoff": "idle", "relaxed": False},
                            {"role": "reader", "state": "ready", "handoff": "draining", "relaxed": True}]}
    with Daemon([node]) as d:
        assert "command:ready reader:ready/draining~" in ask(d, "nodes").stdout
    entry = {"service": "s", "id": "9-0", "stream": "t", "reason": "rejected", "at_ms": 0, "age_ms": 1000,
             "node": "n", "error": "bad", "orig_id": "1-0", "retry": 3, "info": {"a": 1}, "fields": {"x": "y"}}
    with Daemon([entry, entry]) as d:
        assert '{"a":1}' in ask(d, "dlq", "show", "s").stdout
        expect(len(ask(d, "dlq", "ls", "s").stdout.splitlines()), 3)
    replay = {"service": "s", "id": "9-0", "stream": "t", "result": "replayed", "new_id": "10-0", "error": None}
    with Daemon([replay]) as d:
        expect(ask(d, "dlq", "replay", "s").stdout, "replayed t 9-0 -> 10-0\n1 dead letter\n")
    with Daemon([{"service": "s", "stream": "t", "id": "9-0"}]) as d:
        expect(ask(d, "add", "s", "t").stdout, "added t 9-0\n")


def test_metrics_prints_the_text():
    with Daemon([{"text": "# TYPE a gauge\na 1\n"}]) as d:
        expect(ask(d, "metrics").stdout, "# TYPE a gauge\na 1\n")
        expect(json.loads(ask(d, "metrics", "--json").stdout), {"text": "# TYPE a gauge\na 1\n"})


def test_version_with_and_without_a_daemon():
    row = {"version": "9.9.9", "node": "n1", "pid": 3, "control": 1, "worker": 1}
    with Daemon([row]) as d:
        r = ask(d, "version")
        assert r.returncode == 0 and "sluicectl 0." in r.stdout and "sluiced 9.9.9 on n1" in r.stdout, r.stdout
        expect(json.loads(ask(d, "version", "--json").stdout)["daemon"], row)
    r = ctl("version", socket_path="/nonexistent/control.sock")
    expect(r.returncode, 69)
    assert r.stdout.startswith("sluicectl ") and "no socket at" in r.stderr, r
    r = ctl("version", "--json", socket_path="/nonexistent/control.sock")
    expect((r.returncode, json.loads(r.stdout)["daemon"]), (69, None))
    r = ctl("--version")
    expect((r.returncode, r.stderr), (0, ""))


def test_what_a_daemon_of_another_version_does_not_know():
    """sluicectl knows the verb and the option: the answer names both versions, or only says that they differ."""
    version = {"version": "0.0.9", "node": "n1", "pid": 3, "control": 1, "worker": 1}

    def daemon(said, knows_version=True):
        def script(conn, request):
            if request["verb"] == "version" and knows_version:
                send(conn, version)
                send(conn, {"end": True, "exit": 0})
            else:
                send(conn, {"end": True, "exit": 64, "error": said})
        return Daemon(script=script)
    ours = ctl("--version").stdout.split()[1]
    for args, said in ((["fleet"], 'unknown verb "fleet"'), (["ls", "--waiting"], 'ls: unknown argument "waiting"')):
        for extra in ([], ["--json"]):
            with daemon(said) as d:
                r = ask(d, *args, *extra)
                why = f"{said}: this is sluiced 0.0.9, and sluicectl {ours}"
                expect((r.returncode, r.stdout, r.stderr), (64, "", f"sluicectl: {why}\n"))
    with daemon('unknown verb "fleet"', knows_version=False) as d:
        expect(ask(d, "fleet").stderr, f'sluicectl: unknown verb "fleet": sluiced is another version than sluicectl {ours}\n')
    with daemon("show: no stream is named") as d:
        expect(ask(d, "show", "x").stderr, "sluicectl: show: no stream is named\n")


def test_usage_errors_exit_64_and_reach_no_daemon():
    cases = {("lss",): 'unknown verb "lss" (did you mean "ls"?)', (): "a verb is missing", ("dlq",): "dlq: what?",
             ("dlq", "sl", "x"): "dlq: what?", ("ls", "--colour"): "unknown option --colour",
             ("ls", "-x"): "unknown option -x", ("ls", "x"): "one argument too many", ("show",): "STREAM is missing",
             ("ls", "--service"): "--service needs a value", ("ls", "--state", "x"): "--state must be one of",
             ("ls", "--older-than", "5"): "--older-than must be a duration", ("ls", "--limit", "0"): "between 1 and",
             ("ls", "--ready"): "ls does not take --ready", ("ls", "--json=1"): "--json takes no value",
             ("add", "s", "t", "--info", "{x"): "--info is not JSON",
             ("add", "s", "t", "--info", ""): "--info is not JSON",
             ("add", "s", "t", "--count", "1", "--count", "1"): "--count is given twice",
             ("add", "s", ""): "STREAM is empty", ("add", "s"): "STREAM is missing",
             ("dlq", "ls", "s", "--rate", "1/s"): "dlq ls does not take --rate",
             ("dlq", "replay", "s", "--rate", "fast"): "--rate must be a rate",
             ("ls", "--timeout", "0"): "--timeout must be", ("ls", "--timeout", "soon"): "--timeout must be",
             ("top", "--json"): "top has no --json", ("top", "--service", "x"): "top does not take",
             ("help", "lss"): "unknown verb"}
    assert "no socket at /nonexistent" in ctl("-s", "/nonexistent", "status").stderr
    with Daemon() as d:
        for args, words in cases.items():
            r = ask(d, *args)
            expect((r.returncode, r.stdout), (64, ""), str(args))
            assert words in r.stderr and "; see sluicectl " in r.stderr and r.stderr.count("\n") == 1, (args, r.stderr)
        expect(d.requests, [])
    expect(ctl("ls", socket_path="/" + "x" * 200).returncode, 64)
    expect(ctl("add", "s", "t", "--info", '"' + "x" * 70000 + '"', socket_path="/nonexistent").returncode, 64)


def test_help():
    r = ctl("--help")
    expect((r.returncode, r.stderr), (0, ""))
    for verb in ("status", "dlq purge SERVICE", "topology refresh", "top", "--no-headers"):
        assert verb in r.stdout, verb
    for args in (["help", "dlq", "purge"], ["dlq", "purge", "--help"]):
        r = ctl(*args)
        assert r.returncode == 0 and "--dry-run" in r.stdout, r
    for args in (["help", "dlq"], ["dlq", "--help"]):
        r = ctl(*args)
        assert r.returncode == 0 and "dlq purge SERVICE" in r.stdout and "entries-dlq" not in r.stdout, r


def test_unreachable_is_69_with_one_clear_line():
    with tempfile.TemporaryDirectory() as tmp:
        path = os.path.join(tmp, "s")
        r = ctl("status", socket_path=path)
        expect((r.returncode, r.stdout, r.stderr.count("\n")), (69, "", 1))
        assert "no socket at " + path in r.stderr, r.stderr
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(path)
        r = ctl("status", socket_path=path)
        expect(r.returncode, 69)
        assert "connection refused" in r.stderr, r.stderr


def test_permission_is_77():
    if os.geteuid() != 0:
        return
    with Daemon() as d:
        os.chmod(d.dir.name, 0o755)
        os.chmod(d.path, 0o600)
        with tempfile.TemporaryDirectory(dir="/tmp") as tmp:  # where an unprivileged user may run it
            os.chmod(tmp, 0o755)
            copy = os.path.join(tmp, "sluicectl")
            subprocess.run(["cp", "-L", CTL, copy], check=True)
            r = subprocess.run([copy, "--socket", d.path, "status"], capture_output=True, text=True, timeout=PATIENCE,
                               user=65534, group=65534, extra_groups=[])
        expect(r.returncode, 77, r.stderr)
        assert "permission denied" in r.stderr, r.stderr


def test_silence_ends_with_a_timeout():
    def silent(conn, _):
        conn.recv(1)
    with Daemon(script=silent) as d:
        start = time.monotonic()
        r = ask(d, "status", "--timeout", "300ms")
        expect(r.returncode, 69)
        assert "timeout: sluiced said nothing for 300ms" in r.stderr, r.stderr
        assert 0.25 < time.monotonic() - start and "Redis" not in r.stderr, r.stderr
        for args in (("add", "orders", "x"), ("explain", "x"), ("delayed", "ls"), ("fleet",), ("ls", "--waiting"), ("dlq", "purge", "orders")):
            r = ask(d, *args, "--timeout", "100ms")
            expect(r.returncode, 69)
            assert "nothing for 100ms (--timeout): it may be waiting for Redis, sluicectl status tells" in r.stderr, r.stderr
            assert ("what was asked may be done all the same" in r.stderr) == (args[0] in ("add", "dlq")), r.stderr
    with tempfile.TemporaryDirectory() as tmp, socket.socket(socket.AF_UNIX) as s:
        path = os.path.join(tmp, "s")
        s.bind(path)
        s.listen(0)
        waiting = []
        for _ in range(8):  # fill the backlog: a frozen daemon
            c = socket.socket(socket.AF_UNIX)
            c.setblocking(False)
            try:
                c.connect(path)
            except BlockingIOError:
                pass
            waiting.append(c)
        r = ctl("status", "--timeout", "300ms", socket_path=path)
        expect(r.returncode, 69)
        assert "timeout" in r.stderr, r.stderr


def test_rows_that_keep_coming_outlast_the_timeout():
    def slow(conn, _):
        for _ in range(6):
            send(conn, {"service": "s", "id": "1-0", "stream": "t", "result": "purged", "new_id": None, "error": None})
            time.sleep(0.5)
        send(conn, {"end": True, "exit": 0})
    with Daemon(script=slow) as d:
        r = ask(d, "dlq", "purge", "s", "--timeout", "2500ms")
        expect((r.returncode, r.stdout.count("purged")), (0, 6))


def test_broken_answers_are_69():
    answers = {b"": "closed the connection", b'{"a":1}\n': "closed the connection", b"hello\n": "not sluiced's",
               b"[1]\n": "not sluiced's", b'{"end":tr': "closed the connection", b"\xff\n": "not sluiced's"}
    for answer, words in answers.items():
        with Daemon(script=lambda c, _, a=answer: c.sendall(a)) as d:
            r = ask(d, "ls")
            expect(r.returncode, 69, repr(answer))
            assert words in r.stderr, (answer, r.stderr)


def test_answers_in_any_pieces():
    text = json.dumps(STREAM, ensure_ascii=False).encode() + b'\n{"end":true,"exit":0}\n'

    def drip(conn, _):
        for i in range(0, len(text), 7):
            conn.sendall(text[i:i + 7])
            time.sleep(0.001)
    with Daemon(script=drip) as d:
        expect(json.loads(ask(d, "ls", "--json").stdout), STREAM)
    many = json.dumps(STREAM).encode() + b"\n"
    with Daemon(script=lambda c, _: c.sendall(many * 20000 + b'{"end":true,"exit":0}\n')) as d:
        expect(len(ask(d, "ls").stdout.splitlines()), 20001)


def test_a_closed_pipe_ends_it_quietly():
    with Daemon([STREAM] * 5000) as d:
        for extra in ([], ["--json"]):
            p = subprocess.Popen([CTL, "--socket", d.path, "ls", *extra], stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE)
            p.stdout.read(10)
            p.stdout.close()
            expect((p.wait(PATIENCE), p.stderr.read()), (0, b""))
            p.stderr.close()
        with open("/dev/full", "w") as full:
            r = subprocess.run([CTL, "--socket", d.path, "ls"], stdout=full, stderr=subprocess.PIPE, text=True,
                               timeout=PATIENCE)
        expect(r.returncode, 1)
        assert "cannot write the output" in r.stderr, r.stderr


def test_closed_standard_descriptors():
    """The socket must not become 1 or 2: what is printed would go to the daemon."""
    with Daemon([STREAM]) as d:
        ls = [CTL, "--socket", d.path, "ls"]
        for argv, close in ((ls, [1]), (ls, [0, 1]), ([CTL, "--help"], [1])):
            r = subprocess.run(argv, stderr=subprocess.PIPE, text=True, timeout=PATIENCE, preexec_fn=lambda: [os.close(fd) for fd in close])
            expect((r.returncode, r.stderr), (1, "sluicectl: cannot write the output: Bad file descriptor\n"))
        r = subprocess.run(ls, stdout=subprocess.PIPE, text=True, timeout=PATIENCE, preexec_fn=lambda: [os.close(fd) for fd in (0, 2)])
        expect((r.returncode, len(r.stdout.splitlines())), (0, 2))


def test_follow_shows_each_event_at_once_and_ends_with_its_reader():
    def quiet(conn, _):
        send(conn, {"at_ms": 1700000000123, "level": "warn", "text": "shard=1 lag"})
        conn.recv(1)
    with Daemon(script=quiet) as d:
        p = subprocess.Popen([CTL, "--socket", d.path, "events", "--follow", "--timeout", "100ms"],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        line = p.stdout.readline().decode()
        assert re.match(r"\d\d:\d\d:\d\d\.123 warn   shard=1 lag\n$", line), line
        time.sleep(0.3)
        expect(p.poll(), None, "silence does not end it")
        p.stdout.close()
        expect((p.wait(PATIENCE), p.stderr.read()), (0, b""))
        p.stderr.close()


def test_drain_wait_has_no_timeout_of_its_own():
    def drain(conn, request):
        assert request["args"] == {"wait": True}
        for owned in (2, 0):
            send(conn, {"draining": True, "owned": owned, "workers": 1, "elapsed_ms": 100})
            time.sleep(0.1)
        send(conn, {"end": True, "exit": 0})
    with Daemon(script=drain) as d:
        r = ask(d, "drain", "--wait")
        expect((r.returncode, r.stdout.splitlines()[-1]), (0, "draining: 0 streams owned, 1 worker, for 100ms"))


def read_terminal(fd, until, seconds=PATIENCE):
    """Reads until the text `until` was seen; returns everything."""
    got, end = b"", time.monotonic() + seconds
    while until.encode() not in got and time.monotonic() < end:
        if select.select([fd], [], [], 0.1)[0]:
            try:
                got += os.read(fd, 65536)
            except OSError:
                break
    text = got.decode(errors="replace")
    assert until in text, repr(text)
    return text


def in_terminal(*args, env=None, rows=12, cols=60):
    pid, fd = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
        os.execve(CTL, [CTL, *args], {**os.environ, "TERM": "xterm", **(env or {})})
    return pid, fd


SERVICE, NAME, WORKER = "payment-reconciliation-eu-west-1", "customer-4711:export-to-warehouse-of-the-north:2026-11", "invoices-7d9f8b6c5d-x2x4z:12345"
ID, NODE, WORDS = "1764000000000-12", "sluiced-7d9f8b6c5d-abcde", "upstream said 503 Service Unavailable, three times in a row, and then nothing at all"
REDIS = "redis-cluster-leader-12.redis.svc.cluster.local:6379"
LONG_ROW = {
    "service": SERVICE, "stream": NAME, "id": ID, "lease": "L1", "state": "assigned", "worker": WORKER, "retry": 3, "age_ms": 245000,
    "assigned_ms": 1500, "until_ms": None, "token": "1" * 19, "note": WORDS, "reason": "max_retries_exceeded", "at_ms": 1764000000000,
    "due_ms": 250000, "error": WORDS, "node": NODE, "orig_id": ID, "tries": 4, "owned": 12, "credits": 100, "workers": 3, "idle_ms": 900,
    "version": "0.2.0", "self": True, "consumer": "redis-consumer-" + NODE, "name": WORKER, "session": "123", "pid": 1234567, "uid": 1000,
    "in_use": 7, "connected_ms": 10 ** 8, "services": [SERVICE, "bills"], "redis": REDIS, "role": "master", "slots": "0-5460 10923-12000",
    "breaker": "half_open", "lag_ms": 3, "change": "moved", "result": "ok", "check": "maxmemory-policy", "found": WORDS, "advice": WORDS,
    "setting": "services[0].dead_letter.stream", "from": None, "to": NAME, "problem": WORDS, "streams": 4, "paused": True,
    "connections": [{"role": x, "state": "handshake", "handoff": "idle", "relaxed": False, "address": "10.1.2.3:6379", "peer": None, "error": WORDS}
                    for x in ("command", "subscriber", "reader")]}
WIDE = ["ls", "ls --waiting", "workers", "nodes", "fleet", "delayed ls s", "dlq ls s", "entries-dlq ls s", "doctor", "reload", "topology refresh",
        "scan s", "pause", "revoke w"]
LINES = ["show x", "explain x", "dlq show s", "release x", "dlq replay s", "delayed now s", "add s x", "drain", "events", "version", "status", "status --ready"]


def shown(d, verb, cols):
    pid, fd = in_terminal("--timeout", "60s", "--socket", d.path, *verb.split(), rows=24, cols=cols)
    text = b""
    while True:
        try:
            text += os.read(fd, 65536)
        except OSError:
            break
    os.close(fd)
    expect(os.WEXITSTATUS(os.waitpid(pid, 0)[1]), 0, text)
    return re.sub(r"\x1b\[[0-9;]*m", "", text.decode()).replace("\r\n", "\n")


def test_a_terminal_of_80_columns_shows_all_in_lines_that_fit():
    with Daemon([LONG_ROW, LONG_ROW]) as d:
        for verb in WIDE:
            piped, text = ask(d, *verb.split()).stdout, shown(d, verb, 80)
            expect(len(piped.splitlines()), 3, f"{verb}, to a pipe: a row is a line\n{piped}")
            wide = [x for x in text.splitlines() if len(x) > 80]
            assert not wide, (verb, wide)
            words = [w for w in piped.splitlines()[1].split() if w != "-"]
            assert all(text.count(w) >= 2 for w in words), (verb, [w for w in words if text.count(w) < 2], text)
            assert all(w in text.lower() for w in piped.splitlines()[0].lower().split()), text
            expect(shown(d, verb, 1000), piped, "there is room")


def test_lines_of_words_go_on_between_words():
    row = {**LONG_ROW, "because": [WORDS, WORDS + ": " + WORDS], "next": WORDS, "new_id": ID, "level": "notice", "text": WORDS + "; " + WORDS,
           "draining": True, "elapsed_ms": 5, "ready": False, "reasons": [WORDS + " " + WORDS, WORDS], "uptime_ms": 9, "redis": [], "services": [],
           "running": False, "owner": "redis-consumer-" + NODE, "info": None, "control": 1}
    with Daemon([row]) as d:
        for verb in LINES:
            piped, text = ask(d, *verb.split()).stdout, shown(d, verb, 80)
            assert not [x for x in text.splitlines() if len(x) > 80], (verb, text)
            expect(text.split(), shown(d, verb, 1000).split(), verb)
            if verb != "status":
                expect(shown(d, verb, 1000), piped, verb)


def typed(d, answer, *args):
    pid, fd = in_terminal("--timeout", "60s", "--socket", d.path, *args, cols=200)
    text = read_terminal(fd, "[y/N]" if answer else "\n")
    if answer:
        os.write(fd, answer)
        text += read_terminal(fd, "9-0" if answer[:1] == b"y" else "nothing was deleted")
    status = os.waitpid(pid, 0)[1]
    os.close(fd)
    return os.WEXITSTATUS(status), text


def test_what_deletes_for_ever_asks_on_a_terminal_only():
    row = {"service": "s", "id": "9-0", "stream": "t", "result": "purged", "new_id": None, "error": None}
    for verb in (["dlq", "purge"], ["entries-dlq", "purge"], ["delayed", "drop"]):
        with Daemon([row]) as d:
            expect(ask(d, *verb, "s", stdin=subprocess.DEVNULL).returncode, 0, "a script is not asked")
            expect(ask(d, *verb, "s", "--yes").returncode, 0)
            expect(len(d.requests), 2)
            for answer in (b"\n", b"n\n"):
                code, text = typed(d, answer, *verb, "s")
                expect((code, len(d.requests)), (1, 2), text)
                assert "all of the service" in text, text
            code, text = typed(d, b"y\n", *verb, "s", "--id", "9-0")
            expect((code, len(d.requests)), (0, 3), text)
            assert "what the filters match" in text, text
            for quiet in ("--yes", "--dry-run"):
                code, text = typed(d, None, *verb, "s", quiet)
                assert code == 0 and "[y/N]" not in text, text


def top_daemon():
    def answer(conn, request):
        send(conn, STATUS if request["verb"] == "status" else STREAM)
        send(conn, {"end": True, "exit": 0})
    return Daemon(script=answer)


def test_colour_only_on_a_terminal_and_not_with_no_color():
    with Daemon([STATUS]) as d:
        assert "\x1b" not in ask(d, "status").stdout
        for env, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
            pid, fd = in_terminal("--socket", d.path, "status", env=env)
            text = read_terminal(fd, "orders")
            expect("\x1b[31m" in text, coloured, repr(text))
            os.waitpid(pid, 0)
            os.close(fd)


def test_top_draws_resizes_and_quits_with_q():
    with top_daemon() as d:
        pid, fd = in_terminal("top", "--socket", d.path)
        text = read_terminal(fd, "q quit")
        text += read_terminal(fd, "\x1b[J")
        assert "\x1b[?1049h" in text and "orders" in text and "not ready" in text, repr(text)
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
        os.kill(pid, signal.SIGWINCH)
        read_terminal(fd, "OLDEST WAITING")
        os.write(fd, b"q")
        read_terminal(fd, "\x1b[?1049l")
        expect(os.WEXITSTATUS(os.waitpid(pid, 0)[1]), 0)
        expect(d.requests[1], {"v": 1, "verb": "ls", "args": {"limit": d.requests[1]["args"]["limit"]}})
        assert termios.tcgetattr(fd)[3] & termios.ECHO
        os.close(fd)


def test_top_puts_the_terminal_back_on_signals():
    for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with top_daemon() as d:
            pid, fd = in_terminal("top", "--socket", d.path)
            read_terminal(fd, "q quit")
            expect(termios.tcgetattr(fd)[3] & (termios.ECHO | termios.ICANON), 0, "raw while it runs")
            os.kill(pid, sig)
            read_terminal(fd, "\x1b[?25h\x1b[?1049l")
            status = os.waitpid(pid, 0)[1]
            assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == sig, status
            assert termios.tcgetattr(fd)[3] & termios.ECHO, "cooked again"
            os.close(fd)


def test_top_outlives_the_daemon():
    with top_daemon() as d:
        pid, fd = in_terminal("top", "--socket", d.path)
        read_terminal(fd, "q quit")
        d.go()
        read_terminal(fd, "connection refused")
        os.write(fd, b"q")
        read_terminal(fd, "\x1b[?1049l")
        os.waitpid(pid, 0)
        os.close(fd)


def test_top_needs_a_terminal_and_a_daemon():
    with top_daemon() as d:
        r = ask(d, "top", stdin=subprocess.DEVNULL)
        expect(r.returncode, 64)
        assert "top needs a terminal" in r.stderr, r.stderr
    pid, fd = in_terminal("top", "--socket", "/nonexistent/s")
    text = read_terminal(fd, "no socket at")
    assert "\x1b[?1049h" not in text, repr(text)
    expect(os.WEXITSTATUS(os.waitpid(pid, 0)[1]), 69)
    os.close(fd)


def main():
    global CTL
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    CTL = os.path.join(os.path.abspath(sys.argv[1]), "sluicectl")
    os.environ.pop("NO_COLOR", None)
    tests = [(n, f) for n, f in globals().items() if n.startswith("test_") and (not sys.argv[2:] or n in sys.argv[2:])]
    if not tests:
        sys.exit("no such test")
    failed = 0
    for name, function in tests:
        try:
            function()
            print("ok", name, flush=True)
        except Exception as e:  # every test gets its turn
            failed += 1
            print("FAILED", name, "line", e.__traceback__.tb_next.tb_lineno if e.__traceback__.tb_next else "?", e,
                  flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
