"""Whoever supervises the work is stopped (SIGSTOP, Ctrl-Z) and the work is not: it ends by its fence all the same, so
that no stream has two owners."""
import os
import signal
import sys
import time

from lib.case import limit
from lib.daemon import ROOT, program
from lib.entries import add, lbs
from lib.servers import spawn

issue = 16

BEATS = """
import os, time
who = os.environ["WHO"]
out = os.open(os.environ["BEATS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def work(*_):
    while True:
        os.write(out, f"{who} {time.monotonic()}\\n".encode())
        time.sleep(0.01)
"""
PYTHON = BEATS + """
import sys
sys.path.insert(0, os.path.join(os.environ["CLIENTS"], "python"))
import sluice
sluice.Worker(os.environ["SOCK"], work, name=who).run()
"""


def beats(t, who):
    try:
        with open(t.path("beats")) as f:
            return [float(x.split()[1]) for x in f if x.endswith("\n") and x.split()[0] == who]
    except FileNotFoundError:
        return []


def start(t, d, who, argv):
    env = dict(os.environ, WHO=who, BEATS=t.path("beats"), SOCK=d.worker_sock, CLIENTS=os.path.join(ROOT, "etc", "clients"))
    p = spawn(argv, t.path(f"{who}.log"), env=env)

    def end():
        p.kill()
        p.wait()
    t.ending(end)
    return p


def one_owner(t, argv_of, service=None, sig=signal.SIGSTOP):
    """A works, is stopped, and goes on when B has worked for a while: nothing of A after the first of B."""
    r = t.redis()
    d = t.daemon(r, T=3, service=service)
    if service:
        add(r.db, "orders:k", 3)
    lbs(r.db, "orders", "orders:k")
    a = start(t, d, "A", argv_of(d))
    t.wait(lambda: beats(t, "A"), 20, "A works")
    start(t, d, "B", argv_of(d))
    time.sleep(1.5)  # fences move on
    a.send_signal(sig)
    t.wait(lambda: len(beats(t, "B")) > 50, 40, "B works")
    a.send_signal(signal.SIGCONT)
    time.sleep(0.5)
    late = beats(t, "A")[-1] - beats(t, "B")[0]
    assert late < 0, f"A was at work for {late:.1f} s beside B"
    assert a.poll() is None
    with open(t.path("A.log")) as f:
        log = f.read()
    assert "failed" not in log, log
    return log


def sluice_run(*options):
    def argv(d):
        return [program("sluice-run"), "-s", d.worker_sock, "--name", "x", *options, "--", sys.executable, "-c", BEATS + "work()"]
    return argv


OF_ITS_OWN = "import os, sys; os.setpgrp(); os.execv(sys.argv[1], sys.argv[1:])"  # a group, as a shell's job has


def entries():
    return {"entries": {"enabled": True}}


@limit(90)
def test_sluice_run(t):
    log = one_owner(t, sluice_run())
    assert "orders:k: not renewed in time, sluice-guard has stopped it" in log, log


@limit(90)
def test_sluice_run_each(t):
    one_owner(t, sluice_run("--each"), entries())


@limit(90)
def test_sluice_run_batch(t):
    one_owner(t, sluice_run("--batch"), entries())


@limit(90)
def test_sluice_run_feed(t):
    one_owner(t, sluice_run("--feed"), entries())


@limit(90)
def test_sluice_run_by_ctrl_z(t):
    one_owner(t, lambda d: [sys.executable, "-c", OF_ITS_OWN, *sluice_run()(d)], sig=signal.SIGTSTP)


def after_a_revoke(t, argv):
    """A is told to give its stream back, does not, and its supervisor is stopped: it ends when the grace does."""
    r = t.redis()
    d = t.daemon(r, T=10)
    lbs(r.db, "orders", "orders:k")
    a = start(t, d, "A", argv(d))
    t.wait(lambda: beats(t, "A"), 20, "A works")
    start(t, d, "B", argv(d))
    d.ctl_ok("release", "orders:k")
    time.sleep(0.3)
    a.send_signal(signal.SIGSTOP)
    t.wait(lambda: len(beats(t, "B")) > 50, 40, "B works")
    late = beats(t, "A")[-1] - beats(t, "B")[0]
    assert late < 0, f"A was at work for {late:.1f} s beside B"
    a.send_signal(signal.SIGCONT)
    time.sleep(0.5)
    with open(t.path("A.log")) as f:
        log = f.read()
    assert "failed" not in log and a.poll() is None, log


@limit(90)
def test_sluice_run_after_a_revoke(t):
    deaf = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    after_a_revoke(t, lambda d: [program("sluice-run"), "-s", d.worker_sock, "--", sys.executable, "-c", deaf + BEATS + "work()"])


@limit(90)
def test_python_after_a_revoke(t):
    deaf = "import signal\n    signal.signal(signal.SIGUSR1, signal.SIG_IGN)\n    while True"
    after_a_revoke(t, lambda d: [sys.executable, "-c", PYTHON.replace("while True", deaf)])


@limit(90)
def test_python(t):
    one_owner(t, lambda d: [sys.executable, "-c", PYTHON])
