"""Each checker is shown to find what it looks for, and to be silent where nothing is wrong. No daemon needed."""
import json

from lib import checks
from lib.checks import Added
from lib.redis import SEP
from lib.servers import wait_until

issue = 2


class J:
    """A journal made by hand."""

    def __init__(self, w):
        self.w, self.r = w, []

    def rec(self, ms, d, t, **f):
        self.r.append({"ms": ms, "w": self.w, "d": d, "f": {"t": t, **f}})
        return self

    def assign(self, ms, lease, stream, **f):
        return self.rec(ms, "in", "assign", lease=lease, service="orders", stream=stream, id=lease, token=f.pop("token", "1"), **f)

    def __getattr__(self, t):
        return lambda ms, d="out", **f: self.rec(ms, d, t, **f)


def finds(findings, n=1):
    assert len(findings) == n, findings


def test_overlap(_):
    a = J("a").assign(0, "1-1", "s").done(100, lease="1-1")
    assert not checks.overlaps([a.r, J("b").assign(100, "2-1", "s").done(150, lease="2-1").r])
    finds(checks.overlaps([a.r, J("b").assign(99, "2-1", "s").done(150, lease="2-1").r]))
    assert not checks.overlaps([a.r, J("b").assign(99, "2-1", "s").done(150, lease="2-1").r], by="id")
    assert not checks.overlaps([a.r, J("b").assign(50, "2-1", "other").r])


def test_overlap_ends_at_revoke_fence_and_death(_):
    b = J("b").assign(500, "2-1", "s").done(600, lease="2-1").r
    rev = J("a").assign(0, "1-1", "s").revoke(100, "in", lease="1-1", grace_ms=300)
    assert not checks.overlaps([rev.done(900, lease="1-1").r, b])
    rev = J("a").assign(0, "1-1", "s").revoke(100, "in", lease="1-1", grace_ms=500)
    finds(checks.overlaps([rev.done(900, lease="1-1").r, b]))
    fence = J("a").assign(0, "1-1", "s", until_ms=450)
    assert not checks.overlaps([fence.done(900, lease="1-1").r, b])
    fence = J("a").assign(0, "1-1", "s", until_ms=450).ping(100, "in", until_ms=800)
    finds(checks.overlaps([fence.done(900, lease="1-1").r, b]))
    assert not checks.overlaps([J("a").assign(0, "1-1", "s").dead(400, "ev").r, b])
    finds(checks.overlaps([J("a").assign(0, "1-1", "s").dead(501, "ev").r, b]))
    assert not checks.overlaps([J("a").assign(401, "1-1", "s").dead(400, "ev").assign(900, "4-1", "t").r, b]), "read while it was killed"
    finds(checks.overlaps([J("a").assign(0, "1-1", "s").welcome(700, "in", gone=[]).r, b]))


def test_overlap_long_one_covers_many(_):
    a = J("a").assign(0, "1-1", "s").done(1000, lease="1-1").r
    b = J("b").assign(1100, "2-1", "s").done(1200, lease="2-1").assign(900, "3-1", "s").done(910, lease="3-1").r
    finds(checks.overlaps([a, b]))


def fed(lease="1-1"):
    """It has taken a stream in entries mode at 0, got entries at 10 and acknowledged the last at 50."""
    return J("a").assign(0, lease, "s", entries={"pos": "0-0"}).entries(10, "in", lease=lease, e=[["1-0", []], ["2-0", []]])


def test_owner_of_entries_until_the_last_acknowledgement(_):
    for end in (lambda j: j.ended(70, "in", lease="1-1", outcome="done"), lambda j: j.fence(70, "ev", leases=["1-1"])):
        a = end(fed().ack(50, lease="1-1", id="2-0"))
        assert not checks.overlaps([a.r, J("b").assign(60, "2-1", "s").r])
        finds(checks.overlaps([a.r, J("b").assign(40, "2-1", "s").r]))
        finds(checks.overlaps([end(fed().ack(50, lease="1-1", id="1-0")).r, J("b").assign(60, "2-1", "s").r]))
    assert not checks.overlaps([J("a").assign(0, "1-1", "s", entries={"pos": "0-0"}).r, J("b").assign(60, "2-1", "s").r]), "given nothing"
    one = J("a").hello(0, credits=1).assign(1, "1-1", "s")
    finds(checks.credits_exceeded([one.assign(2, "2-1", "t").r]))
    one = J("a").hello(0, credits=1).assign(1, "1-1", "s").ended(2, "in", lease="1-1", outcome="done")
    assert not checks.credits_exceeded([one.assign(3, "2-1", "t").r])


def test_lost_and_stray(_):
    a = J("a").assign(0, "1-1", "s").done(1, lease="1-1").assign(2, "1-2", "x").r
    assert not checks.lost({"s"}, [a]) and not checks.stray({"s"}, [a])
    finds(checks.lost({"s", "x"}, [a]))
    assert not checks.lost({"s", "x"}, [a], dead={"x"})
    finds(checks.stray(set(), [a]))


def test_credits(_):
    a = J("a").hello(0, credits=2).assign(1, "1", "s").assign(2, "2", "t")
    assert not checks.credits_exceeded([a.r])
    finds(checks.credits_exceeded([J("a").hello(0, credits=2).assign(1, "1", "s").assign(2, "2", "t").assign(3, "3", "u").r]))
    assert not checks.credits_exceeded([a.done(3, lease="1").assign(4, "3", "u").r])
    low = J("a").hello(0, credits=2).assign(1, "1", "s").credits(10, n=1)
    assert not checks.credits_exceeded([low.assign(11, "2", "t").r])  # was on its way
    finds(checks.credits_exceeded([J("a").hello(0, credits=2).assign(1, "1", "s").credits(10, n=1).assign(2000, "2", "t").r]))
    rev = J("a").hello(0, credits=1).assign(1, "1", "s").revoke(2, "in", lease="1", grace_ms=5)
    assert not checks.credits_exceeded([rev.assign(8, "2", "t").r])


def test_tokens(_):
    a = J("a").assign(0, "1", "s", token="10").done(1, lease="1")
    assert not checks.token_order([a.r, J("b").assign(2, "2", "s", token="11").r])
    finds(checks.token_order([a.r, J("b").assign(2, "2", "s", token="10").r]))
    assert not checks.token_order([a.r, J("b").assign(2, "2", "t", token="9").r])


def test_late_revokes(_):
    good = J("a").assign(0, "1", "s", until_ms=100).revoke(80, "in", lease="1", grace_ms=10).revoked(81, lease="1")
    assert not checks.late_revokes(good.r, 100)
    finds(checks.late_revokes(J("a").assign(0, "1", "s", until_ms=100).revoke(120, "in", lease="1", grace_ms=10).r, 100))


def test_leftovers(t):
    db = t.redis().db
    add = Added(db)
    assert not checks.leftovers(db, ["orders"])
    id = add.one("orders", "s", {"n": 1})
    finds(checks.leftovers(db, ["orders"]))
    db.cmd("XGROUP", "CREATE", "orders-input", "orders-group", "0")
    db.cmd("XREADGROUP", "GROUP", "orders-group", "c", "STREAMS", "orders-input", ">")
    finds(checks.leftovers(db, ["orders"]), 2)
    db.cmd("XDEL", "orders-input", id)
    finds(checks.leftovers(db, ["orders"]))  # deleted, but pending
    db.cmd("XACK", "orders-input", "orders-group", id)
    for cmd in (("SET", f"s{SEP}{id}", "redis-consumer-a/1"), ("HSET", "{orders-input}-active", "s", id),
                ("XADD", "orders-input-dlq", "*", "_dlq_reason", "operator")):
        db.cmd(*cmd)
        finds(checks.leftovers(db, ["orders"]))
        db.cmd("DEL", cmd[1])
    db.cmd("SET", f"s{SEP}{id}", "gone:5-1")
    assert not checks.leftovers(db, ["orders"])
    finds(checks.leftovers(db, ["orders"], dlq=1))


def test_leftover_locks_on_every_master(t):
    c = t.cluster()
    for i in range(12):
        c.db.cmd("SET", f"s{i}{SEP}1-{i}", "x")
    assert len(checks.locks(c.db)) == 12
    c.db.cmd("XADD", "orders-input", "*", "a", "b")
    assert len(checks.leftovers(c.db, ["orders"])) == 11  # 10 of the locks, one entry


def test_go_consumer_does_the_job_and_cleans_up(t):
    r = t.redis()
    add = Added(r.db)
    add.many("orders", [f"s{i}" for i in range(40)])
    g, h = t.go(r, work=0.05), t.go(r, work=0.05)
    checks.wait_clean(r.db)
    journals = [g.journal, h.journal]
    checks.none(checks.lost(add.sure, journals) + checks.overlaps(journals))


def test_go_consumer_recovers_the_dead(t):
    r = t.redis()
    Added(r.db).many("orders", ["a", "b"])
    g = t.go(r, work=None)
    wait_until(lambda: len(g.held) == 2)
    h = t.go(r, work=0.05, min_idle_ms=1000, scan_every=0.5)
    g.stop()
    checks.wait_clean(r.db, timeout=15)
    assert h.n_recovered == 2
    checks.none(checks.overlaps([g.journal, h.journal]) + checks.lost({"a", "b"}, [g.journal, h.journal]))


def test_paused_go_consumer_overlaps_and_is_caught(t):
    """The weakness that sluiced exists for, seen by the checker on real Redis: a paused owner does not stop."""
    r = t.redis()
    Added(r.db).one("orders", "a")
    g = t.go(r, work=None)
    wait_until(lambda: len(g.held) == 1)
    g.pause()
    h = t.go(r, work=0.05, min_idle_ms=1000, scan_every=0.5)
    wait_until(lambda: checks.finished([h.journal]), 15)
    g.cont()
    g.stop()
    finds(checks.overlaps([g.journal, h.journal]))


def test_journal_of_a_killed_process(t):
    """ProcWorker's file survives kill -9 and says when it died."""
    import socket
    path = t.path("w.sock")
    srv = socket.socket(socket.AF_UNIX)
    srv.bind(path)
    srv.listen()
    w = t.proc_worker(path, credits=1, work="hold")
    c, _ = srv.accept()
    f = c.makefile("rw")
    hello = json.loads(f.readline())
    assert hello["t"] == "hello" and hello["credits"] == 1
    for x in ({"t": "welcome", "session": "S", "until_ms": 9e15, "resumed": [], "gone": []},
              {"t": "assign", "lease": "L", "service": "orders", "stream": "s", "id": "1-1", "token": "1"}):
        f.write(json.dumps(x) + "\n")
    f.flush()
    w.wait_for("assign")
    w.kill()
    assert w.journal[-1]["f"]["t"] == "dead"
    i, = checks.told(w.journal)
    assert i["how"] == "dead" and i["stream"] == "s"
