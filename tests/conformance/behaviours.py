"""What a client of worker protocol v1 does. Each function is one behaviour: its docstring is the rule, its body holds a client
to it. `T(ms)` gives the lease's time the scripted daemon uses."""
import json
import signal
import time

from case import SLACK_MS, now_ms, quiet, same

ALL = []


def T(lease_ms):
    def mark(f):
        f.lease_ms = lease_ms
        return f
    return mark


def behaviour(f):
    ALL.append(f)
    return f


# ---- streams

@behaviour
def handshake(c):
    """hello is first: v 1, a name, the credits."""
    s = c.session(credits=7)
    same("credits", s.hello["credits"], 7)
    assert not s.hello.get("resume") and not s.hello.get("entries"), s.hello
    c.daemon.wait_frame("pong")
    c.lives()


@behaviour
def names_tell_workers_apart(c):
    """Two workers of one program on one host have different names, unless they are given one."""
    names = [c.session().hello["name"] for _ in range(2)]
    assert names[0] != names[1], names


@behaviour
def assign_done_ok(c):
    """A handler gets what assign says, unchanged; when it returns, done is said, once."""
    s = c.session()
    info = {"sleep": 0.05, "u": "zażółć 日本語 🦀 \u2028", "n": 2**53 - 1, "f": 0.5, "e": "\\\"\n\t", "l": [{"a": [None, True, False, []]}], "": ""}
    trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=1"}
    lease = c.daemon.assign(s, "orders:7/ünï", info, retry=3, trace=trace)
    c.daemon.wait_frame("done", lease=lease)
    b, = c.wait_journal("begin")
    a = s.daemon.results and b
    same("stream", a["stream"], "orders:7/ünï")
    same("service", a["service"], "orders")
    same("retry", a["retry"], 3)
    same("token", a["token"], "1700000000000000001")
    same("info", a["info"], info)
    same("trace", a["trace"], trace)
    quiet(0.3)
    same("done frames", len(c.daemon.frames("done")), 1)


@behaviour
def streams_run_beside_each_other(c):
    """As many as there are credits, at once."""
    s = c.session(credits=4)
    for i in range(4):
        c.daemon.assign(s, f"s{i}", {"sleep": 1})
    c.daemon.wait_frame("done", 4)
    rows = {f"s{i}": c.journal(stream=f"s{i}") for i in range(4)}
    assert max(r[0]["ms"] for r in rows.values()) < min(r[-1]["ms"] for r in rows.values()), "one after the other"


@behaviour
def many_quick_streams(c):
    """A thousand streams through 20 credits: each once."""
    s = c.session(credits=20)
    leases, n_done = [], 0
    while n_done < 1000:
        n_done = len(c.daemon.results)
        while len(leases) - n_done < 20 and len(leases) < 1000:
            leases.append(c.daemon.assign(s, f"s{len(leases)}"))
        c.daemon.wait(lambda: len(c.daemon.results) > n_done or n_done == 1000, 15, f"more than {n_done} done")
    same("done frames", sorted(f["lease"] for f in s.of("done")), sorted(leases))


@behaviour
def credits_are_free_before_the_ok(c):
    """The daemon has a credit again when it has the result: the next streams come although no ok has come yet."""
    s = c.session(credits=4)
    c.daemon.answers = lambda f: False
    for n in (4, 8, 12):
        for i in range(4):
            c.daemon.assign(s, f"s{n}-{i}")
        c.daemon.wait_frame("done", n)
    same("begun", len(c.journal("begin")), 12)


@behaviour
def failures_have_a_reason(c):
    """fail carries the reason; an exception is a failure and says what it was; the worker lives on."""
    s = c.session()
    a = c.daemon.assign(s, "a", {"fail": "no luck — żółć"})
    b = c.daemon.assign(s, "b", {"raise": "it broke"})
    same("reason", c.daemon.wait_frame("fail", lease=a)["reason"], "no luck — żółć")
    assert "it broke" in c.daemon.wait_frame("fail", lease=b)["reason"], c.daemon.frames("fail")
    assert not any(f.get("dead") or f.get("retry_ms") is not None for f in c.daemon.frames("fail"))
    c.daemon.wait_frame("done", lease=c.daemon.assign(s, "c"))


@behaviour
def failures_say_dead_and_when(c):
    """`dead` and `retry_ms` reach the daemon."""
    s = c.session()
    a = c.daemon.assign(s, "a", {"fail": "never", "dead": True})
    b = c.daemon.assign(s, "b", {"fail": "later", "retry_ms": 12345})
    same("dead", c.daemon.wait_frame("fail", lease=a).get("dead"), True)
    f = c.daemon.wait_frame("fail", lease=b)
    same("retry_ms", f.get("retry_ms"), 12345)
    assert not f.get("dead")


@behaviour
def reasons_are_bounded(c):
    """A reason of 300 kB does not end the session, whatever it is cut to."""
    s = c.session()
    lease = c.daemon.assign(s, "a", {"fail": "ż" * 150_000})
    assert c.daemon.wait_frame("fail", lease=lease)["reason"].startswith("żżż")
    c.daemon.wait_frame("done", lease=c.daemon.assign(s, "b"))


@behaviour
def pauses_are_in_their_range(c):
    """retry_ms out of 0..86400000 would be refused, and the result with it: the nearest, or none, is said instead."""
    s = c.session()
    for do, t in ({"fail": "x"}, "fail"), ({"release": True}, "release"):
        f = c.daemon.wait_frame(t, lease=c.daemon.assign(s, t + "1", {**do, "retry_ms": 10 ** 12}))
        same("too long", f.get("retry_ms"), 86400000)
        f = c.daemon.wait_frame(t, lease=c.daemon.assign(s, t + "2", {**do, "retry_ms": -5}))
        assert f.get("retry_ms") in (None, 0), f


@behaviour
def release_gives_back(c):
    """release, with retry_ms when the handler names one."""
    s = c.session()
    a, b = c.daemon.assign(s, "a", {"release": True}), c.daemon.assign(s, "b", {"release": True, "retry_ms": 777})
    assert c.daemon.wait_frame("release", lease=a).get("retry_ms") is None
    same("retry_ms", c.daemon.wait_frame("release", lease=b).get("retry_ms"), 777)


@behaviour
def progress_is_told(c):
    """progress frames with their note, before the result."""
    s = c.session()
    lease = c.daemon.assign(s, "a", {"progress": 3, "sleep": 0.2})
    c.daemon.wait_frame("done", lease=lease)
    same("notes", [f.get("note") for f in s.of("progress", lease=lease)], ["note 0", "note 1", "note 2"])


@behaviour
@T(1500)
def blocking_work_is_safe(c):
    """Work that blocks for 2.5 T (25 s at T = 10 s): pings are answered all along, nothing is stopped, it is done."""
    s = c.session()
    leases = [c.daemon.assign(s, "s1", {"block": 3.75}), c.daemon.assign(s, "s2", {"sleep": 3.75})]
    for x in leases:
        c.daemon.wait_frame("done", lease=x, timeout=25)
    same("connections", len(c.daemon.sessions), 1)
    same("revoked", c.daemon.frames("revoked"), [])


@behaviour
def fence_while_the_daemon_is_frozen(c):
    """No ping comes any more: work stops by the latest until_ms, and afterwards is said to be neither done nor failed."""
    s = c.session()
    lease = c.daemon.assign(s, "s", {"sleep": 30})
    c.wait_journal("tick", stream="s")
    c.daemon.wait_frame("pong", 2)
    until = c.daemon.freeze()
    assert c.last_tick("s") > 0
    c.stops_by("s", until, "its fence")
    assert c.last_tick("s") > until - 1500, f"stopped {until - c.last_tick('s'):.0f} ms before its fence"
    given_back(c, lease)


def given_back(c, lease):
    """After a fence, when the daemon is back: the worker itself had stopped that work, so nothing is counted against the stream."""
    c.daemon.thaw()
    c.wait(lambda: c.proc.poll() is not None or c.daemon.frames("revoked", lease=lease) or lease in c.daemon.ended, what="revoked")
    quiet(0.5)
    same("results", [f for t in ("done", "fail", "release") for f in c.daemon.frames(t, lease=lease)], [])


@behaviour
def fence_of_blocking_work(c):
    """The same for work that blocks: by an exception, the death of a child, or that of the process."""
    s = c.session()
    lease = c.daemon.assign(s, "s", {"block": 30})
    c.wait_journal("tick", stream="s")
    c.stops_by("s", c.daemon.freeze(), "its fence")
    given_back(c, lease)


@behaviour
def fence_asks_first(c):
    """Before its fence work is asked to stop by the client's own means (exception, cancellation, signal), while the daemon is frozen too. A
    client whose children end at the fence by themselves looks at the time also where it can still ask."""
    s = c.session()
    lease = c.daemon.assign(s, "s", {"sleep": 30})
    c.wait_journal("tick", stream="s")
    until = c.daemon.freeze()
    asked, = c.wait_journal("stopped", stream="s")
    assert asked["ms"] <= until + SLACK_MS, f"asked {asked['ms'] - until:.0f} ms after its fence"
    given_back(c, lease)


@behaviour
def fence_without_a_connection(c):
    """The connection is lost: the work goes on, until the fence and no longer."""
    s = c.session()
    c.daemon.assign(s, "s", {"sleep": 30})
    c.wait_journal("tick", stream="s")
    until = c.daemon.until
    c.daemon.stop()
    c.stops_by("s", until, "its fence")
    assert c.last_tick("s") > until - 1500, f"stopped {until - c.last_tick('s'):.0f} ms before its fence, with the connection?"
    c.lives()


@behaviour
def fence_moves_with_every_ping(c):
    """Each until_ms counts, also one that comes without news; what ends in time is done."""
    s = c.session()
    lease = c.daemon.assign(s, "s", {"sleep": 7})
    c.daemon.wait_frame("done", lease=lease)


@behaviour
def fenced_streams_are_given_back(c):
    """Work stopped at the fence is told as revoked, or not resumed; the worker then takes new work."""
    s = c.session()
    lease = c.daemon.assign(s, "s", {"sleep": 30})
    c.wait_journal("tick", stream="s")
    c.stops_by("s", c.daemon.freeze(), "its fence")
    c.daemon.thaw()
    c.wait(lambda: lease in c.daemon.ended or lease not in c.daemon.held, what="revoked")
    c.daemon.wait_frame("done", lease=c.daemon.assign(c.daemon.last, "t"))


@behaviour
def late_assign_never_begins(c):
    """An assign that is read after its until_ms is not worked on."""
    s = c.session()
    lease = c.daemon.assign(s, "late", until_ms=int(now_ms()) - 10)
    c.daemon.wait_frame("revoked", lease=lease)
    same("begun", c.journal("begin"), [])
    c.daemon.ping_one(s)
    c.daemon.wait_frame("done", lease=c.daemon.assign(s, "in-time"))


@behaviour
def frozen_worker_stops(c):
    """The worker itself is stopped past its fence: nothing it has started works on meanwhile, and it says no done after."""
    s = c.session()
    lease = c.daemon.assign(s, "s", {"block": 30})
    c.wait_journal("tick", stream="s")
    until = c.daemon.until
    c.proc.send_signal(signal.SIGSTOP)
    c.daemon.freeze()
    c.stops_by("s", max(until, c.daemon.until), "its fence, with its process stopped")
    c.proc.send_signal(signal.SIGCONT)
    woken = now_ms()
    quiet(1)
    assert c.last_tick("s") < woken + 500, "at work long after it was woken past its fence"
    c.daemon.thaw()
    quiet(0.5)
    same("results", c.daemon.frames("done", lease=lease) + c.daemon.frames("fail", lease=lease), [])


@behaviour
def killed_worker_stops(c):
    """kill -9 of the worker: nothing that it has started works on."""
    s = c.session()
    c.daemon.assign(s, "s", {"block": 30})
    c.wait_journal("tick", stream="s")
    c.proc.kill()
    c.proc.wait()
    c.stops_by("s", now_ms() + 200, "the death of its worker")
    c.wait(lambda: s.is_closed, what="the end of the connection")


@behaviour
def revoke_stops_one(c):
    """Four streams, one is revoked: it stops, `revoked` comes within the grace, the other three are done."""
    s = c.session(credits=4)
    leases = [c.daemon.assign(s, f"s{i}", {"sleep": 2.5}) for i in range(4)]
    for i in range(4):
        c.wait_journal("tick", stream=f"s{i}")
    at = now_ms()
    s.send("revoke", lease=leases[1], reason="operator", grace_ms=1000)
    f = c.daemon.wait_frame("revoked", lease=leases[1])
    assert f["ms"] < at + 1000, f"revoked after {f['ms'] - at:.0f} ms, the grace was 1000"
    c.stops_by("s1", f["ms"], "it said that it had stopped")
    for i in (0, 2, 3):
        c.daemon.wait_frame("done", lease=leases[i])
    same("revoked", [f["lease"] for f in c.daemon.frames("revoked")], [leases[1]])
    assert not c.daemon.frames("done", lease=leases[1])


@behaviour
def revoke_of_blocking_work(c):
    """Work that does not listen has stopped when the grace is over, whatever that takes; later pings do not extend it."""
    s = c.session()
    lease = c.daemon.assign(s, "s", {"block": 30})
    c.wait_journal("tick", stream="s")
    at = now_ms()
    s.send("revoke", lease=lease, reason="lost", grace_ms=1000)
    c.stops_by("s", at + 1000, "its grace")
    c.wait(lambda: c.proc.poll() is not None or c.daemon.frames("revoked", lease=lease), what="revoked, or the end of the process")
    for f in c.daemon.frames("revoked", lease=lease):
        assert f["ms"] < at + 1000 + SLACK_MS, f"revoked after {f['ms'] - at:.0f} ms"
    same("done", c.daemon.frames("done", lease=lease), [])


@behaviour
def revoke_frees_a_credit(c):
    """After revoked the credit is used again, for the same stream too; and the old lease is not spoken of."""
    s = c.session(credits=1)
    a = c.daemon.assign(s, "s", {"sleep": 30})
    c.wait_journal("tick", stream="s")
    s.send("revoke", lease=a, reason="operator", grace_ms=1000)
    c.daemon.wait_frame("revoked", lease=a)
    b = c.daemon.assign(s, "s", {"sleep": 0.3})
    c.daemon.wait_frame("done", lease=b)
    same("begun", len(c.journal("begin")), 2)


@behaviour
def revoke_after_the_end(c):
    """revoke crosses with done: nothing bad happens; for a lease nobody knows neither."""
    s = c.session()
    c.daemon.answers = lambda f: False
    a = c.daemon.assign(s, "a")
    c.daemon.wait_frame("done", lease=a)
    s.send("revoke", lease=a, reason="drain", grace_ms=500)
    c.daemon.held["L-ghost"] = {}
    s.send("revoke", lease="L-ghost", reason="lost", grace_ms=500)
    quiet(0.7)
    c.daemon.answers = lambda f: True
    s.send("ok", **{"lease": a, "for": "done", "outcome": "done"})
    c.daemon.wait_frame("done", lease=c.daemon.assign(s, "b"))
    c.lives()


@behaviour
def resume_keeps_working(c):
    """The connection is lost: the work goes on, the worker comes back with session and resume, and nothing begins again."""
    s = c.session()
    leases = [c.daemon.assign(s, f"s{i}", {"sleep": 1.5}) for i in range(2)]
    for i in range(2):
        c.wait_journal("tick", stream=f"s{i}")
    session = f"s-{s.number}"
    s.drop()
    t = c.daemon.wait_session(2)
    same("session", t.hello.get("session"), session)
    same("resume", sorted(t.hello.get("resume") or []), leases)
    for x in leases:
        c.daemon.wait_frame("done", lease=x)
    same("begun", len(c.journal("begin")), 2)
    assert all(f in t.frames for f in c.daemon.frames("done"))


@behaviour
def resume_mixed(c):
    """Working and resumed: goes on. Working and gone: stops at once, says nothing. Result and gone: forgotten. Result and
    resumed: told again."""
    s = c.session(credits=6)
    c.daemon.answers = lambda f: False
    info = {"work": {"sleep": 2}, "lost": {"sleep": 20}, "told": {}, "again": {}, "failed": {"fail": "x"}}
    lease = {k: c.daemon.assign(s, k, v) for k, v in info.items()}
    for k in ("told", "again"):
        c.daemon.wait_frame("done", lease=lease[k])
    c.daemon.wait_frame("fail", lease=lease["failed"])
    c.wait_journal("tick", stream="lost")
    c.daemon.resumes = lambda x: {lease["lost"]: "lost", lease["told"]: "done"}.get(x, True)
    s.drop()
    at = now_ms()
    t = c.daemon.wait_session(2)
    same("resume", sorted(t.hello.get("resume") or []), sorted(lease.values()))
    c.wait(lambda: t.of("done", lease=lease["again"]) and t.of("fail", lease=lease["failed"]), what="the results again")
    c.daemon.answers = lambda f: True
    for k, name in (("again", "done"), ("failed", "fail")):
        t.send("ok", **{"lease": lease[k], "for": name, "outcome": "done"})
        c.daemon.held.pop(lease[k])
    c.daemon.wait_frame("done", lease=lease["work"])
    assert c.last_tick("lost") < max(t.frames[0]["ms"], at) + 1000, "a lost stream is still worked on"
    quiet(0.3)
    same("words about what is gone", [f for f in t.frames if f.get("lease") in (lease["lost"], lease["told"])], [])
    t.drop()
    u = c.daemon.wait_session(3)
    same("resume after all is told", u.hello.get("resume") or [], [])


@behaviour
def results_are_told_until_confirmed(c):
    """A done without its ok is sent again after each reconnect, and never after it was confirmed."""
    c.session()
    c.daemon.answers = lambda f: False
    lease = c.daemon.assign(c.daemon.last, "s")
    c.daemon.wait_frame("done", lease=lease)
    for n in (2, 3, 4):
        if n == 4:
            c.daemon.answers = lambda f: True
        c.daemon.last.drop()
        s = c.daemon.wait_session(n)
        same("resume", s.hello.get("resume"), [lease])
        c.wait(lambda: s.of("done", lease=lease), what=f"done in connection {n}")
    c.wait(lambda: lease in c.daemon.results, what="its ok")
    quiet(0.3)
    c.daemon.last.drop()
    s = c.daemon.wait_session(5)
    same("resume", s.hello.get("resume") or [], [])
    same("begun", len(c.journal("begin")), 1)


@behaviour
def work_that_ends_without_a_connection(c):
    """A result that comes while there is no connection is told after it is back."""
    s = c.session()
    lease = c.daemon.assign(s, "s", {"sleep": 0.6})
    c.wait_journal("tick", stream="s")
    c.daemon.stop()
    c.wait_journal("end", stream="s")
    c.daemon.start()
    c.daemon.wait_frame("done", lease=lease)
    same("begun", len(c.journal("begin")), 1)


@behaviour
def restart_of_the_daemon(c):
    """The daemon is killed and started three times: the work goes on and is done."""
    c.session()
    lease = c.daemon.assign(c.daemon.last, "s", {"sleep": 4})
    c.wait_journal("tick", stream="s")
    for n in (2, 3, 4):
        c.daemon.stop()
        quiet(0.2)
        c.daemon.start()
        s = c.daemon.wait_session(n)
        same("resume", s.hello.get("resume"), [lease])
    c.daemon.wait_frame("done", lease=lease)
    same("begun", len(c.journal("begin")), 1)


@behaviour
def restart_that_knows_nothing(c):
    """All is gone as lost: work stops, the worker stays and takes new work."""
    s = c.session()
    for i in range(2):
        c.daemon.assign(s, f"s{i}", {"sleep": 20})
        c.wait_journal("tick", stream=f"s{i}")
    c.daemon.knows_sessions = False
    s.drop()
    t = c.daemon.wait_session(2)
    c.stops_by("s0", t.frames[0]["ms"] + 800, "it was lost")
    c.daemon.wait_frame("done", lease=c.daemon.assign(t, "new"))
    same("words", [f for f in t.frames if f["t"] in ("done", "fail", "release", "revoked") and f["lease"] in ("L1", "L2")], [])


@behaviour
def reconnects_with_growing_pauses(c):
    """0.1 s, then doubling to 2 s; the first again once it was welcome."""
    s = c.session()
    at, greet = [], c.daemon.greet
    c.daemon.greet = lambda s, f: (at.append(now_ms()), s.drop())
    s.drop()
    quiet(7)
    gaps = [b - a for a, b in zip(at, at[1:])]
    assert 4 <= len(at) <= 14, f"{len(at)} attempts in 7 s"
    assert all(g >= 40 for g in gaps), f"pauses of {[round(g) for g in gaps]} ms: too eager"
    assert all(g <= 3000 for g in gaps) and gaps[-1] > 2.5 * gaps[0], f"pauses of {[round(g) for g in gaps]} ms"
    n = len(c.daemon.sessions)
    c.daemon.greet = greet
    t = c.wait(lambda: c.daemon.sessions[n:] and c.daemon.last.was_welcome and c.daemon.last, what="a welcome")
    c.daemon.wait_frame("done", lease=c.daemon.assign(t, "a"))
    n, dropped = len(c.daemon.sessions), now_ms()
    t.drop()
    c.daemon.wait_session(n + 1)
    assert c.daemon.last.frames[0]["ms"] - dropped < 1500, "the pauses are not short again after a welcome"


@behaviour
def waits_for_a_daemon_that_is_not_there(c):
    """Started before the daemon: it waits."""
    c.daemon.stop()
    c.start()
    quiet(1)
    c.lives()
    c.daemon.start()
    c.daemon.wait_frame("done", lease=c.daemon.assign(c.daemon.wait_session(1), "s"))


@behaviour
def sigterm_when_idle(c):
    """bye, exit 0."""
    c.session()
    c.daemon.wait_frame("pong")  # it has seen its welcome
    c.term()
    same("exit status", c.exits(), 0)
    same("bye", len(c.daemon.frames("bye")), 1)


def finishes(c, n_signals):
    s = c.session(credits=4)
    leases = [c.daemon.assign(s, f"s{i}", {"sleep": 1.5}) for i in range(2)]
    for i in range(2):
        c.wait_journal("tick", stream=f"s{i}")
    for _ in range(n_signals):
        c.term()
        quiet(0.15)
    same("credits", c.daemon.wait_frame("credits")["n"], 0)
    late = c.daemon.assign(s, "late", {})  # crossed with credits 0
    same("exit status", c.exits(), 0)
    same("done", sorted(f["lease"] for f in c.daemon.frames("done")), leases)
    same("release", [f["lease"] for f in c.daemon.frames("release")], [late])
    same("the last frame", s.frames[-1]["t"], "bye")
    same("connections", len(c.daemon.sessions), 1)


@behaviour
def sigterm_finishes_then_leaves(c):
    """credits 0, what comes nevertheless is released, work is finished, bye, exit 0."""
    finishes(c, 1)


@behaviour
def sigterm_four_times(c):
    """Four signals change nothing about it."""
    finishes(c, 4)


@behaviour
def sigterm_waits_for_the_ok(c):
    """bye does not come before the last result is confirmed."""
    s = c.session()
    c.daemon.answers = lambda f: False
    lease = c.daemon.assign(s, "s", {"sleep": 0.3})
    c.wait_journal("tick", stream="s")
    c.term()
    c.daemon.wait_frame("done", lease=lease)
    quiet(0.7)
    same("bye", c.daemon.frames("bye"), [])
    c.lives()
    s.send("ok", **{"lease": lease, "for": "done", "outcome": "done"})
    same("exit status", c.exits(), 0)


@behaviour
def sigterm_without_a_connection(c):
    """Told to leave while the daemon is away: it finishes, comes back, tells, and leaves."""
    s = c.session()
    lease = c.daemon.assign(s, "s", {"sleep": 0.8})
    c.wait_journal("tick", stream="s")
    c.daemon.stop()
    c.term()
    c.wait_journal("end", stream="s")
    c.lives()
    c.daemon.start()
    t = c.daemon.wait_session(2)
    same("credits in hello", t.hello["credits"], 0)
    c.daemon.wait_frame("done", lease=lease)
    same("exit status", c.exits(), 0)
    same("the last frame", t.frames[-1]["t"], "bye")


@behaviour
def sigterm_may_give_back(c):
    """Told to (on_term=release), it stops its work at SIGTERM, gives it back uncounted, and leaves."""
    s = c.session(credits=4, on_term="release")
    leases = [c.daemon.assign(s, f"s{i}", {"sleep": 30}) for i in range(2)]
    for i in range(2):
        c.wait_journal("tick", stream=f"s{i}")
    c.term()
    same("exit status", c.exits(), 0)
    same("release", sorted(f["lease"] for f in c.daemon.frames("release")), leases)
    same("the last frame", s.frames[-1]["t"], "bye")
    same("other results", [f for f in s.frames if f["t"] in ("done", "fail", "revoked")], [])


@behaviour
def half_frames(c):
    """Frames come in pieces, several at once, with CR LF, with empty lines; half a frame before the end is none."""
    s = c.session()
    f = {"t": "assign", "lease": "LÜ1", "service": "orders", "stream": "ż日🦀", "id": "1-0", "token": "1" * 19, "retry": 0, "info": {"x": "é"},
         "until_ms": c.daemon.next_until()}
    c.daemon.held["LÜ1"] = f
    with s.lock:  # no ping in the middle of it, however slowly it goes
        for b in (json.dumps(f, ensure_ascii=False) + "\r\n\r\n\n").encode():
            s.raw(bytes([b]))
            time.sleep(0.001)
    c.daemon.wait_frame("done", lease="LÜ1")
    same("stream", c.journal("begin")[0]["stream"], "ż日🦀")
    n, data = 30, b""
    for i in range(n):
        g = {**f, "lease": f"M{i}", "stream": f"m{i}", "until_ms": c.daemon.next_until()}
        c.daemon.held[g["lease"]] = g
        data += json.dumps(g).encode() + b"\n"
    s.raw(data)
    c.wait(lambda: all(f"M{i}" in c.daemon.results for i in range(n)), what="all of one write")
    s.raw(json.dumps({**f, "lease": "H", "stream": "half"}).encode()[:-20])
    quiet(0.1)
    s.drop()
    t = c.daemon.wait_session(2)
    c.daemon.wait_frame("done", lease=c.daemon.assign(t, "whole"))
    same("half", c.journal("begin", stream="half"), [])


@behaviour
def large_frames(c):
    """An assign of almost 1 MiB."""
    s = c.session()
    info = {"text": "x" * 900_000, "n": list(range(5000))}
    lease = c.daemon.assign(s, "big", info)
    c.daemon.wait_frame("done", lease=lease)
    same("info", c.journal("begin")[0]["info"] == info, True)


@behaviour
def deep_info(c):
    """An Info nested 5,000 deep does not end the worker, nor what it does beside."""
    s = c.session()
    good = c.daemon.assign(s, "good", {"sleep": 1})
    c.daemon.held["deep"] = {}
    s.raw(b'{"t":"assign","lease":"deep","service":"orders","stream":"deep","id":"1-1","token":"%s","retry":0,"info":{"a":"}","b":%s1%s},'
          b'"until_ms":%d}\n' % (b"1" * 19, b"[" * 5000, b"]" * 5000, c.daemon.next_until()))
    c.wait(lambda: "deep" in c.daemon.results, what="any result for the deep one")
    c.daemon.wait_frame("done", lease=good)
    same("connections", len(c.daemon.sessions), 1)


@behaviour
def daemon_reads_slowly(c):
    """The daemon does not read while the worker has much to say: revoke and fence hold all the same, and all arrives after."""
    s = c.session(credits=4)
    s.reads = False
    loud = c.daemon.assign(s, "loud", {"progress": 40000, "sleep": 30})
    quick = c.daemon.assign(s, "quick", {"sleep": 0.5})
    c.wait_journal("tick", timeout=20, stream="loud")
    c.wait_journal("end", stream="quick")
    at = now_ms()
    s.send("revoke", lease=loud, reason="operator", grace_ms=1500)
    c.stops_by("loud", at + 1500, "its grace")
    s.reads = True
    c.daemon.wait_frame("done", lease=quick)
    c.daemon.wait_frame("revoked", lease=loud)


def clock_off(c, ms):
    c.daemon.clock_ms = ms
    c.start()
    c.daemon.wait_session(1)
    status = c.exits()
    assert status != 0, "exit status 0"
    assert "clock" in c.err.lower(), f"it does not say why: {c.err[-500:]!r}"
    same("connections", len(c.daemon.sessions), 1)


@behaviour
def clock_of_another_host_ahead(c):
    """now_ms further away than lease_ms: no common clock. Says so and leaves, non-zero."""
    clock_off(c, 1_000_000)


@behaviour
def clock_of_another_host_behind(c):
    """The same the other way."""
    clock_off(c, -1_000_000)


@behaviour
def clock_a_little_off(c):
    """Within lease_ms is good; so is a daemon that does not say now_ms (0.1)."""
    c.daemon.clock_ms = -1500
    s = c.session()
    c.daemon.wait_frame("done", lease=c.daemon.assign(s, "s"))
    c.daemon.welcome = {"now_ms": None}
    s.drop()
    t = c.daemon.wait_session(2)
    c.daemon.wait_frame("done", lease=c.daemon.assign(t, "t"))


@behaviour
def a_welcome_that_comes_late(c):
    """Worker or daemon was stopped for longer than lease_ms between hello and welcome: that is no other clock."""
    c.daemon.late_s = c.daemon.lease_ms / 1000 + 0.5
    s = c.session()
    c.daemon.wait_frame("done", lease=c.daemon.assign(s, "s"))
    same("connections", len(c.daemon.sessions), 1)


@behaviour
def entries_of_an_old_daemon(c):
    """A daemon of 0.1 (its welcome has no now_ms) knows no entries: a worker that wants them says so and leaves, non-zero."""
    c.daemon.welcome = {"now_ms": None, "server": "sluiced"}
    c.start(entries="each")
    c.daemon.wait_session(1)
    assert c.exits() != 0, "exit status 0"
    assert "older than entries" in c.err or "0.2" in c.err, f"it does not say why: {c.err[-500:]!r}"
    same("connections", len(c.daemon.sessions), 1)


@behaviour
def unknown_and_null(c):
    """Unknown frames and fields are ignored; null for an optional field is a field left out."""
    c.daemon.welcome = {"x-new": {"a": [1]}, "resumed": None, "gone": None}
    s = c.session()
    for f in ({"t": "weather", "is": "fine"}, {"t": "pong"}, {"t": "drain", "grace_ms": None, "x": 1}, {"t": "err", "code": "limit", "msg": "x", "lease": None},
              {"t": "err", "code": "brand_new", "msg": "x", "fatal": False}):
        s.send(**f)
    s.send("ping", n=77, until_ms=None, more={"x": []})
    c.daemon.wait_frame("pong", n=77)
    a = c.daemon.assign(s, "a", trace=None, entries=None, more=[1, {"x": None}])
    b = c.daemon.lease()
    s.send("assign", lease=b, service="orders", stream="b", id="2-0", token="2" * 19, retry=0, info=None, until_ms=c.daemon.next_until())
    for x in (a, b):
        c.daemon.wait_frame("done", lease=x)
    lease = c.daemon.assign(s, "r", {"sleep": 20})
    c.wait_journal("tick", stream="r")
    s.send("revoke", lease=lease, reason=None, grace_ms=1000, x=None)
    c.daemon.wait_frame("revoked", lease=lease)
    same("connections", len(c.daemon.sessions), 1)


@behaviour
def refused_results_are_forgotten(c):
    """err not_owner, unknown_lease: the result was not accepted and is not told again; work on it stops."""
    s = c.session()
    c.daemon.answers = lambda f: False
    a = c.daemon.assign(s, "a")
    c.daemon.wait_frame("done", lease=a)
    s.send("err", code="not_owner", msg="not yours", lease=a, fatal=False)
    c.daemon.held.pop(a)
    b = c.daemon.assign(s, "b", {"sleep": 20})
    c.wait_journal("tick", stream="b")
    s.send("err", code="unknown_lease", msg="no such lease", lease=b, fatal=False)
    c.stops_by("b", now_ms() + 700, "it was told that the lease is unknown")
    c.daemon.held.pop(b)
    s.drop()
    t = c.daemon.wait_session(2)
    same("resume", t.hello.get("resume") or [], [])
    c.daemon.answers = lambda f: True
    c.daemon.wait_frame("done", lease=c.daemon.assign(t, "c"))


@behaviour
def cut_off_and_back(c):
    """A fatal err that is about this connection (slow_reader, silent, internal): the worker comes back."""
    s = c.session()
    lease = c.daemon.assign(s, "s", {"sleep": 1.5})
    c.wait_journal("tick", stream="s")
    s.send("err", code="silent", msg="no pong", fatal=True)
    s.drop()
    same("resume", c.daemon.wait_session(2).hello.get("resume"), [lease])
    c.daemon.wait_frame("done", lease=lease)


@behaviour
def said_once_why_there_is_no_session(c):
    """A daemon that turns the worker away again and again (too_many_sessions): one line, not one for each attempt."""
    n = []

    def refuse(s, _f):
        n.append(s)
        s.send("err", code="too_many_sessions", msg="1024 are there", fatal=True)
        time.sleep(0.05)
        s.drop()
    c.daemon.greet = refuse
    c.start()
    c.wait(lambda: len(n) >= 4, what="it tries again")
    del c.daemon.greet
    c.wait(lambda: c.daemon.last.was_welcome, what="it comes in")
    same("lines", len([x for x in c.err.splitlines() if "too_many_sessions" in x]), 1)


@behaviour
def what_is_no_frame_ends_the_connection_only(c):
    """Lines that are no frames (another program at the socket): said once, connected again with growing pauses, work goes on."""
    s = c.session()
    lease = c.daemon.assign(s, "s", {"sleep": 1.5})
    c.wait_journal("tick", stream="s")
    s.raw(b"HTTP/1.1 400 Bad Request\n")
    t = c.daemon.wait_session(2)
    same("resume", t.hello.get("resume"), [lease])
    greet, n = c.daemon.greet, []

    def talk(s, _f):
        n.append(s)
        s.raw([b"[]\n", b"7\n", b'{"t": 1}\n', b"{\n"][len(n) % 4])
    c.daemon.greet = talk
    t.drop()
    c.wait(lambda: len(n) >= 5, what="it tries again")
    c.daemon.greet = greet
    c.daemon.wait_frame("done", lease=lease)
    assert "not the worker protocol" in c.err, c.err[-500:]


@behaviour
def refused_for_good(c):
    """err bad_hello, bad_version, unauthorized: says so and leaves, non-zero."""
    def refuse(s, _f):
        s.send("err", code="unauthorized", msg="uid 1000 may not", fatal=True)
        time.sleep(0.1)
        s.drop()
    c.daemon.greet = refuse
    c.start()
    assert c.exits() != 0, "exit status 0"
    assert "unauthorized" in c.err, c.err[-500:]


@behaviour
def drain_is_no_end(c):
    """drain: what is held is finished, the worker stays; new assigns are worked on (undrain)."""
    s = c.session()
    lease = c.daemon.assign(s, "a", {"sleep": 0.8})
    c.wait_journal("tick", stream="a")
    s.send("drain", grace_ms=60000)
    c.daemon.wait_frame("done", lease=lease)
    quiet(0.3)
    c.lives()
    c.daemon.wait_frame("done", lease=c.daemon.assign(s, "b"))
    same("connections", len(c.daemon.sessions), 1)


# ---- entries mode

from daemon import Feed  # noqa: E402


def rows(n, do=None):
    """n entries; do: {index: instruction}"""
    return [[f"1700000000{i:03}-{i % 3}", ["n", str(i), *(["do", json.dumps(do[i])] if do and i in do else [])]] for i in range(n)]


def feed(c, s, stream, r, **kw):
    lease = c.daemon.assign(s, stream, {}, entries={"pos": "0-0"})
    return Feed(c.daemon, s, lease, r, **kw)


def seen(c, stream, e="entry"):
    return [r["entry"] for r in c.journal(e, stream=stream)]


def ids(r):
    return [x[0] for x in r]


@behaviour
def streams_without_entries_are_given_back_for_long(c):
    """A stream of a service that is not in entries mode comes back after 10 s or more, and one line says so, not one for each."""
    s = c.session(entries="each")
    leases = [c.daemon.assign(s, f"misfit{i}") for i in range(20)]
    for x in leases:
        c.daemon.wait_frame("release", lease=x)
    same("given back for 10 s or more", [f["lease"] for f in c.daemon.frames("release") if f.get("retry_ms", 0) < 10000], [])
    c.wait(lambda: "entries" in c.err, what="a line about it")
    time.sleep(0.2)
    same("lines about it", sum("orders" in line and "entries" in line for line in c.err.splitlines()), 1)


@behaviour
def services_that_are_not_served_are_named_once(c):
    """A worker that takes no entries says which services it gets nothing of, once, however often it is welcome."""
    c.daemon.welcome = {"not_served": ["invoices"]}
    s = c.session()
    c.wait(lambda: "invoices" in c.err, what="a line about it")
    s.drop()
    s = c.daemon.wait_session(2)
    c.daemon.wait_frame("done", lease=c.daemon.assign(s, "s"))
    same("lines about it", sum("invoices" in line and "entries" in line for line in c.err.splitlines()), 1)


@behaviour
def entries_in_order(c):
    """hello says entries; each entry goes to the handler once, in order; the last is acknowledged."""
    s = c.session(entries="each")
    same("entries in hello", s.hello.get("entries"), True)
    r = rows(20)
    f = feed(c, s, "s", r)
    c.wait(lambda: f.pos == 19, what="all acknowledged")
    same("entries", seen(c, "s"), ids(r))
    order = [f.index(x) for x in f.acks]
    same("acks in order", order, sorted(order))
    same("first fields", c.journal("entry")[0]["fields"], [["n", "0"]])


@behaviour
def entries_have_all_fields(c):
    """Order and duplicates are kept; what is not UTF-8 comes as bytes; tries is told; an entry may have many fields."""
    s = c.session(entries="each")
    f = [["a", "1"], ["b", {"bytes": "00ff80"}], ["a", "2"], ["", ""], ["ż🦀", "\n\""], ["do", "{}"]]
    lease = c.daemon.assign(s, "s", {}, entries={"pos": "0-0"})
    c.daemon.entries[lease] = type("F", (), {"on_ack": lambda self, s, f: c.daemon.results.update(acked=f["id"])})()
    flat = ["a", "1", "b", {"b64": "AP+A"}, "a", "2", "", "", "ż🦀", "\n\"", "do", "{}"]
    s.send("entries", lease=lease, e=[["5-1", flat, 2], ["5-2", ["x", "y"]]], more=False)
    c.wait(lambda: c.daemon.results.get("acked") == "5-2", what="the ack")
    a, b = c.journal("entry")
    same("fields", a["fields"], f)
    same("tries", [a["tries"], b["tries"]], [2, 0])


@behaviour
def entries_are_acked_after_the_work(c):
    """An ack covers what the handler has returned from, and nothing else; a slow entry does not keep the others' acks."""
    s = c.session(entries="each")
    r = rows(9, {4: {"sleep": 1.2}})
    f = feed(c, s, "s", r)
    c.wait_journal("tick", stream="s", entry=r[4][0])
    c.wait(lambda: f.pos == 3, timeout=1, what="what comes before the slow entry is acknowledged while it runs")
    quiet(0.3)
    same("position", f.pos, 3)
    c.wait(lambda: f.pos == 8, what="all acknowledged")


@behaviour
def entries_of_two_streams(c):
    """A slow stream does not hold another one up."""
    s = c.session(entries="each")
    slow, quick = feed(c, s, "slow", rows(6, {0: {"sleep": 3}})), feed(c, s, "quick", rows(30))
    c.wait(lambda: quick.pos == 29, timeout=2.5, what="all of the quick stream")
    assert slow.pos == -1
    c.wait(lambda: slow.pos == 5, what="the slow one")


@behaviour
def nack_is_a_barrier(c):
    """A failed entry: nack with its id and reason; frames that come before the nack's ok are void; then it comes again, and what
    is behind it after it."""
    s = c.session(entries="each")
    r = rows(12, {4: {"raise": "not now"}})
    f = feed(c, s, "s", r)
    n = c.daemon.wait_frame("nack")
    same("id", n["id"], r[4][0])
    assert "not now" in n["reason"], n
    s.send("entries", lease=f.lease, e=[[r[7][0], r[7][1]]], more=True)  # was on its way
    c.daemon.wait_frame("nack", 2)
    r[4][1] = ["n", "4"]  # the third time it is good
    c.wait(lambda: f.pos == 11, what="all acknowledged")
    got = seen(c, "s")
    same("entries", got, ids(r[:4]) + [r[4][0]] * len(f.nacks) + ids(r[4:]))
    assert [x["tries"] for x in c.journal("entry", entry=r[4][0])] == list(range(len(f.nacks) + 1))
    same("dead", [x.get("dead") for x in f.nacks if x.get("dead")], [])


@behaviour
def nack_says_dead_and_when(c):
    """dead: it alone goes, the stream goes on. retry_ms is passed on."""
    s = c.session(entries="each")
    r = rows(9, {2: {"fail": "never", "dead": True}, 5: {"fail": "later", "retry_ms": 300}})
    f = feed(c, s, "s", r)
    n = c.daemon.wait_frame("nack", id=r[5][0])
    r[5][1] = ["n", "5"]
    same("retry_ms", n.get("retry_ms"), 300)
    assert not n.get("dead")
    d = c.daemon.wait_frame("nack", id=r[2][0])
    same("dead", (d.get("dead"), d.get("reason")), (True, "never"))
    c.wait(lambda: f.pos == 8, what="all acknowledged")
    same("entries", seen(c, "s"), ids(r[:6]) + ids(r[5:]))


@behaviour
def nack_refused(c):
    """err bad_field about a nack: no answer to it will come, so the stream is given back instead of waiting for ever."""
    s = c.session(entries="each")
    f = feed(c, s, "s", rows(4, {1: {"raise": "x"}}))
    f.answer_nack = lambda s, n: s.send("err", code="bad_field", msg="id: no", lease=n["lease"], fatal=False)
    c.daemon.wait_frame("release", lease=f.lease)


@behaviour
def nack_lost(c):
    """The connection is lost before the nack is answered: after the resume what comes is the continuation."""
    s = c.session(entries="each")
    r = rows(8, {3: {"raise": "x"}})
    f = feed(c, s, "s", r)
    f.answer_nack = lambda *_: None
    c.daemon.wait_frame("nack")
    r[3][1] = ["n", "3"]
    del f.answer_nack
    s.drop()
    c.wait(lambda: f.pos == 7, what="all acknowledged")
    same("entries", seen(c, "s"), ids(r[:4]) + ids(r[3:]))


@behaviour
def entries_again_are_skipped(c):
    """Acks are lost with the connection: after the resume they are told again, and entries that come again are not worked on
    again."""
    s = c.session(entries="each")
    r = rows(12, {5: {"sleep": 1.2}})
    f = feed(c, s, "s", r)
    c.wait(lambda: f.pos >= 2, what="the first acks")
    f.confirms = False
    c.wait_journal("tick", stream="s", entry=r[5][0])
    c.wait(lambda: f.acks[-1] == r[4][0], what="the ack of what is finished")
    n = len(f.acks)
    s.drop()
    f.confirms = True
    t = c.daemon.wait_session(2)
    same("resume", t.hello.get("resume"), [f.lease])
    c.wait(lambda: len(f.acks) > n and f.acks[n] == r[4][0], what="the ack again")
    c.wait(lambda: f.pos == 11, what="all acknowledged")
    same("entries", seen(c, "s"), ids(r))
    assert any(f.given.count(x) > 1 for x in ids(r)), "nothing came again: the test is too weak"


@behaviour
def entries_finished_without_a_connection(c):
    """The whole frame is finished while there is no connection, and comes again as a whole."""
    s = c.session(entries="each")
    r = rows(3, {2: {"sleep": 0.5}})
    f = feed(c, s, "s", r)
    f.confirms = False
    c.wait_journal("tick", stream="s", entry=r[2][0])
    c.daemon.stop()
    c.wait_journal("end", stream="s", entry=r[2][0])
    f.confirms = True
    c.daemon.start()
    c.wait(lambda: f.pos == 2, what="the acks")
    same("entries", seen(c, "s"), ids(r))


@behaviour
def revoke_in_entries_mode(c):
    """What is finished is acknowledged, then revoked is said; nothing begins after."""
    s = c.session(entries="each")
    r = rows(12, {4: {"sleep": 20}})
    f = feed(c, s, "s", r)
    c.wait_journal("tick", stream="s", entry=r[4][0])
    at = now_ms()
    s.send("revoke", lease=f.lease, reason="operator", grace_ms=1000)
    v = c.daemon.wait_frame("revoked", lease=f.lease)
    assert v["ms"] < at + 1000, f"revoked after {v['ms'] - at:.0f} ms"
    mine = [x["t"] for x in s.frames if x.get("lease") == f.lease]
    same("the last two words", mine[-2:], ["ack", "revoked"])
    same("position", f.pos, 3)
    quiet(0.3)
    same("entries", seen(c, "s"), ids(r[:5]))


@behaviour
def fence_in_entries_mode(c):
    """Frozen daemon: entries stop by the fence too."""
    s = c.session(entries="each")
    r = rows(12, {4: {"block": 20}})
    f = feed(c, s, "s", r)
    c.wait_journal("tick", stream="s", entry=r[4][0])
    c.stops_by("s", c.daemon.freeze(), "its fence")
    c.daemon.thaw()
    quiet(0.5)
    same("done", c.daemon.frames("done", lease=f.lease), [])
    same("entries", seen(c, "s"), ids(r[:5]))


@behaviour
def the_worker_ends_a_stream(c):
    """The handler has seen the last entry: it is acknowledged, then done; the credit is used again."""
    s = c.session(credits=1, entries="each")
    r = rows(4, {3: {"done": True}})
    f = feed(c, s, "s", r)
    c.daemon.wait_frame("done", lease=f.lease)
    same("position", f.pos, 3)
    mine = [x["t"] for x in s.frames if x.get("lease") == f.lease]
    same("the last two words", mine[-2:], ["ack", "done"])
    g = feed(c, s, "t", rows(3))
    c.wait(lambda: g.pos == 2, what="the next stream")


@behaviour
def the_daemon_ends_a_stream(c):
    """ended: the lease is over, nothing is said about it; the next one is worked on; it is not resumed."""
    s = c.session(credits=1, entries="each")
    f = feed(c, s, "s", rows(3))
    c.wait(lambda: f.pos == 2, what="all acknowledged")
    c.daemon.held.pop(f.lease)
    c.daemon.ended.add(f.lease)
    s.send("ended", lease=f.lease, outcome="done")
    g = feed(c, s, "s", rows(3))
    c.wait(lambda: g.pos == 2, what="the next run")
    s.drop()
    same("resume", c.daemon.wait_session(2).hello.get("resume"), [g.lease])


@behaviour
def sigterm_in_entries_mode(c):
    """The entry at hand is finished and acknowledged, the stream is given back uncounted, bye, exit 0."""
    s = c.session(entries="each")
    r = rows(60, {i: {"sleep": 0.2} for i in range(60)})
    f, idle = feed(c, s, "s", r), feed(c, s, "idle", rows(2))
    c.wait(lambda: f.pos >= 1 and idle.pos == 1, what="some are acknowledged")
    c.term()
    same("exit status", c.exits(), 0)
    same("the last frame", s.frames[-1]["t"], "bye")
    got = seen(c, "s", "end")
    same("finished and acknowledged", got, ids(r[:f.pos + 1]))
    assert len(got) < 20, "it has not left after what was at hand"
    same("failures", c.daemon.frames("fail") + c.daemon.frames("nack") + c.daemon.frames("done"), [])


@behaviour
def batches_are_acked_as_a_whole(c):
    """entries="batch": the handler gets what came together; all of it is acknowledged when it has returned, nothing before."""
    s = c.session(entries="batch")
    r = rows(12, {4: {"sleep": 0.8}})
    f = feed(c, s, "s", r)
    c.wait_journal("tick", stream="s", entry=r[4][0])
    c.wait(lambda: f.pos == 2, what="the first batch")
    quiet(0.3)
    same("position", f.pos, 2)
    c.wait(lambda: f.pos == 11, what="all acknowledged")
    same("entries", seen(c, "s"), ids(r))


@behaviour
def batches_that_fail(c):
    """An error in a batch is held against its first entry that is not finished: it comes again alone, and so the culprit is found."""
    s = c.session(entries="batch")
    r = rows(12, {4: {"raise": "x"}})
    f = feed(c, s, "s", r)
    c.wait(lambda: sum(n["id"] == r[4][0] for n in f.nacks) >= 2, what="the culprit is found")
    r[4][1] = ["n", "4"]
    c.wait(lambda: f.pos == 11, what="all acknowledged")
    same("nacks of others", [n["id"] for n in f.nacks if n["id"] != r[4][0]], [r[3][0]])
    same("finished", [x for x in seen(c, "s", "end") if x != r[3][0]], [x for x in ids(r) if x != r[3][0]])


@behaviour
def acks_of_other_entries_change_nothing(c):
    """In a batch: an ack of an id that is none of this call's, or is no id, or lies behind the last one, is not told, and nothing
    counts as finished by it; neither does an error in the call."""
    s = c.session(entries="batch")
    r = rows(12)
    r[2][1] += ["do", json.dumps({"ack": ["9999999999999-0", "no id", r[5][0], r[1][0], r[0][0], "", "1-0"], "raise": "x"})]
    r[7][1] += ["do", json.dumps({"ack": [r[6][0], r[11][0]], "raise": "y"})]
    f = feed(c, s, "s", r)
    c.daemon.wait_frame("nack")
    same("acks", [x for x in f.acks if x not in (r[0][0], r[1][0])], [])
    r[2][1] = ["n", "2"]
    c.daemon.wait_frame("nack", id=r[7][0])
    same("position", f.pos, 6)
    r[7][1] = ["n", "7"]
    c.wait(lambda: f.pos == 11, what="all acknowledged")
    same("nacks", {n["id"] for n in f.nacks}, {r[2][0], r[7][0]})
    same("finished", set(seen(c, "s", "end")), set(ids(r)))


@behaviour
def batches_are_given_up_at_revoke(c):
    """A batch that is stopped in the middle is not acknowledged."""
    s = c.session(entries="batch")
    r = rows(6, {4: {"sleep": 20}})
    f = feed(c, s, "s", r)
    c.wait_journal("tick", stream="s", entry=r[4][0])
    s.send("revoke", lease=f.lease, reason="operator", grace_ms=1000)
    c.daemon.wait_frame("revoked", lease=f.lease)
    same("position", f.pos, 2)
    assert r[5][0] not in seen(c, "s")
