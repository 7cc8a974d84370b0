"""What happens at each limit of sluiced(8), LIMITS, that no other test goes to."""
import json
import os
import re
import socket

from lib import checks
from lib.case import limit
from lib.checks import Added
from lib.daemon import program
from lib.redis import entries
from lib.servers import free_port, loopback
from lib.worker import Raw

issue = 7


def request(verb, **args):
    return {"v": 1, "verb": verb, "args": args}


def end(c, timeout=20):
    """The final line of an answer."""
    while True:
        f = c.frame(timeout)
        assert f is not None, "closed without a final line"
        if f.get("end"):
            return f


def open_fds(d):
    return len(os.listdir(f"/proc/{d.proc.pid}/fd"))


@limit(90)
def test_a_process_that_connects_again_and_again(t):
    """Of those that hold no stream max_sessions are kept, and of those that never had one 64; who holds a stream keeps it."""
    r = t.redis()
    d = t.daemon(r, T=60, cfg={"workers": {"max_sessions": 100, "resume_grace": "40s"}})
    add, hello = Added(r.db), {"t": "hello", "v": 1, "name": "again", "credits": 1}
    add.one("orders", "held")
    keeper = Raw(d.worker_sock).send(hello)
    session, lease = keeper.until("welcome")["session"], keeper.until("assign")["lease"]
    keeper.close()
    n = open_fds(d)
    for i in range(300):
        c = Raw(d.worker_sock).send({**hello, "credits": 0})
        c.until("welcome")
        if i % 2:
            c.send(b"x\n").until("err", code="bad_frame")
        c.close()
    t.wait(lambda: n + 60 <= open_fds(d) <= n + 66, 5, "64 are kept")
    add.many("orders", [f"s{i}" for i in range(200)])
    for _ in range(200):
        c = Raw(d.worker_sock).send(hello)
        last, a = c.until("welcome")["session"], c.until("assign")
        c.send({"t": "credits", "n": 0}).send({"t": "done", "lease": a["lease"]}).until("ok")  # so it gets no other stream
        c.close()
    t.wait(lambda: open_fds(d) <= n + 102, 5, "no more than max_sessions are kept")
    f = Raw(d.worker_sock).send({**hello, "credits": 0, "session": last, "resume": [a["lease"]]}).until("welcome")
    assert f["gone"] == [{"lease": a["lease"], "outcome": "done"}], f
    keeper = Raw(d.worker_sock).send({**hello, "session": session, "resume": [lease]})
    assert keeper.until("welcome")["resumed"] == [lease]
    keeper.send({"t": "done", "lease": lease}).until("ok")
    checks.wait_clean(r.db)


@limit(90)
def test_control_connections(t):
    d = t.daemon(t.redis())
    held = [Raw(d.control_sock) for _ in range(64)]
    c = Raw(d.control_sock).send(request("status"))
    f = end(c)
    assert f["exit"] == 69 and "64 control connections" in f["error"] and c.is_closed(), f
    for words in (["status", "--ready"], ["doctor"], ["ls"], ["explain", "x"], ["drain"], ["reload"], ["events"], ["metrics"], ["version"]):
        no = d.ctl(*words)  # not "the answer is no", which would end a healthy daemon
        assert (no.returncode, "64 control connections" in no.stderr) == (69, True), (words, no)
    held[0].send(request("version"))
    assert end(held[0])["exit"] == 0  # those that are in are served
    for c in held[1:]:  # who asks nothing is sent away
        f = end(c)
        assert f["exit"] == 64 and "no request within 10 s" in f["error"], f
    assert end(Raw(d.control_sock).send(request("version")))["exit"] == 0


@limit(60)
def test_far_too_many_control_connections(t):
    """They hear so without having asked."""
    d = t.daemon(t.redis())
    held = [Raw(d.control_sock) for _ in range(128)]
    f = end(Raw(d.control_sock))
    assert f == {"end": True, "exit": 69, "error": "too many control connections"}, f
    assert held[0].send(request("version")) and end(held[0])["exit"] == 0


@limit(60)
def test_who_asks_while_the_daemon_stops(t):
    """Got no answer; it was not no."""
    d = t.daemon(t.redis())
    c = Raw(d.control_sock).send(request("events", follow=True))
    t.wait(lambda: c.frame(5) is not None, 10, "an event")
    d.stop()
    f = end(c)
    assert f == {"end": True, "exit": 69, "error": "the daemon is stopping"}, f


def test_control_request(t):
    d = t.daemon(t.redis())
    c = Raw(d.control_sock).send(b'{"v":1,"verb":"' + b"x" * 70000)
    f = end(c)
    assert f["exit"] == 64 and "longer than 65536 bytes" in f["error"], f


@limit(120)
def test_control_client_that_does_not_read(t):
    """The answer waits, and so does what it is about; nobody else does."""
    r, n = t.redis(), 60000
    d = t.daemon(r)
    c = Raw(d.control_sock)
    c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    c.send(request("add", service="orders", stream="a-stream-with-a-long-name-for-long-rows", count=n))
    seen = [0]

    def stands_still():
        last, seen[0] = seen[0], r.db.cmd("XLEN", "orders-input")
        return last == seen[0] > 0
    t.wait(stands_still, 40, "it adds no more", 0.5)
    assert seen[0] < n, seen
    w = t.worker(d, credits=10, work=0)
    w.wait("assign")
    w.send({"t": "credits", "n": 0})
    assert d.json("status")[0]
    rows = 0
    while True:
        f = c.frame(30)
        if f.get("end"):
            break
        rows += 1
    assert f["exit"] == 0 and rows == n, (f, rows)


def test_entry_that_fits_no_frame(t):
    r = t.redis()
    d = t.daemon(r, cfg={"workers": {"max_frame": "4KiB"}})
    w = t.worker(d, credits=5, work=0)
    a = Added(r.db)
    a.one("orders", "fits", {"x": "y" * 3000})
    a.one("orders", "large", {"x": "y" * 4096})
    a.one("orders", "n" * (64 * 1024 + 1))  # longer than a name may be
    t.wait(lambda: r.db.cmd("XLEN", "orders-input-dlq") == 2, what="two dead letters")
    w.wait("assign", stream="fits")
    reasons = [f["_dlq_reason"] for _, f in entries(r.db, "orders-input-dlq")]
    assert sorted(reasons) == ["too_large", "unparseable"], reasons
    checks.wait_clean(r.db, dlq=2)


def test_a_welcome_may_be_longer_than_a_frame(t):
    """It names each lease of a hello again, with what became of it: none is left out to keep it short."""
    r = t.redis()
    d = t.daemon(r, cfg={"workers": {"max_frame": "4KiB", "write_buffer": "4KiB"}})
    leases = [f"{i:x}" for i in range(500)]
    hello = json.dumps({"t": "hello", "v": 1, "name": "raw", "credits": 1, "resume": leases}, separators=(",", ":")) + "\n"
    assert len(hello) < 4096
    f = Raw(d.worker_sock).send(hello.encode()).until("welcome")
    assert len(json.dumps(f)) > 4096 and f["resumed"] == []
    assert [(g["lease"], g["outcome"]) for g in f["gone"]] == [(x, "lost") for x in leases]


def test_services(t):
    """256 places, and one that is left out keeps its own until its last stream has ended."""
    r = t.redis()
    d = t.daemon(r, services=("orders", "bills"))
    good = open(d.conf).read()

    def reload_with(names):
        d.cfg["services"] = [{"name": x} for x in names]
        d.write()
        return d.ctl("reload")
    p = reload_with([f"s{i}" for i in range(255)])
    assert p.returncode == 78 and "services: 257 with those that are still to end, at most 256" in p.stdout + p.stderr, p
    p = reload_with([f"s{i}" for i in range(257)])
    assert p.returncode == 78 and "services[256]: too many services" in p.stdout + p.stderr, p
    assert {x["service"] for x in d.json("status")[0]["services"]} == {"orders", "bills"}
    with open(d.conf, "w") as f:
        f.write(good)
    assert d.ctl("reload").returncode == 0


def test_reply_of_a_server_that_sends_too_much(t):
    """A server that is none: its connection ends with one line, the daemon lives."""
    port, server = free_port(), socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((loopback(), port))
    server.listen(8)
    d = t.daemon([f"{loopback()}:{port}"], ready=False)
    server.settimeout(20)
    c, _ = server.accept()
    c.recv(4096)
    try:
        for _ in range(3000):
            c.sendall(b"*1048576\r\n")
    except OSError:
        pass
    d.wait_log("a reply has too many elements")
    with open(f"/proc/{d.proc.pid}/status") as f:
        peak = next(int(x.split()[1]) for x in f if x.startswith("VmHWM:"))
    assert peak < 400 << 10, f"{peak} KiB"
    c.close()
    server.close()
    assert d.ctl("version").returncode == 0 and d.stop() == 0


def test_large_dead_letters_are_looked_at_a_few_at_a_time(t):
    """All that waits for the control socket runs on the coordinator's loop: a page of large entries must not hold it up."""
    r = t.redis()
    d = t.daemon(r)

    def peak():
        with open(f"/proc/{d.proc.pid}/status") as f:
            return int(re.search(r"VmHWM:\s+(\d+) kB", f.read())[1]) // 1024
    before, n = peak(), 48
    for i in range(n):
        large = json.dumps({"DataStreamName": f"s{i}", "Info": "x" * (2 << 20)})
        r.db.cmd("XADD", "orders-input-dlq", "*", "lbs-input", large, "_dlq_reason", "too_large")
    assert [x["stream"] for x in d.json("--timeout", "30s", "dlq", "ls", "orders")] == [f"s{i}" for i in range(n)]
    x, = d.json("--timeout", "30s", "explain", "s40")  # a sanitizer takes its time
    assert x["state"] == "dead"
    assert len(d.json("--timeout", "30s", "dlq", "purge", "orders", "--limit", "40")) == 40
    assert r.db.cmd("XLEN", "orders-input-dlq") == n - 40
    assert "asan" in program("sluiced") or peak() - before < 80, f"{before} MiB before, {peak()} MiB after"
