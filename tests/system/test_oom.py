"""Want of memory: the n-th allocation of a real process is refused (tests/oom/failing_malloc.c, preloaded). Wherever that is met, the
process ends with status 71 and its one line; or libc could do without, and nothing is to be seen. What it held is recovered."""
import json
import os
import subprocess

from lib.case import limit
from lib.daemon import ROOT, program
from lib.servers import spawn, wait_until

issue = 7
LINE = "<3>out of memory"
ALL = os.environ.get("SLUICE_TEST_OOM") == "all"


def library(t):
    """None: the programs have a sanitizer's allocator."""
    with open(program("sluiced"), "rb") as f:
        if b"__asan_init" in f.read():
            return None
    so = t.path("failing_malloc.so")
    subprocess.run(["gcc", "-std=c17", "-D_GNU_SOURCE", f"-I{ROOT}/tests", "-O2", "-fPIC", "-shared", "-o", so,
                    f"{ROOT}/tests/oom/failing_malloc.c"], check=True)
    return so


class Failing:
    """The environment of one process, and what its allocator said."""

    def __init__(self, t, so, n):
        self.file = t.path(f"malloc{n}")
        self.env = {"LD_PRELOAD": so, "FAIL_MALLOC": str(n), "FAIL_MALLOC_FILE": self.file}

    def said(self):
        try:
            with open(self.file) as f:
                return f.read().split()
        except FileNotFoundError:
            return []

    def has_hit(self):
        return "hit" in self.said()

    def count(self):
        words = self.said()
        return int(words[words.index("count") + 1])


def spread(first, last, n):
    """About n numbers from first to last, close together at the beginning."""
    if ALL and last - first < 20000:
        return range(first, last + 1)
    return sorted({round(first * (last / first) ** (i / (n - 1))) for i in range(n)})


def sweep_command(t, so, argv, n, **kw):
    """Every run ends as the one without a failure, or with 71 and the line."""
    def run(at):
        f = Failing(t, so, at)
        p = t.run(argv, env=dict(os.environ, **f.env, **kw))
        return f, p
    f, good = run(0)
    total, n_ended = f.count(), 0
    os.unlink(f.file)
    assert total > 5, total
    for at in spread(1, total, n):
        f, p = run(at)
        what = f"{argv[0]}, allocation {at} of {total}: {p.returncode}: {p.stdout[-300:]}{p.stderr[-600:]}"
        assert f.has_hit(), what
        if (p.returncode, p.stdout) != (good.returncode, good.stdout):
            assert p.returncode == 71 and p.stderr == LINE + "\n", what
            n_ended += 1
        os.unlink(f.file)
    assert n_ended > n / 4, (argv, n_ended)
    print(f"= {os.path.basename(argv[0])} {argv[1]}: {n_ended} of {len(spread(1, total, n))} ended, of {total} allocations")


@limit(120)
def test_commands(t):
    so = library(t)
    if not so:
        return
    d = t.daemon(t.redis(), services=("orders", "bills"))
    sweep_command(t, so, [program("sluiced"), "--check", "-c", d.conf], 60)
    sweep_command(t, so, [program("sluiced"), "--dump-config", "-c", d.conf], 30)
    sweep_command(t, so, [program("sluicectl"), "--socket", d.control_sock, "explain", "none"], 30)


@limit(120)
def test_sluice_run(t):
    """A command gets the whole Info or is not run."""
    so = library(t)
    if not so:
        return
    r, info, n_ended = t.redis(), {"n": 12345678901234567890, "list": ["x" * 50, {"y": None}]}, 0
    d, out = t.daemon(r, T=3), t.path("infos")
    os.mkdir(out)
    script = 'cat >"$0.$$" && mv "$0.$$" "$0/$SLUICE_STREAM"'
    argv = [program("sluice-run"), "-s", d.worker_sock, "-n", "1", "--", "env", "-u", "LD_PRELOAD", "sh", "-c", script, out]

    def run(at):
        """True when want of memory ended it."""
        d.ctl_ok("add", "orders", f"s{at}", "--info", json.dumps(info))
        f, log = Failing(t, so, at), t.path(f"run{at}.log")
        p = spawn(argv, log, env=dict(os.environ, **f.env))
        wait_until(lambda: p.poll() is not None or os.path.exists(f"{out}/s{at}"), 30, f"allocation {at} of sluice-run")
        p.terminate()
        status = p.wait(20)
        with open(log) as file:
            said = file.read()
        assert status == 0 or status == 71 and said.endswith(LINE + "\n"), f"allocation {at}: {status}: {said}"
        return status == 71
    assert not run(0)
    for at in spread(1, 120, 40):
        n_ended += run(at)
    assert n_ended > 10, n_ended
    p = spawn(argv, t.path("log"))
    wait_until(lambda: r.db.cmd("XLEN", "orders-input") == 0, 60, "all done")
    p.terminate()
    for name in os.listdir(out):
        with open(f"{out}/{name}") as file:
            assert json.load(file) == info, name
    print(f"= sluice-run: {n_ended} ended of {len(spread(1, 120, 40))}")


@limit(240)
def test_daemon(t):
    """From its start to its work: connections, workers, assignments, requests, reload."""
    so = library(t)
    if not so:
        return
    r, first, last = t.redis(), 200, int(os.environ.get("SLUICE_TEST_OOM_LAST", 6000))
    n_ended = n_without = 0
    for at in spread(first, last, int(os.environ.get("SLUICE_TEST_OOM_DAEMONS", 16))):
        f = Failing(t, so, at)
        d = t.daemon(r, ready=False, T=3, name=f"d{at}", node="n", env=f.env)
        work(t, r, d, f)
        if d.proc.poll() is None:  # libc did without: everything works
            d.env.pop("LD_PRELOAD")
            d.wait_ready()
            n_without += 1
            assert d.stop() == 0, d.log[-800:]
        else:
            lines = d.log.splitlines()
            assert d.proc.returncode == 71 and lines[-1] == LINE, f"allocation {at}: {d.proc.returncode}: {lines[-8:]}"
            n_ended += 1
    print(f"= sluiced at work: {n_ended} ended, {n_without} did without")
    assert n_ended > n_without
    t.worker(t.daemon(r, T=3, name="after", node="n"), credits=50, work=0)
    wait_until(lambda: r.db.cmd("XLEN", "orders-input") == 0, 90, "what they held is done by the next")


def work(t, r, d, f):
    """Makes it allocate until it was refused once."""
    i = 0

    def step():
        nonlocal i
        i += 1
        if f.has_hit():
            return True
        r.db.cmd("XADD", "orders-input", "*", "lbs-input", '{"DataStreamName":"s%d.%d","Info":{"n":[1,2]}}' % (d.proc.pid, i))
        if os.path.exists(d.control_sock) and i % 5 == 0:
            env = {k: v for k, v in d.env.items() if k != "LD_PRELOAD"}
            t.run([program("sluicectl"), "--socket", d.control_sock, "--timeout", "1s", "ls"], env=env)
        return f.has_hit()
    w = None
    try:
        wait_until(lambda: f.has_hit() or d.proc.poll() is not None or os.path.exists(d.worker_sock), 30, "it listens")
        if not f.has_hit():
            try:
                w = t.worker(d, credits=50, work=0)
            except OSError:  # it has ended by now
                pass
        wait_until(step, 60, "an allocation was refused")
    finally:
        if w:
            w.close()
    try:
        d.wait(3)
    except subprocess.TimeoutExpired:
        pass
