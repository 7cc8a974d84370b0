"""What README and etc/examples show is what people run: they survive deploys, restarts of the daemon, a revoke of one stream and
work that blocks. $SLUICE_EXAMPLES: other files in place of etc/examples."""
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from lib import checks
from lib.case import limit
from lib.checks import Added
from lib.daemon import ROOT, program
from lib.redis import entries, pairs
from lib.servers import Process, die_with_parent

issue = 12
EXAMPLES = os.environ.get("SLUICE_EXAMPLES") or os.path.join(ROOT, "etc", "examples")
PATIENCE = 60  # how long anything may take on a busy machine
KINDS = ("python", "fenced", "c", "shell", "readme")

# The line of the examples that stands for the work, and one that blocks, starts another process and leaves a trace of every moment.
# Not the pauses of a fixed length between two looks at the fence.
SLEEP = re.compile(r"^([ \t]*)(?:(?:await asyncio\.|time\.)?sleep\b(?!\(0\.0).*|usleep\((?!\d).*)$", re.M)
BEAT = "while :; do read up _ </proc/uptime; echo $up >>beats; sleep 0.05; done"
BLOCKING = {"c": f'system("{BEAT}");', "shell": f'sh -c "{BEAT}"'.replace("$up", r"\$up"),
            "python": f'__import__("subprocess").run(["sh", "-c", "{BEAT}"])'}


def source(kind):
    if kind == "readme":
        with open(os.path.join(ROOT, "README.md")) as f:
            return re.search(r"```python\n(.*?)```", f.read(), re.S)[1]
    with open(os.path.join(EXAMPLES, {"python": "worker.py", "fenced": "worker_fenced.py", "c": "worker.c", "shell": "worker.sh"}[kind])) as f:
        return f.read()


class Example(Process):
    """One of KINDS with four credits; `is_beating`: with BLOCKING work."""

    def __init__(self, t, d, kind, is_beating=False, stdout=None):
        text, self.path = source(kind), t.path(t.name(kind))
        if is_beating:
            work = BLOCKING.get(kind, BLOCKING["python"])
            text, n = SLEEP.subn(lambda m: m[1] + work, text)
            assert n == 1, f"{kind} has {n} lines that stand for the work"
        with open(self.path + (".c" if kind == "c" else ""), "w") as f:
            f.write(text)
        env = dict(os.environ, PATH=f"{program('')}:{os.environ['PATH']}")
        if kind == "c":
            subprocess.run(["cc", "-O2", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-pthread", "-o", self.path, self.path + ".c"], check=True)
            argv = [self.path, "-s", d.worker_sock, "-n", "4"]
        elif kind == "shell":
            argv = ["sh", self.path, "-s", d.worker_sock, "-n", "4"]
        else:
            argv = [sys.executable, "-u", self.path, d.worker_sock]
        with open(self.path + ".out", "ab") as out:
            self.proc = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=stdout or out, stderr=out, env=env, cwd=t.dir,
                                         preexec_fn=die_with_parent)
        t.ending(self.kill)


def assigned(d):
    return {x["stream"]: x for x in d.json("ls") if x["state"] == "assigned"}


def wait_assigned(t, d, n):
    return t.wait(lambda: len(x := assigned(d)) == n and x, PATIENCE, f"{n} streams assigned")


def descendants(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as f:
            children = [int(x) for x in f.read().split()]
    except OSError:
        return 0
    return sum(1 + descendants(x) for x in children)


def wait_begun(t, d, x, n):
    """Assigned, and begun: what a worker reads after SIGTERM it gives back."""
    wait_assigned(t, d, n)
    t.wait(lambda: descendants(x.proc.pid) >= n, PATIENCE, f"{n} streams in work")


def wait_no_credits(t, d):
    t.wait(lambda: all(w["credits"] == 0 for w in d.json("workers")), PATIENCE, "no credits")


def never_requeued(db, ids):
    """An entry that goes back is a new one."""
    assert pairs(db.cmd("XINFO", "STREAM", "orders-input"))["last-generated-id"] == ids[-1], entries(db, "orders-input")


# ---- what each of them must survive

def survives_deploys(t, kind):
    """SIGTERM: no new work, what is held is finished, exit 0."""
    r = t.redis()
    d, add = t.daemon(r), Added(r.db)
    for n in range(2):
        x = Example(t, d, kind)
        add.many("orders", [f"{n}-{i}" for i in range(4)], {"seconds": 2})
        wait_begun(t, d, x, 4)
        x.signal(signal.SIGTERM)
        wait_no_credits(t, d)
        late = add.many("orders", ["late"], {"seconds": 0})
        assert x.wait(PATIENCE) == 0
        left = entries(r.db, "orders-input"), checks.pending(r.db, "orders")
        assert ([i for i, _ in left[0]], left[1]) == (late, 0), (left, late)
        r.db.cmd("XDEL", "orders-input", *late)
    never_requeued(r.db, late)
    checks.wait_clean(r.db)


def survives_hasty_deploys(t, kind):
    """Four times two SIGTERMs: a long stream is given back at once, uncounted, and is no dead letter."""
    r = t.redis()
    d = t.daemon(r)
    Added(r.db).one("orders", "long", {"seconds": 60})
    for _ in range(4):
        x = Example(t, d, kind)
        assert wait_assigned(t, d, 1)["long"]["retry"] == 0
        x.signal(signal.SIGTERM)
        wait_no_credits(t, d)
        x.signal(signal.SIGTERM)
        assert x.wait(PATIENCE) in (0, 128 + signal.SIGTERM)
    t.wait(lambda: checks.pending(r.db, "orders") == 0, PATIENCE, "it is back")
    (_, fields), = entries(r.db, "orders-input")
    assert fields.get("_retry_count", "0") == "0" and r.db.cmd("XLEN", "orders-input-dlq") == 0, fields


def survives_restarts_of_the_daemon(t, kind):
    """kill -9 and a handover: the work goes on in the same process and is done once."""
    r = t.redis()
    d = t.daemon(r)
    x = Example(t, d, kind)
    ids = Added(r.db).many("orders", ["a", "b", "c", "d"], {"seconds": 7})
    wait_assigned(t, d, 4)
    d.restart()
    t.wait(lambda: d.json("workers"), PATIENCE, "it is back")
    d.handover()
    checks.wait_clean(r.db, timeout=PATIENCE)
    never_requeued(r.db, ids)
    assert x.is_running()
    Added(r.db).one("orders", "after", {"seconds": 0})
    checks.wait_clean(r.db, timeout=PATIENCE)


def stops_one_stream_of_four(t, kind):
    """sluicectl release: the three others go on as if nothing had happened."""
    r = t.redis()
    d = t.daemon(r)
    x = Example(t, d, kind)
    Added(r.db).many("orders", ["a", "b", "c", "d"], {"seconds": 60})
    before = wait_assigned(t, d, 4)
    d.ctl_ok("pause", "orders")
    d.ctl_ok("release", "b")
    t.wait(lambda: checks.pending(r.db, "orders") == 3, PATIENCE, "it is back")
    after = assigned(d)
    assert {k: (v["lease"], v["retry"]) for k, v in after.items()} == {k: (before[k]["lease"], 0) for k in "acd"}
    d.ctl_ok("resume", "orders")
    assert wait_assigned(t, d, 4)["b"]["retry"] == 0 and x.is_running()


def blocks_for_longer_than_a_lease(t, kind):
    """25 s at T = 10 s, scaled: pings are answered meanwhile."""
    r = t.redis()
    d = t.daemon(r, T=3)
    x = Example(t, d, kind)
    ids = Added(r.db).many("orders", ["a", "b"], {"seconds": 7.5})
    wait_assigned(t, d, 2)
    t.wait(lambda: time.sleep(0.2) or not r.db.cmd("XLEN", "orders-input"), PATIENCE, "both are done")
    never_requeued(r.db, ids)
    assert x.is_running() and len(d.json("workers")) == 1
    assert "silent" not in d.log


def beats(t):
    """Moments at which BLOCKING work was running, in CLOCK_MONOTONIC seconds."""
    with open("/proc/uptime") as f:
        ahead = float(f.read().split()[0]) - time.monotonic()
    try:
        with open(t.path("beats")) as f:
            return [float(x) - ahead for x in f.read().splitlines()]
    except FileNotFoundError:
        return []


def is_killed_at_its_fence(t, kind):
    """The daemon is frozen: nobody says revoke. Nothing of the work is left when the next worker is told."""
    r = t.redis()
    a = t.daemon(r, T=3)
    b = t.daemon(r, T=3)
    Example(t, a, kind, is_beating=True)
    Added(r.db).one("orders", "s")
    wait_assigned(t, a, 1)
    t.wait(lambda: beats(t), PATIENCE, "the work has begun")
    w = t.worker(b, credits=1)
    w.wait("welcome")
    a.pause()
    w.wait("assign", timeout=PATIENCE)
    begun = next(x["ms"] for x in w.journal if x["f"]["t"] == "assign") / 1000
    t.wait(lambda: time.monotonic() > begun + 1, 10)  # who was not stopped shows within that
    assert beats(t)[-1] < begun + 0.02, f"worked on for {beats(t)[-1] - begun:.2f} s beside the next"


def children(pid):
    """Of a process and of its children, and so on."""
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        mine = [int(x) for x in f.read().split()]
    return mine + [x for c in mine for x in children(c)]


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def takes_its_work_along(t, kind):
    """kill -9 of the worker ends the work too."""
    r = t.redis()
    d = t.daemon(r)
    x = Example(t, d, kind)
    Added(r.db).many("orders", ["a", "b"], {"seconds": 60})
    wait_assigned(t, d, 2)
    pids = t.wait(lambda: len(pids := children(x.proc.pid)) >= 2 and pids, PATIENCE, "the work has begun")
    x.kill()
    t.wait(lambda: not any(is_alive(pid) for pid in pids), PATIENCE, "the work has ended")


def writes_whole_lines(t, kind):
    """One write, one line: the packets of its standard output are looked at."""
    r = t.redis()
    d = t.daemon(r)
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mine.setblocking(False)
    Example(t, d, kind, stdout=its)
    n, packets = 40, []
    Added(r.db).many("orders", [f"s{i}" for i in range(n)], {"seconds": 0})

    def more():
        try:
            while True:
                packets.append(mine.recv(65536).decode())
        except BlockingIOError:
            return len(packets) >= n
    t.wait(more, PATIENCE, f"{n} packets")
    assert all(p.count("\n") == 1 and p.endswith("\n") for p in packets), packets[:6]


MUST = {f.__name__: f for f in (survives_deploys, survives_hasty_deploys, survives_restarts_of_the_daemon, stops_one_stream_of_four,
                                blocks_for_longer_than_a_lease, is_killed_at_its_fence, takes_its_work_along, writes_whole_lines)}


def one(kind, must):
    return limit(300)(lambda t: must(t, kind))


globals().update({f"test_{kind}_{name}": one(kind, must) for kind in KINDS for name, must in MUST.items()})


# ---- by hand

def ordinary_user():
    """Arguments for subprocess that make it nobody, where we are root and nobody can reach what we test."""
    can = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "test", "-x", program("sluiced"), "-a", "-r", ROOT]
    is_possible = os.geteuid() == 0 and subprocess.run(can, stderr=subprocess.DEVNULL).returncode == 0
    return dict(user=65534, group=65534, extra_groups=[]) if is_possible else {}


def commands(before):
    """The lines of README's block that follows this text."""
    with open(os.path.join(ROOT, "README.md")) as f:
        return [x[4:] for x in re.search(re.escape(before) + r"[\s\S]*?\n\n((?:    .*\n)+)", f.read())[1].splitlines()]


class ByHand:
    """README's commands, typed by who is not root: the lines of the first minute, then others in the same place."""

    def __init__(self, t):
        self.dir = tempfile.mkdtemp(prefix="hand", dir="/tmp")  # where others may go, other than to t.dir
        t.ending(lambda: shutil.rmtree(self.dir))
        self.user = ordinary_user()
        if self.user:
            os.chown(self.dir, self.user["user"], self.user["group"])
        self.t, self.env = t, dict(os.environ, TMPDIR=self.dir, HOME=self.dir, PATH=f"{self.dir}:{program('')}:{os.environ['PATH']}")

    def type(self, lines, cwd=None):
        """(process, a function for what it has written)"""
        out = self.t.path(self.t.name("typed"))
        with open(out, "wb") as f:
            p = subprocess.Popen(["bash", "-c", "\n".join(lines)], stdin=subprocess.DEVNULL, stdout=f, stderr=f, env=self.env,
                                 cwd=cwd or self.dir, start_new_session=True, **self.user)

        def end():
            try:
                os.killpg(p.pid, signal.SIGKILL)  # what it has started in the background too
            except ProcessLookupError:
                pass
            p.wait()
        self.t.ending(end)

        def text():
            with open(out) as f:
                return f.read()
        return p, text

    def put(self, name, *lines):
        with open(os.path.join(self.dir, name), "w") as f:
            f.write("\n".join(["#!/bin/sh", *lines, ""]))
        os.chmod(os.path.join(self.dir, name), 0o755)


@limit(180)
def test_by_hand_in_one_minute(t):
    """All that README lets one type before it is installed."""
    hand, first = ByHand(t), commands("By hand, in one minute")
    assert len(first) == 6, first
    p, text = hand.type(first, ROOT)
    t.wait(lambda: p.poll() is not None or 'orders:7: {"seconds":2}\n' in text(), PATIENCE, f"the work is done: {text()}")
    assert p.poll() is None, text()
    d, = (os.path.join(hand.dir, x) for x in os.listdir(hand.dir))
    hand.env.update(SLUICED_CONTROL=f"{d}/c", SLUICED_WORKER=f"{d}/w")
    hand.put("redis-cli", f"exec {shutil.which('redis-cli')} -s {d}/r \"$@\"")
    entries_run, text = hand.type(commands("## One key, one worker, in order"))
    t.wait(lambda: '["what","paid","amount","12"]' in text().replace(" ", "") or "paid" in text(), PATIENCE, f"the entry: {text()}")
    assert entries_run.poll() is None, text()
    with open(f"/proc/{p.pid}/task/{p.pid}/children") as f:
        programs = [p.pid, *(int(x) for x in f.read().split())]  # bash may have become its last command
    for pid in programs:  # Ctrl-C for the first worker
        if os.path.basename(os.readlink(f"/proc/{pid}/exe")) == "sluice-run":
            os.kill(pid, signal.SIGINT)
    one, text = hand.type(commands("## One stream, one worker"))
    t.wait(lambda: {f'orders:{n}: {{"seconds":2}}' for n in (7, 8)} <= set(text().splitlines()), PATIENCE, f"the streams' work: {text()}")
    assert one.poll() is None, text()
    for line in commands("Look at it:"):
        look, text = hand.type([line])
        status = look.wait(PATIENCE)
        assert status == 0 and text() or line.startswith("sluicectl doctor"), f"{line}: {status}: {text()}"


def test_sockets_are_named_by_the_environment(t):
    """The option counts first, then $SLUICED_CONTROL and $SLUICED_WORKER; one that is empty counts as not set."""
    d = t.daemon(t.redis())
    ctl, run = program("sluicectl"), program("sluice-run")

    def status(*options, **env):
        r = t.run([ctl, *options, "status", "--ready"], env=dict(os.environ, **env))
        return r.returncode, r.stderr
    assert status(SLUICED_CONTROL=d.control_sock)[0] == 0
    assert status("--socket", d.control_sock, SLUICED_CONTROL="/no/such")[0] == 0
    assert status(SLUICED_CONTROL="/no/such")[0] == 69 and "/no/such" in status(SLUICED_CONTROL="/no/such")[1]
    assert "/run/sluiced/control.sock" in status(SLUICED_CONTROL="")[1]
    for name, options, env in (("by-env", [], d.worker_sock), ("by-option", ["-s", d.worker_sock], "/no/such")):
        with open(t.path("run.err"), "ab") as f:
            p = subprocess.Popen([run, *options, "--name", name, "--", "true"], env=dict(os.environ, SLUICED_WORKER=env), stderr=f,
                                 preexec_fn=die_with_parent)
        t.wait(lambda: any(w["name"] == name for w in d.json("workers")), PATIENCE, f"{name} is there")
        p.terminate()
        assert p.wait(PATIENCE) == 0


@limit(60)
def test_the_examples_of_entries_mode_find_the_socket(t):
    """By $SLUICED_WORKER, as the others do."""
    r = t.redis()
    d = t.daemon(r, service={"entries": {"enabled": True, "idle_release": "200ms"}})
    env = dict(os.environ, SLUICED_WORKER=d.worker_sock, PATH=f"{program('')}:{os.environ['PATH']}")
    for name, argv in (("entries.py", [sys.executable]), ("entries.sh", ["sh"])):
        r.db.cmd("XADD", name, "*", "what", "paid")
        Added(r.db).one("orders", name)
        with open(t.path(name), "wb") as out:
            p = subprocess.Popen([*argv, os.path.join(EXAMPLES, name)], stdout=out, stderr=out, env=env, preexec_fn=die_with_parent)
        t.wait(lambda: "paid" in open(t.path(name)).read(), PATIENCE, f"{name} has its entry")
        p.terminate()
        p.wait(PATIENCE)


@limit(60)
def test_an_exit_with_0_is_no_failure(t):
    """sys.exit(0) in the work of worker.py."""
    r = t.redis()
    d = t.daemon(r, service={"retry": {"max_retries": 0}})
    text, n = SLEEP.subn(lambda m: m[1] + "sys.exit(0)", source("python"))
    assert n == 1
    with open(t.path("w.py"), "w") as f:
        f.write(text)
    p = subprocess.Popen([sys.executable, t.path("w.py"), d.worker_sock], stdout=subprocess.DEVNULL, preexec_fn=die_with_parent)
    t.ending(p.kill)
    Added(r.db).one("orders", "s")
    checks.wait_clean(r.db, timeout=20)
    assert r.db.cmd("XLEN", "orders-input-dlq") == 0


def test_places_that_cannot_be_listened_at_name_their_setting(t):
    """Also for who runs it by hand and has no /run/sluiced."""
    r = t.redis()
    for setting, cfg in (("workers.socket", {"workers": {"socket": "/no/such/w"}}), ("control.socket", {"control": {"socket": "/no/such/c"}}),
                         ("metrics.listen", {"metrics": {"listen": "unix:/no/such/m"}})):
        d = t.daemon(r, cfg=cfg, start=False)
        d.start(ready=False)
        assert d.wait(PATIENCE) == 71
        assert f"error {setting}: /no/such/{setting[0]}: its directory does not exist" in d.log, d.log
