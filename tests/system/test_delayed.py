"""delayed ls, now, drop and ls --waiting: what waits in Redis, for how long and why, and an operator's word on it."""
import json
import time

from lib import checks
from lib.case import limit
from lib.checks import Added
from lib.worker import Raw

issue = 14
DELAYED, DATA, PARKED = "{orders-input}-delayed", "{orders-input}-delayed-data", "{orders-input}-parked"
LATER = {"retry": {"initial": "1h", "max": "1h", "jitter": "0%", "release_delay": "1h"}}


def refused(d, *args):
    p = d.ctl(*args)
    assert p.returncode == 1 and p.stderr, p
    return p.stderr


@limit(60)
def test_what_waits_is_listed_and_let_come_back(t):
    r = t.redis()
    d = t.daemon(r, service=LATER)
    w = t.worker(d, credits=5, work=0, result=lambda a: {"t": "fail", "lease": a["lease"], "reason": "disk\nfull"} if a["retry"] == 0
                 and a["stream"] == "f" else {"t": "release", "lease": a["lease"]} if a["stream"] == "r" else {"t": "done", "lease": a["lease"]})
    add = Added(r.db)
    add.many("orders", ["f", "r"])
    w.wait("ok", 2)
    d.ctl_ok("add", "orders", "a", "--in", "30m", "--info", '{"n":12345678901234567890123}')
    rows = {x["stream"]: x for x in d.json("delayed", "ls", "orders")}
    assert [x["stream"] for x in d.json("delayed", "ls")] == sorted(rows, key=lambda s: rows[s]["at_ms"]), "soonest first"
    assert {s: (x["state"], x["reason"], x["retry"], x["error"]) for s, x in rows.items()} == {
        "f": ("delayed", "fail", 1, "disk\nfull"), "r": ("delayed", "release", 0, None), "a": ("delayed", "add", 0, None)}
    for s, x in rows.items():
        assert x["service"] == "orders" and float(r.db.cmd("ZSCORE", DELAYED, x["id"])) == x["at_ms"], x
        assert 0 < x["due_ms"] <= (1800_000 if s == "a" else 3600_000) and x["age_ms"] >= 0, x
    assert "disk?full" in d.ctl_ok("delayed", "ls") and "DUE IN" in d.ctl_ok("delayed", "ls")
    # one by its stream, one by its id, without a word of the service
    assert [x["result"] for x in d.json("delayed", "now", "orders", "f", "--dry-run")] == ["would_requeue"]
    row, = d.json("delayed", "now", "orders", "f")
    assert row["result"] == "requeued" and row["stream"] == "f" and row["new_id"] != row["id"]
    t.wait(lambda: [f["retry"] for f in w.frames("assign", stream="f")] == [0, 1], 10, "it runs again")
    row, = d.json("delayed", "now", rows["a"]["id"])
    assert row["result"] == "requeued"
    assert w.wait("assign", stream="a")["info"] == {"n": 12345678901234567890123}
    assert "s-1 waits" in refused(d, "delayed", "now", "orders", "s-1") and refused(d, "delayed", "drop", "nothing-like-it")
    assert refused(d, "delayed", "ls", "nobody") and refused(d, "delayed", "now", "orders", "--id", "1-1")
    assert d.ctl("delayed", "now").returncode == 64
    # forgotten: no dead letter either
    row, = d.json("delayed", "drop", "orders", "r")
    assert row["result"] == "dropped" and row["new_id"] is None
    assert not r.db.cmd("EXISTS", DELAYED, DATA) and d.json("delayed", "ls", "orders") == []
    checks.wait_clean(r.db, dlq=0)
    assert d.json("delayed", "now", "orders") == [] and "0 that waited" in d.ctl_ok("delayed", "drop", "orders")


@limit(60)
def test_a_workers_words_are_no_count(t):
    """A note that reads like ours of a failed entry: it was given back all the same."""
    r = t.redis()
    d = t.daemon(r, service=LATER)
    w = Raw(d.worker_sock).send({"t": "hello", "v": 1, "name": "w", "credits": 1, "services": ["orders"]})
    t.ending(w.close)
    Added(r.db).many("orders", ["s"])
    lease = w.until("assign")["lease"]
    note = "entry 5-0 failed 3 of 4 times: disk full"
    w.send({"t": "progress", "lease": lease, "note": note})
    w.send({"t": "release", "lease": lease})
    w.until("ok")
    row, = d.json("delayed", "ls", "orders")
    assert (row["reason"], row["retry"], row["error"]) == ("release", 0, note), row
    assert r.db.cmd("HVALS", DATA)[0].startswith(f"1:s7:release{len(note)}:{note}9:lbs-input"), "as older daemons read it"


@limit(60)
def test_a_stream_and_an_id_mean_both(t):
    r = t.redis()
    d = t.daemon(r, service=LATER)
    a, b = (json.loads(d.ctl_ok("add", "orders", "twice", "--in", "30m", "--json"))["id"] for _ in range(2))
    other = json.loads(d.ctl_ok("add", "orders", "other", "--in", "30m", "--json"))["id"]
    assert "waits" in refused(d, "delayed", "drop", "orders", "twice", "--id", other)
    assert "waits" in refused(d, "delayed", "ls", "orders", "--stream", "twice", "--id", other)
    assert [x["id"] for x in d.json("delayed", "ls", "orders", "--stream", "twice", "--id", b)] == [b]
    assert [(x["id"], x["result"]) for x in d.json("delayed", "drop", "orders", "twice", "--id", b)] == [(b, "dropped")]
    assert [x["id"] for x in d.json("delayed", "now", "orders", "twice", "--id", a)] == [a]
    assert [x["id"] for x in d.json("delayed", "ls", "orders")] == [other]


@limit(60)
def test_all_of_a_service_come_back_once(t):
    """More than a page, all due at the same moment; those that fail again at once go on waiting."""
    r = t.redis()
    d = t.daemon(r, services=("orders", "{shop}"), service=LATER)
    at = f"@{int(time.time()) + 3600}"
    d.ctl_ok("add", "orders", "s", "--count", "350", "--at", at)
    d.ctl_ok("add", "{shop}", "x", "--count", "2", "--at", at)
    ids = [x["id"] for x in d.json("delayed", "ls", "orders")]
    assert len(ids) == len(set(ids)) == 350 and ids == sorted(ids, key=lambda i: tuple(map(int, i.split("-"))))
    assert len(d.json("delayed", "ls")) == 352 and len(d.json("delayed", "ls", "orders", "--limit", "7")) == 7
    w = t.worker(d, credits=50, work=0, result=lambda a: {"t": "fail", "lease": a["lease"]})
    assert [x["id"] for x in d.json("delayed", "drop", "orders", "--limit", "50") if x["result"] == "dropped"] == ids[:50]
    moved = d.json("delayed", "now", "orders")
    assert [(x["id"], x["result"]) for x in moved] == [(i, "requeued") for i in ids[50:]], (len(moved), moved[:3], moved[-3:])
    t.wait(lambda: r.db.cmd("ZCARD", DELAYED) == 300, 20, "all have failed once and wait")
    assert len(w.frames("assign")) == 300 and r.db.cmd("ZCARD", "{shop}-input-delayed") == 2


@limit(60)
def test_what_is_dropped_lets_its_stream_go_on(t):
    r = t.redis()
    d = t.daemon(r, service={**LATER, "same_stream": "serialize"})
    w = t.worker(d, credits=1, work=0, result=lambda a: {"t": "fail" if a["info"].get("bad") else "done", "lease": a["lease"]})
    add = Added(r.db)
    add.one("orders", "s", {"bad": True})
    w.wait("ok")
    add.one("orders", "s", {"good": 1})
    t.wait(lambda: [(x["state"], x["stream"]) for x in d.json("ls", "--waiting")] == [("delayed", "s"), ("parked", "s")], 10, "parked behind it")
    d.ctl_ok("delayed", "drop", "orders", "s")
    assert w.wait("assign", 2, timeout=10)["info"] == {"good": 1}
    checks.wait_clean(r.db, dlq=0)


@limit(90)
def test_ls_waiting_tells_what_waits_and_how_long(t):
    for server, same in ((t.redis(), "serialize"), (t.cluster(), "coalesce")):
        d = t.daemon(server, name=same, services=("orders", "bills"), service={**LATER, "same_stream": same})
        db, w = server.db, Raw(d.worker_sock).send({"t": "hello", "v": 1, "name": "w", "credits": 2, "services": ["orders"]})
        add = Added(db)
        add.one("orders", "run:1:2")
        lease = w.until("assign")["lease"]
        add.one("orders", "run:1:2", {"second": 1})
        t.wait(lambda: db.cmd("ZCARD", PARKED) == 1, 10, "it waits for its stream")
        w.send({"t": "credits", "n": 1})
        d.ctl_ok("add", "orders", "later", "--in", "1h")
        add.many("bills", ["u1", "u2"])
        db.cmd("XADD", "bills-input", "*", "no", "stream")
        rows = t.wait(lambda: (x := d.json("ls", "--waiting")) and len(x) == 5 and x, 10, "all of them")
        got = [(x["service"], x["state"], x["stream"]) for x in rows]
        assert got == [("orders", "delayed", "later"), ("orders", "parked", "run:1:2"), ("bills", "unread", "u1"), ("bills", "unread", "u2"),
                       ("bills", "unread", None)], got
        assert all(x["age_ms"] >= 0 and x["id"] for x in rows) and [x["due_ms"] is not None for x in rows] == [True] + 4 * [False]
        ids = [i for i, _ in db.cmd("XRANGE", "bills-input", "-", "+")]
        assert [x["id"] for x in rows[2:]] == ids and abs(int(ids[0].split("-")[0]) + rows[2]["age_ms"] - 1000 * time.time()) < 5000
        assert [x["stream"] for x in d.json("ls", "--waiting", "--service", "bills", "--limit", "1")] == ["u1"]
        assert d.json("ls", "--waiting", "--older-than", "1h") == []
        assert d.ctl("ls", "--waiting", "--state", "parked").returncode == 64
        said = d.ctl_ok("ls", "--waiting")
        assert "unread" in said and "DUE IN" in said and "run:1:2" in said
        assert [json.loads(x)["state"] for x in d.ctl_ok("--json", "ls").splitlines()] == ["assigned"], "ls itself is as ever"
        w.send({"t": "done", "lease": lease}).until("ok", lease=lease)
        w.close()
        d.kill()
