"""Entries mode: who killed the worker? One bad entry costs its own tries and one dead letter, whatever runs beside it."""
import os
import sys
import time

from lib.case import limit
from lib.entries import Hand, add, check_order, lbs, position, text
from test_suspects import Fleet

issue = 16
T = 3

# All its streams in one process, which a poison kills. Each entry takes a moment; what is finished is a line of a file.
WORKER = r'''
import json, os, queue, signal, socket, sys, threading, time
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
lock, streams, out = threading.Lock(), {}, open(sys.argv[4], "a", buffering=1)
def send(**f):
    with lock: sock.sendall(json.dumps(f).encode() + b"\n")
def work(a, q):
    while True:
        for id, fields, *tries in q.get():
            time.sleep(float(sys.argv[3]))
            if "poison" in fields: os.kill(os.getpid(), signal.SIGKILL)
            out.write(a["stream"] + " " + id + " " + a["token"] + "\n")
            send(t="ack", lease=a["lease"], id=id)
send(t="hello", v=1, name="w", credits=int(sys.argv[2]), entries=True)
for f in map(json.loads, sock.makefile("rb")):
    if f["t"] == "assign":
        q = streams[f["lease"]] = queue.Queue()
        threading.Thread(target=work, args=[f, q], daemon=True).start()
    elif f["t"] == "entries": streams[f["lease"]].put(f["e"])
    elif f["t"] == "ping": send(t="pong", n=f["n"])
'''


class EntryFleet(Fleet):
    def __init__(self, t, d, n, credits=10, work=0.05):
        self.out = t.path("finished")
        super().__init__(t, d, n, credits, work)

    def start(self):
        self.argv[1:] = ["-c", WORKER, *self.argv[3:6], self.out]
        return super().start()

    def done(self):
        with open(self.out) as f:
            return [tuple(x.split()) for x in f]


def setup(t, n_keys, n_entries=4, **entries):
    """A daemon, and keys of good entries; what each key is to see."""
    r = t.redis()
    retry = {"initial": "50ms", "factor": 2}
    d = t.daemon(r, T=T, service={"entries": {"enabled": True, "idle_release": "200ms", "retry": retry, **entries}})
    return r, d, {f"orders:{k}": add(r.db, f"orders:{k}", n_entries) for k in range(n_keys)}


def dead(db, what="entries-dlq"):
    rows = db.cmd("XRANGE", f"orders-{what}", "-", "+") or []
    return [dict(zip(map(text, f[::2]), map(text, f[1::2]))) for _, f in rows]


def is_all_done(db, keys):
    return all(position(db, k).get("pos") == ids[-1] for k, ids in keys.items()) and db.cmd("XLEN", "orders-input") == 0


def is_all_read(db, keys):
    return all(position(db, k).get("pos") == ids[-1] for k, ids in keys.items())


def poisoned(t, bad_keys, n_keys=50, is_over=is_all_done, **entries):
    """bad_keys: key -> its entries, g(ood) or p(oison)."""
    r, d, keys = setup(t, n_keys, **entries)
    poisons = set()
    for k, kinds in bad_keys.items():
        ids = [text(r.db.cmd("XADD", k, "*", "poison" if x == "p" else "n", i)) for i, x in enumerate(kinds)]
        poisons.update((k, id) for id, x in zip(ids, kinds) if x == "p")  # two streams may have one id
        keys[k] = [id for id, x in zip(ids, kinds) if x == "g"]
    for k in keys:
        lbs(r.db, "orders", k)
    fleet = EntryFleet(t, d, 3)
    t.wait(lambda: is_over(r.db, keys), 60, "all acknowledged or dead")
    letters = dead(r.db)
    assert {(x["_dlq_stream"], x["_orig_id"]) for x in letters} == poisons and len(letters) == len(poisons), letters
    for x in letters:
        assert x["_dlq_reason"] == "max_retries_exceeded" and x["_tries"] == "4", x
        assert x["_dlq_error"].startswith("worker died"), x
    assert not dead(r.db, "input-dlq")
    check_order(fleet.done(), keys)
    assert fleet.n_deaths >= 4 * len(poisons)


@limit(90)
def test_one_poison_among_fifty_keys(t):
    poisoned(t, {"orders:p": "pgg"})


@limit(90)
def test_two_poisons_among_fifty_keys(t):
    poisoned(t, {"orders:p": "ggpgg", "orders:q": "pg"})


@limit(90)
def test_a_poison_in_a_fleet_that_is_always_busy(t):
    """Each worker is given the next entry right behind a result: who dies then may have been on its way out."""
    for credits in (1, 4):
        r, d, keys = setup(t, 0, idle_release="20ms")
        r.db.cmd("XADD", "orders:p", "*", "poison", 1)
        lbs(r.db, "orders", "orders:p")
        fleet = EntryFleet(t, d, 3, credits, 0.005)
        end = time.monotonic() + 30
        while not dead(r.db) and time.monotonic() < end:
            for k in [f"orders:{len(keys) + n}" for n in range(2)]:
                keys[k] = add(r.db, k, 3)
                lbs(r.db, "orders", k)
            time.sleep(0.05)
        n_deaths = fleet.n_deaths
        t.wait(lambda: is_all_done(r.db, keys), 20, "the others are done")
        fleet.end()
        (letter,) = dead(r.db)
        assert letter["_tries"] == "4" and letter["_dlq_stream"] == "orders:p", letter
        assert n_deaths <= 6, n_deaths
        check_order(fleet.done(), keys)
        os.unlink(fleet.out)
        d.kill(), r.kill()


@limit(90)
def test_two_poisons_in_one_endless_stream_among_others(t):
    poisoned(t, {"orders:p": "pgpg"}, 15, is_all_read, idle_release=0)


@limit(90)
def test_all_workers_of_a_machine_die_again_and_again(t):
    r, d, keys = setup(t, 30, 10)
    fleet = EntryFleet(t, d, 3)
    for k in keys:
        lbs(r.db, "orders", k)
    for n in range(5):  # more often than an entry is tried
        seen = len(fleet.done()) if n else 0
        t.wait(lambda: len(fleet.done()) > seen + 5, 20, "work")
        fleet.kill_all()
    t.wait(lambda: is_all_done(r.db, keys), 60, "all acknowledged")
    assert not dead(r.db) and not dead(r.db, "input-dlq")
    check_order(fleet.done(), keys)


@limit(60)
def test_a_daemon_that_dies_with_its_workers_costs_no_entry_a_try(t):
    r, d, keys = setup(t, 3, 4)
    for k in keys:
        lbs(r.db, "orders", k)
    h = Hand(d.worker_sock, credits=3)
    t.ending(h.close)
    for k in keys:
        assert len(h.ids(4, lease=h.assign(stream=k)["lease"])) == 4
    other = t.daemon(r, T=T, service={"entries": {"enabled": True}})
    d.kill()
    h.close()
    g = Hand(other.worker_sock, credits=3)
    t.ending(g.close)
    for k, ids in keys.items():
        lease = g.assign(stream=k)["lease"]
        for id in ids:
            assert [e[:1] + e[2:] for e in g.until("entries", lease=lease)["e"]] == [[id]]  # one by one, no tries
            g.ack(lease, id)


def idle(t, d, r, sock=None):
    """A worker that has the stream, which has nothing to do; to be killed."""
    h = Hand((sock or d).worker_sock, credits=3)
    lease = h.assign(stream="orders:k")["lease"]
    return h, lease


@limit(60)
def test_an_idle_stream_outlives_any_number_of_workers(t):
    """What comes to it after their deaths reaches the next one. Once each fourth death made a dead letter of it."""
    r = t.redis()
    d = t.daemon(r, T=T, service={"retry": {"max_retries": 1, "initial": 0}, "entries": {"enabled": True}})
    last = add(r.db, "orders:k", 2)[-1]
    lbs(r.db, "orders", "orders:k")
    h, lease = idle(t, d, r)
    h.ids(2, lease=lease)
    h.ack(lease, last)
    h.send(t="bye")
    h.close()
    fleet = EntryFleet(t, d, 1)
    for n in range(6):
        t.wait(lambda: [x["state"] for x in d.json("ls")] == ["assigned"], 10, "it has a worker")
        fleet.kill_all()
        t.wait(lambda: fleet.n_deaths > n, 10, "that has died")
    assert not dead(r.db, "input-dlq"), dead(r.db, "input-dlq")
    ids = add(r.db, "orders:k", 1)
    t.wait(lambda: [x[1] for x in fleet.done()] == ids, 20, "what comes then is done")


@limit(90)
def test_an_idle_stream_outlives_any_number_of_daemons(t):
    """Each dies with its worker, and with nothing else: neither the run nor an entry that is not there yet is to blame."""
    r = t.redis()
    service = {"retry": {"max_retries": 0}, "entries": {"enabled": True, "retry": {"max_retries": 0}}}
    last = add(r.db, "orders:k", 2)[-1]
    lbs(r.db, "orders", "orders:k")
    d = t.daemon(r, T=2, service=service)
    h, lease = idle(t, d, r)
    h.ids(2, lease=lease)
    h.ack(lease, last)
    for _ in range(4):
        other = t.daemon(r, T=2, service=service)
        d.kill()
        h.close()
        h, lease = idle(t, d, r, other)
        d = other
    t.ending(h.close)
    assert not dead(r.db, "input-dlq"), dead(r.db, "input-dlq")
    (id,) = add(r.db, "orders:k", 1)
    (e,) = h.until("entries", lease=lease)["e"]
    assert e[0] == id and len(e) == 2, e  # no tries


# It does one entry and ends: scripts do. Reads no byte more than it has to.
ONE_THING = r'''
import json, socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
lines = sock.makefile("rb", buffering=0)
def send(**f): sock.sendall(json.dumps(f).encode() + b"\n")
def until(t):
    while True:
        f = json.loads(lines.readline())
        if f["t"] == "ping": send(t="pong", n=f["n"])
        if f["t"] == t: return f
send(t="hello", v=1, name="one", credits=1, entries=True)
f = until("entries")
send(t="ack", lease=f["lease"], id=f["e"][0][0])
until("ok")
'''


@limit(60)
def test_workers_that_do_one_thing_and_end(t):
    """Each ends with the next entry unread, or on its way: no try of it is counted, and nothing waits."""
    r = t.redis()
    d = t.daemon(r, T=T, service={"entries": {"enabled": True, "batch": 1, "window": 1, "retry": {"initial": "8s"}}})
    ids = add(r.db, "orders:k", 20)
    lbs(r.db, "orders", "orders:k")
    start, n = time.monotonic(), 0
    while position(r.db, "orders:k").get("pos") != ids[-1]:
        t.run([sys.executable, "-S", "-c", ONE_THING, d.worker_sock], timeout=20)
        n += 1
        assert position(r.db, "orders:k")["tries"] == "0", n
        assert n < 60 and time.monotonic() < start + 40, n
    assert not dead(r.db) and not dead(r.db, "input-dlq")
