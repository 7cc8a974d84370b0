"""explain finds what no load-balancer stream names: what was put aside for later, and the dead letters of a stream's entries."""
import shlex

from lib import acl
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


def empty_run(t, d, h, db):
    lbs(db, "orders", "orders:empty")
    h.done(h.assign(stream="orders:empty")["lease"])
    t.wait(lambda: not d.json("ls"), 10, "it has ended")
    return d.ctl("explain", "orders:empty").stderr


@limit(60)
def test_explain_of_unread_entries_claims_no_more_than_it_knows(t):
    r = t.redis()
    d = t.daemon(r, services=("plain", "orders"), service=entries())
    add(r.db, "whose")
    x, = d.json("explain", "whose")
    assert (x["state"], x["service"], x["advice"]) == ("unnamed", "", "sluicectl add <service> whose"), x
    assert d.ctl_ok("explain", "whose").startswith(f"whose (its entry {x['id']}): unnamed"), x
    x, = d.json("explain", "whose", "--service", "orders")
    assert (x["service"], x["advice"]) == ("orders", "sluicectl add orders whose"), x
    d.ctl_ok("add", "orders", "whose", "--in", "1h")
    x, = d.json("explain", "whose")
    assert x["state"] == "delayed", x
    d.cfg["services"] = [{"name": "leases"}, {"name": "orders", **entries(start="$")}]
    d.write()
    assert d.stop() == 0
    d.start()
    add(r.db, "a-leases-own")  # it has no position, and would have none when its work is done
    x, = d.json("explain", "a-leases-own")
    assert x["state"] == "unnamed" and not x["advice"] and any("may have finished it" in w for w in x["because"]), x
    x, = d.json("explain", "a-leases-own", "--service", "orders")
    assert x["state"] == "unnamed" and not x["advice"] and any("entries.start $" in w for w in x["because"]), x


@limit(60)
def test_explain_of_a_stream_whose_entries_nobody_has_named(t):
    """The commonest mistake of a producer: the entry without the name, or the name first."""
    acl.switch_on()
    for r in (t.redis(), t.cluster()):
        d = t.daemon(r, service=entries())
        db = r.db
        h = hand(t, d)
        first, = add(db, "orders:new")
        x, = d.json("explain", "orders:new")
        assert (x["state"], x["id"], x["service"]) == ("unnamed", first, "orders"), x
        assert "no entry of orders-input names it" in x["because"][0] and "its first entry is" in x["because"][0], x
        assert x["advice"] == "sluicectl add orders orders:new", x
        d.ctl_ok("add", "orders", "orders:new")
        a = h.assign(stream="orders:new")
        h.ids(1)
        h.ack(a["lease"], first)
        h.done(a["lease"])
        t.wait(lambda: f"orders:new has finished: nothing in it is behind its position {first}" in d.ctl("explain", "orders:new").stderr, 10, "it has ended")
        second, = add(db, "orders:new")
        x, = d.json("explain", "orders:new")
        assert (x["state"], x["id"]) == ("unnamed", second) and f"it is up to {first}" in x["because"][0], x
        assert "its last run found nothing in it" in empty_run(t, d, h, db)
        no = d.ctl("explain", "orders-input")
        assert no.returncode == 1 and "orders-input is the load-balancer stream of service orders, not a data stream" in no.stderr, no
        db.cmd("SET", "orders:text", "no stream")
        no = d.ctl("explain", "orders:text")
        assert no.returncode == 1 and "WRONGTYPE" in no.stderr, no
        h.close()
        d.stop()


@limit(60)
def test_what_explain_advises_is_a_command_whatever_the_name(t):
    """Names are a producer's: pasted into a shell, each is one word."""
    r = t.redis()
    d = t.daemon(r, service=entries(retry={"initial": "5m", "factor": 1}))
    h = hand(t, d)
    for name in ("{a} b", "it's", "$(touch x);", "*", "\"", "x" * 299, "'" * 300):
        add(r.db, name, 2)
        assert shlex.split(d.json("explain", name)[0]["advice"]) == ["sluicectl", "add", "orders", name]
        lbs(r.db, "orders", name)
        a = h.assign(stream=name)
        ids = [e[0] for e in h.ids(2)]
        h.nack(a["lease"], ids[0], dead=True)
        h.ids(1)
        told = shlex.split(d.json("explain", name)[0]["advice"])
        assert told == ["sluicectl", "entries-dlq", "show", "orders", "--stream", name], told
        assert len(d.json(*told[1:])) == 1
        h.nack(a["lease"], ids[1])
        told = shlex.split(d.json("explain", name)[0]["advice"])
        assert told[:5] == ["sluicectl", "delayed", "now", "orders", name], told
        d.ctl_ok(*told[1:5])
        h.ids(1)
        h.ack(a["lease"], ids[1])
        h.done(a["lease"])
        told = shlex.split(d.json("explain", name)[0]["advice"])
        assert told == ["sluicectl", "entries-dlq", "show", "orders", "--stream", name], told


def with_dead_letter(t, r, d):
    """A stream of which one entry died, its run over, and another entry behind it that nobody has named; and that one's id."""
    h = hand(t, d)
    bad, = add(r.db, "orders:half")
    lbs(r.db, "orders", "orders:half")
    a = h.assign()
    h.ids(1)
    h.nack(a["lease"], bad, dead=True, reason="no good")
    h.done(a["lease"])
    t.wait(lambda: not d.json("ls"), 10, "it has ended")
    h.close()
    return add(r.db, "orders:half")[0]


@limit(60)
def test_a_dead_letter_hides_nothing_of_its_stream(t):
    """What is unread in it, and what it waits for: whatever else is known of the stream, its dead letters are said, too."""
    acl.switch_on()
    for r in (t.redis(), t.cluster()):
        d = t.daemon(r, service=entries())
        unread = with_dead_letter(t, r, d)
        letters = "1 of its entries is a dead letter in orders-entries-dlq"
        dead, unnamed = d.json("explain", "orders:half")
        assert dead["state"] == "dead" and dead["because"][0].startswith(f"nobody runs it; {letters}"), dead
        said = d.ctl_ok("explain", "orders:half")
        assert f"orders:half (orders, dead letter {dead['id']}): dead, it does not run\n" in said, said
        assert f"orders:half (orders, its entry {unread}): unnamed, it does not run\n" in said, said
        assert d.json("entries-dlq", "ls", "orders")[0]["id"] == dead["id"]
        t.wait(lambda: "orders: 1 dead entry\n" in d.ctl_ok("status"), 10, "one is one")
        assert (unnamed["state"], unnamed["id"], unnamed["advice"]) == ("unnamed", unread, "sluicectl add orders orders:half"), unnamed
        d.ctl_ok("add", "orders", "orders:half", "--in", "1h")
        delayed, dead = d.json("explain", "orders:half")
        assert delayed["state"] == "delayed" and dead["state"] == "dead" and dead["because"][0].startswith(letters), (delayed, dead)
        d.ctl_ok("delayed", "drop", "orders", "orders:half")
        assert [x["state"] for x in d.json("explain", "orders:half")] == ["dead", "unnamed"]
        lbs(r.db, "orders", "orders:half")
        waiting, dead = d.json("explain", "orders:half")
        assert waiting["state"] == "waiting" and dead["because"][0].startswith(letters), (waiting, dead)
        assert [x["state"] for x in d.json("explain", waiting["id"])] == ["waiting"], "one entry was asked for"
        h = hand(t, d)
        h.send(t="release", lease=h.assign()["lease"], retry_ms=3600000)
        t.wait(lambda: [x["state"] for x in d.json("explain", "orders:half")] == ["delayed", "dead"], 10, "given back by its worker")
        h.close()
        d.stop()


@limit(60)
def test_a_dead_letter_of_the_service_hides_no_unread_entries(t):
    """The run of a stream became a dead letter: what is in the stream is still there."""
    r = t.redis()
    d = t.daemon(r, service={**entries(), "retry": {"max_retries": 0}})
    h = hand(t, d)
    id, = add(r.db, "orders:half")
    lbs(r.db, "orders", "orders:half")
    h.send(t="fail", lease=h.assign()["lease"], reason="broken")
    t.wait(lambda: [x["state"] for x in d.json("explain", "orders:half")] == ["dead", "unnamed"], 10, "both are said")
    dead, unnamed = d.json("explain", "orders:half")
    assert dead["advice"].startswith("sluicectl dlq replay orders --id") and unnamed["id"] == id, (dead, unnamed)


@limit(60)
def test_explain_of_what_waits_says_what_to_do(t):
    """Whichever way it came to wait: failed or given back by its worker, with entries or without."""
    r = t.redis()
    d = t.daemon(r, services=("plain", "orders"), service={"retry": {"initial": "1h", "max": "1h"}})
    d.cfg["services"][1].update({"same_stream": "serialize", **entries()})
    d.write()
    assert d.stop() == 0
    d.start()
    h = hand(t, d, credits=3)
    for service, stream, how in (("plain", "p:failed", {"t": "fail"}), ("plain", "p:back", {"t": "release", "retry_ms": 3600000}),
                                 ("orders", "o:back", {"t": "release", "retry_ms": 3600000})):
        lbs(r.db, service, stream)
        h.send(lease=h.assign(stream=stream)["lease"], **how)
        t.wait(lambda: [(x["state"], x["advice"]) for x in d.json("explain", stream)] ==
               [("delayed", f"sluicectl delayed now {service} {stream} lets it come back at once")], 10, stream)
        x, = d.json("explain", d.json("explain", stream)[0]["id"])
        assert x["advice"] == f"sluicectl delayed now {service} {stream} lets it come back at once", "also when its id was asked for"


@limit(60)
def test_a_stream_that_was_flushed_while_it_ran_has_not_finished(t):
    """Its entries are gone: that is said, and the position that its last words wrote does not stay for ever."""
    r = t.redis()
    for acks in (False, True):  # before the daemon has seen that its entry is pending no more
        d = t.daemon(r, name=f"d{acks}", T=3, service={"same_stream": "coalesce", **entries()})
        h = hand(t, d)
        id, = add(r.db, "orders:f")
        lbs(r.db, "orders", "orders:f")
        a = h.assign()
        h.ids(1)
        r.db.cmd("FLUSHALL")
        t.wait(lambda: r.db.cmd("EXISTS", "{orders:f}-sluice"), 5, "it was opened again")
        if acks:
            h.ack(a["lease"], id)
        h.until("revoke", lease=a["lease"])
        h.send(t="revoked", lease=a["lease"])
        t.wait(lambda: not d.json("ls"), 10, "it is given up")
        t.wait(lambda: r.db.cmd("PTTL", "{orders:f}-sluice") > 0, 5, "a position of nothing goes with its time")
        no = d.ctl("explain", "orders:f")
        assert no.returncode == 1 and "the consumer group of orders-input was found gone since" in no.stderr and "finished" not in no.stderr, no
        id, = add(r.db, "orders:later")
        lbs(r.db, "orders", "orders:later")
        a = h.assign()
        h.ids(1)
        h.ack(a["lease"], id)
        h.done(a["lease"])
        t.wait(lambda: "orders:later has finished: nothing in it is behind" in d.ctl("explain", "orders:later").stderr, 10, "after all that")
        h.close()
        d.stop()
        r.db.cmd("FLUSHALL")


@limit(60)
def test_a_position_that_says_something_is_kept(t):
    """Given back before its first entry was acknowledged: what was tried is not forgotten, nor is the end that "$" began at."""
    r = t.redis()
    for start in ("0", "$"):
        d = t.daemon(r, name="n" + start.replace("$", "e"), service={"same_stream": "coalesce", "retry": {"release_delay": "1h"},
                                                                       **entries(start=start, retry={"initial": "1h", "max": "1h"})})
        h = hand(t, d)
        key = f"orders:{d.name}"
        if start == "0":
            id, = add(r.db, key)
        lbs(r.db, "orders", key)
        a = h.assign()
        if start == "0":
            h.ids(1)
            h.nack(a["lease"], id, reason="no database")
        h.send(t="release", lease=a["lease"])
        t.wait(lambda: not d.json("ls"), 10, "it is given back")
        assert r.db.cmd("PTTL", "{%s}-sluice" % key) == -1, start
        h.close()
        d.stop()


@limit(60)
def test_what_waits_with_its_worker_tells_of_its_dead_letters(t):
    r = t.redis()
    d = t.daemon(r, service=entries())
    h = hand(t, d)
    ids = add(r.db, "orders:k", 2)
    lbs(r.db, "orders", "orders:k")
    a = h.assign()
    h.ids(2)
    h.nack(a["lease"], ids[0], reason="no good", dead=True)
    h.nack(a["lease"], h.ids(1)[0][0], reason="no database", retry_ms=3600000)
    x, = d.json("explain", "orders:k")
    said = f"1 of its entries became a dead letter since it is here, the last one {ids[0]}"
    assert x["state"] == "blocked" and said in x["because"] and any("no database" in w for w in x["because"]), x
    assert x["advice"].startswith("sluicectl delayed now orders orders:k"), x
