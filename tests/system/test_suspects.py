"""Who killed the worker? One bad stream costs its own retries and one dead letter, whatever runs beside it."""
import os
import subprocess
import sys
import threading
import time

from lib import checks
from lib.case import limit
from lib.checks import Added
from lib.redis import entries

issue = 14

# A plain worker: all its streams in one process, which `poison` kills. Each stream takes a moment.
WORKER = r'''
import json, os, signal, socket, sys, threading, time
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
lock = threading.Lock()
def send(**f):
    with lock: sock.sendall(json.dumps(f).encode() + b"\n")
def work(a):
    time.sleep(5 if a["stream"] == "slow" else float(sys.argv[3]))
    if a["stream"].startswith("poison"): os.kill(os.getpid(), signal.SIGKILL)
    send(t="done", lease=a["lease"])
send(t="hello", v=1, name="w", credits=int(sys.argv[2]))
for f in map(json.loads, sock.makefile("rb")):
    if f["t"] == "assign": threading.Thread(target=work, args=[f], daemon=True).start()
    elif f["t"] == "ping": send(t="pong", n=f["n"])
'''


class Fleet:
    """Workers that a service manager starts again when they die."""

    def __init__(self, t, d, n, credits=10, work=0.2):
        self.argv = [sys.executable, "-c", WORKER, d.worker_sock, str(credits), str(work)]
        self.procs, self.n_deaths, self.is_over = [self.start() for _ in range(n)], 0, False
        self.thread = threading.Thread(target=self.keep)
        self.thread.start()
        t.ending(self.end)

    def start(self):
        return subprocess.Popen(self.argv, stdin=subprocess.DEVNULL)

    def keep(self):
        while not self.is_over:
            for i, p in enumerate(self.procs):
                if p.poll() is not None and not self.is_over:
                    self.n_deaths += 1
                    self.procs[i] = self.start()
            time.sleep(0.05)

    def kill_all(self):
        for p in list(self.procs):
            p.kill()

    def end(self):
        self.is_over = True
        self.thread.join()
        for p in self.procs:
            p.kill()
            p.wait()


def dead(r):
    return [f for _, f in entries(r.db, "orders-input-dlq")]


def poisoned(t, n_poisons):
    r = t.redis()
    d = t.daemon(r)
    added = Added(r.db)
    added.many("orders", [f"good:{i}" for i in range(25)])
    added.many("orders", [f"poison:{i}" for i in range(n_poisons)])
    added.many("orders", [f"good:{i}" for i in range(25, 50)])
    start = time.monotonic()
    fleet = Fleet(t, d, 3)
    t.wait(lambda: r.db.cmd("XLEN", "orders-input") == 0, 60, "all done or dead")
    took = time.monotonic() - start
    letters = dead(r)
    names = sorted(x["lbs-input"].split('"')[3] for x in letters)
    assert names == [f"poison:{i}" for i in range(n_poisons)], names
    for x in letters:
        assert x["_dlq_reason"] == "max_retries_exceeded" and x["_dlq_error"].startswith("worker died"), x
        assert x["_retry_count"] == "3", x
    assert fleet.n_deaths >= 4 * n_poisons
    assert took < 60
    checks.wait_clean(r.db, dlq=n_poisons)


@limit(90)
def test_one_poison_among_fifty(t):
    poisoned(t, 1)


@limit(90)
def test_two_poisons_among_fifty(t):
    poisoned(t, 2)


@limit(90)
def test_a_poison_in_a_fleet_that_is_always_busy(t):
    """Each worker is given the next stream right behind a result: who dies then may have been on its way out, and no try was ever counted. A
    suspect waits until its worker has outlived the last one."""
    for credits in (1, 4):
        r = t.redis()
        d = t.daemon(r, service={"retry": {"initial": "200ms"}})
        add = Added(r.db)
        fleet = Fleet(t, d, 3, credits, work=0.01)
        add.many("orders", ["poison", *(f"good:{credits}:{i}" for i in range(50))])
        end, n = time.monotonic() + 40, 0
        while not dead(r) and time.monotonic() < end:
            add.many("orders", [f"good:{credits}:{n}:{i}" for i in range(20)])
            n += 1
            time.sleep(0.05)
        n_deaths = fleet.n_deaths
        fleet.end()
        (letter,) = dead(r)
        assert letter["_retry_count"] == "3" and "poison" in letter["lbs-input"], letter
        assert n_deaths <= 6, n_deaths
        d.kill(), r.kill()


@limit(90)
def test_all_workers_of_a_machine_die(t):
    r = t.redis()
    d = t.daemon(r)
    fleet = Fleet(t, d, 3)
    Added(r.db).many("orders", [f"s:{i}" for i in range(60)])
    t.wait(lambda: checks.pending(r.db, "orders") > 10, 20, "work")
    fleet.kill_all()
    t.wait(lambda: r.db.cmd("XLEN", "orders-input") == 0, 60, "all done")
    assert not dead(r)
    checks.wait_clean(r.db)


@limit(60)
def test_the_mark_is_in_redis_for_every_daemon(t):
    r = t.redis()
    d = t.daemon(r)
    Added(r.db).many("orders", ["slow", "poison"])
    p = subprocess.Popen([sys.executable, "-c", WORKER, d.worker_sock, "2", "0.2"], stdin=subprocess.DEVNULL)
    t.ending(p.kill)
    assert p.wait(30) != 0

    def marks():
        return {f.get("_suspect") for _, f in entries(r.db, "orders-input")}
    t.wait(lambda: r.db.cmd("XLEN", "orders-input") == 2 and marks() == {"1"}, 20, "both suspect")
    assert all("_retry_count" not in f for _, f in entries(r.db, "orders-input"))
    d.stop()
    other = t.daemon(r)
    w = t.worker(other, credits=2)
    a = w.wait("assign")
    time.sleep(1)  # it would have come by now
    assert len(w.frames("assign")) == 1, "a suspect is alone"
    waiting = {"slow", "poison"} - {a["stream"]}
    assert "a worker died with it" in other.ctl_ok("explain", waiting.pop())
    w.finish(a)
    w.finish(w.wait("assign", 2))
    checks.wait_clean(r.db)


@limit(60)
def test_trace_context_reaches_the_worker(t):
    r = t.redis()
    d = t.daemon(r)
    w = t.worker(d, credits=2)
    trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "congo=t61rcWkgMzE", "baggage": 'k="v", x=\u00e9'}
    r.db.cmd("XADD", "orders-input", "*", "lbs-input", '{"DataStreamName":"s"}', *[x for kv in trace.items() for x in kv])
    a = w.wait("assign")
    assert a["trace"] == trace
    w.finish(a, "release", retry_ms=0)
    assert w.wait("assign", 2)["trace"] == trace, "kept when it goes back"
    Added(r.db).one("orders", "plain")
    assert "trace" not in w.wait("assign", stream="plain")


# What it needs is away while the file is there: it ends with each stream.
NEEDY = r'''
import json, os, socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
def send(**f): sock.sendall(json.dumps(f).encode() + b"\n")
send(t="hello", v=1, name="needy", credits=1)
for f in map(json.loads, sock.makefile("rb")):
    if f["t"] == "assign":
        if os.path.exists(sys.argv[3]): os._exit(1)
        send(t="done", lease=f["lease"])
    elif f["t"] == "ping": send(t="pong", n=f["n"])
'''


class NeedyFleet(Fleet):
    def __init__(self, t, d, away):
        self.away = away
        super().__init__(t, d, 2, 1)

    def start(self):
        self.argv[1:] = ["-c", NEEDY, *self.argv[3:5], self.away]
        return super().start()


@limit(60)
def test_workers_that_cannot_work_for_a_while_cost_no_stream(t):
    """Each dies with each stream it is given, for as long as what they need is away: 4 s here, a minute with the defaults. Four deaths of
    a stream were a dead letter after a second."""
    r = t.redis()
    d = t.daemon(r, service={"retry": {"initial": "200ms", "factor": 8, "jitter": "0%"}})
    away = t.path("away")
    open(away, "w").close()
    add = Added(r.db)
    add.many("orders", ["a", "b", "c"])
    fleet = NeedyFleet(t, d, away)
    time.sleep(4)
    os.unlink(away)
    assert fleet.n_deaths >= 6, fleet.n_deaths  # each stream at least twice
    checks.wait_clean(r.db, timeout=40)
    assert not dead(r)
