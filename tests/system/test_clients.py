"""The clients of etc/clients against the real daemon: nothing lost, no overlap, whatever dies. What works are the workers of
tests/conformance, whose handlers write a journal of their own."""
import json
import os
import re
import shutil
import signal
import socket
import sys
import time

from lib import checks
from lib.case import limit
from lib.checks import Added
from lib.daemon import ROOT, program
from lib.entries import add as add_entries, lbs, position, text
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

    def __init__(self, t, d, argv, credits=4, dir=None, **env):
        self.dir, self.journal_path = t.path(t.name("client")), t.path(t.name("journal"))
        open(self.journal_path, "w").close()
        self.proc = spawn(argv, self.dir + ".log", cwd=dir or t.dir, env=dict(
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


# ---- README of each: its programs and commands as they stand there, in an empty directory

FILES = {"python": "worker.py", "node": "worker.mjs", "go": "main.go", "java": "Main.java", "c": "worker.c"}
TOOLS = {"python": ["python3"], "node": ["node"], "go": ["go"], "java": ["java", "javac"], "c": ["cc"]}


def blocks(language):
    """(the programs, the commands that follow the first one) of a client's README."""
    with open(os.path.join(CLIENTS, language, "README.md")) as f:
        text = f.read()
    assert f"`{FILES[language]}`" in text and re.search(r"Version \d", text) and "Apache-2.0" in text and "vendored" in text, language
    commands = re.findall(r"^((?:    .*\n)+)", text[text.index("```\n"):], re.M)[0]
    return re.findall(r"^```\w+\n(.*?)^```", text, re.S | re.M), [x[4:] for x in commands.splitlines()]


def own_lines(program):
    """Those of a program that are not what every file of the language has."""
    head = re.sub(r"^package main\n|^import \(.*?^\)\n", "", program, flags=re.S | re.M)
    return [x for x in head.splitlines() if x.strip()]


def as_shown(t, d, language, number):
    """The README's program of that number at work."""
    programs, commands = blocks(language)
    home, dir = t.path("home"), t.path(f"mine-{language}-{number}")
    os.makedirs(home, exist_ok=True)
    os.makedirs(dir)
    if not os.path.exists(os.path.join(home, "sluiced")):
        os.symlink(ROOT, os.path.join(home, "sluiced"))
    with open(os.path.join(dir, FILES[language]), "w") as f:
        f.write(programs[number])
    env = dict(os.environ, HOME=home, GOCACHE=t.path("go-cache"), GOFLAGS="", GOPROXY="off", GOTOOLCHAIN="local")
    *before, last = "\n".join(commands).replace(" && ./worker", "\n./worker").splitlines()
    r = t.run(["sh", "-ec", "\n".join(before)], timeout=120, cwd=dir, env=env)
    assert r.returncode == 0 and not r.stderr.replace("go: creating new go.mod: module mine\n", "").replace(
        "go: to add module requirements and sums:\n\tgo mod tidy\n", ""), r.stderr
    return Client(t, d, ["sh", "-c", f"exec {last}"], dir=dir, HOME=home)


def c_library():
    there = os.path.exists(program("libsluice-worker.a"))
    if not there:
        print("= skipped: libsluice-worker is of the release build only")
    return there and have("cc", "pkg-config")


def logged(c, text):
    with open(c.dir + ".log") as f:
        return text in f.read()


@limit(180)
def test_the_worker_of_each_readme(t):
    """It is made by the commands that stand there, has at most eight lines, works, says who it is, survives a restart of the daemon, and
    leaves with status 0."""
    r = t.redis()
    d = t.daemon(r)
    for language, tools in TOOLS.items():
        if not have(*tools) or (language == "c" and not c_library()):
            continue
        programs, _ = blocks(language)
        assert len(own_lines(programs[0])) <= 8, f"{language}: {programs[0]}"
        c = as_shown(t, d, language, 0)
        for n in range(2):
            Added(r.db).one("orders", f"{language}:{n}", {"a": [1, "ż"]})
            checks.wait_clean(r.db, timeout=30)
            t.wait(lambda: logged(c, f"{language}:{n} "), 10, "it says what it did")
            d.restart()
        name, = [w["name"] for w in t.wait(lambda: d.json("workers"), 20, "it is back")]
        program, where = name.split("@")
        assert program in (FILES[language], "worker", "Main") and where == f"{socket.gethostname()[:60]}:{c.proc.pid}", name
        c.signal(signal.SIGTERM)
        assert c.wait(20) == 0, language


@limit(180)
def test_the_entries_worker_of_each_readme(t):
    """The second program of each README: three entries of a stream, in order."""
    r = t.redis()
    d = t.daemon(r, service={"same_stream": "coalesce", "entries": {"enabled": True, "idle_release": "1s"}})
    for language, tools in TOOLS.items():
        if not have(*tools) or (language == "c" and not c_library()):
            continue
        c = as_shown(t, d, language, 1)
        ids = [r.db.cmd("XADD", f"k-{language}", "*", "name", f"Zoë {n}") for n in range(3)]
        Added(r.db).one("orders", f"k-{language}")
        said = "".join(f"k-{language} {id} Zoë {n}\n" for n, id in enumerate(ids))
        t.wait(lambda: logged(c, said), 30, said)
        checks.wait_clean(r.db, timeout=30)
        c.signal(signal.SIGTERM)
        assert c.wait(20) == 0, language


@limit(240)
def test_python(t):
    everything(t, ["python3", os.path.join(SUITE, "worker.py")])


@limit(60)
def test_python_handlers_may_exit_with_0(t):
    """It is no failure, as of a process; the entries behind it come."""
    r = t.redis()
    d = t.daemon(r, service={"entries": {"enabled": True, "idle_release": "200ms", "retry": {"max_retries": 0}}})
    with open(t.path("w.py"), "w") as f:
        f.write("import sys\nsys.path.insert(0, sys.argv[1])\nfrom sluice import Worker\n"
                "def work(job, e):\n    sys.exit(0)\n"
                "Worker(sys.argv[2], work, credits=2, entries='each').run()\n")
    p = spawn([sys.executable, t.path("w.py"), os.path.join(ROOT, "etc/clients/python"), d.worker_sock], t.path("w.log"))
    t.ending(p.kill)
    for n in range(3):
        r.db.cmd("XADD", "k", "*", "n", n)
    Added(r.db).one("orders", "k", {})
    checks.wait_clean(r.db, timeout=20)
    assert r.db.cmd("XLEN", "orders-entries-dlq") == 0


@limit(60)
def test_python_handlers_that_die_beside_a_process_they_forked(t):
    """What a handler has forked (multiprocessing) holds its end of the socket to its parent, and does not hide that it has died."""
    r = t.redis()
    d = t.daemon(r, service={"retry": {"max_retries": 1, "initial": "100ms"}})
    with open(t.path("w.py"), "w") as f:
        f.write("import os, sys, time\nsys.path.insert(0, sys.argv[1])\nfrom sluice import Worker\n"
                "def work(job):\n    if not os.fork():\n        time.sleep(100)\n"
                "    if job.info:\n        os.kill(os.getpid(), 9)\n"
                "Worker(sys.argv[2], work, credits=2).run()\n")
    p = spawn([sys.executable, t.path("w.py"), os.path.join(ROOT, "etc/clients/python"), d.worker_sock], t.path("w.log"))
    t.ending(p.kill)
    Added(r.db).one("orders", "good", {})
    Added(r.db).one("orders", "bad", {"die": 1})
    t.wait(lambda: r.db.cmd("XLEN", "orders-input-dlq") == 1, 20, "its deaths are counted")
    p.terminate()
    assert p.wait(10) == 0
    checks.wait_clean(r.db, timeout=10, dlq=1)


@limit(60)
def test_python_is_not_deaf_while_it_begins(t):
    """Two hundred streams at once are not two hundred forks before the daemon is heard again: who has ended takes the next."""
    r = t.redis()
    d = t.daemon(r, service={"read_batch": 200})
    names = [f"s{i}" for i in range(200)]
    Added(r.db).many("orders", names, {})
    c = Client(t, d, ["python3", os.path.join(SUITE, "worker.py")], 200)
    finished(t, r, [c], names)
    assert len({x["pid"] for x in c.rows("begin")}) < 100


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


# ---- processes of libsluice-worker

POOL = r"""
#include <fcntl.h>
#include <pthread.h>
#include <sluice-worker.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static void note(const char *what)
{
	char line[200];
	int n = snprintf(line, sizeof(line), "%s %d\n", what, (int)getpid()), fd = open("notes", O_WRONLY | O_CREAT | O_APPEND, 0600);
	if (write(fd, line, (size_t)n) != n)
		abort();
	close(fd);
}
static void *beats(void *arg)
{
	for (;; usleep(20000))
		note("left-behind");
	return arg;
}
static int work(struct sluice_job *job)
{
	static int n;
	char said[100];
	snprintf(said, sizeof(said), "%s:%d:%d", job->stream, ++n, (int)job->retry);
	note(said);
	pthread_t t;
	if (strstr(job->info, "thread"))
		pthread_create(&t, NULL, beats, NULL);
	if (strstr(job->info, "process") && fork() == 0)
		beats(NULL);
	if (strstr(job->info, "orphan") && fork() == 0) {
		if (fork() == 0)
			beats(NULL);
		_exit(0);
	}
	if (strstr(job->info, "exit"))
		exit(3);
	for (int i = 0; i < 1000 && strstr(job->info, "long"); i++, usleep(10000))
		note("at-work");
	return strstr(job->info, "fail") ? sluice_job_fail(job, "as told", true, -1) : 0;
}
int main(int n, char **v) { return sluice_worker_run(&(struct sluice_options){.credits = 1, .name = v[0], .fresh = n > 1}, work); }
"""


class Pool(Client):
    def __init__(self, t, d, *argv):
        self.home = t.path(t.name("pool"))
        os.makedirs(self.home)
        with open(os.path.join(self.home, "pool.c"), "w") as f:
            f.write(POOL)
        build(t, ["cc", "-Wall", "-I", os.path.join(ROOT, "src/client"), "-o", "pool", "pool.c", program("libsluice-worker.a"), "-pthread"], self.home)
        super().__init__(t, d, [os.path.join(self.home, "pool"), *argv], dir=self.home)

    def notes(self):
        """[(what, pid)]"""
        with open(os.path.join(self.home, "notes")) as f:
            return [(x.split()[0], int(x.split()[1])) for x in f.read().splitlines()]

    def begun(self):
        return [x for x in self.notes() if x[0] != "left-behind"]

    def nothing_is_left_behind(self, t):
        for _, pid in self.notes():
            t.wait(lambda: not os.path.exists(f"/proc/{pid}") or pid == self.begun()[-1][1], 10, f"{pid} has ended")
        n = len(self.notes())
        time.sleep(0.2)
        assert len(self.notes()) == n


@limit(120)
def test_c_processes_are_used_again(t):
    """A handler's process takes the next stream, also after a failure; one that leaves a thread or a process running ends with its stream,
    and they with it; one that dies before it has begun costs the stream nothing."""
    if not c_library():
        return
    r = t.redis()
    d = t.daemon(r, service={"retry": {"initial": "100ms", "release_delay": "100ms", "jitter": "0%"}})
    c, add = Pool(t, d), Added(r.db)

    def one(name, info, dlq=0):
        add.one("orders", name, info)
        checks.wait_clean(r.db, timeout=30, dlq=dlq)
        return c.begun()[-1]
    a, b = one("a", {}), one("b", {})
    assert (a[0], b[0]) == ("a:1:0", "b:2:0") and a[1] == b[1], (a, b)
    assert one("c", {"fail": 1}, dlq=1) == ("c:3:0", a[1]) and one("d", {}, dlq=1) == ("d:4:0", a[1])
    for n, kind in enumerate(("thread", "process", "orphan")):
        first, second = one(f"x{n}", {kind: 1}, dlq=1), one(f"y{n}", {}, dlq=1)
        assert second[0] == f"y{n}:1:0" and first[1] != second[1], (kind, first, second)
        c.nothing_is_left_behind(t)
    rests = one("e", {}, dlq=1)[1]
    os.kill(rests, signal.SIGSTOP)  # it gets the next one and does not begin
    add.one("orders", "f", {})
    t.wait(lambda: any(x["stream"] == "f" and x["state"] == "assigned" for x in d.json("ls")), 20, "f is assigned")
    time.sleep(0.2)
    os.kill(rests, signal.SIGKILL)
    checks.wait_clean(r.db, timeout=30, dlq=1)
    assert c.begun()[-1][0] == "f:1:0", c.begun()
    add.one("orders", "g", {"exit": 1})
    t.wait(lambda: any(x[0].startswith("g:") and x[0].endswith(":1") for x in c.begun()), 30, "it comes again, counted")


@limit(120)
def test_c_processes_of_their_own(t):
    """`fresh`: one for each stream."""
    if not c_library():
        return
    r = t.redis()
    d = t.daemon(r)
    c = Pool(t, d, "fresh")
    Added(r.db).many("orders", ["a", "b", "c"], {})
    checks.wait_clean(r.db, timeout=30)
    assert len({pid for _, pid in c.begun()}) == 3 and {x.split(":")[1] for x, _ in c.begun()} == {"1"}, c.begun()


@limit(90)
def test_c_processes_that_were_stopped_do_not_go_on(t):
    """A laptop's lid, a frozen container: all of the worker stands still beyond T, and its stream is another's. Woken, its handler is stopped
    before it does anything more, with the process that would tell its result, or before that."""
    if not c_library():
        return
    for order in ("all", "handler first"):
        r = t.redis()
        d = t.daemon(r, T=3)
        c = Pool(t, d)
        Added(r.db).one("orders", "s", {"long": 1})
        t.wait(lambda: os.path.exists(os.path.join(c.home, "notes")) and c.notes()[-1][0] == "at-work", 10, "it works")
        handler = c.notes()[-1][1]
        c.signal(signal.SIGSTOP)
        os.kill(handler, signal.SIGSTOP)
        other = t.worker(d, name="other", credits=1, work=None)
        a = other.wait("assign", timeout=20)
        n = len(c.notes())
        os.kill(handler, signal.SIGCONT)
        if order == "handler first":
            t.wait(lambda: not is_at_work(handler), 5, "its handler has ended")
        c.signal(signal.SIGCONT)
        t.wait(lambda: not is_at_work(handler), 5, "its handler has ended")
        time.sleep(0.5)
        assert len(c.notes()) <= n + 1, (order, n, c.notes()[n:])  # one may have been under way
        assert r.db.cmd("XLEN", "orders-input") == 1 and not other.frames("revoke")
        other.finish(a)
        checks.wait_clean(r.db)


def is_at_work(pid):
    """It lives and is no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def dies(t, argv, mode):
    """The second entry of four kills the process of its handler; of the next stream nothing is to be seen of that."""
    r = t.redis()
    retry = {"initial": "100ms", "factor": 1, "jitter": "0%"}
    d = t.daemon(r, service={"retry": {"release_delay": "100ms", "max_retries": 1},
                             "entries": {"enabled": True, "idle_release": "200ms", "retry": retry}})
    ids = [text(r.db.cmd("XADD", "s", "*", "n", n, "do", json.dumps({"exit": 1} if n == 1 else {}))) for n in range(4)]
    other = add_entries(r.db, "other", 3)
    c = Client(t, d, argv, CONF_ENTRIES=mode)
    for key in ("s", "other"):
        lbs(r.db, "orders", key)
    t.wait(lambda: position(r.db, "s").get("pos") == ids[3] and position(r.db, "other").get("pos") == other[-1], 30, "all are acknowledged")
    (letter,) = [dict(zip(map(text, f[::2]), map(text, f[1::2]))) for _, f in r.db.cmd("XRANGE", "orders-entries-dlq", "-", "+")]
    assert letter["_orig_id"] == ids[1] and letter["_tries"] == "4", letter
    assert letter["_dlq_error"].startswith("the handler's process ended, signal 9"), letter
    assert r.db.cmd("XLEN", "orders-input-dlq") == 0
    begun = sum(x["entry"] == ids[1] for x in c.rows("entry", stream="s"))
    assert begun == 4 if mode == "each" else begun in (4, 5), begun  # in a batch the first one is blamed at first
    c.kill()


@limit(120)
def test_an_entry_that_kills_the_process_of_its_handler_is_found(t):
    """Its tries, then it alone is a dead letter: a process of the Python client told no id of it, and its stream stood still; one of
    libsluice-worker failed the whole stream."""
    for mode in ("each", "batch"):
        dies(t, [sys.executable, os.path.join(SUITE, "worker.py")], mode)
        if c_library():
            build(t, ["make", "-s", "--no-print-directory", "build/conformance/c-worker"], ROOT)
            dies(t, [os.path.join(ROOT, "build/conformance/c-worker")], mode)
