"""Entries mode: streams that have no entry for their worker give up their credit while others wait for one."""
import time

from lib.case import limit
from lib.entries import add, entries, hand, lbs
from lib.maintenance import metric

issue = 16


@limit(60)
def test_a_fresh_key_does_not_wait_for_runs_that_found_nothing(t):
    r = t.redis()
    d = t.daemon(r, service={"same_stream": "coalesce", **entries(idle_release="10m")})
    h = hand(t, d, credits=3)
    for k in ("orders:busy", "orders:told", "orders:empty"):
        lbs(r.db, "orders", k)
    leases = {a["stream"]: a["lease"] for a in (h.assign(), h.assign(), h.assign())}
    out, = add(r.db, "orders:busy")  # stays with its worker
    told, = add(r.db, "orders:told")
    h.until("entries", lease=leases["orders:busy"])
    h.until("entries", lease=leases["orders:told"])
    h.ack(leases["orders:told"], told)
    t.wait(lambda: metric(d, "sluice_streams_idle") == 2, 10, "the gauge")
    assert "3 assigned, 2 of them idle" in d.ctl_ok("status"), d.ctl_ok("status")
    assert metric(d, "sluice_feed_yields_total") == 0
    assert d.json("explain", "orders:told")[0]["next"] == (
        "it gives the credit of its worker back when it was empty for 10 min (idle_release), sooner when another stream waits for one")
    for _ in range(120):  # more than a page: merged, so that what is behind is seen
        lbs(r.db, "orders", "orders:busy")
    began = time.monotonic()
    fresh = [add(r.db, k)[0] for k in ("orders:new1", "orders:new2")]
    lbs(r.db, "orders", "orders:new1")
    lbs(r.db, "orders", "orders:new2")
    ended = {h.until("ended")["lease"] for _ in fresh}
    assert ended == {leases["orders:told"], leases["orders:empty"]}, (ended, leases)
    assert {h.assign()["stream"] for _ in fresh} == {"orders:new1", "orders:new2"}
    assert {h.until("entries")["e"][0][0] for _ in fresh} == set(fresh)
    assert time.monotonic() - began < 10  # some 0.6 s; without it ten minutes
    t.wait(lambda: metric(d, "sluice_feed_yields_total") == 2, 10, "they are counted")
    t.wait(lambda: metric(d, "sluice_entries_merged_total") == 120, 10, "merged, though no credit was free")
    h.ack(leases["orders:busy"], out)


@limit(60)
def test_with_idle_release_0_the_worker_alone_ends_a_stream(t):
    r = t.redis()
    d = t.daemon(r, service=entries())
    h = hand(t, d)
    lbs(r.db, "orders", "orders:a")
    h.assign(stream="orders:a")
    t.wait(lambda: d.json("explain", "orders:a")[0].get("next") == "it keeps a credit of its worker until that says done "
           "(idle_release is 0)", 10, "what it keeps")
    lbs(r.db, "orders", "orders:b")
    t.wait(lambda: "1 stream in work, 1 of them idle and no credit is free" in d.ctl("explain", "orders:b").stdout, 10, "why it waits")
    assert "idle_release" in d.json("explain", "orders:b")[0]["advice"]
    h.quiet("ended", 0.8)
    assert metric(d, "sluice_feed_yields_total") == 0


@limit(60)
def test_a_stream_that_waits_for_its_next_try_lends_its_credit(t):
    r = t.redis()
    d = t.daemon(r, service=entries(retry={"initial": "5s", "jitter": "0%"}))
    h = hand(t, d, credits=1)
    bad, behind = add(r.db, "orders:bad", 2)
    lbs(r.db, "orders", "orders:bad")
    a = h.assign(stream="orders:bad")
    h.ids(2)
    began = time.monotonic()
    assert h.nack(a["lease"], bad, reason="no database")["outcome"] == "waits"
    good = [f"orders:good{i}" for i in range(5)]
    for k in good:
        add(r.db, k)
        lbs(r.db, "orders", k)
    ended = h.until("ended")
    assert (ended["lease"], ended["outcome"]) == (a["lease"], "requeued"), ended
    t.wait(lambda: f"entry {bad} failed 1 of 4 times: no database" in d.ctl("explain", "orders:bad").stdout, 10, "why it waits")
    for _ in good:  # one after the other, by the only credit
        b = h.assign()
        assert b["stream"] in good, b
        e, = h.ids(1)
        h.ack(b["lease"], e[0])
        h.done(b["lease"])
    assert time.monotonic() - began < 5, "they waited for the bad one"
    again = h.assign(stream="orders:bad")
    assert time.monotonic() - began > 4.9, "before its time"
    e, = h.ids(1)
    assert (e[0], e[2]) == (bad, 1), e
    h.ack(again["lease"], bad)
    assert [e[0] for e in h.ids(1)] == [behind]
    assert metric(d, "sluice_feed_yields_total") == 1


@limit(60)
def test_many_keys_go_through_few_credits_without_waiting_for_idle_release(t):
    r = t.redis()
    d = t.daemon(r, service={"same_stream": "coalesce", **entries(idle_release="10s")})
    h = hand(t, d, credits=1)
    keys = [f"orders:{i}" for i in range(60)]
    for k in keys:
        add(r.db, k)
        lbs(r.db, "orders", k)
    began = time.monotonic()
    for k in keys:
        a = h.assign()
        assert a["stream"] == k, a
        h.ack(a["lease"], h.ids(1)[0][0])
    assert time.monotonic() - began < 30  # some 0.6 s; by idle_release ten minutes


@limit(60)
def test_idle_keys_of_another_service_give_up_their_credits(t):
    """Of one worker, or of several that take both."""
    r = t.redis()
    d = t.daemon(r, services=("orders", "bills"), service={"same_stream": "coalesce", **entries(idle_release="60s")})
    h = hand(t, d, credits=2)
    for k in ("bills:0", "bills:1"):
        add(r.db, k)
        lbs(r.db, "bills", k)
        a = h.assign()
        assert a["stream"] == k, a
        h.ack(a["lease"], h.ids(1)[0][0])
    time.sleep(0.5)
    for k in ("orders:0", "orders:1"):
        add(r.db, k)
        lbs(r.db, "orders", k)
    assert {h.assign()["stream"], h.assign()["stream"]} == {"orders:0", "orders:1"}


@limit(60)
def test_idle_keys_give_up_their_credits_to_a_service_without_entries_mode(t):
    r = t.redis()
    keys = {"name": "keys", "same_stream": "coalesce", **entries(idle_release="60s")}
    d = t.daemon(r, cfg={"services": [{"name": "jobs"}, keys]})
    h = hand(t, d, credits=2)
    for k in ("keys:0", "keys:1"):
        add(r.db, k)
        lbs(r.db, "keys", k)
        a = h.assign(stream=k)
        h.ack(a["lease"], h.ids(1)[0][0])
    time.sleep(0.5)
    assert metric(d, "sluice_feed_yields_total", service="keys") == 0
    for k in ("jobs:0", "jobs:1"):
        lbs(r.db, "jobs", k)
    assert {h.assign()["stream"], h.assign()["stream"]} == {"jobs:0", "jobs:1"}


@limit(60)
def test_a_worker_that_connects_to_a_backlog_goes_through_it_at_once(t):
    """The first look at who waits does not come with the tick of a second that tells the fleet."""
    r = t.redis()
    d = t.daemon(r, service={"same_stream": "coalesce", **entries(idle_release="60s")})
    waited = 0
    for n in range(6):
        first, second = f"orders:{n}:first", f"orders:{n}:second"
        for k in (first, second):
            add(r.db, k)
            lbs(r.db, "orders", k)
        time.sleep(1.1 + 0.15 * n)  # nobody is there, and that is known
        h = hand(t, d, credits=1)
        a = h.assign(stream=first)
        h.ack(a["lease"], h.ids(1)[0][0])
        began = time.monotonic()
        a = h.assign(stream=second)
        waited += time.monotonic() - began
        h.ack(a["lease"], h.ids(1)[0][0])
        h.send(t="done", lease=a["lease"])
        h.until("ok", **{"for": "done"})
        h.close()
        t.wait(lambda: metric(d, "sluice_workers") == 0, 10, "it has gone")
    assert waited < 1.2, waited  # some 0.2 s; by the tick 3 s


@limit(60)
def test_a_worker_may_let_go_of_what_ends_in_the_same_moment(t):
    """It is told to leave while the daemon ends a stream that is empty: its word is answered, whichever it says, and it is no
    result that was lost."""
    r = t.redis()
    d = t.daemon(r, service={"same_stream": "coalesce", **entries(idle_release="100ms")})
    h = hand(t, d)
    for word in ("done", "release"):
        id, = add(r.db, "orders:k")
        lbs(r.db, "orders", "orders:k")
        a = h.assign()
        h.ids(1)
        h.ack(a["lease"], id)
        h.until("ended", lease=a["lease"])
        h.send(t=word, lease=a["lease"])
        assert h.raw_ok(a["lease"], word)["lease"] == a["lease"]
    assert not [f for f in h.kept if f["t"] == "err"], h.kept
    assert not d.json("ls") and r.db.cmd("HLEN", "{orders-input}-active") == 0
