"""A restart under a service manager that keeps descriptors: workers notice nothing at all."""
import fcntl
import os
import signal
import socket
import subprocess
import time

from lib import checks
from lib.case import limit
from lib.checks import Added
from lib.daemon import program
from lib.fleet import finish, hold, unnoticed
from lib.manager import HIGH, Manager, Unit
from lib.worker import Raw

issue = 5


def unit(t, **kw):
    m = Manager(t)
    r = t.redis()
    return r, m, Unit(t, r, m, **kw)


@limit(120)
def test_work_goes_on_while_it_restarts(t):
    """Short streams all the time: results sent while no daemon runs are read by the next one."""
    r, m, d = unit(t)
    ws = [t.worker(d, credits=5, work=0.05, reconnect=True) for _ in range(8)]
    add = Added(r.db)
    for n in range(6):
        add.many("orders", [f"s{n}.{i}" for i in range(150)])
        t.wait(lambda: len(checks.finished([w.journal for w in ws])) > n * 100, 30, "some are done")
        d.handover()
    checks.wait_clean(r.db, timeout=30)
    checks.all_good(add.sure, [w.journal for w in ws])
    # a result that was on its way to Redis ends its connection, and the worker asks again: never a second run
    assert set(checks.finished([w.journal for w in ws]).values()) == {1}
    assert not any(w.frames("revoke") or w.frames("fence", d="ev") for w in ws)
    print(f"{sum(len(w.frames('closed', d='ev')) for w in ws)} of {6 * len(ws)} connections were closed for a pending result")


@limit(60)
def test_half_a_line_and_unread_output(t):
    r, m, d = unit(t)
    w = Raw(d.worker_sock)
    w.send({"t": "hello", "v": 1, "name": "raw", "credits": 200})
    w.until("welcome")
    add = Added(r.db)
    add.many("orders", [f"s{i}" for i in range(200)], info=lambda n: {"x": "y" * 4000})  # more than a socket takes
    t.wait(lambda: checks.pending(r.db, "orders") == 200, 15, "all are given out")
    w.sock.sendall(b'{"t":"ping","n"')
    time.sleep(0.2)  # read by the daemon, which waits for the rest of the line
    d.handover()
    w.sock.sendall(b':7}\n')
    got, pong = set(), None
    while len(got) < 200 or not pong:
        f = w.frame()
        assert f and f["t"] not in ("err", "revoke", "welcome"), f
        if f["t"] == "assign":
            assert f["stream"] not in got
            got.add(f["stream"])
            w.send({"t": "done", "lease": f["lease"]})
        elif f["t"] == "pong":
            pong = f
    assert pong["n"] == 7
    checks.wait_clean(r.db, timeout=20)


@limit(60)
def test_lost_while_no_daemon_ran(t):
    """Its entry was given to somebody else meanwhile: told at once."""
    r, m, d = unit(t, T=4)
    ws, add = hold(t, d, 1, 2)
    w, = ws
    assert d.stop() == 0
    a = w.frames("assign")[0]
    r.db.cmd("XACK", "orders-input", "orders-group", a["id"])
    d.start()
    assert w.wait("revoke")["lease"] == a["lease"] and w.frames("revoke")[0]["reason"] == "lost"
    assert len(w.frames("welcome")) == 1
    r.db.cmd("XDEL", "orders-input", a["id"])
    w.work = 0
    add.one("orders", "next")
    w.wait("assign", 3)
    w.finish(list(w.held.values())[0])
    t.wait(lambda: len(w.frames("ok")) == 2, 10, "the other one and the next")


@limit(60)
def test_too_late_it_is_closed_and_comes_back(t):
    r, m, d = unit(t, T=3)
    ws, add = hold(t, d, 2, 2)
    assert d.stop() == 0
    time.sleep(4)
    d.start()
    for w in ws:
        w.wait("welcome", 2)
    t.wait(lambda: not m.store, 5)
    for w in ws:
        w.work = 0
    assert d.is_running()
    finish_again(t, d, ws)


def finish_again(t, d, ws):
    def done():
        for w in ws:
            for a in list(w.held.values()):
                w.finish(a)
        return not checks.leftovers(d.redis.db, ["orders"])
    t.wait(done, 30, "everything is done in the end", 0.1)


@limit(90)
def test_damaged_state_is_dropped_with_one_line(t):
    r, m, d = unit(t)
    ws, add = hold(t, d, 3, 2)

    def replace(data, seal=True):
        fd = os.memfd_create("x", os.MFD_ALLOW_SEALING)
        os.write(fd, data)
        if seal:
            fcntl.fcntl(fd, 1033, 0xf)  # F_ADD_SEALS
        with m.lock:
            os.close(m.store["state"][0])
            m.store["state"] = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH)]
        os.close(fd)

    def image():
        return os.pread(m.store["state"][0], 1 << 20, 0)
    cases = [("checksum", lambda b: b[:-1] + bytes([b[-1] ^ 1])), ("version", lambda b: b[:8] + b"\2" + b[9:]),
             ("no state", lambda b: b"hello"), ("bytes", lambda b: b[:-5]), ("sealed", None), ("there is none", "gone")]
    for n, (word, change) in enumerate(cases):
        assert d.stop() == 0
        t.wait(lambda: "state" in m.store, 5)
        if change == "gone":
            with m.lock:
                os.close(m.store.pop("state")[0])
        elif change:
            replace(change(image()))
        else:
            replace(image(), seal=False)
        d.start()
        for w in ws:  # as without a store: they resume
            w.wait("welcome", n + 2, timeout=10)
            f = w.frames("welcome")[-1]
            assert sorted(f["resumed"]) == sorted(w.held) and f["gone"] == []
        lines = [x for x in d.log.splitlines() if "stored state dropped" in x]
        assert len(lines) == n + 1 and word in lines[-1], lines
        t.wait(lambda: not m.store, 5, "the manager is told to forget it")
    finish(t, d, ws, add)


@limit(60)
def test_descriptors_that_are_not_what_they_are_called(t):
    r, m, d = unit(t)
    ws, add = hold(t, d, 3, 2)
    assert d.stop() == 0
    spare = socket.socketpair()
    with m.lock:
        for name, fd in (("conn-1", os.open("/dev/null", os.O_RDONLY)), ("conn-2", spare[0].fileno()), ("conn-77", spare[1].fileno())):
            for old in m.store.pop(name, []):
                os.close(old)
            m.store[name] = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH)]
        m.store["conn-3"].append(fcntl.fcntl(m.store["conn-3"][0], fcntl.F_DUPFD_CLOEXEC, HIGH))
        m.store["conn-x"] = [fcntl.fcntl(spare[1].fileno(), fcntl.F_DUPFD_CLOEXEC, HIGH)]
    d.start()
    t.wait(lambda: sum(len(w.frames("welcome")) for w in ws) >= 5, 10, "two of three come again")
    t.wait(lambda: not m.store, 5)
    assert d.log.count("stored connection of worker=") in (1, 2) and d.is_running()  # the second one has a peer with the same pid
    finish(t, d, ws, add)


@limit(60)
def test_killed_before_it_adopts(t):
    """What it had not taken yet goes to the next one."""
    r, m, d = unit(t)
    ws, add = hold(t, d, 3, 2)
    assert d.stop() == 0
    r.pause()
    d.start(ready=False)
    t.wait(lambda: os.path.exists(d.control_sock) and d.log.count("sluiced ") >= 2, 5)
    time.sleep(0.3)
    d.kill()
    r.cont()
    d.start()
    t.wait(lambda: not m.store, 10)
    unnoticed(ws)
    finish(t, d, ws, add)


@limit(60)
def test_a_worker_that_died_meanwhile(t):
    r, m, d = unit(t, T=4)
    p = t.proc_worker(d, credits=2, work="hold")
    add = Added(r.db)
    add.many("orders", ["a", "b"])
    p.wait_for("assign", 2)
    other = t.worker(d, credits=2, work=0)
    other.wait("welcome")
    assert d.stop() == 0
    p.kill()
    d.start()
    other.wait("ok", 2, timeout=15)
    checks.wait_clean(r.db)
    checks.none(checks.overlaps([p.journal, other.journal]))
    unnoticed([other])


@limit(60)
def test_no_store_no_harm(t):
    """A manager that keeps nothing, and one that says so: workers reconnect as ever."""
    r, m, d = unit(t)
    ws, add = hold(t, d, 3, 2)
    m.is_deaf = True
    d.handover()
    for w in ws:
        w.wait("welcome", 2)
    m.is_deaf = False
    d.env["FDSTORE"] = "0"
    d.handover()  # its connections live on, for the last time
    assert d.stop() == 0 and not m.store
    d.env["FDSTORE"] = "3"
    d.start()
    for w in ws:
        w.wait("welcome", 3)
    assert d.stop() == 0
    assert len(m.store) == 3, "two connections and the state"
    d.start()
    finish(t, d, ws, add)


@limit(60)
def test_drain_and_second_signal_store_nothing(t):
    r, m, d = unit(t)
    hold(t, d, 2, 1)
    d.write(shutdown={"mode": "drain", "drain_timeout": "1s"})
    assert subprocess.run([program("sluicectl"), "--socket", d.control_sock, "reload"], stdout=subprocess.PIPE).returncode in (0, 1)
    d.signal(signal.SIGTERM)
    time.sleep(0.3)
    d.signal(signal.SIGTERM)
    assert d.wait(10) == 0
    assert not m.store
