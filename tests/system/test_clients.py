"""The clients of etc/clients against the real daemon: nothing lost, no overlap, whatever dies. What works are the workers of
tests/conformance, whose handlers write a journal of their own."""
import json
import os
import re
import shutil
import signal
import time

from lib import checks
from lib.case import limit
from lib.checks import Added
from lib.daemon import ROOT, program
from lib.redis import entries
from lib.servers import Process, spawn

issue = 18
SUITE = os.path.join(ROOT, "tests", "conformance", "workers")
CLIENTS = os.path.join(ROOT, "etc", "clients")


def have(*tools):
    missing = [x for x in tools if not shutil.which(x)]
    if missing:
        print(f"= skipped: {', '.join(missing)} not here (make clients installs it)")
    return not missing


def build(t, argv, dir):
    env = dict(os.environ, GOFLAGS="-mod=mod", GOPROXY="off", GOTOOLCHAIN="local")
    r = t.run(argv, timeout=120, cwd=dir, env=env)
    assert r.returncode == 0, r.stderr


class Client(Process):
    """A worker process of the conformance suite's contract."""

    def __init__(self, t, d, argv, credits=4, **env):
        self.dir, self.journal_path = t.path(t.name("client")), t.path(t.name("journal"))
        open(self.journal_path, "w").close()
        self.proc = spawn(argv, self.dir + ".log", cwd=t.dir, env=dict(
            os.environ, SLUICED_WORKER=d.worker_sock, CONF_CREDITS=str(credits), CONF_JOURNAL=self.journal_path, **env))
        t.ending(self.kill)

    def rows(self, e=None, **match):
        with open(self.journal_path, errors="replace") as f:
            rows = [json.loads(line) for line in f if line.endswith("\n")]
        return [r for r in rows if (e is None or r["e"] == e) and all(r.get(k) == v for k, v in match.items())]


def overlaps(clients):
    """Two handlers at work on one stream at a time; from the first line to the last one of each owner."""
    owners, bad = {}, []
    for c in clients:
        for r in c.rows():
            own = owners.setdefault((r["stream"], r["token"]), [r["ms"], r["ms"]])
            own[0], own[1] = min(own[0], r["ms"]), max(own[1], r["ms"])
    per = {}
    for (stream, token), (a, b) in owners.items():
        per.setdefault(stream, []).append((a, b, token))
    for stream, times in per.items():
        times.sort()
        bad += [f"{stream}: {x[2]} until {x[1]:.0f}, {y[2]} from {y[0]:.0f}" for x, y in zip(times, times[1:]) if y[0] < x[1]]
        bad += [f"{stream}: token {y[2]} after {x[2]}" for x, y in zip(times, times[1:]) if y[2] <= x[2]]
    return bad


def begun(clients, stream=None):
    """stream -> how often a handler began on it."""
    n = {}
    for c in clients:
        for r in c.rows("begin"):
            n[r["stream"]] = n.get(r["stream"], 0) + 1
    return n if stream is None else n.get(stream, 0)


def finished(t, r, clients, names, dlq=0):
    checks.wait_clean(r.db, timeout=60, dlq=dlq)
    ended = {x["stream"] for c in clients for x in c.rows("end")}
    checks.none(sorted(set(names) - ended))
    checks.none(overlaps(clients))


def wait_ticks(t, clients, n, timeout=30):
    t.wait(lambda: len({r["stream"] for c in clients for r in c.rows("tick")}) >= n, timeout, f"{n} streams in work", 0.05)


# ---- what happens; each with a Redis of its own

def main_job(t, argv):
    """Three daemons' worth of trouble is below; here all is well: each stream once."""
    r = t.redis()
    d = t.daemon(r)
    clients = [Client(t, d, argv, 10) for _ in range(2)]
    names = [f"s{i}" for i in range(300)]
    Added(r.db).many("orders", names, lambda n: {"sleep": 0.02, "n": n})
    finished(t, r, clients, names)
    assert set(begun(clients).values()) == {1}, {k: v for k, v in begun(clients).items() if v > 1}
    return clients, r


def killed_daemon(t, argv):
    """kill -9 of the daemon, three times: the work goes on, nothing begins twice."""
    r = t.redis()
    d = t.daemon(r)
    clients = [Client(t, d, argv, 4) for _ in range(2)]
    names = [f"s{i}" for i in range(24)]
    Added(r.db).many("orders", names, {"sleep": 1.5})
    wait_ticks(t, clients, 8)
    for _ in range(3):
        d.restart()
        time.sleep(0.7)
    finished(t, r, clients, names)
    assert set(begun(clients).values()) == {1}, {k: v for k, v in begun(clients).items() if v > 1}


def killed_worker(t, argv):
    """kill -9 of a worker: another one takes what it had, after it had stopped."""
    r = t.redis()
    d = t.daemon(r)
    clients = [Client(t, d, argv, 4) for _ in range(2)]
    names = [f"s{i}" for i in range(8)]
    Added(r.db).many("orders", names, {"block": 1.5} if "node" not in argv[0] else {"sleep": 1.5})
    wait_ticks(t, clients, 8)
    clients[0].kill()
    clients.append(Client(t, d, argv, 4))
    finished(t, r, clients, names)


def four_deploys(t, argv):
    """The old worker is told to leave while the new one begins, four times: no failure is counted, nothing is done twice."""
    r = t.redis()
    d = t.daemon(r)
    names = [f"s{i}" for i in range(20)]
    clients = [Client(t, d, argv, 4)]
    Added(r.db).many("orders", names, {"sleep": 1})
    for n in range(4):
        t.wait(lambda: clients[-1].rows("tick"), 30, "the newest worker is at work", 0.05)
        clients[-1].signal(signal.SIGTERM)
        clients.append(Client(t, d, argv, 4))
    for c in clients[:-1]:
        assert c.wait(30) == 0
    finished(t, r, clients, names)
    assert set(begun(clients).values()) == {1} and not any(x["retry"] for c in clients for x in c.rows("begin"))


def frozen_daemon(t, argv):
    """A daemon is stopped for longer than its leases: its worker stops by the fence, another daemon's takes over."""
    r = t.redis()
    a, b = t.daemon(r, T=4), t.daemon(r, T=4)
    one = Client(t, a, argv, 2)
    names = ["s0", "s1"]
    Added(r.db).many("orders", names, {"sleep": 8})
    wait_ticks(t, [one], 2)
    a.pause()
    two = Client(t, b, argv, 2)
    t.wait(lambda: begun([two]) == {"s0": 1, "s1": 1}, 30, "the other daemon's worker took over", 0.05)
    a.cont()
    finished(t, r, [one, two], names)


def one_of_four_is_released(t, argv):
    """sluicectl release of one stream: it comes again, its neighbours do not notice."""
    r = t.redis()
    d = t.daemon(r)
    c = Client(t, d, argv, 4)
    names = [f"s{i}" for i in range(4)]
    Added(r.db).many("orders", names, {"sleep": 3})
    wait_ticks(t, [c], 4)
    d.ctl_ok("release", "s1")
    finished(t, r, [c], names)
    assert begun([c]) == {"s0": 1, "s1": 2, "s2": 1, "s3": 1}, begun([c])
    assert not any(x["retry"] for x in c.rows("begin")) and c.is_running()


def failures_count(t, argv):
    """fail and dead reach Redis with their reason."""
    r = t.redis()
    d = t.daemon(r, service={"retry": {"max_retries": 1}})
    c = Client(t, d, argv, 4)
    Added(r.db).many("orders", ["bad"], {"raise": "it broke"})
    Added(r.db).many("orders", ["never"], {"fail": "no such order", "dead": True})
    t.wait(lambda: len(entries(r.db, "orders-input-dlq")) == 2, 30, "two dead letters")
    dead = {f["lbs-input"]: f for _, f in entries(r.db, "orders-input-dlq")}
    why = sorted((f["_dlq_reason"], f["_dlq_error"]) for f in dead.values())
    assert why[0][0] == "max_retries_exceeded" and "it broke" in why[0][1] and why[1] == ("rejected", "no such order"), why
    assert begun([c]) == {"bad": 2, "never": 1}


def entries_mode(t, argv):
    """The entries of three streams, in order, whatever dies: the daemon, a worker. One of them fails for good: it alone is a dead letter."""
    if "idle_release:" not in t.run([program("sluiced"), "--print-defaults"]).stdout:
        print("= this daemon has no entries mode")
        return
    r = t.redis()
    retry = {"initial": "100ms", "factor": 1, "jitter": "0%"}
    d = t.daemon(r, T=4, service={"same_stream": "serialize", "entries": {"enabled": True, "batch": 10, "retry": retry}})
    clients = [Client(t, d, argv, 2, CONF_ENTRIES="each") for _ in range(2)]
    n, bad, ids = 60, 20, {}
    for k in ("k0", "k1", "k2"):
        ids[k] = [r.db.cmd("XADD", k, "*", "n", str(i), "do", json.dumps(
            {"raise": "it is bad"} if (k, i) == ("k0", bad) else {"done": True} if i == n - 1 else {"sleep": 0.04})) for i in range(n)]
    Added(r.db).many("orders", ids)
    t.wait(lambda: sum(len(c.rows("end")) for c in clients) >= 30, 30, "a first part is finished", 0.05)
    d.restart()
    t.wait(lambda: sum(len(c.rows("end")) for c in clients) >= 60, 30, "a second part is finished", 0.05)
    clients[0].kill()
    clients.append(Client(t, d, argv, 2, CONF_ENTRIES="each"))
    checks.wait_clean(r.db, timeout=60)
    for k, all_of_it in ids.items():
        ended = list(dict.fromkeys(x["entry"] for x in sorted((x for c in clients for x in c.rows("end", stream=k)), key=lambda x: x["ms"])))
        assert ended == [x for i, x in enumerate(all_of_it) if (k, i) != ("k0", bad)], f"{k}: {len(ended)} of {n}, or not in order"
    checks.none(overlaps(clients))
    tries = [x["tries"] for x in sorted((x for c in clients for x in c.rows("entry", entry=ids["k0"][bad])), key=lambda x: x["ms"])]
    assert tries and tries == sorted(tries) and tries[-1] == 3, tries
    dead, = [f for _, f in entries(r.db, "orders-entries-dlq")]
    assert dead["_orig_id"] == ids["k0"][bad] and "it is bad" in dead["_dlq_error"], dead


def everything(t, argv):
    for f in (entries_mode, main_job, killed_daemon, killed_worker, four_deploys, frozen_daemon, one_of_four_is_released, failures_count):
        began = time.monotonic()
        f(t, argv)
        print(f"{f.__name__}: {time.monotonic() - began:.1f} s")
        t.close()


# ---- README of each

def shown(language):
    """The first worker in a client's README."""
    with open(os.path.join(CLIENTS, language, "README.md")) as f:
        text = re.search(r"```\w+\n(.*?)```", f.read(), re.S)[1]
    assert len([x for x in text.splitlines() if x.strip()]) <= 8, f"{language}: more than eight lines"
    return text


def as_shown(t, d, language):
    """argv of that worker, copied beside its client as a user would."""
    dir = t.path("mine-" + language)
    text = shown(language).replace("/run/sluiced/worker.sock", d.worker_sock)
    shutil.copytree(os.path.join(CLIENTS, language), dir)
    name = {"python": "worker.py", "node": "worker.mjs", "go": "cmd/main.go", "java": "Main.java", "c": "worker.c"}[language]
    os.makedirs(os.path.dirname(os.path.join(dir, name)), exist_ok=True)
    if language == "go":
        text = 'package main\n\nimport (\n"context"\n"fmt"\n\nsluice "github.com/sluiced/sluiced/etc/clients/go"\n)\n' + text
    with open(os.path.join(dir, name), "w") as f:
        f.write(text)
    if language == "go":
        build(t, ["go", "build", "-o", "worker", "./cmd"], dir)
        return [os.path.join(dir, "worker")]
    if language == "java":
        build(t, ["javac", "-d", ".", "Main.java", "src/main/java/sluiced/Worker.java"], dir)
        return ["java", "-cp", dir, "Main"]
    if language == "c":
        build(t, ["cc", "-Wall", "-I", os.path.join(ROOT, "src/client"), "-o", "worker", "worker.c", program("libsluice-worker.a"), "-pthread"], dir)
        return [os.path.join(dir, "worker")]
    return [{"python": "python3"}.get(language, language), os.path.join(dir, name)]


def c_library():
    there = os.path.exists(program("libsluice-worker.a"))
    if not there:
        print("= skipped: libsluice-worker is of the release build only")
    return there and have("cc", "pkg-config")


@limit(180)
def test_the_worker_of_each_readme(t):
    """It works, survives a restart of the daemon, and leaves with status 0."""
    r = t.redis()
    d = t.daemon(r)
    for language, tools in {"python": ["python3"], "node": ["node"], "go": ["go"], "java": ["java", "javac"], "c": ["cc"]}.items():
        if not have(*tools) or (language == "c" and not c_library()):
            continue
        c = Client(t, d, as_shown(t, d, language))
        for n in range(2):
            Added(r.db).one("orders", f"{language}:{n}", {"a": [1, "ż"]})
            checks.wait_clean(r.db, timeout=30)
            with open(c.dir + ".log") as f:
                assert f"{language}:{n}" in f.read()
            d.restart()
        c.signal(signal.SIGTERM)
        assert c.wait(20) == 0, language


@limit(240)
def test_python(t):
    everything(t, ["python3", os.path.join(SUITE, "worker.py")])


@limit(240)
def test_python_threads(t):
    os.environ["CLIENT_MODE"] = "threads"
    everything(t, ["python3", os.path.join(SUITE, "worker.py")])


@limit(240)
def test_python_async(t):
    os.environ["CLIENT_MODE"] = "async"
    everything(t, ["python3", os.path.join(SUITE, "worker.py")])


@limit(240)
def test_node(t):
    if have("node"):
        everything(t, ["node", os.path.join(SUITE, "worker.mjs")])


@limit(300)
def test_go(t):
    if not have("go"):
        return
    worker = t.path("go-worker")
    build(t, ["go", "build", "-o", worker, "."], os.path.join(SUITE, "go"))
    everything(t, [worker])


@limit(300)
def test_java(t):
    if not have("java", "javac"):
        return
    out = t.path("classes")
    build(t, ["javac", "-d", out, os.path.join(CLIENTS, "java/src/main/java/sluiced/Worker.java"), os.path.join(SUITE, "ConformanceWorker.java")], t.dir)
    everything(t, ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", out, "sluiced.ConformanceWorker"])


@limit(240)
def test_c(t):
    if c_library():
        build(t, ["make", "-s", "--no-print-directory", "build/conformance/c-worker"], ROOT)
        everything(t, [os.path.join(ROOT, "build/conformance/c-worker")])
