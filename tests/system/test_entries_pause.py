"""Entries mode: the pause before an entry's next try is kept in Redis, whoever has its stream then."""
import time

from lib.case import limit
from lib.entries import add, entries, hand, lbs, position

issue = 16


def waits(db, stream):
    """Seconds until the next try, by the position."""
    return int(position(db, stream)["not_before"]) / 1000 - time.time()


@limit(90)
def test_a_pause_outlives_workers_and_daemons_and_costs_no_credit(t):
    r = t.redis()
    d = t.daemon(r, T=3, service=entries(retry={"initial": "6s", "jitter": "0%"}))
    ids = add(r.db, "orders:k", 3)
    lbs(r.db, "orders", "orders:k")
    h = hand(t, d)
    a = h.assign()
    h.ids(3)
    assert h.nack(a["lease"], ids[1], reason="no good")["retry_ms"] == 6000
    over = time.time() + waits(r.db, "orders:k")
    assert 4 < over - time.time() <= 6.1
    h.send(t="bye")  # its worker leaves, …
    t.wait(lambda: not d.json("ls"), 10, "the stream to go back")
    d.kill()  # … its daemon is killed, the next one is restarted
    d.start()
    assert d.stop() == 0
    d.start()
    h = hand(t, d)
    t.wait(lambda: f"entry {ids[1]} failed 1 of 4 times" in d.ctl("explain", "orders:k").stdout, 10, "why it waits")
    lbs(r.db, "orders", "orders:other")
    b = h.assign(stream="orders:other")  # by the only credit
    h.done(b["lease"])
    e, = h.ids(1)
    assert e[0] == ids[1] and e[2] == 1, e
    assert time.time() > over - 0.1, "it came too early"
    a = h.assign(stream="orders:k")
    h.ack(a["lease"], ids[1])
    assert "not_before" not in position(r.db, "orders:k")
    assert [e[0] for e in h.ids(1)] == ids[2:]
    assert h.nack(a["lease"], ids[2], retry_ms=1500)["retry_ms"] == 1500
    over = time.time() + waits(r.db, "orders:k")
    h.send(t="bye")  # and a short one is waited for with the stream
    h = hand(t, d)
    h.assign(stream="orders:k")
    row, = d.json("ls", "--state", "blocked")
    assert row["tries"] == 1, row
    assert h.ids(1)[0][0] == ids[2] and time.time() > over - 0.1


@limit(60)
def test_an_owners_death_within_the_pause_counts_no_try_and_keeps_it(t):
    """The entry that waits is all that its daemon had, and nobody was at work on it."""
    r = t.redis()
    service = entries(retry={"initial": "300ms", "jitter": "0%"})
    d = t.daemon(r, name="a", T=3, service=service)
    ids = add(r.db, "orders:k", 3)
    lbs(r.db, "orders", "orders:k")
    h = hand(t, d)
    a = h.assign()
    h.ids(3)
    h.nack(a["lease"], ids[0], retry_ms=10000)
    over = time.time() + waits(r.db, "orders:k")
    d.kill()
    d = t.daemon(r, name="b", T=3, service=service)
    h = hand(t, d)
    (id, _, tries), = h.ids(1, timeout=30)
    assert (id, tries) == (ids[0], 1), "it was tried once"
    assert time.time() > over - 0.1, "it came too early"


@limit(60)
def test_a_workers_death_has_a_pause_like_a_failure(t):
    r = t.redis()
    d = t.daemon(r, T=3, service=entries(retry={"initial": "1500ms", "jitter": "0%"}))
    ids = add(r.db, "orders:k", 1)
    lbs(r.db, "orders", "orders:k")
    h = hand(t, d)
    h.assign()
    h.ids(1)
    h.close()  # without a word
    h = hand(t, d)
    h.until("assign", timeout=20)
    assert position(r.db, "orders:k")["tries"] == "1" and waits(r.db, "orders:k") > 0
    over = time.time() + waits(r.db, "orders:k")
    e, = h.ids(1)
    assert e[0] == ids[0] and e[2] == 1 and time.time() > over - 0.1


@limit(60)
def test_what_waits_with_its_worker_is_listed(t):
    """By the daemon that has it, soonest first, before what is in Redis' own set."""
    r = t.redis()
    d = t.daemon(r, service=entries())
    d.ctl_ok("add", "orders", "later", "--in", "1h")
    h = hand(t, d, credits=3)
    for n, wait_s in (("orders:a", 60), ("orders:b", 30)):
        ids = add(r.db, n, 2)
        lbs(r.db, "orders", n)
        x = h.assign(stream=n)
        h.ids(2)
        h.nack(x["lease"], ids[0], retry_ms=1000 * wait_s, reason=f"no {n}")
    b, a, later = d.json("delayed", "ls")
    assert [(x["stream"], x["state"], x["reason"], x["retry"], x["error"]) for x in (b, a)] == [
        ("orders:b", "blocked", "fail", 1, "no orders:b"), ("orders:a", "blocked", "fail", 1, "no orders:a")], (b, a)
    assert 25000 < b["due_ms"] <= 30000 and 25 < b["at_ms"] / 1000 - time.time() <= 30.1 and later["stream"] == "later", b
    assert [x["stream"] for x in d.json("ls", "--waiting")] == ["orders:b", "orders:a", "later"]
    assert [x["stream"] for x in d.json("delayed", "ls", "orders", "--stream", "orders:a")] == ["orders:a"]
    assert [x["stream"] for x in d.json("delayed", "ls", "--limit", "1")] == ["orders:b"]
    d.ctl_ok("delayed", "now", "orders", "orders:b")
    h.ids(1)
    assert [x["stream"] for x in d.json("delayed", "ls")] == ["orders:a", "later"]


@limit(60)
def test_delayed_now_resumes_a_stream_that_waits_with_its_worker(t):
    r = t.redis()
    d = t.daemon(r, service=entries(retry={"initial": "2m", "jitter": "0%"}))
    h = hand(t, d, credits=2)
    for s in ("orders:k", "orders:other"):
        ids = add(r.db, s, 2)
        lbs(r.db, "orders", s)
        a = h.assign(stream=s)
        h.ids(2)
        h.nack(a["lease"], ids[0], reason="no database")
    assert [x["result"] for x in d.json("delayed", "now", "orders:k", "--dry-run")] == ["would_resume"]
    assert [(x["stream"], x["result"]) for x in d.json("delayed", "now", "orders", "orders:k")] == [("orders:k", "resumed")]
    e, = h.ids(1)
    assert e[2] == 1  # its tries are kept
    assert d.ctl("delayed", "now", "orders", "orders:k").returncode == 1  # it does not wait any more
    assert [x["stream"] for x in d.json("delayed", "now", "orders")] == ["orders:other"]
    h.ids(1)


@limit(60)
def test_delayed_now_finds_a_pause_whose_stream_nobody_has(t):
    r = t.redis()
    d = t.daemon(r, service=entries(retry={"initial": "2m", "jitter": "0%"}))
    h = hand(t, d)
    bad, = add(r.db, "orders:k")
    lbs(r.db, "orders", "orders:k")
    a = h.assign()
    h.ids(1)
    h.nack(a["lease"], bad, reason="no database")
    h.close()
    t.wait(lambda: not d.json("ls"), 20, "the stream to go back")
    assert waits(r.db, "orders:k") > 60
    assert [x["result"] for x in d.json("delayed", "now", "orders", "orders:k", "--dry-run")] == ["would_resume"]
    assert [(x["stream"], x["result"]) for x in d.json("delayed", "now", "orders", "orders:k")] == [("orders:k", "resumed")]
    assert d.ctl("delayed", "now", "orders", "orders:k").returncode == 1
    h = hand(t, d)
    h.assign(stream="orders:k")
    e, = h.ids(1)
    assert (e[0], e[2]) == (bad, 1), e


@limit(60)
def test_delayed_now_ends_the_pause_of_the_entry_too(t):
    for r in (t.redis(), t.cluster()):
        d = t.daemon(r, service=entries(retry={"initial": "2m", "jitter": "0%"}))
        h = hand(t, d, credits=1)
        bad, = add(r.db, "orders:bad")
        lbs(r.db, "orders", "orders:bad")
        a = h.assign(stream="orders:bad")
        h.ids(1)
        h.nack(a["lease"], bad, reason="no database")
        lbs(r.db, "orders", "orders:good")
        h.done(h.assign(stream="orders:good")["lease"])
        assert "1 " in d.ctl_ok("delayed", "now", "orders")
        a = h.assign(stream="orders:bad")
        e, = h.ids(1)
        assert (e[0], e[2]) == (bad, 1), e  # its tries are kept
        h.ack(a["lease"], bad)
        h.close()
        d.stop()


@limit(60)
def test_a_failed_entry_whose_worker_left_has_its_count(t):
    """Given back while it waits: it is the entry that failed, and that is what is said, as while its worker waited with it."""
    r = t.redis()
    d = t.daemon(r, service={**entries(retry={"initial": "1h", "max": "1h", "max_retries": 2}), "retry": {"release_delay": "1h"}})
    id, = add(r.db, "orders:k")
    lbs(r.db, "orders", "orders:k")
    h = hand(t, d)
    a = h.assign()
    h.ids(1)
    h.nack(a["lease"], id, reason="no database", retry_ms=0)
    h.ids(1)
    h.nack(a["lease"], id, reason="exit status 3", retry_ms=3600000)
    blocked, = d.json("delayed", "ls")
    advice = "sluicectl delayed now orders orders:k lets it come back at once"
    assert [x["advice"] for x in d.json("explain", "orders:k")] == [advice]
    h.send(t="release", lease=a["lease"])
    t.wait(lambda: [x["state"] for x in d.json("delayed", "ls")] == ["delayed"], 10, "it is given back")
    assert [x["advice"] for x in d.json("explain", "orders:k")] == [advice], "in the same words"
    row, = d.json("delayed", "ls")
    said = f"entry {id} failed 2 of 3 times: exit status 3"
    assert {**blocked, "reason": "fail", "retry": 2, "error": "exit status 3"} == blocked, blocked
    assert (row["reason"], row["retry"], row["error"]) == ("fail", 2, said), row
    x, = d.json("explain", "orders:k")
    assert x["because"][0].startswith(f"{said}, next try in "), x


@limit(60)
def test_what_failed_before_it_was_given_back_is_said(t):
    r = t.redis()
    d = t.daemon(r, service={"retry": {"initial": 0, "release_delay": "1h"}})
    h = hand(t, d)
    lbs(r.db, "orders", "s")
    h.send(t="fail", lease=h.assign()["lease"])
    a = h.assign()
    h.send(t="release", lease=a["lease"])
    t.wait(lambda: [x["state"] for x in d.json("explain", "s")] == ["delayed"], 10, "given back")
    x, = d.json("explain", "s")
    assert "it failed 1 of 4 times" in x["because"], x


@limit(60)
def test_delayed_drop_names_what_waits_with_its_worker(t):
    """It is listed, and drop does not reach it: that is said, and what gets rid of it does."""
    r = t.redis()
    d = t.daemon(r, service=entries(retry={"initial": "1h", "max": "1h"}))
    h = hand(t, d, credits=2)
    ids = {}
    for k in ("orders:a", "orders:b"):
        ids[k] = add(r.db, k, 2)
        lbs(r.db, "orders", k)
        a = h.assign(stream=k)
        h.ids(2)
        h.nack(a["lease"], ids[k][0], reason="no database", retry_ms=3600000)
    for args in (("orders", "orders:a"), ("orders:a",), ("orders", "orders:a", "--dry-run")):
        no = d.ctl("delayed", "drop", *args)
        assert no.returncode == 1 and f"orders:a waits with its worker for the next try of entry {ids['orders:a'][0]}; drop does not reach it" in no.stderr, no
    no = d.ctl("delayed", "drop", "orders")
    assert no.returncode == 1 and "2 streams wait with their workers for the next try of an entry" in no.stderr, no
    assert [x["state"] for x in d.json("delayed", "ls")] == ["blocked"] * 2
    d.ctl_ok("add", "orders", "orders:other", "--in", "1h")
    assert [x["result"] for x in d.json("delayed", "drop", "orders", "orders:other")] == ["dropped"]
    assert f"XDEL orders:a {ids['orders:a'][0]} gives that entry up" in d.ctl("delayed", "drop", "orders:a").stderr
    r.db.cmd("XDEL", "orders:a", ids["orders:a"][0])
    d.ctl_ok("delayed", "now", "orders", "orders:a")
    assert h.ids(1)[0][0] == ids["orders:a"][1], "its next one"
