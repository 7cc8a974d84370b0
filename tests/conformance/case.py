"""One behaviour under test: a scripted daemon, the client as a process, its journal."""
import json
import os
import signal
import subprocess
import tempfile
import time

from daemon import Daemon, now_ms

SLACK_MS = 60  # between a look at the clock and the line in the journal


class Case:
    def __init__(self, command, root, **kw):
        self.dir = tempfile.mkdtemp(prefix="c", dir=root)
        self.command, self.journal_path, self.procs = command, os.path.join(self.dir, "journal"), []
        open(self.journal_path, "w").close()
        self.daemon = Daemon(os.path.join(self.dir, "s"), **kw)

    # ---- the client

    def start(self, credits=4, entries=None, on_term=None):
        env = {k: v for k, v in os.environ.items() if not k.startswith("CONF_")}
        env.update(SLUICED_WORKER=self.daemon.path, CONF_CREDITS=str(credits), CONF_JOURNAL=self.journal_path)
        if entries:
            env["CONF_ENTRIES"] = entries
        if on_term:
            env["CONF_ON_TERM"] = on_term
        with open(os.path.join(self.dir, "err"), "ab") as err:
            p = subprocess.Popen(["/bin/sh", "-c", "exec " + self.command], env=env, stdin=subprocess.DEVNULL, stdout=err, stderr=err,
                                 start_new_session=True)
        self.procs.append(p)
        return p

    def session(self, credits=4, entries=None, on_term=None, timeout=30):
        """Starts a client, waits until it was welcome."""
        n = len(self.daemon.sessions)
        self.start(credits, entries, on_term)
        return self.daemon.wait_session(n + 1, timeout)

    @property
    def proc(self):
        return self.procs[-1]

    def term(self):
        self.proc.send_signal(signal.SIGTERM)

    def exits(self, timeout=15):
        try:
            status = self.proc.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the client has not ended within {timeout} s") from None
        self.wait(lambda: all(s.is_closed for s in self.daemon.sessions), 5, "its connection is closed")  # and all of it read
        return status

    def lives(self):
        assert self.proc.poll() is None, f"the client has ended with status {self.proc.returncode}"

    @property
    def err(self):
        with open(os.path.join(self.dir, "err"), errors="replace") as f:
            return f.read()

    # ---- the journal of its handler

    def journal(self, e=None, **match):
        with open(self.journal_path, errors="replace") as f:
            rows = [json.loads(line) for line in f if line.endswith("\n")]
        return [r for r in rows if (e is None or r["e"] == e) and all(r.get(k) == v for k, v in match.items())]

    def wait(self, cond, timeout=15, what="a condition"):
        return self.daemon.wait(cond, timeout, what)

    def wait_journal(self, e, n=1, timeout=15, **match):
        return self.wait(lambda: len(got := self.journal(e, **match)) >= n and got, timeout, f"{n} × {e} {match} in the journal")

    def last_tick(self, stream):
        """When the handler was last seen at work on it."""
        return max([r["ms"] for r in self.journal(stream=stream)], default=0)

    def stops_by(self, stream, ms, what):
        """The handler works until shortly before `ms` at most, and not after."""
        while now_ms() < ms + 400:
            time.sleep(0.02)
        last = self.last_tick(stream)
        assert last <= ms + SLACK_MS, f"{stream}: still at work {last - ms:.0f} ms after {what}"

    def nothing_wrong(self):
        assert not self.daemon.wrongs, "; ".join(self.daemon.wrongs[:3])

    def close(self):
        self.daemon.stop()
        for p in self.procs:
            try:
                os.kill(p.pid, signal.SIGCONT)
                os.kill(p.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            p.wait()


def quiet(seconds):
    """Time in which something must not happen."""
    time.sleep(seconds)


def same(what, got, want):
    assert got == want, f"{what}: {got!r}, expected {want!r}"

