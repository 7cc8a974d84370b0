"""The worker protocol, version 1: every frame, every error code, and what a worker's end means."""
import json
import os
import socket
import time

from lib import checks
from lib.case import limit
from lib.checks import Added
from lib.redis import SEP, entries, pairs
from lib.worker import Raw, connect, now_ms

issue = 2
HELLO = {"t": "hello", "v": 1, "name": "raw", "credits": 1}


def code(c, timeout=10):
    """The next err frame's code."""
    return c.until("err", timeout)["code"]


def assert_bystander_works(t, d, w, n=5):
    """Another session is not disturbed."""
    k = len(w.frames("ok"))
    Added(d.redis.db).many("orders", [f"by{time.monotonic_ns()}-{i}" for i in range(n)])
    w.wait("ok", k + n, timeout=20)
    assert d.is_running()


def setup(t, **kw):
    r = t.redis()
    d = t.daemon(r, **kw)
    return r, d


# ---- hello

def test_welcome(t):
    _, d = setup(t, node="n1")
    f = t.worker(d, credits=3).wait("welcome")
    assert f["v"] == 1 and f["node"] == "n1" and f["lease_ms"] == 10000 and f["resume_ms"] == 5000 and f["max_frame"] == 1 << 20
    assert isinstance(f["server"], str) and f["session"] and f["resumed"] == [] and f["gone"] == [] and f["ping_ms"] <= 3400
    assert isinstance(f["until_ms"], int)


def test_a_worker_of_a_service_that_is_not_here_is_named(t):
    _, d = setup(t)
    w = Raw(d.worker_sock).send({**HELLO, "name": "lost", "services": ["bills"]})
    assert w.until("err")["code"] == "bad_hello"
    d.wait_log("worker=lost session=")


def test_the_service_that_is_not_here_is_said_and_those_that_are(t):
    """Somebody has misspelt it: the word as it came, clean and short, and a few that would have done."""
    r = t.redis()
    d = t.daemon(r, services=("orders", "bills", "c", "d", "e"))
    text = "services: names a service that is not configured here: "
    for services, shown in ((["order"], "order"), (["orders", "nosuch", "nor this"], "nosuch"), ([""], '""'), (["a\x1b[31mb"], '"a?[31mb"'),
                            (["x" * 500], "x" * 60), (["é" * 50], "é" * 30)):
        f = Raw(d.worker_sock).send({**HELLO, "services": services}).until("err")
        assert f["code"] == "bad_hello" and f["fatal"] and f["msg"] == f"{text}{shown}; those that are: orders, bills, c, d, e", (services, f)
    d.cfg["services"] += [{"name": "f"}, {"name": "g"}]
    d.write()
    assert d.stop() == 0
    d.start()
    f = Raw(d.worker_sock).send({**HELLO, "services": ["order"]}).until("err")
    assert f["msg"] == f"{text}order; those that are: orders, bills, c, d, e and others", f


def test_bad_hellos(t):
    _, d = setup(t)
    w = t.worker(d, credits=9, work=0)
    for hello, want in [
            ({**HELLO, "v": 2}, "bad_version"), ({**HELLO, "v": 0}, "bad_version"), ({**HELLO, "v": "1"}, ("bad_version", "bad_hello")),
            ({"t": "hello", "v": 1, "credits": 1}, "bad_hello"), ({**HELLO, "name": 5}, "bad_hello"), ({**HELLO, "name": ""}, "bad_hello"),
            ({"t": "hello", "v": 1, "name": "x"}, "bad_hello"), ({**HELLO, "credits": -1}, "bad_hello"),
            ({**HELLO, "credits": 10001}, "bad_hello"), ({**HELLO, "credits": 1.5}, "bad_hello"), ({**HELLO, "services": "orders"}, "bad_hello"),
            ({**HELLO, "services": [1]}, "bad_hello"), ({**HELLO, "resume": "x"}, "bad_hello"), ({**HELLO, "session": 1}, "bad_hello"),
            ({"t": "done", "lease": "x"}, "bad_frame"), ({"t": "ping"}, "bad_frame"), ({"t": "frob"}, "bad_frame"), ({"v": 1}, "bad_frame"),
            (b"{\n", "bad_frame"), (b"[]\n", "bad_frame"), (b"\x00\xff\xfe\n", "bad_frame"), (b"GET / HTTP/1.1\r\n", "bad_frame")]:
        c = Raw(d.worker_sock).send(hello)
        f = c.until("err")
        assert f["code"] in (want if isinstance(want, tuple) else (want,)) and f["fatal"] is True and f["msg"], (hello, f)
        assert c.is_closed(), hello
        c.close()
    assert_bystander_works(t, d, w)


def test_unknown_service_in_hello_is_told(t):
    """A worker for a service that does not exist (yet: reload may bring it) gets no other work."""
    r, d = setup(t)
    c = Raw(d.worker_sock).send({**HELLO, "services": ["nope"]})
    f = c.frame()
    assert f["t"] == "welcome" or f["code"] == "bad_hello", f
    Added(r.db).one("orders", "s")
    w = t.worker(d, credits=1, work=0)
    assert w.wait("assign")["stream"] == "s"
    w.wait("ok")


def test_second_hello_is_refused(t):
    _, d = setup(t)
    c = Raw(d.worker_sock).send(HELLO)
    c.until("welcome")
    c.send(HELLO)
    assert code(c) in ("bad_frame", "bad_hello") and c.is_closed()


def test_unknown_fields_and_crlf_are_fine(t):
    r, d = setup(t)
    c = Raw(d.worker_sock).send(json.dumps({**HELLO, "new": {"a": [1]}}).encode() + b"\r\n")
    c.until("welcome")
    Added(r.db).one("orders", "s")
    a = c.until("assign")
    c.send(b'{"x":null,"t":"done","lease":%s,"y":2}\r\n' % json.dumps(a["lease"]).encode())
    f = c.until("ok")
    assert (f["lease"], f["for"], f["outcome"]) == (a["lease"], "done", "done")


def test_hello_timeout(t):
    _, d = setup(t, cfg={"workers": {"hello_timeout": "400ms"}})
    c, start = Raw(d.worker_sock), time.monotonic()
    assert code(c) == "hello_timeout" and c.is_closed()
    assert time.monotonic() - start > 0.35
    c = Raw(d.worker_sock).send(b'{"t":"hel')  # half a frame does not count
    assert code(c) == "hello_timeout"


def test_too_many_sessions(t):
    _, d = setup(t, cfg={"workers": {"max_sessions": 3}})
    ws = [t.worker(d) for _ in range(3)]
    for w in ws:
        w.wait("welcome")
    c = Raw(d.worker_sock).send(HELLO)
    assert code(c) == "too_many_sessions" and c.is_closed()
    ws[0].send({"t": "bye"})
    ws[0].close()

    def fits():
        c = Raw(d.worker_sock).send(HELLO)
        f = c.frame()
        c.close()
        return f and f["t"] == "welcome"
    t.wait(fits, what="a place is free again")


def test_unauthorized(t):
    _, d = setup(t, cfg={"workers": {"allow_uids": [os.getuid() + 1]}})
    c = Raw(d.worker_sock).send(HELLO)
    assert code(c) == "unauthorized" and c.is_closed()
    _, d = setup(t, cfg={"workers": {"allow_uids": [os.getuid()]}})
    Raw(d.worker_sock).send(HELLO).until("welcome")


# ---- bad input in a running session

def test_too_big(t):
    _, d = setup(t, cfg={"workers": {"max_frame": "4KiB"}})
    w = t.worker(d, credits=9, work=0)
    for data in (b"x" * (10 << 20), b'{"t":"ping","pad":"' + b"x" * 5000 + b'"}\n'):
        for hello in (True, False):
            c = Raw(d.worker_sock)
            if hello:
                c.send(HELLO).until("welcome")
            c.send(data)
            assert code(c, 20) == "too_big" and c.is_closed(20)
    assert_bystander_works(t, d, w)


def test_garbage_in_a_session_ends_it_only(t):
    r, d = setup(t)
    w = t.worker(d, credits=9, work=0)
    deep = b'{"t":"ping","x":' + b"[" * 40 + b"]" * 40 + b"}\n"
    for data in (b"\xff\xfe\x00\n", b"{}\n", b"null\n", b'"ping"\n', b'{"t":5}\n', b'{"t":"ping"\n', b'{"t":"ping"} x\n', deep,
                 b'{"t":"\xc3\x28"}\n', os.urandom(4000).replace(b"\n", b"") + b"\n"):
        c = Raw(d.worker_sock).send(HELLO)
        c.until("welcome")
        c.send(data)
        f = c.until("err")
        assert f["code"] == "bad_frame" and f["fatal"] is True and c.is_closed(), (data[:30], f)
    assert_bystander_works(t, d, w)


def test_half_frames_and_many_in_one(t):
    r, d = setup(t)
    c = Raw(d.worker_sock)
    data = json.dumps(HELLO).encode() + b'\n{"t":"ping","n":7}\n{"t":"ping","n":8}\n{"t":"credits","n":2}\n'
    for i in range(len(data)):
        c.send(data[i:i + 1])
    c.until("welcome")
    assert [c.until("pong")["n"] for _ in range(2)] == [7, 8]
    c.send(b'{"t":"ping","n":9}\n' * 500)
    for _ in range(500):
        c.until("pong", n=9)
    c.send(b'{"t":"pi')
    c.close()  # gone in the middle of a frame
    assert_bystander_works(t, d, t.worker(d, credits=9, work=0))


def test_unknown_type_and_bad_fields_are_not_fatal(t):
    _, d = setup(t)
    c = Raw(d.worker_sock).send(HELLO)
    c.until("welcome")
    for frame, want in [({"t": "frobnicate"}, "unknown_type"), ({"t": "credits", "n": -1}, "limit"), ({"t": "credits", "n": 10001}, "limit"),
                        ({"t": "credits"}, "bad_field"), ({"t": "credits", "n": "5"}, "bad_field"), ({"t": "done"}, "bad_field"),
                        ({"t": "done", "lease": 5}, "bad_field"), ({"t": "done", "lease": "nope"}, "unknown_lease"),
                        ({"t": "fail", "lease": "nope"}, "unknown_lease"), ({"t": "release", "lease": "nope"}, "unknown_lease"),
                        ({"t": "progress", "lease": "nope"}, "unknown_lease"), ({"t": "done", "lease": "x" * 1000}, ("unknown_lease", "bad_field")),
                        ({"t": "done", "lease": ""}, ("unknown_lease", "bad_field"))]:
        c.send(frame)
        f = c.until("err")
        assert f["code"] in (want if isinstance(want, tuple) else (want,)) and f["fatal"] is False, (frame, f)
        if f["code"] == "unknown_lease":
            assert f.get("lease") in (frame["lease"], None)
    c.send({"t": "ping", "n": 1})
    assert c.until("pong")["n"] == 1


def test_limit_leaves_credits_unchanged(t):
    r, d = setup(t)
    w = t.worker(d, credits=2)
    w.wait("welcome")
    w.send({"t": "credits", "n": 10001})
    assert w.wait("err")["code"] == "limit"
    Added(r.db).many("orders", ["a", "b", "c", "d"])
    w.wait("assign", 2)
    w.wait("ping", 2, timeout=10)
    assert len(w.frames("assign")) == 2


@limit(120)
def test_a_thousand_idle_connections(t):
    r, d = setup(t)
    w = t.worker(d, credits=9, work=0)
    w.wait("welcome")
    idle = []
    try:
        for _ in range(1000):
            idle.append(connect(d.worker_sock))
        assert_bystander_works(t, d, w, 50)
        for s in idle[::2]:
            s.close()
        idle = idle[1::2]
        assert_bystander_works(t, d, w, 50)
    finally:
        for s in idle:
            s.close()


def test_one_process_may_come_and_go_without_end(t):
    """It lives on; once each of its former connections held a descriptor of the daemon until it ended."""
    _, d = setup(t, T=3)

    def n_fds():
        return len(os.listdir(f"/proc/{d.proc.pid}/fd"))
    before = n_fds()
    for i in range(200):
        c = Raw(d.worker_sock).send({**HELLO, "credits": 0})
        c.until("welcome")
        if i % 2:
            c.send({"t": "bye"})
            assert c.is_closed()
        c.close()
    t.wait(lambda: n_fds() <= before + 2, 15, "their descriptors are closed")


@limit(120)
def test_slow_reader_is_cut_off_and_disturbs_nobody(t):
    r, d = setup(t, cfg={"workers": {"write_buffer": "1MiB"}})
    w = t.worker(d, credits=9, work=0)
    slow = t.worker(d, name="slow", credits=100)
    slow.wait("welcome")
    slow.stall()
    w.wait("welcome")
    w.send({"t": "credits", "n": 0})
    w.send({"t": "ping", "n": 1})
    w.wait("pong")
    add = Added(r.db)
    add.many("orders", [f"s{i}" for i in range(60)], {"x": "y" * 60000})
    t.wait(lambda: "slow_reader" in d.log or not any(x["name"] == "slow" and x.get("state", "active") == "active" for x in d.json("workers")), 30, "the slow one is cut off")
    w.send({"t": "credits", "n": 9})
    assert_bystander_works(t, d, w)
    slow.stall(False)
    slow.wait("closed", d="ev", timeout=20)
    checks.wait_clean(r.db, timeout=40)


def test_much_at_once_is_not_slow_reading(t):
    """More than write_buffer is assigned before the worker can have read anything of it."""
    r, d = setup(t)
    Added(r.db).many("orders", [f"s{i}" for i in range(20)], {"x": "y" * 900000})
    w = t.worker(d, credits=20, work=0)
    w.wait("ok", 20, timeout=40)
    assert not w.frames("err") and len(w.frames("assign")) == 20


def test_answers_nobody_reads(t):
    """A worker that asks and asks and does not read is cut off, too."""
    _, d = setup(t, cfg={"workers": {"write_buffer": "64KiB"}})
    c = Raw(d.worker_sock).send(HELLO)
    c.until("welcome")
    c.sock.settimeout(20)
    try:
        while True:
            c.sock.sendall(b'{"t":"ping","n":1}\n' * 1000)
    except ConnectionError:
        pass
    d.wait_log("it does not read")


def test_silent_worker(t):
    r, d = setup(t, cfg={"workers": {"ping_every": "200ms"}})
    w = t.worker(d, name="mute", credits=1)
    w.wait("ping", 2)
    Added(r.db).one("orders", "s")
    w.wait("assign")
    w.is_mute = True
    f = w.wait("err", timeout=10)
    assert f["code"] == "silent" and f["fatal"] is True
    w.wait("closed", d="ev")
    other = t.worker(d, credits=1, work=0)
    other.wait("ok", timeout=20)
    checks.none(checks.overlaps([w.journal, other.journal]))


def test_pings_move_until_forward(t):
    r, d = setup(t, T=4)
    w = t.worker(d, credits=5)
    Added(r.db).many("orders", ["a", "b"])
    w.wait("assign", 2)
    w.wait("ping", 6, timeout=20)
    got = [(x["ms"], x["f"]["until_ms"]) for x in w.records("ping") + w.records("assign")]
    assert all(until > ms for ms, until in got) and all(until <= ms + 4000 - 400 for ms, until in got), got
    seq = [x["f"]["until_ms"] for x in w.records("ping")]
    assert seq == sorted(seq) and seq[-1] > seq[0]
    gaps = [b["ms"] - a["ms"] for a, b in zip(w.records("ping"), w.records("ping")[1:])]
    assert max(gaps) < 2 * w.wait("welcome")["ping_ms"] + 500, gaps


# ---- the outcomes

def test_done_twice_gets_the_same_ok(t):
    r, d = setup(t)
    w = t.worker(d, credits=1)
    Added(r.db).one("orders", "s")
    a = w.wait("assign")
    w.finish(a)
    first = w.wait("ok")
    w.finish(a)
    assert w.wait("ok", 2) == first == {"t": "ok", "lease": a["lease"], "for": "done", "outcome": "done"}
    Added(r.db).one("orders", "next")  # and the credit was freed once only
    w.wait("assign", 2)
    w.wait("ping", 2, timeout=10)
    assert checks.pending(r.db, "orders") == 1


def test_lease_of_another_session(t):
    r, d = setup(t)
    a, b = t.worker(d, credits=1), t.worker(d, credits=0)
    Added(r.db).one("orders", "s")
    lease = a.wait("assign")["lease"]
    b.wait("welcome")
    for n, kind in enumerate(("done", "fail", "release", "revoked", "progress"), 1):
        b.send({"t": kind, "lease": lease})
        f = b.wait("err", n)
        assert f["code"] in ("unknown_lease", "not_owner") and f["fatal"] is False
    a.send({"t": "done", "lease": lease})
    assert a.wait("ok")["outcome"] == "done"


def fields_of_only_entry(r):
    (id, f), = entries(r.db, "orders-input")
    return id, f


def test_fail_counts_release_does_not(t):
    r, d = setup(t)
    w = t.worker(d, credits=1)
    add = Added(r.db)
    r.db.cmd("XADD", "orders-input", "*", "first", "1", "lbs-input", '{"DataStreamName":"s","Info":{"n":1}}', "last", "z\udcff")
    seen = []
    for n, (kind, retry) in enumerate((("release", 0), ("fail", 0), ("release", 1), ("fail", 1), ("revoked", 2), ("done", 2)), 1):
        a = w.wait("assign", n)
        assert a["retry"] == retry and a["info"] == {"n": 1}, a
        f = pairs(r.db.cmd("XRANGE", "orders-input", a["id"], a["id"])[0][1])
        assert f["first"] == "1" and f["last"] == "z\udcff" and int(f.get("_retry_count", 0)) == retry
        seen.append(int(a["token"]))
        w.finish(a, kind, **({"reason": "because"} if kind == "fail" else {}))
        if kind != "revoked":
            ok = w.wait("ok", lease=a["lease"])
            assert ok["for"] == kind and ok["outcome"] == ("done" if kind == "done" else "requeued")
    assert seen == sorted(set(seen))
    checks.wait_clean(r.db)
    add.one("orders", "after")
    w.wait("assign", 7)


def test_fail_dead_is_rejected(t):
    r, d = setup(t, node="n1")
    w = t.worker(d, credits=1)
    id = Added(r.db).one("orders", "s", {"n": 2**66})
    a = w.wait("assign")
    w.finish(a, "fail", dead=True, reason="bad input é " + "é" * 3000)
    assert w.wait("ok") == {"t": "ok", "lease": a["lease"], "for": "fail", "outcome": "dead"}
    checks.wait_clean(r.db, dlq=1)
    f, = checks.dead_letters(r.db)
    assert f["_dlq_reason"] == "rejected" and f["_dlq_error"].startswith("bad input é") and len(f["_dlq_error"].encode()) == 1023  # whole characters
    assert f["_orig_id"] == id and f["_dlq_node"] == "n1" and json.loads(f["lbs-input"])["Info"] == {"n": 2**66}


def test_a_long_reason_is_cut_between_characters(t):
    """_dlq_error is UTF-8 of at most 1 KiB: clients that decode replies must not stumble over it."""
    r, d = setup(t)
    w = t.worker(d, credits=1)
    for n, reason in enumerate(("x" + "é" * 600, "x" * 1023 + "€", "€" * 341 + "x", "x" * 1021 + "😀")):
        Added(r.db).one("orders", "s")
        w.finish(w.wait("assign", n + 1), "fail", dead=True, reason=reason)
        w.wait("ok", n + 1)
        error = dict(zip((f := r.db.cmd("XREVRANGE", "orders-input-dlq", "+", "-", "COUNT", 1)[0][1])[::2], f[1::2]))["_dlq_error"]
        assert reason.startswith(error) and 1020 < len(error.encode()) <= 1024, (n, error[-5:], len(error.encode()))


def test_fails_past_max_retries_are_dead(t):
    r, d = setup(t, service={"retry": {"max_retries": 1}})
    w = t.worker(d, credits=1, work=0, result=lambda a: {"t": "fail", "lease": a["lease"], "reason": f"try {a['retry']}"})
    Added(r.db).one("orders", "s")
    checks.wait_clean(r.db, dlq=1)
    assert [f["outcome"] for f in w.frames("ok")] == ["requeued", "dead"]
    f, = checks.dead_letters(r.db)
    assert f["_dlq_reason"] == "max_retries_exceeded" and f["_dlq_error"] == "try 1" and f["_retry_count"] == "1"


def test_bye_gives_back_uncounted(t):
    r, d = setup(t)
    w = t.worker(d, credits=3)
    Added(r.db).many("orders", ["a", "b", "c"])
    w.wait("assign", 3)
    w.send({"t": "bye"})
    w.wait("closed", d="ev")
    t.wait(lambda: checks.pending(r.db, "orders") == 0 and r.db.cmd("XLEN", "orders-input") == 3, what="all back")
    assert all(f.get("_retry_count", "0") == "0" for _, f in entries(r.db, "orders-input"))
    t.wait(lambda: not checks.locks(r.db), what="locks are gone")  # the registry keeps the streams' turns


def test_worker_killed_goes_back_at_once_counted(t):
    goes_back_at_once(t, ["a"], "1")


def test_worker_killed_with_several_goes_back_uncounted(t):
    goes_back_at_once(t, ["a", "b", "c"], None)


def goes_back_at_once(t, streams, retry):
    r, d = setup(t)
    w = t.proc_worker(d, credits=3, work="hold")
    Added(r.db).many("orders", streams)
    w.wait_for("assign", len(streams))
    start = time.monotonic()
    w.kill()
    t.wait(lambda: checks.pending(r.db, "orders") == 0, what="all back")
    assert time.monotonic() - start < 2.5, "at once, not after resume_grace"
    assert [f.get("_retry_count") for _, f in entries(r.db, "orders-input")] == [retry] * len(streams)
    v = t.worker(d, credits=3, work=0)
    v.wait("ok", len(streams))
    assert {a["retry"] for a in v.frames("assign")} == {int(retry or 0)}
    checks.wait_clean(r.db)
    checks.none(checks.overlaps([w.journal, v.journal]))


@limit(120)
def test_fourth_death_is_a_dead_letter(t):
    r, d = setup(t)
    id = r.db.cmd("XADD", "orders-input", "*", "a", "1", "lbs-input", '{"DataStreamName":"poison","Info":{"n":5}}', "b", "\udcfe")
    for n in range(4):
        w = t.proc_worker(d, credits=1, work="hold")
        assert w.wait_for("assign")[0]["retry"] == n
        w.kill()
        t.wait(lambda: checks.pending(r.db, "orders") == 0)
    checks.wait_clean(r.db, dlq=1)
    f, = checks.dead_letters(r.db)
    assert f["_dlq_reason"] == "max_retries_exceeded" and f["_retry_count"] == "3" and f["a"] == "1" and f["b"] == "\udcfe"
    assert json.loads(f["lbs-input"]) == {"DataStreamName": "poison", "Info": {"n": 5}} and f["_orig_id"] != id


# ---- coming back

def test_resume_within_grace_keeps_streams(t):
    r, d = setup(t)
    w = t.worker(d, credits=3, reconnect=True)
    Added(r.db).many("orders", ["a", "b", "c"])
    w.wait("assign", 3)
    leases = set(w.held)
    w.drop()
    f = w.wait("welcome", 2)
    assert set(f["resumed"]) == leases and f["gone"] == []
    assert len(w.frames("assign")) == 3
    for lease in leases:
        w.send({"t": "done", "lease": lease})
    w.wait("ok", 3)
    checks.wait_clean(r.db)


def test_resume_tells_what_is_gone(t):
    r, d = setup(t)
    w = t.worker(d, credits=3, reconnect=True)
    Added(r.db).many("orders", ["a", "b", "c"])
    w.wait("assign", 3)
    a, b, c = w.frames("assign")
    w.finish(a)
    w.wait("ok")
    w.finish(b, "fail", dead=True)
    w.wait("ok", 2)
    w.held[a["lease"]] = a
    w.held[b["lease"]] = b
    w.held["never-given"] = c
    w.drop()
    f = w.wait("welcome", 2)
    assert f["resumed"] == [c["lease"]]
    assert {g["lease"]: g["outcome"] for g in f["gone"]} == {a["lease"]: "done", b["lease"]: "dead", "never-given": "lost"}


def test_done_again_after_reconnect(t):
    """The ok was lost with the connection: done sent again gets it."""
    r, d = setup(t)
    w = t.worker(d, credits=1, reconnect=True)
    Added(r.db).one("orders", "s")
    a = w.wait("assign")
    w.finish(a)
    w.wait("ok")
    w.drop()
    w.wait("welcome", 2)
    w.send({"t": "done", "lease": a["lease"]})
    assert w.wait("ok", 2)["outcome"] == "done"


def test_drop_without_coming_back(t):
    """The process lives, the connection is gone: after resume_grace its streams go back, not before."""
    r, d = setup(t, cfg={"workers": {"resume_grace": "2s"}})
    w = t.worker(d, credits=1)
    Added(r.db).one("orders", "s")
    w.wait("assign")
    v = t.worker(d, credits=1, work=0)
    v.wait("welcome")
    w.drop()
    w.wait("closed", d="ev")
    start = now_ms()
    v.wait("assign", timeout=15)
    assert v.records("assign")[0]["ms"] - start > 1700
    checks.wait_clean(r.db)
    checks.none(checks.overlaps([w.journal, v.journal]))


def test_what_is_said_before_the_welcome_counts(t):
    """A restarted daemon welcomes once it knows what it held; Redis takes its time. The worker does not wait to speak."""
    r, d = setup(t)
    c = Raw(d.worker_sock).send({**HELLO, "credits": 2})
    session = c.until("welcome")["session"]
    Added(r.db).many("orders", ["a", "b"])
    a, b = (c.until("assign")["lease"] for _ in range(2))
    r.pause()
    d.kill()
    c.close()
    d.start(ready=False)
    t.wait(lambda: os.path.exists(d.worker_sock), what="the socket")
    c = t.wait(lambda: try_connect(d.worker_sock), what="somebody listens")
    c.send({**HELLO, "credits": 0, "session": session, "resume": [a, b]})
    c.send({"t": "ping", "n": 7}).send({"t": "done", "lease": a}).send({"t": "credits", "n": 2})
    try:
        assert c.frame(0.5) is None, "it is not welcome yet"
    except TimeoutError:
        pass
    r.cont()
    assert c.frame()["resumed"] == [a, b]
    assert c.frame() == {"t": "pong", "n": 7}
    assert c.until("ok")["lease"] == a
    Added(r.db).one("orders", "c")
    assert c.until("assign")["stream"] == "c"


def try_connect(path):
    try:
        return Raw(path)
    except OSError:
        return None


def test_wrong_session_resumes_nothing(t):
    r, d = setup(t)
    w = t.worker(d, credits=1)
    Added(r.db).one("orders", "s")
    lease = w.wait("assign")["lease"]
    c = Raw(d.worker_sock).send({**HELLO, "credits": 0, "session": "made-up", "resume": [lease]})
    f = c.until("welcome")
    assert f["resumed"] == [] and [g["lease"] for g in f["gone"]] == [lease] and f["session"] != "made-up"
    w.send({"t": "done", "lease": lease})
    assert w.wait("ok")["outcome"] == "done"


def test_session_taken_over_while_connected(t):
    """The worker reconnects before the daemon saw the old connection's end: one session, no work twice."""
    r, d = setup(t)
    w = t.worker(d, credits=1)
    Added(r.db).one("orders", "s")
    lease = w.wait("assign")["lease"]
    c = Raw(d.worker_sock).send({**HELLO, "session": w.session, "resume": [lease]})
    f = c.until("welcome")
    if f["resumed"] == [lease]:
        w.wait("closed", d="ev")
        c.send({"t": "done", "lease": lease})
        assert c.until("ok")["outcome"] == "done"
    else:
        w.send({"t": "done", "lease": lease})
        assert w.wait("ok")["outcome"] == "done"
    checks.wait_clean(r.db)


def test_revoke_unanswered_goes_back_after_grace(t):
    r, d = setup(t)
    w = t.worker(d, credits=1, answers_revoke=False)
    Added(r.db).one("orders", "s")
    a = w.wait("assign")
    w.send({"t": "credits", "n": 0})
    d.ctl_ok("release", "s")
    f = w.wait("revoke")
    assert f["lease"] == a["lease"] and f["reason"] == "operator" and f["grace_ms"] > 0
    v = t.worker(d, credits=1, work=0)
    v.wait("ok", timeout=25)
    checks.none(checks.overlaps([w.journal, v.journal]))
    w.send({"t": "done", "lease": a["lease"]})
    assert w.wait("err")["code"] in ("not_owner", "unknown_lease")


def test_progress_timeout(t):
    r, d = setup(t, cfg={"workers": {"progress_timeout": "1500ms"}})
    w = t.worker(d, credits=2)
    Added(r.db).many("orders", ["busy", "hung"])
    w.wait("assign", 2)
    busy, hung = w.wait("assign", stream="busy"), w.wait("assign", stream="hung")
    for _ in range(8):
        w.send({"t": "progress", "lease": busy["lease"], "note": "step"})
        if w.frames("revoke"):
            break
        try:
            w.wait("revoke", timeout=0.4)
        except AssertionError:
            pass
    f = w.wait("revoke")
    assert f["lease"] == hung["lease"] and f["reason"] == "timeout", f
    assert not w.frames("revoke", lease=busy["lease"])
    assert any(x["note"] == "step" for x in d.json("ls") if x["stream"] == "busy")


def test_socket_modes(t):
    _, d = setup(t, cfg={"workers": {"mode": "0600"}, "control": {"mode": "0640"}})
    assert os.stat(d.worker_sock).st_mode & 0o777 == 0o600 and os.stat(d.control_sock).st_mode & 0o777 == 0o640
    s = socket.socket(socket.AF_UNIX)
    s.connect(d.worker_sock)
    s.close()


def test_lock_is_gone_after_each_outcome(t):
    r, d = setup(t)
    w = t.worker(d, credits=1)
    id = Added(r.db).one("orders", "s")
    a = w.wait("assign")
    assert r.db.cmd("EXISTS", f"s{SEP}{id}") == 1
    w.finish(a, "fail")
    w.wait("ok")
    t.wait(lambda: not r.db.cmd("EXISTS", f"s{SEP}{id}"), what="the old lock is gone")
    w.finish(w.wait("assign", 2))
    checks.wait_clean(r.db)
