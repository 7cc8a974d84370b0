"""Who gets in: modes and groups of both sockets, user ids of workers, sockets kept apart, leases of others."""
import grp
import json
import os
import shutil
import socket
import stat
import subprocess
import time

from lib import checks
from lib.case import limit
from lib.checks import Added
from lib.daemon import http, program
from lib.manager import Manager, Unit
from lib.redis import SEP
from lib.worker import Raw

issue = 7
HELLO = {"t": "hello", "v": 1, "name": "raw", "credits": 1}
NOBODY = 65534


def is_root(t):
    if os.getuid() == 0:
        return True
    print("= skipped: only root can be another user")
    return False


def let_in(t, d):
    """Another user can reach the sockets' directory."""
    for path in (os.path.dirname(t.dir), t.dir, d.dir):
        os.chmod(path, 0o711)


def as_nobody(t, *argv, timeout=20):
    return t.run(["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", *argv], timeout=timeout)


@limit(60)
def test_modes_and_groups(t):
    """Each socket has its own, exactly, whatever the umask; 0600 and nobody's group by default nowhere."""
    r, mine = t.redis(), grp.getgrgid(os.getgroups()[-1] if os.getuid() else 1).gr_name
    d = t.daemon(r, cfg={"workers": {"mode": "0622", "group": mine}, "control": {"mode": "0600"}})

    def shown(path):
        s = os.stat(path)
        assert stat.S_ISSOCK(s.st_mode)
        return stat.S_IMODE(s.st_mode), grp.getgrgid(s.st_gid).gr_name
    assert shown(d.worker_sock) == (0o622, mine)
    assert shown(d.control_sock) == (0o600, grp.getgrgid(os.getgid()).gr_name)
    e = t.daemon(r)
    assert shown(e.worker_sock)[0] == shown(e.control_sock)[0] == 0o660


@limit(60)
def test_worker_of_another_user(t):
    """Not in allow_uids: one clear error and the end, nothing else happens; let in by a reload, it works. sluice-run says so and ends."""
    if not is_root(t):
        return
    r = t.redis()
    d = t.daemon(r, cfg={"workers": {"mode": "0666", "allow_uids": [0]}, "log": {"level": "info"}})
    let_in(t, d)
    Added(r.db).one("orders", "s")
    p = as_nobody(t, program("sluice-run"), "-s", d.worker_sock, "--", "true")
    assert p.returncode == 77 and f"user id {NOBODY} may not be a worker here" in p.stderr, (p.returncode, p.stderr)
    assert len(p.stderr.splitlines()) == 1, p.stderr
    assert d.json("workers") == [] and checks.pending(r.db, "orders") == 0, "it got no work"
    line, = [x for x in d.log.splitlines() if "may not be a worker" in x]
    assert f"user id {NOBODY}" in line and "pid=" in line, line
    assert t.worker(d).wait("welcome"), "we still may"
    d.write(workers={"allow_uids": [0, NOBODY]})
    d.ctl_ok("reload")
    p = as_nobody(t, program("sluice-run"), "-s", d.worker_sock, "--", "sh", "-c", "kill $PPID")
    checks.wait_clean(r.db)
    assert "may not" not in p.stderr


@limit(60)
def test_mode_and_group_keep_others_out(t):
    """The kernel's part: no group, no entry; of the group, in. The control socket stays closed."""
    if not is_root(t):
        return
    r = t.redis()
    d = t.daemon(r)
    let_in(t, d)
    p = as_nobody(t, program("sluicectl"), "--socket", d.control_sock, "status")
    assert p.returncode == 77 and "permission denied: control.mode and control.group" in p.stderr, p
    p = as_nobody(t, "timeout", "1", program("sluice-run"), "-s", d.worker_sock, "--", "true")
    assert "Permission denied" in p.stderr, p
    d = t.daemon(r, cfg={"workers": {"group": grp.getgrgid(NOBODY).gr_name}})
    let_in(t, d)
    Added(r.db).one("orders", "s")
    as_nobody(t, program("sluice-run"), "-s", d.worker_sock, "--", "sh", "-c", "kill $PPID")
    checks.wait_clean(r.db)
    assert as_nobody(t, program("sluicectl"), "--socket", d.control_sock, "status").returncode == 77


@limit(60)
def test_sockets_do_not_do_each_others_work(t):
    r = t.redis()
    d = t.daemon(r)
    Added(r.db).one("orders", "s")
    c = Raw(d.worker_sock).send({"cmd": "drain"})
    f = c.until("err")
    assert f["code"] == "bad_frame" and f["fatal"] and c.is_closed()
    c = Raw(d.control_sock).send(HELLO)
    c.sock.settimeout(10)
    text = c.sock.recv(1 << 16).decode()
    assert "welcome" not in text and json.loads(text.splitlines()[-1]).get("exit"), text
    p = t.run([program("sluicectl"), "--socket", d.worker_sock, "drain"])
    assert p.returncode not in (0, 1) and p.stderr, p
    p = t.run([program("sluicectl"), "--socket", d.worker_sock, "status"])
    assert (p.returncode, p.stdout) == (69, "") and "a worker socket answers" in p.stderr and "control.socket" in p.stderr, p
    p = t.run([program("sluicectl"), "--socket", d.conf, "status"])
    assert (p.returncode, p.stdout) == (69, "") and "is not a socket" in p.stderr, p
    with subprocess.Popen([program("sluice-run"), "-s", d.control_sock, "--", "true"], stderr=subprocess.PIPE, text=True) as run:
        said = run.stderr.readline()
        run.terminate()
    assert "this is not the worker protocol" in said and "sluiced's control.socket, and not its workers.socket" in said, said
    assert d.json("workers") == [] and d.json("status")[0]["draining"] is False
    t.worker(d, credits=1, work=0).wait("ok")


@limit(60)
def test_path_of_108_bytes(t):
    """107 work, 108 are one clear line, by --check and at start, for both sockets; sluicectl and sluice-run say it too."""
    r = t.redis()
    for which in ("workers", "control"):
        for n, ok in ((107, True), (108, False)):
            path = t.dir + "/" + "x" * (n - len(t.dir) - 1)
            d = t.daemon(r, ready=False, start=False, cfg={which: {"socket": path}})
            p = t.run([program("sluiced"), "-c", d.conf, "--check"])
            if ok:
                assert p.returncode == 0, p.stderr
                d.start(ready=False)
                t.wait(lambda: os.path.exists(path), what=path)
                d.stop()
                continue
            line, = p.stderr.splitlines()
            assert p.returncode == 78 and f"{which}.socket" in line and "107" in line, line
            d.start(ready=False)
            assert d.wait() == 78 and d.log == p.stderr
            for argv in ((program("sluicectl"), "--socket", path, "status"), (program("sluice-run"), "-s", path, "--", "true")):
                p = t.run(argv)
                assert p.returncode == 64 and "107" in p.stderr, (argv, p)


@limit(60)
def test_lease_of_another_session_is_left_alone(t):
    """Every frame that can name a lease: `unknown_lease`, and the entry, its lock, its owner and its counters are as before."""
    r = t.redis()
    d = t.daemon(r)
    owner, thief = t.worker(d, name="owner", credits=1), t.worker(d, name="thief", credits=0)
    id = Added(r.db).one("orders", "s")
    lease = owner.wait("assign")["lease"]
    thief.wait("welcome")

    def state():
        row, = d.json("show", "s")
        keep = {k: row.get(k) for k in ("state", "worker", "lease", "retry", "note", "id", "stream")}
        pel = r.db.cmd("XPENDING", "orders-input", "orders-group", "-", "+", 10)
        return (keep, [(x[0], x[1], x[3]) for x in pel], r.db.cmd("GET", f"s{SEP}{id}"), r.db.cmd("HGETALL", "{orders-input}-active"),
                r.db.cmd("XLEN", "orders-input"), r.db.cmd("XLEN", "orders-input-dlq"), r.db.cmd("XINFO", "STREAM", "orders-input")[3])
    before, n_owner = state(), len(owner.journal)
    assert before[0]["state"] and before[1] and before[2], before
    frames = [{"t": "done"}, {"t": "fail", "reason": "x"}, {"t": "fail", "dead": True}, {"t": "release"}, {"t": "revoked"},
              {"t": "progress", "note": "stolen"}]
    for n, f in enumerate(frames, 1):
        thief.send({**f, "lease": lease})
        e = thief.wait("err", n)
        assert e["code"] == "unknown_lease" and e["fatal"] is False and e["lease"] == lease, (f, e)
    stolen = Raw(d.worker_sock).send({**HELLO, "session": "0" * 32, "resume": [lease]})  # nor by naming it at the door
    assert stolen.until("welcome")["resumed"] == []
    stolen.send({"t": "done", "lease": lease})
    assert stolen.until("err")["code"] == "unknown_lease"
    owner.wait("ping", len(owner.frames("ping")) + 1, timeout=10)
    assert state() == before
    assert {x["f"]["t"] for x in owner.journal[n_owner:]} <= {"ping", "pong"}
    owner.send({"t": "done", "lease": lease})
    assert owner.wait("ok")["outcome"] == "done"
    checks.wait_clean(r.db)


@limit(60)
def test_sockets_that_are_removed_come_back(t):
    """Whoever cleans /run: each is made again with its mode; what is connected stays; without their directory, as soon as that is back."""
    run, r = t.path("run"), t.redis()
    os.mkdir(run)
    sockets = {n: f"{run}/{n}" for n in ("w.sock", "c.sock", "m.sock")}
    d = t.daemon(r, start=False, cfg={"workers": {"socket": sockets["w.sock"], "mode": "0622"}, "control": {"socket": sockets["c.sock"]},
                                      "metrics": {"listen": "unix:" + sockets["m.sock"]}, "log": {"level": "info"}})
    d.worker_sock, d.control_sock = sockets["w.sock"], sockets["c.sock"]
    d.start()
    w = t.worker(d, name="first", credits=1)
    w.wait("welcome")
    for path in sockets.values():
        os.unlink(path)
    t.wait(lambda: all(map(os.path.exists, sockets.values())), 3, "sockets back")
    assert stat.S_IMODE(os.stat(d.worker_sock).st_mode) == 0o622
    for path in sockets.values():
        d.wait_log(f"socket={path} was gone: made again")
    assert d.ctl("status", "--ready").returncode == 0
    assert http(sockets["m.sock"], "/readyz")[0] == 200
    t.worker(d, name="second", credits=1).wait("welcome")
    shutil.rmtree(run)
    d.wait_log(f"socket={d.worker_sock} is gone, nobody can connect: {d.worker_sock}: its directory does not exist; trying again")
    time.sleep(6)
    assert d.log.count("is gone, nobody can connect") <= 3 * 3, "said again and again"
    os.mkdir(run)
    t.wait(lambda: all(map(os.path.exists, sockets.values())), 3, "sockets back")
    t.worker(d, name="third", credits=1).wait("welcome")
    assert len(d.json("workers")) == 3
    Added(r.db).one("orders", "s")
    w.wait("assign")
    assert d.stop() == 0
    assert os.listdir(run) == []


@limit(60)
def test_socket_that_is_replaced_is_told_and_taken_back(t):
    """Somebody else listens in its place: said, and left alone; a file that nobody listens on any more is replaced, as at a start."""
    r = t.redis()
    d = t.daemon(r, cfg={"log": {"level": "info"}})
    w = t.worker(d, name="first", credits=1)
    w.wait("welcome")
    other = socket.socket(socket.AF_UNIX)
    os.unlink(d.worker_sock)
    other.bind(d.worker_sock)
    other.listen()
    d.wait_log(f"socket={d.worker_sock} is replaced, nobody can connect: {d.worker_sock}: another process listens there: "
               "is sluiced running already?; trying again", 5)
    theirs = os.stat(d.worker_sock).st_ino
    time.sleep(5)
    assert os.stat(d.worker_sock).st_ino == theirs and d.log.count("is replaced") == 1
    other.settimeout(0.1)
    other.accept()[0].close()
    try:
        other.accept()
        raise AssertionError("connected to again and again")
    except TimeoutError:
        pass
    other.close()
    d.wait_log(f"socket={d.worker_sock} was replaced: made again", 12)
    t.worker(d, name="second", credits=1).wait("welcome")
    assert len(d.json("workers")) == 2
    os.unlink(d.control_sock)
    with open(d.control_sock, "w"):
        pass
    d.wait_log(f"socket={d.control_sock} is replaced, nobody can connect: {d.control_sock}: exists and is not a socket; trying again", 5)
    os.unlink(d.control_sock)
    d.wait_log(f"socket={d.control_sock} was gone: made again", 5)
    assert len(d.json("workers")) == 2


@limit(60)
def test_socket_of_the_manager_that_is_replaced_is_told(t):
    r, m = t.redis(), Manager(t)
    d = Unit(t, r, m)
    other = socket.socket(socket.AF_UNIX)
    os.unlink(d.worker_sock)
    other.bind(d.worker_sock)
    d.wait_log(f"socket={d.worker_sock} is replaced: nobody can connect until its socket unit is restarted")
    other.close()
    time.sleep(1.5)
    os.stat(d.worker_sock)


@limit(60)
def test_socket_of_the_manager_that_is_removed_is_told(t):
    """It is not ours to make: one line says who can."""
    r, m = t.redis(), Manager(t)
    d = Unit(t, r, m)
    os.unlink(d.worker_sock)
    d.wait_log(f"socket={d.worker_sock} is gone: nobody can connect until its socket unit is restarted")
    assert d.ctl("status", "--ready").returncode == 0
    assert not os.path.exists(d.worker_sock)
