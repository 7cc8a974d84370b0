"""explain finds what no load-balancer stream names: what was put aside for later, and the dead letters of a stream's entries."""
from lib.case import limit
from lib.entries import add, entries, hand, lbs

issue = 5


@limit(60)
def test_explain_of_what_nobody_holds(t):
    r = t.redis()
    d = t.daemon(r, services=("plain", "orders"), service=entries())
    d.ctl_ok("add", "orders", "many", "--count", "300", "--in", "1h")
    d.ctl_ok("add", "orders", "later", "--in", "2h")
    x, = d.json("explain", "later")
    assert (x["service"], x["state"], x["running"]) == ("orders", "delayed", False) and "due in 119 min" in x["because"][0], x
    assert any("no worker has connected since the daemon started" in w for w in x["because"]), x
    assert x["advice"].startswith("sluicectl delayed now orders later")
    assert d.json("explain", "later", "--service", "orders") and d.ctl("explain", "later", "--service", "plain").returncode == 1
    h = hand(t, d)
    ids = add(r.db, "bad", 2)
    lbs(r.db, "orders", "bad")
    a = h.assign()
    h.ids(2)
    h.nack(a["lease"], ids[0], dead=True, reason="no good")
    h.ids(1)
    h.ack(a["lease"], ids[1])
    h.done(a["lease"])
    x, = d.json("explain", "bad")
    assert x["state"] == "dead" and f"1 of its entries is a dead letter in orders-entries-dlq, the last one {ids[0]}" in x["because"][0], x
    assert x["because"][0].endswith("rejected") and x["advice"] == "sluicectl entries-dlq show orders --stream bad"
    h.close()
    lbs(r.db, "orders", "waits")
    t.wait(lambda: "the last worker went" in d.ctl_ok("explain", "waits"), 10, "who is missing, and for how long")
    no = d.ctl("explain", "never-heard-of")
    assert (no.returncode, no.stdout) == (1, "") and "was never added" in no.stderr


@limit(30)
def test_explain_of_what_waits_for_a_worker_that_takes_nothing(t):
    """sluice-run does so while its command cannot be started: more workers would not help."""
    r = t.redis()
    d = t.daemon(r, service=entries())
    hand(t, d, credits=0)
    lbs(r.db, "orders", "waits")
    why = d.ctl_ok("explain", "waits")
    assert "1 worker of orders takes no work now: credits=0" in why and "start more workers" not in why, why
