"""Ten rolling updates of three pods, with streams of a second and streams of five minutes (LONG=, in seconds): what was given back
on purpose is not counted, what was confirmed is not done again, and what one pod gives back another begins within two seconds.

A pod is a daemon and a sluice-run beside it, SIGTERM goes to both at the same moment, and what has not ended after 30 s is killed."""
import collections
import os
import time

from lib.case import limit
from lib.checks import wait_clean
from lib.daemon import program
from lib.load import Load
from lib.manager import Manager, Unit
from lib.servers import Process, spawn

issue = 14
LONG, UPDATES, GRACE = float(os.environ.get("LONG", 300)), int(os.environ.get("UPDATES", 10)), 30
EVERY = float(os.environ.get("EVERY", 35))  # an update begins, s
N_LONG, N_PODS, RATE = 18, 3, 6
# SIGTERM goes to the whole group: not to the date(1) of a line that is being written
SAY = 'say() { echo "$1 $SLUICE_STREAM $SLUICE_RETRY $SLUICE_TOKEN $(trap "" TERM; date +%s.%N)" >>"$DONE"; }; '
WORK = SAY + f"""say begin
trap 'kill $!; say back; exit 75' TERM
case $SLUICE_STREAM in long*) sleep {LONG:g} & ;; *) sleep 1 & ;; esac
wait $! && {{ trap "" TERM; say end; }}"""


class Pod:
    """start() gives the daemon; a pod that has ended may be started again, under the same name."""

    def __init__(self, t, name, start):
        self.t, self.name, self.make, self.daemon = t, name, start, None
        self.worker = Process()
        t.ending(self.kill)

    def up(self):
        self.daemon = self.daemon.start() if self.daemon else self.make()
        return self.work()

    def work(self):
        argv = [program("sluice-run"), "-s", self.daemon.worker_sock, "-n", "16", "--on-term", "release", "--", "sh", "-c", WORK]
        self.worker.proc = spawn(argv, self.t.path(f"{self.name}.run"), env=dict(os.environ, DONE=self.t.path("done")))
        return self

    def terminate(self):
        """Seconds it took; who does not end within the grace is killed, which is a finding."""
        begin = time.monotonic()
        self.daemon.signal(15)
        self.worker.signal(15)
        for p in (self.worker, self.daemon):
            assert p.wait(max(0.1, begin + GRACE - time.monotonic())) == 0, f"{self.name}: {p.proc.returncode}"
        return time.monotonic() - begin

    def kill(self):
        self.worker.kill()


class Rows:
    """What was written by the work: (what, stream, retry, token, seconds)."""

    def __init__(self, path):
        with open(path) as f:
            rows = [line.split(" ") for line in f]
        self.all = sorted(((w, s, int(r), k, float(at)) for w, s, r, k, at in rows), key=lambda x: x[4])

    def of(self, what):
        return [x for x in self.all if x[0] == what]

    def check(self, names):
        """What is wrong, and how long it took at most until what was given back was begun elsewhere."""
        ends = collections.Counter(s for _, s, _, _, _ in self.of("end"))
        bad = [f"{s} was never done" for s in names if not ends[s]]
        bad += [f"{s} ended {n} times" for s, n in ends.items() if n > 1]
        bad += [f"{s} begun with retry {r}" for _, s, r, _, _ in self.of("begin") if r]
        left, worst = {}, (0, "")
        for what, s, _, _, at in self.all:
            if what == "back":
                left[s] = at
            elif what == "begin" and s in left:
                worst = max(worst, (at - left.pop(s), s))
        return bad + [f"{s} was given back and not begun again" for s in left], worst


def updates(t, r, pods, replace):
    """`replace(pod)` ends one and starts its successor, which it returns."""
    r.db.pipe([("XADD", "orders-input", "*", "lbs-input", f'{{"DataStreamName":"long{i}"}}') for i in range(N_LONG)])
    load, took = Load(r, rate=RATE), []
    t.ending(load.stop)
    for _ in range(UPDATES):
        begin = time.monotonic()
        for i, p in enumerate(pods):
            pods[i], s = replace(p)
            took.append(s)
        t.wait(lambda: time.monotonic() > begin + EVERY, EVERY + 1, every=0.2)
    added = load.stop()
    wait_clean(r.db, timeout=LONG + 90)
    rows = Rows(t.path("done"))
    bad, (worst, who) = rows.check([*added.sure, *(f"long{i}" for i in range(N_LONG))])
    dead = r.db.cmd("XLEN", "orders-input-dlq")
    print(f"= {UPDATES} updates of {len(pods)} pods: {len(added.sure)} streams of 1 s and {N_LONG} of {LONG:g} s, {len(rows.of('back'))} given back, "
          f"begun again within {worst:.1f} s; a pod ended within {max(took):.1f} s")
    assert not bad and not dead, (dead, len(bad), bad[:10])
    assert worst <= 2, f"{who} was begun {worst:.1f} s after it had been given back"


def fresh(t, r, name):
    """A daemon whose name is its pod's, which nobody chose and nobody will have again."""
    d = t.daemon(r, name, start=False, env={"POD_NAME": name})
    d.cfg.pop("node")
    d.write()
    return d.start()


@limit(1800)
def test_a_deployment(t):
    """A new pod is ready before an old one is ended, as with maxSurge: 1."""
    r, n = t.redis(), 0
    pods = [Pod(t, f"first-{i}", lambda i=i: fresh(t, r, f"first-{i}")).up() for i in range(N_PODS)]

    def replace(old):
        nonlocal n
        n += 1
        new = Pod(t, f"pod-{n}", lambda: fresh(t, r, f"pod-{n}")).up()
        return new, old.terminate()
    updates(t, r, pods, replace)


@limit(1800)
def test_a_stateful_set(t):
    """The pod that follows has the name of the one that has ended: it finds its own."""
    r = t.redis()
    pods = [Pod(t, f"set-{i}", lambda i=i: t.daemon(r, f"set-{i}")).up() for i in range(N_PODS)]

    def replace(pod):
        s = pod.terminate()
        return pod.up(), s
    updates(t, r, pods, replace)


@limit(1800)
def test_under_the_descriptor_store(t):
    """Three hosts; the unit and its worker's are restarted in one job, the manager keeps what the daemon gives it and starts each again
    as soon as it has ended."""
    r = t.redis()

    def unit(i):
        return Unit(t, r, Manager(t, f"manager{i}.sock"), node=f"host-{i}")
    pods = [Pod(t, f"host-{i}", lambda i=i: unit(i)).up() for i in range(N_PODS)]

    def replace(pod):
        begin = time.monotonic()
        pod.daemon.signal(15)
        pod.worker.signal(15)
        assert pod.daemon.wait(GRACE) == 0
        pod.daemon.start()
        assert pod.worker.wait(GRACE) == 0
        return pod.work(), time.monotonic() - begin
    updates(t, r, pods, replace)
