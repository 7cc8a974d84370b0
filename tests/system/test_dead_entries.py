"""Dead entries of data streams for operators: entries-dlq ls, show, replay, purge. Nothing of them is lost, and none comes twice
because two people replay at once."""
import base64
import json
import os
import time

from lib.case import limit
from lib.daemon import ROOT, program
from lib.entries import EntryWorker, add, lbs, position, position_key, text
from lib.servers import spawn

issue = 16
DLQ = "orders-entries-dlq"
HIGHEST = f"{2**64 - 1}-{2**64 - 1}"
ENTRIES = {"enabled": True, "idle_release": "200ms", "retry": {"max_retries": 0}}


def service(**kw):
    return {"same_stream": "coalesce", "entries": {**ENTRIES, **kw}}


class Picky:
    """Rejects what is bad until it is told to like it."""

    def __init__(self, t, d):
        self.bad = True
        self.worker = EntryWorker(d.worker_sock, "picky", work=self.work)
        t.ending(self.worker.close)

    def work(self, stream, id, fields, tries):
        return {"reason": "no good", "dead": True} if self.bad and "bad" in fields else None

    def done(self, stream):
        return [id for s, id, _ in self.worker.done if s == stream]


def bad(db, key, n=1, first=0):
    return [text(db.cmd("XADD", key, "*", "bad", first + i)) for i in range(n)]


def key_with_dead(t, r, key, n=2):
    """A key of which n entries die, one good one before and after them."""
    ids = add(r.db, key) + bad(r.db, key, n) + add(r.db, key)
    lbs(r.db, "orders", key)
    return ids


def fields_of(db, key):
    return [f for _, f in db.cmd("XRANGE", key, "-", "+")]


def gauge(d, name):
    return next(float(x.split()[-1]) for x in d.ctl_ok("metrics").splitlines() if x.startswith(name))


@limit(60)
def test_dead_entries_are_seen_everywhere(t):
    """In status, in show and explain of their stream, in metrics, also of another daemon."""
    r = t.redis()
    a = t.daemon(r, name="a", T=3, service={"entries": {**ENTRIES, "idle_release": 0}})
    b = t.daemon(r, name="b", T=3, services=("orders", "plain"), service={"entries": {**ENTRIES, "idle_release": 0}})
    w = Picky(t, a)
    ids = key_with_dead(t, r, "orders:k")
    wait_dead(t, r, 2)
    for d in (a, b):
        t.wait(lambda: d.json("status")[0]["services"][0]["entries_dlq_length"] == 2, 10, "status")
        assert gauge(d, "sluice_entries_dlq_length") == 2
    assert "orders: 2 dead entries, owned 1" in a.ctl_ok("status") and "orders: 2 dead entries\n" in b.ctl_ok("status")
    show, = a.json("show", "orders:k")
    assert (show["dead_entries"], show["dead_entry"]) == (2, ids[2]) and "last dead" in a.ctl_ok("show", "orders:k")
    assert show["lag"] == 0 and a.json("ls")[0]["lag"] == 0
    w.worker.work = lambda *x: time.sleep(60)
    add(r.db, "orders:k", 1500)
    t.wait(lambda: a.json("ls")[0]["lag"] == 1000 and a.json("show", "orders:k")[0]["lag"] == 1000, 10, "lag, counted up to 1000")
    why, = a.json("explain", "orders:k")
    assert any(f"2 of its entries became dead letters since it is here, the last one {ids[2]}" in x for x in why["because"])
    assert why["advice"] == "sluicectl entries-dlq show orders --stream orders:k"
    assert w.done("orders:k") == [ids[0], ids[3]]


def wait_dead(t, r, n):
    t.wait(lambda: r.db.cmd("XLEN", DLQ) == n, 15, f"{n} dead entries")


@limit(60)
def test_what_died_is_listed_and_replayed_in_order(t):
    r = t.redis()
    d = t.daemon(r, T=3, service=service())
    w = Picky(t, d)
    keys = ["orders:a", "orders:b"]
    ids = {k: key_with_dead(t, r, k) for k in keys}
    r.db.cmd("XADD", "orders:a", "*", "bad", b"\xff\x00", "twice", "1", "twice", "2")
    wait_dead(t, r, 5)
    rows = d.json("entries-dlq", "ls", "orders")
    assert [(x["stream"], x["orig_id"]) for x in rows if x["stream"] == "orders:b"] == [("orders:b", i) for i in ids["orders:b"][1:3]]
    assert {(x["service"], x["reason"], x["error"], x["tries"], x["node"]) for x in rows} == {("orders", "rejected", "no good", 1, d.name)}
    whole = d.json("entries-dlq", "show", "orders", "--stream", "orders:a")[-1]
    assert whole["fields"] == [["bad", {"b64": base64.b64encode(b"\xff\x00").decode()}], ["twice", "1"], ["twice", "2"]], whole
    said = d.ctl_ok("entries-dlq", "ls", "orders")
    assert "ENTRY" in said and ids["orders:b"][1] in said and "no good" in said
    # asked only
    dry = d.json("entries-dlq", "replay", "orders", "--dry-run")
    assert [x["result"] for x in dry] == ["would_replay"] * 5 and r.db.cmd("XLEN", DLQ) == 5
    assert d.ctl("entries-dlq", "show", "orders", "--id", "1-1").returncode == 1
    assert d.ctl("entries-dlq", "ls", "nobody").returncode == 1
    # replayed: behind what is there, in the order they died in, byte for byte
    w.bad = False
    before = {k: fields_of(r.db, k) for k in keys}
    t.wait(lambda: r.db.cmd("HLEN", "{orders-input}-active") == 0, 10, "nobody runs the keys")
    done = d.json("entries-dlq", "replay", "orders")
    assert [x["result"] for x in done] == ["replayed"] * 5 and r.db.cmd("XLEN", DLQ) == 0
    for k in keys:
        new = [x["new_id"] for x in done if x["stream"] == k]
        assert fields_of(r.db, k) == before[k] + [f for f in before[k] if "bad" in f]
        t.wait(lambda: w.done(k)[-len(new):] == new, 10, "they are worked on")
        t.wait(lambda: position(r.db, k)["pos"] == new[-1], 5, "and acknowledged")
    assert r.db.cmd("EXISTS", f"{DLQ}<MUTEX_KEY_SEP>0-1") == 0, "the replay's lock is given back"
    # and away
    w.bad = True
    bad(r.db, "orders:a", 3)
    lbs(r.db, "orders", "orders:a")
    wait_dead(t, r, 3)
    assert [x["result"] for x in d.json("entries-dlq", "purge", "orders", "--limit", "2")] == ["purged"] * 2
    assert r.db.cmd("XLEN", DLQ) == 1 and "1 dead" in d.ctl_ok("entries-dlq", "purge", "orders")


@limit(60)
def test_fields_with_the_names_of_ours_are_kept(t):
    """They are the entry's own, in the dead letter before ours, and go back with it."""
    r = t.redis()
    d = t.daemon(r, T=3, service=service())
    w = Picky(t, d)
    own = ["_tries", "99", "bad", "1", "_dlq_stream", "other", "_orig_id", "7-7", "_dlq_reason", "mine", "_tries", "98"]
    only = ["_dlq_node", "bad", "_dlq_at", "5"]  # no field but such
    ids = [text(r.db.cmd("XADD", "orders:k", "*", *fields)) for fields in (own, only)]
    lbs(r.db, "orders", "orders:k")
    wait_dead(t, r, 2)
    for fields, (_, letter) in zip((own, only), r.db.cmd("XRANGE", DLQ, "-", "+")):
        assert letter[:len(fields)] == fields and len(letter) == len(fields) + 14, letter
    rows = d.json("entries-dlq", "show", "orders")
    assert [(x["stream"], x["orig_id"], x["reason"], x["tries"], x["node"]) for x in rows] == \
        [("orders:k", id, "rejected", 1, d.name) for id in ids]
    for fields, row in zip((own, only), rows):
        assert row["fields"] == [fields[i:i + 2] for i in range(0, len(fields), 2)], row
    assert len(d.json("entries-dlq", "ls", "orders", "--reason", "rejected")) == 2
    w.bad = False
    t.wait(lambda: r.db.cmd("HLEN", "{orders-input}-active") == 0, 10, "nobody runs the key")
    assert [x["result"] for x in d.json("entries-dlq", "replay", "orders")] == ["replayed"] * 2
    assert fields_of(r.db, "orders:k") == [own, only] * 2


@limit(60)
def test_a_key_that_takes_nothing_is_said_and_the_others_go(t):
    """It is of another type, or has the highest id that there is."""
    r = t.redis()
    d = t.daemon(r, T=3, service=service())
    w = Picky(t, d)
    for k in ("orders:a", "orders:b", "orders:full", "orders:c"):
        key_with_dead(t, r, k, 1)
    wait_dead(t, r, 4)
    r.db.cmd("DEL", "orders:b")
    r.db.cmd("SET", "orders:b", "x")
    r.db.cmd("XADD", "orders:full", HIGHEST, "n", 1)
    r.db.cmd("DEL", "orders:c")  # it is made again
    w.bad = False
    p = d.ctl("--json", "entries-dlq", "replay", "orders")
    rows = {x["stream"]: x for x in map(json.loads, p.stdout.splitlines())}
    assert p.returncode == 1 and "2 of 4" in p.stderr and DLQ in p.stderr, p
    assert rows["orders:a"]["result"] == rows["orders:c"]["result"] == "replayed"
    for k, why in ("orders:b", "WRONGTYPE"), ("orders:full", "exhausted"):
        assert rows[k]["result"] == "error" and why in rows[k]["error"], rows[k]
    assert r.db.cmd("XLEN", DLQ) == 2
    for k in ("orders:a", "orders:c"):
        t.wait(lambda: w.done(k)[-1:] == [rows[k]["new_id"]], 10, f"{k} is worked on")


@limit(60)
def test_of_two_replays_one_says_so(t):
    r = t.redis()
    a, b = (t.daemon(r, name=x, T=3, service=service()) for x in "ab")
    for i in range(40):
        r.db.cmd("XADD", DLQ, "*", "n", i, "_dlq_stream", "orders:k", "_orig_id", f"{i + 1}-1", "_dlq_reason", "rejected")
        r.db.cmd("XADD", "orders-input-dlq", "*", "lbs-input", f'{{"DataStreamName":"s{i}"}}', "_dlq_reason", "operator")
    slow = spawn([program("sluicectl"), "-s", a.control_sock, "entries-dlq", "replay", "orders", "--rate", "10/s"], t.path("slow"))
    t.ending(slow.kill)
    t.wait(lambda: r.db.cmd("XLEN", "orders:k") > 0, 10, "the first one has begun")
    for d in (a, b):
        p = d.ctl("entries-dlq", "replay", "orders")
        assert p.returncode == 1 and "another replay of orders-entries-dlq is under way" in p.stderr and a.consumer in p.stderr, p
    assert b.ctl("entries-dlq", "purge", "orders", "--dry-run").returncode == 0
    assert len(b.json("dlq", "replay", "orders")) == 40, "the other dead letters are another matter"
    assert slow.wait(20) == 0
    assert [f[1] for f in fields_of(r.db, "orders:k")] == [str(i) for i in range(40)] and r.db.cmd("XLEN", DLQ) == 0


@limit(60)
def test_a_stream_that_would_begin_at_its_end_begins_at_the_replayed(t):
    r = t.redis()
    d = t.daemon(r, T=3, service=service(start="$"))
    w = Picky(t, d)
    lbs(r.db, "orders", "orders:k")
    t.wait(lambda: position(r.db, "orders:k"), 5, "it is open")
    bad(r.db, "orders:k")
    wait_dead(t, r, 1)
    t.wait(lambda: r.db.cmd("HLEN", "{orders-input}-active") == 0, 10, "it is released")
    r.db.cmd("DEL", position_key("orders:k"))  # as after position_ttl
    w.bad = False
    row, = d.json("entries-dlq", "replay", "orders")
    t.wait(lambda: w.done("orders:k") == [row["new_id"]], 10, "only it is worked on")


@limit(90)
def test_keys_of_a_cluster_go_back_to_their_masters(t):
    c = t.cluster()
    d = t.daemon(c, T=3, service=service())
    w = Picky(t, d)
    keys = [f"orders:{i}" for i in range(12)]
    for k in keys:
        key_with_dead(t, c, k)
    wait_dead(t, c, 24)
    w.bad = False
    done = d.json("entries-dlq", "replay", "orders")
    assert [x["result"] for x in done] == ["replayed"] * 24
    for k in keys:
        new = [x["new_id"] for x in done if x["stream"] == k]
        t.wait(lambda: w.done(k)[-2:] == new, 15, f"{k} is worked on")


@limit(60)
def test_a_daemon_that_dies_in_a_replay_loses_nothing(t):
    r = t.redis()
    points = ("send.add", "answer.add", "send.dlq_del", "answer.dlq_del")
    daemons = []
    for n, point in enumerate(points):
        svc = f"e{n}"
        d = t.daemon(r, name=svc, T=3, start=False, services=(svc,), service=service(), env={"SLUICE_FAULT": f"{point}:kill"})
        d.binary = os.path.join(ROOT, "build", "fault", "sluiced")
        daemons.append((point, svc, d.start()))
        for i in range(3):
            r.db.cmd("XADD", f"{svc}-entries-dlq", "*", "n", i, "_dlq_stream", f"{svc}:{i % 2}", "_orig_id", f"{i + 1}-1")
        assert d.ctl("entries-dlq", "replay", svc).returncode == 69, point
        d.wait(10)
    for point, svc, d in daemons:
        d.env.pop("SLUICE_FAULT")
        d.start()
        w = Picky(t, d)
        t.wait(lambda: d.ctl("entries-dlq", "replay", svc).returncode == 0, 15, "the lock of the dead one ends")
        assert r.db.cmd("XLEN", f"{svc}-entries-dlq") == 0, point
        for k in (0, 1):
            got = [f[1] for f in fields_of(r.db, f"{svc}:{k}")]
            assert sorted(set(got)) == [str(i) for i in range(3) if i % 2 == k], (point, got)
            t.wait(lambda: len(w.done(f"{svc}:{k}")) == len(got), 10, "all are worked on")


@limit(60)
def test_dead_letters_come_back_at_a_rate_whatever_becomes_of_us(t):
    r = t.redis()
    d = t.daemon(r, T=3)
    fields = ["lbs-input", '{"DataStreamName":"s","Info":{"n":123456789012345678901234567890}}', "x", "y\n:1"]
    for i in range(8):
        r.db.cmd("XADD", "orders-input-dlq", "*", *fields[:1], fields[1].replace('"s"', f'"s{i}"'), *fields[2:], "_retry_count", "3",
                 "_dlq_reason", "max_retries_exceeded", "_orig_id", f"{i + 1}-1")
    begin = time.time()
    rows = d.json("dlq", "replay", "orders", "--rate", "4/s")
    assert [x["result"] for x in rows] == ["replayed"] * 8 and time.time() - begin < 1.5, "it does not wait itself"
    assert rows[0]["due_ms"] == 0 and 1000 < rows[-1]["due_ms"] <= 1750, rows
    assert r.db.cmd("XLEN", "orders-input-dlq") == 0
    d.restart()
    w = t.worker(d, credits=20, work=0)
    w.wait("assign", 8, timeout=20)
    at = sorted(int(f["id"].split("-")[0]) for f in w.frames("assign"))
    assert at[-1] - at[0] >= 700, at
    assert [f["stream"] for f in w.frames("assign")] == [f"s{i}" for i in range(8)]
    assert {f["retry"] for f in w.frames("assign")} == {0} and "123456789012345678901234567890" in str(w.frames("assign")[0]["info"])
