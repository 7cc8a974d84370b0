"""The last release beside this one, as while hosts are upgraded: its daemon with our clients, its workers with our daemon. `make
last-release` builds it from the history; without it these tests say so and are skipped."""
import os
import signal

from lib import checks
from lib.case import limit
from lib.checks import Added
from lib.daemon import ROOT, program
from lib.servers import Process, spawn
from test_clients import SUITE, TOOLS, Client, build, c_library, have, logged

issue = 18
LAST = os.path.join(ROOT, "build", "last-release", "build")


def is_there():
    if not os.path.exists(os.path.join(LAST, "sluiced")):
        print("= skipped: no last release here (make last-release builds it)")
    return os.path.exists(os.path.join(LAST, "sluiced"))


def workers(t):
    """{language: argv} of the conformance workers that can be run here."""
    argv = {"python": ["python3", os.path.join(SUITE, "worker.py")], "node": ["node", os.path.join(SUITE, "worker.mjs")]}
    if have("go"):
        build(t, ["go", "build", "-o", t.path("go-worker"), "."], os.path.join(SUITE, "go"))
        argv["go"] = [t.path("go-worker")]
    if have("java", "javac"):
        build(t, ["javac", "-d", t.path("classes"), os.path.join(ROOT, "etc/clients/java/src/main/java/sluiced/Worker.java"),
                  os.path.join(SUITE, "ConformanceWorker.java")], t.dir)
        argv["java"] = ["java", "-cp", t.path("classes"), "sluiced.ConformanceWorker"]
    if c_library():
        build(t, ["make", "-s", "--no-print-directory", "build/conformance/c-worker"], ROOT)
        argv["c"] = [os.path.join(ROOT, "build/conformance/c-worker")]
    return {k: v for k, v in argv.items() if have(*TOOLS[k][:1])}


class Run(Process):
    """sluice-run of a release."""

    def __init__(self, t, d, binary, *args):
        self.log_path = t.path(t.name("run") + ".log")
        self.proc = spawn([binary, "-s", d.worker_sock, *args], self.log_path)
        t.ending(self.kill)

    @property
    def log(self):
        with open(self.log_path) as f:
            return f.read()


def of_last(d):
    """`d`, which does not run, is to be of the last release from now on."""
    for setting in ("retry", "same_stream"):  # it has no such setting, or not our value
        d.cfg["services"][0].pop(setting, None)
    d.write()
    d.binary = os.path.join(LAST, "sluiced")
    return d


def last_daemon(t, r):
    return of_last(t.daemon(r, start=False)).start()


@limit(120)
def test_our_workers_with_the_last_release(t):
    """Streams are worked on, also across the upgrade of the daemon and back; entries are refused, by name, at once."""
    if not is_there():
        return
    r = t.redis()
    d = last_daemon(t, r)
    argv = workers(t)
    for language in argv:
        c = Client(t, d, argv[language], 2, CONF_ENTRIES="each")
        assert c.wait(20) != 0, language
        assert logged(c, "sluiced is older than entries mode"), language
    run = Run(t, d, program("sluice-run"), "--each", "--", "true")
    assert run.wait(20) == 69 and "older than entries mode" in run.log, run.log
    clients = {k: Client(t, d, v, 2) for k, v in argv.items()}
    names = [f"s{i}" for i in range(2 * len(argv))]
    t.wait(lambda: len(d.json("workers")) == len(argv), 30, "all are there")
    Added(r.db).many("orders", names, {"sleep": 4})
    t.wait(lambda: {x["stream"] for c in clients.values() for x in c.rows("tick")} == set(names), 30, "all are in work")
    for binary in (None, d.binary):
        d.binary = binary
        d.restart()
        t.wait(lambda: len(d.json("workers")) == len(argv), 20, "all are back")
    checks.wait_clean(r.db, timeout=60)
    begun = sorted(x["stream"] for c in clients.values() for x in c.rows("begin"))
    assert begun == sorted(names), f"begun more than once: {begun}"
    for language, c in clients.items():
        c.signal(signal.SIGTERM)
        assert c.wait(20) == 0, language


@limit(90)
def test_workers_of_the_last_release(t):
    """Its sluice-run takes streams from our daemon, and none of a service in entries mode, which it would not understand."""
    if not is_there():
        return
    r = t.redis()
    d = t.daemon(r, services=("orders", "feeds"), start=False)
    d.cfg["services"][1].update(entries={"enabled": True}, same_stream="coalesce")
    d.write()
    d.start()
    run = Run(t, d, os.path.join(LAST, "sluice-run"), "-n", "4", "--", "sh", "-c", "echo worked on $SLUICE_STREAM; cat")
    r.db.cmd("XADD", "f1", "*", "a", "b")
    Added(r.db).one("feeds", "f1")
    Added(r.db).one("orders", "o1", {"n": 2})
    t.wait(lambda: "worked on o1" in run.log, 30, "its work is done")
    t.wait(lambda: r.db.cmd("XLEN", "orders-input") == 0, 30, "and told")
    assert "f1" not in run.log and r.db.cmd("XLEN", "feeds-input") == 1, run.log
    ours = Run(t, d, program("sluice-run"), "--each", "--service", "feeds", "--", "sh", "-c", "echo entry of $SLUICE_STREAM")
    t.wait(lambda: "entry of f1" in ours.log, 30, "ours takes it")
    run.signal(signal.SIGTERM)
    assert run.wait(20) == 0


def back_to_the_last_release(t, same_stream, runs):
    """What waits for its time or behind a running stream is where it does not look: one of ours that stays, without a worker, moves it."""
    if not is_there():
        return
    r = t.redis()
    ours = {"T": 4, "service": {"same_stream": same_stream, "retry": {"initial": "4s"}}}
    d = t.daemon(r, **ours)
    w = t.worker(d, credits=5, work=lambda a: None if a["stream"] == "long" and a["info"]["n"] == 0 else 0,
                 result=lambda a: {"t": "done" if a["stream"] == "long" or a["retry"] else "fail", "lease": a["lease"]}, reconnect=True)
    add = Added(r.db)
    add.one("orders", "long", {"n": 0})
    w.wait("assign")
    for n in (1, 2):
        add.one("orders", "long", {"n": n})
    add.one("orders", "bad", {"n": 9})
    t.wait(lambda: len(d.json("ls", "--waiting")) == len(runs), 20, "all but one wait")
    assert d.stop() == 0
    of_last(d).start()
    w.finish(w.frames("assign", stream="long")[0])
    t.daemon(r, name="mover", **ours)
    checks.wait_clean(r.db, timeout=30)
    got = sorted((f["stream"], f["info"]["n"]) for f in w.frames("assign")[2:])
    assert got == runs, got


@limit(60)
def test_back_to_the_last_release(t):
    back_to_the_last_release(t, "serialize", [("bad", 9), ("long", 1), ("long", 2)])


@limit(60)
def test_back_to_the_last_release_with_a_wish(t):
    back_to_the_last_release(t, "coalesce", [("bad", 9), ("long", 2)])
