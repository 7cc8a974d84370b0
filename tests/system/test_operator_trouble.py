"""What goes wrong around a daemon: no Redis, sockets taken, no permission, no descriptors, a full disk. One clear line each,
no crash, nothing lost, and it recovers by itself."""
import copy
import os
import re
import resource
import shutil
import signal
import tempfile

from lib import checks
from lib.case import limit, no_acl
from lib.checks import Added
from lib.daemon import http, merge, program, yaml
from lib.worker import connect

issue = 5


def of_level(d, *levels):
    """The log's lines of those levels, without time and level."""
    return [m[2] for m in re.finditer(r"^\S+ (\w+) (.*)$", d.log, re.M) if m[1] in levels]


@limit(60)
@no_acl("CONFIG denied is a warning of its own")
def test_started_with_redis_down(t):
    r = t.redis(start=False)
    d = t.daemon(r, ready=False, cfg={"metrics": {"listen": f"unix:{t.path('m')}"}, "log": {"level": "info"}})
    t.wait(lambda: d.ctl("status").returncode == 0 and of_level(d, "warn", "error"), what="it says so")
    code, body = http(t.path("m"), "/readyz")
    assert code == 503 and r.path in body and "no such file" in body and body.count("redis") == 1 + r.path.count("redis"), body
    assert http(t.path("m"), "/livez")[0] == 200
    p = d.ctl("status", "--ready")
    assert p.returncode == 1 and len(p.stderr.splitlines()) == 1 and r.path in p.stderr, p
    s, = d.json("status")
    assert s["ready"] is False and r.path in s["reasons"][0], s
    assert "not ready" in d.ctl("status").stdout
    w = t.worker(d, credits=1, work=0)
    w.wait("welcome")
    p = d.ctl("add", "orders", "x")
    assert p.returncode == 1 and p.stderr.startswith("sluicectl: Redis is not reachable"), p
    p = d.ctl("nodes")
    assert p.returncode == 1 and p.stderr.startswith("sluicectl: no master is known yet: redis unix:") and r.path in p.stderr, p
    bad = of_level(d, "warn", "error")
    assert len(bad) == 1 and bad[0].startswith("waiting for Redis: redis unix:") and r.path in bad[0] and "trying again" in bad[0], bad
    r.start()
    d.wait_ready()
    Added(r.db).one("orders", "s")
    w.wait("ok")
    assert http(t.path("m"), "/readyz")[0] == 200
    t.wait(lambda: "ready" in of_level(d, "notice"), what="it says that it is ready")
    assert of_level(d, "warn", "error") == bad, "nothing more to say"


@limit(60)
def test_ids_ahead_of_the_clock_are_told(t):
    """A clock that was wrong for a moment leaves them behind: every later id is ahead, too, and every age 0."""
    r = t.redis()
    d = t.daemon(r)
    w = t.worker(d, credits=2, work=0)
    Added(r.db).one("orders", "a")
    w.wait("ok")
    assert not [x for x in d.json("doctor") if x["check"] == "ids"]
    ahead = int(r.db.cmd("TIME")[0]) * 1000 + 3 * 3600 * 1000 + 5000
    r.db.cmd("XADD", "orders-input", f"{ahead}-0", "lbs-input", '{"DataStreamName":"b","Info":{}}')
    w.wait("ok", 2)
    row, = [x for x in d.json("doctor") if x["check"] == "ids"]
    assert (row["result"], row["found"]) == ("warn", f"orders-input: id {ahead}-0 is 3 h ahead of the clock"), row


@limit(60)
def test_redis_lost_is_said_and_not_again_and_again(t):
    r = t.redis()
    d = t.daemon(r, cfg={"log": {"level": "info"}, "redis": {"reconnect": {"initial": "20ms", "max": "50ms"}}})
    w = t.worker(d, credits=1)
    Added(r.db).one("orders", "s")
    w.wait("assign")
    for n in (1, 2):
        r.kill()
        t.wait(lambda: d.ctl("status", "--ready").returncode == 1, what="not ready")
        t.wait(lambda: d.json("status")[0]["redis"][0]["down_ms"] > 1500, what="many attempts")
        tried = [x for x in of_level(d, "warn") if x.startswith("shard=") and "trying again" in x]
        assert 1 <= len(tried) / n <= 2 and "cannot connect: connection refused" in tried[-1], tried
        assert not [x for x in d.log.splitlines() if x.count(r.path) > 1], "the address once a line"
        s, = d.json("status")
        assert s["reasons"] == [f"redis unix:{r.path}: cannot connect: connection refused"], s
        if n == 1:
            x, = d.json("explain", "s")
            assert any("is not reachable: cannot connect" in b for b in x["because"]), x
        r.start()
        d.wait_ready()


@limit(60)
def test_a_log_that_cannot_be_written_is_told_elsewhere(t):
    """A full disk: the work goes on, and metrics and doctor say that nobody reads of it in the log."""
    r = t.redis()
    d = t.daemon(r, name="fine")
    assert "\nsluice_log_lines_lost_total 0\n" in d.ctl_ok("metrics")
    assert not [x for x in d.json("doctor") if x["check"] == "log"]
    d = t.daemon(r, name="full", wrap=("sh", "-c", 'exec "$@" 2>/dev/full', "sh"))
    w = t.worker(d, credits=1, work=0, services=["orders"])
    Added(r.db).one("orders", "s")
    w.wait("ok")
    lost = [int(x.split()[1]) for x in d.ctl_ok("metrics").splitlines() if x.startswith("sluice_log_lines_lost_total ")]
    assert len(lost) == 1 and lost[0] > 0, lost
    row, = [x for x in d.json("doctor") if x["check"] == "log"]
    assert row["result"] == "warn" and "could not be written, the last at" in row["found"] and "No space left on device" in row["found"], row


@limit(60)
def test_closed_standard_descriptors(t):
    """As a script may start it: no connection is taken for where the log goes."""
    r = t.redis()
    d = t.daemon(r, start=False, wrap=["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"])
    d.start()
    w = t.worker(d, credits=1, work=0)
    Added(r.db).one("orders", "s")
    w.wait("ok")
    assert {fd: os.readlink(f"/proc/{d.proc.pid}/fd/{fd}") for fd in range(3)} == dict.fromkeys(range(3), "/dev/null")
    assert d.stop() == 0
    p = t.run(["sh", "-c", f"{program('sluiced')} --help >&-"])
    assert p.returncode == 71 and "cannot write the output" in p.stderr, p


@limit(60)
def test_socket_path_taken(t):
    """By a daemon that lives: refused. By what a dead one left: taken. By anything else: refused, and left alone."""
    r = t.redis()
    a = t.daemon(r)
    held = t.worker(a, credits=1)
    Added(r.db).one("orders", "s")
    held.wait("assign")
    for key, sock in (("workers", a.worker_sock), ("control", a.control_sock)):
        b = t.daemon(r, start=False, cfg={key: {"socket": sock}})
        b.start(ready=False)
        assert b.wait(15) == 71
        line, = b.log.splitlines()
        assert line.endswith(f" error {key}.socket: {sock}: another process listens there: is sluiced running already?"), line
        left = [p for p in (b.worker_sock, b.control_sock) if os.path.exists(p)]
        assert not left, "what it had opened already is gone"
    assert a.ctl("status", "--ready").returncode == 0 and not held.frames("closed", d="ev")
    a.kill()
    assert os.path.exists(a.worker_sock)
    a.start()
    a.stop()
    for make, what in ((lambda p: open(p, "w").close(), "a file"), (os.mkdir, "a directory"), (lambda p: os.symlink("/nowhere", p), "a link")):
        make(a.worker_sock)
        before = len(a.log)
        a.start(ready=False)
        assert a.wait(15) in (71, 77), what
        line, = a.log[before:].splitlines()
        assert "w.sock: exists and is not a socket" in line, line
        assert os.path.lexists(a.worker_sock), what
        (os.rmdir if what == "a directory" else os.unlink)(a.worker_sock)


@limit(60)
def test_no_permission(t):
    """As a user who may not write into a socket's directory, or read the password."""
    base = tempfile.mkdtemp(dir="/tmp")  # open to others, unlike the test's own
    t.ending(lambda: shutil.rmtree(base, ignore_errors=True))
    own, pw = os.path.join(base, "own"), os.path.join(base, "pw")
    os.mkdir(own)
    with open(pw, "w") as f:
        f.write("secret")
    os.chmod(pw, 0)
    argv = [shutil.copy(program("sluiced"), base)]
    if os.getuid() == 0:
        os.chown(own, 65534, 65534)
        argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *argv]
    good = {"services": [{"name": "orders"}], "redis": {"endpoints": ["127.0.0.1:1"]},
            "workers": {"socket": f"{own}/w.sock"}, "control": {"socket": f"{own}/c.sock"}}
    bad = {f"{base}/w.sock": {"workers": {"socket": f"{base}/w.sock"}}, pw: {"redis": {"password": {"file": pw}}}}
    for n, cfg in enumerate(bad.values()):
        with open(f"{base}/{n}.yaml", "w") as f:
            f.write(yaml(merge(copy.deepcopy(good), cfg)))
    os.chmod(base, 0o555)
    for n, path in enumerate(bad):
        p = t.run([*argv, "-c", f"{base}/{n}.yaml"], timeout=20)
        assert p.returncode == 77 and len(p.stderr.splitlines()) == 1 and f"{path}: Permission denied" in p.stderr, p
        assert "secret" not in p.stderr
    os.chmod(base, 0o755)


@limit(60)
def test_without_standard_descriptors(t):
    """Closed by whoever started it: no socket or pipe of ours stands in their place and gets the log's lines."""
    r = t.redis()
    d = t.daemon(r, start=False)
    d.wrap = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
    d.start()
    assert [os.readlink(f"/proc/{d.proc.pid}/fd/{fd}") for fd in range(3)] == ["/dev/null"] * 3
    w = t.worker(d, credits=1, work=0)
    Added(r.db).one("orders", "s")
    w.wait("ok")
    d.signal(signal.SIGUSR1)
    d.ctl_ok("reload")
    assert d.ctl("status", "--ready").returncode == 0
    assert d.stop() == 0


N_WORKERS = int(os.environ.get("SLUICE_TEST_WORKERS", 2000))


@limit(90)
def test_two_thousand_workers_and_1024_descriptors(t):
    r = t.redis()
    d = t.daemon(r, start=False, cfg={"workers": {"max_sessions": 4096}, "log": {"level": "info"}})
    d.wrap = ["prlimit", "--nofile=1024:1024"]
    d.start()
    said = [x for x in of_level(d, "warn") if "descriptors" in x]
    assert len(said) == 1 and "limit=1024" in said[0] and "max_sessions=4096" in said[0], said
    w = t.worker(d, credits=50)
    add = Added(r.db)
    add.many("orders", [f"s{i}" for i in range(50)])
    w.wait("assign", 50)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, N_WORKERS + 500) if hard != resource.RLIM_INFINITY else N_WORKERS + 500, hard))
    many = [connect(d.worker_sock) for _ in range(N_WORKERS)]
    t.wait(lambda: any("no descriptors left" in x for x in of_level(d, "error")), what="one clear line")
    assert d.json("status")[0]["ready"] is True, "an operator still gets in"
    r.db.cmd("CLIENT", "KILL", "TYPE", "normal")  # descriptors for Redis are spared
    t.wait(lambda: d.ctl("status", "--ready").returncode == 0, 20, "connected again")
    for s in many:
        s.close()
    errors = of_level(d, "error")
    assert all("no descriptors left" in x and "limit=1024" in x for x in errors) and len(errors) <= 4, errors
    late = t.worker(d, credits=1, work=0, reconnect=True)
    late.wait("welcome", timeout=30)
    assert not w.frames("closed", d="ev") and not w.frames("revoke"), "who was here already noticed nothing"
    for a in w.frames("assign"):
        w.finish(a)
    w.wait("ok", 50, timeout=20)
    w.send({"t": "credits", "n": 0})
    add.one("orders", "more")
    late.wait("ok", timeout=20)
    checks.wait_clean(r.db)
    checks.all_good(add.sure, [w.journal, late.journal])


@limit(60)
def test_disk_full_for_the_log(t):
    """The log on a disk of its own that is full: work goes on; there is room again: the log says what it lost."""
    if os.getuid() != 0 or t.run(["unshare", "-m", "true"]).returncode != 0:
        print("= not root: no disk of one's own to fill; tests/unit/base/test_log.c has /dev/full")
        return
    r = t.redis()
    d = t.daemon(r, start=False, cfg={"log": {"level": "info"}})
    disk = t.path("disk")
    os.mkdir(disk)
    script = f"mount -t tmpfs -o size=128k tmpfs {disk} && exec \"$@\" 2>>{disk}/log"
    d.wrap = ["unshare", "-m", "sh", "-c", script, "sh"]
    d.start()
    inside = f"/proc/{d.proc.pid}/root{disk}"

    def log():
        with open(f"{inside}/log", errors="replace") as f:
            return f.read()
    t.wait(lambda: " notice ready" in log(), what="the first lines")
    fill = os.open(f"{inside}/fill", os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(fill, b"x" * 4096)
    except OSError:
        os.close(fill)
    while os.statvfs(inside).f_bavail:  # the last page of the log's own
        d.signal(signal.SIGUSR1)
        d.ctl_ok("status")
    for _ in range(30):
        d.signal(signal.SIGUSR1)
        d.ctl_ok("status")
    w = t.worker(d, credits=5, work=0)
    Added(r.db).many("orders", ["a", "b", "c"])
    w.wait("ok", 3)
    os.unlink(f"{inside}/fill")
    before = len(log())
    d.signal(signal.SIGUSR1)
    t.wait(lambda: re.search(r"warn log lines lost n=\d+", log()[before:]), what="it says what it lost")
    assert "dump version=" in log()[before:] and d.stop() == 0
    checks.wait_clean(r.db)
