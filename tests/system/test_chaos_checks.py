"""Each check of the random drivers (chaos_rounds.py) is shown to find what it looks for, and to be silent where nothing is wrong. No daemon
needed."""
import os
import random
import types

import chaos_rounds
from chaos_rounds import Rounds
from lib import ledger, sanitizers, servers, vitals
from lib.front import Fronts
from lib.gate import end_of
from lib.odd import Odd, array, bulk
from lib.redis import Redis, RedisError
from lib.vitals import Limits, Sample
from test_checkers import J, finds

issue = 9


def wish(service="orders", stream="s", ms=0, sure=True, excused=None):
    return {"service": service, "stream": stream, "ms": ms, "sure": sure, "excused": excused}


def lost(wishes, *journals, dead=(), merging=()):
    return ledger.lost(dict(enumerate(wishes)), ledger.runs([j.r for j in journals]), dead, merging)


def given(n=0, ms=10, w="a", lease="1-1"):
    return J(w).assign(ms, lease, "s", info={"n": n})


def test_lost_wish(_):
    finds(lost([wish()]))
    finds(lost([wish()], given()))
    assert not lost([wish()], given().done(20, lease="1-1"))
    assert not lost([wish()], given().ended(20, "in", lease="1-1", outcome="lost"))
    assert not lost([wish(sure=False), wish(excused="purged")])
    assert not lost([wish()], dead={0: "rejected"})
    finds(lost([wish()], given().fail(20, lease="1-1", dead=True)))  # but it is not among the dead letters


def test_merged_wish_needs_a_run_that_began_after_it(_):
    two = [wish(ms=0), wish(ms=50)]
    finds(lost(two, given(0, 10).done(100, lease="1-1"), merging=["orders"]))
    assert not lost(two, given(0, 60).done(100, lease="1-1"), merging=["orders"])
    finds(lost(two, given(0, 60).done(100, lease="1-1")))


def test_tokens_that_fall(_):
    two = given().release(20, lease="1-1").assign(30, "2-1", "s", info={"n": 0}, token="2")
    assert not ledger.falling_tokens(ledger.runs([two.r]))
    late = J("b").assign(60, "1-1", "s", info={"n": 0}, token="1", until_ms=50)
    assert not ledger.falling_tokens(ledger.runs([two.r, late.r])), "read after its fence"
    finds(ledger.falling_tokens(ledger.runs([two.release(40, lease="2-1").assign(50, "3-1", "s", info={"n": 0}, token="1").r])))
    others = J("w").assign(10, "1-1", "s", token="2").release(20, lease="1-1").assign(30, "2-1", "t", token="1")
    assert not ledger.falling_tokens(ledger.runs([others.r])), "two entries that somebody else added"


def test_dead_letters_say_why(t):
    db = t.redis().db
    body = '{"DataStreamName": "s", "Info": {"n": 7}}'
    db.cmd("XADD", "orders-input-dlq", "*", "lbs-input", body, "_dlq_reason", "rejected")
    assert ledger.dead_letters(db, ["orders"]) == ({7: "rejected"}, [])
    db.cmd("XADD", "orders-input-dlq", "*", "lbs-input", body)
    finds(ledger.dead_letters(db, ["orders"])[1])
    db.cmd("XADD", "orders-entries-dlq", "*", "_dlq_stream", "s", "_orig_id", "1-0")
    found, silent = ledger.dead_entries(db, ["orders"])
    assert found == {("s", "1-0")}
    finds(silent)


def test_entries_worked_on_by_time(_):
    a, b = J("a").did(5, "ev", stream="s", id="2-0", token="2"), J("b").did(1, "ev", stream="s", id="1-0", token="1")
    b.dead(3, "ev").did(9, "ev", stream="s", id="3-0", token="3")
    assert ledger.entry_lines([a.r, b.r]) == [("b.0", "s", "1", "did", "1-0"), ("a.0", "s", "2", "did", "2-0"), ("b.1", "s", "3", "did", "3-0")]
    revoked = J("a").assign(0, "1-1", "s").revoke(1, "in", lease="1-1", grace_ms=1)
    assert ledger.lost_leases([revoked.r]) == {("a", "s")}


def test_limits_of_a_daemon(_):
    few = Limits(descriptors=10, rss_kib=100, log_per_s=50)
    fine = [Sample(i, 10, 100, 40 * i) for i in range(12)]
    assert not vitals.beyond("d", fine, few)
    finds(vitals.beyond("d", [*fine, Sample(13, 11, 100, 500)], few))
    finds(vitals.beyond("d", [*fine, Sample(13, 10, 101, 500)], few))
    finds(vitals.beyond("d", [Sample(i, 1, 1, 60 * i) for i in range(12)], few))
    assert not vitals.beyond("d", [Sample(0, 1, 1, 0), Sample(0.5, 1, 1, 200), Sample(5, 1, 1, 200)], few), "a burst is none"


def test_stuck_sessions(_):
    assert not vitals.stuck([{"name": "a", "state": "active", "in_use": 0}])
    finds(vitals.stuck([{"name": "a", "state": "active", "in_use": 1}]))
    finds(vitals.stuck([{"name": "a", "state": "detached", "in_use": 0}]))


def test_reports_of_sanitizers(t):
    dir = t.path("reports")  # in a folder of their own: the runner looks into ours
    os.mkdir(dir)
    with open(os.path.join(dir, "san.1"), "w") as f:
        f.write("--1-- WARNING: unhandled syscall\n")
    assert not sanitizers.reports(dir) and not Rounds.sanitizers_in(dir)
    with open(os.path.join(dir, "san.2"), "w") as f:
        f.write("==2==ERROR: AddressSanitizer: heap-use-after-free\n")
    finds(sanitizers.reports(dir))
    finds(Rounds.sanitizers_in(dir))
    assert not vitals.faults_in_log("level=info all is well\n")
    finds(vitals.faults_in_log("x\nsluiced: src/core/x.c:1: f: Assertion `y' failed.\n"))


# ---- a driver with daemons that only say what they are told to
class Daemon:
    def __init__(self, **kw):
        self.name, self.log, self.log_path, self.proc = "d", "nothing", os.devnull, types.SimpleNamespace(pid=os.getpid(), returncode=-6)
        self.is_running, self.wait_ready, self.stop = lambda: True, lambda _: None, lambda timeout: 0
        self.ctl = lambda *_, **__: types.SimpleNamespace(returncode=0, stdout="", stderr="")
        self.json = lambda *_: [{"name": "a", "state": "active", "in_use": 0}]
        vars(self).update(kw)


def daemon(t, **kw):
    """A driver without trouble, of this daemon."""
    rounds = Rounds.__new__(Rounds)
    vars(rounds).update(t=t, daemons=[Daemon(**kw)], workers=[], busy=set(), names={"orders"}, bad=[], ledger=ledger.Ledger(),
                        dead_seen=set(), start=0, fds={"d": 10**6}, db=t.redis().db, vitals=vitals.Vitals([]), feeds=("feed",))
    return rounds


def test_round_without_fault(t):
    rounds = daemon(t)
    assert rounds.look() == []
    rounds.end()
    assert not rounds.bad


def test_daemon_that_ends_by_itself(t):
    try:
        daemon(t, is_running=lambda: False).alive()
    except AssertionError as e:
        assert "ended by itself with -6" in str(e)
    else:
        raise AssertionError("not seen")


def test_daemon_that_is_not_ready_in_time(t):
    def never(seconds):
        raise AssertionError(f"not within {seconds} s")
    finds(daemon(t, wait_ready=never).look())


def test_daemon_that_ends_badly(t):
    rounds = daemon(t, stop=lambda timeout: 1, log="runtime error: overflow\n")
    rounds.end()
    finds(rounds.bad, 2)


def test_verb_that_fails(t):
    rounds = daemon(t, ctl=lambda *_, **__: types.SimpleNamespace(returncode=70, stdout="", stderr="internal"))
    rounds.ctl(rounds.daemons[0], "ls")
    finds(rounds.bad)


def test_work_that_is_left(t, most=chaos_rounds.WORK_WITHIN):
    chaos_rounds.WORK_WITHIN = 0.3
    try:
        rounds = daemon(t)
        rounds.ledger.add(rounds.db, "orders", "s")
        finds(rounds.work())
        rounds.db.cmd("DEL", "orders-input")
        assert not rounds.work()
        finds(rounds.judged())  # gone, and nobody was given it
    finally:
        chaos_rounds.WORK_WITHIN = most


def test_entry_that_nobody_worked_on(t):
    rounds = daemon(t)
    id = rounds.db.cmd("XADD", "feed.k1", "*", "n", "1")
    rounds.ledger.wishes[0] = wish("feed", "feed.k1", sure=False)
    finds(rounds.work())
    rounds.dead_seen.add(("feed.k1", id))
    assert not rounds.work() and not rounds.judged()


def test_order_of_entries(t):
    rounds = daemon(t)
    ids = [rounds.db.cmd("XADD", "feed.k1", "*", "n", i) for i in range(2)]
    rounds.ledger.wishes[0] = wish("feed", "feed.k1", sure=False)
    for order, n in ((ids, 0), (ids[::-1], 1)):
        j = J("a")
        for ms, id in enumerate(order):
            j.did(ms, "ev", stream="feed.k1", id=id, token="1")
        rounds.workers = [types.SimpleNamespace(journal=j.r)]
        finds(rounds.judged(), n)


# ---- the front itself: odd things parse as RESP, and it is silent while calm
def test_odd_replies_are_whole(_):
    odd = Odd(random.Random(1), is_cluster=True, lies=True)
    for i in range(1000):
        for one in (odd.reply(), odd.push([("h", 1)]), odd.error(), odd.hello_of_old(), b"" if i >= 40 else odd.slots([("h", 1), ("i", 2)])):
            at = 0
            while at < len(one):
                assert one[at:at + 1] != b"|" or (at := end_of(one, end_of(one, at + 4))) > 0
                at = end_of(one, at)
                assert at > 0, one
    one = array([bulk("a"), bulk("b")])
    assert len({odd.mutated(one) for _ in range(50)}) > 20


def test_front_lets_all_through_when_calm(t):
    r = t.redis()
    fronts = Fronts(servers.loopback(), random.Random(1), Odd(random.Random(1)))
    f = fronts.add(r, servers.free_port())
    db = Redis((f.host, f.port), timeout=2)
    assert [db.cmd("INCR", "n") for _ in range(500)] == list(range(1, 501)) and not fronts.counts
    fronts.begin()
    n_failed = 0
    for _ in range(600):
        try:
            db.cmd("GET", "n")
        except (OSError, RedisError, ValueError):
            n_failed += 1
            db.close()
    assert n_failed and sum(fronts.counts.values()) > 10, (n_failed, fronts.counts)
    fronts.calm()
    db.close()
    assert int(db.cmd("GET", "n")) == 500
