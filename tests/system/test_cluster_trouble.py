"""The cluster fails over, restarts and moves slots under load: nothing lost, no two told owners."""
import json
import random
import time

from lib import checks
from lib.case import limit
from lib.checks import Added
from lib.load import Load
from lib.redis import slot_of

issue = 3


def under_load(t, trouble, replicas=1, T=6, rate=50, aof=False, same_stream="serialize"):
    """Two daemons with workers and a producer; trouble(c, journals) happens; then everything is checked."""
    c = t.cluster(replicas=replicas, aof=aof)
    ds = [t.daemon(c, name=x, T=T, service={"retry": {"max_retries": 100}, "same_stream": same_stream}, cfg={"redis": {"topology_refresh": "2s"}}) for x in "ab"]
    ws = [t.worker(d, credits=30, reconnect=True, work=lambda a: random.uniform(0, 0.5)) for d in ds for _ in range(2)]
    load = Load(c, rate=rate)
    t.ending(load.stop)
    progress(t, ws, 40)
    trouble(c, ws)
    progress(t, ws, 60)
    added = load.stop()
    c.wait_ok()
    checks.wait_clean(c.db, timeout=60)
    journals = [w.journal for w in ws]
    known = {**added.sure, **added.maybe}
    checks.all_good(added.sure, journals)
    checks.none(checks.stray(known, journals))
    n = checks.finished(journals)
    print(f"{len(added.sure)} added, {len(added.maybe)} maybe, {sum(n.values()) - len(n)} wasted runs")
    assert all(d.is_running() for d in ds)


def progress(t, ws, n, timeout=40):
    """n more streams get their ok: work goes on."""
    goal = sum(len(w.frames("ok")) for w in ws) + n
    t.wait(lambda: sum(len(w.frames("ok")) for w in ws) >= goal, timeout, f"{n} more done")


@limit(180)
def test_manual_failover_of_every_master(t):
    def trouble(c, ws):
        for m in c.masters():
            c.failover(m)
            progress(t, ws, 40)
            c.wait_ok()
    under_load(t, trouble)


@limit(180)
def test_master_of_the_lbs_killed(t):
    def trouble(c, ws):
        m = c.master_of("orders-input")
        m.kill()
        progress(t, ws, 40)
        m.start()
        c.wait_ok()
    under_load(t, trouble)


@limit(180)
def test_master_of_locks_killed(t):
    def trouble(c, ws):
        lbs = c.master_of("orders-input")
        m = next(n for n in c.masters() if n is not lbs)
        m.kill()
        progress(t, ws, 40)
        m.start()
        c.wait_ok()
    under_load(t, trouble)


@limit(240)
def test_rolling_restart_of_all_nodes(t):
    def trouble(c, ws):
        for n in c.nodes:
            if c.role(n) == "master":
                c.failover(n)
                t.wait(lambda: c.role(n) == "slave", 20)
            n.stop()
            n.start()
            c.wait_ok()
            progress(t, ws, 20)
    under_load(t, trouble, aof=True)


@limit(240)
def test_slots_of_the_lbs_and_of_locks_move_away_and_back(t):
    def trouble(c, ws):
        slot = slot_of("orders-input")
        home = c.master_of("orders-input")
        away = next(n for n in c.masters() if n is not home)
        c.move_slot(slot, away)
        progress(t, ws, 30)
        some = random.Random(1).sample(range(16384), 150)
        for dst in (away, home):
            for s in some:
                c.move_slot(s, dst)
            progress(t, ws, 20)
        c.move_slot(slot, home)
    under_load(t, trouble, replicas=0)


@limit(150)
def test_half_moved_slot_answers_ask(t):
    """A migration that stays half done: keys already moved are found with ASK. Without a registry: commands on two keys of
    which one does not exist are answered TRYAGAIN until a migration ends, and the registry goes when nothing runs."""
    def trouble(c, ws):
        slot = slot_of("orders-input")
        src = c.master_of("orders-input")
        dst = next(n for n in c.masters() if n is not src)
        dst.db.cmd("CLUSTER", "SETSLOT", slot, "IMPORTING", src.id)
        src.db.cmd("CLUSTER", "SETSLOT", slot, "MIGRATING", dst.id)
        keys = src.db.cmd("CLUSTER", "GETKEYSINSLOT", slot, 100)
        src.db.cmd("MIGRATE", dst.host, dst.port, "", 0, 5000, "KEYS", *keys)
        progress(t, ws, 30)
        for n in [dst, src] + [n for n in c.masters() if n not in (dst, src)]:
            n.db.cmd("CLUSTER", "SETSLOT", slot, "NODE", dst.id)
    under_load(t, trouble, replicas=0, same_stream="allow")


def open_slot(slot, src, dst):
    """A migration begins: no key has moved yet."""
    dst.db.cmd("CLUSTER", "SETSLOT", slot, "IMPORTING", src.id)
    src.db.cmd("CLUSTER", "SETSLOT", slot, "MIGRATING", dst.id)


def end_move(c, slot, src, dst):
    while keys := src.db.cmd("CLUSTER", "GETKEYSINSLOT", slot, 100):
        src.db.cmd("MIGRATE", dst.host, dst.port, "", 0, 5000, "KEYS", *keys)
    for n in [dst, src] + [n for n in c.masters() if n not in (dst, src)]:
        n.db.cmd("CLUSTER", "SETSLOT", slot, "NODE", dst.id)


@limit(150)
def test_slot_of_the_lbs_whose_migration_stays_open_is_read_where_its_keys_are(t):
    """Keys that nobody has made yet are answered ASK: that says nothing of the load-balancer stream, which is still there. A second
    one at the other node would be read in its place, and MIGRATE refuses to put the true one over it."""
    def trouble(c, ws):
        slot = slot_of("orders-input")
        src = c.master_of("orders-input")
        dst = next(n for n in c.masters() if n is not src)
        open_slot(slot, src, dst)
        end = time.monotonic() + 12  # longer than the pause between two trials of a write
        while time.monotonic() < end:
            progress(t, ws, 20)
        there = dst.db.cmd("CLUSTER", "GETKEYSINSLOT", slot, 100)
        assert "orders-input" not in there, there
        progress(t, ws, 20)
        end_move(c, slot, src, dst)  # BUSYKEY: there were two of one
    under_load(t, trouble, replicas=0, same_stream="allow")


def before_a_move(t, key, service=None, **worker):
    """A cluster whose daemon and worker have ended s1; the slot of the key, whose it is and whose it is to be."""
    c = t.cluster()
    d = t.daemon(c, T=6, service=service)
    w = t.worker(d, credits=4, work=0, **worker)
    src = c.master_of(key)
    dst = next(n for n in c.masters() if n is not src)
    added = Added(c.db)
    added.one("orders", "s1")
    w.wait("ok")
    return c, d, w, added, slot_of(key), src, dst


@limit(90)
def test_slot_that_stays_half_moved_is_told(t):
    """Whoever moved it has died half-way: scripts on keys of both sides are answered TRYAGAIN, for as long as nobody mends that."""
    c, d, w, added, slot, src, dst = before_a_move(t, "orders-input")
    open_slot(slot, src, dst)
    added.one("orders", "s2")
    t.wait(lambda: "TRYAGAIN" in d.ctl("status", "--ready").stderr, 20, "not ready, with Redis' words")
    p = d.ctl("explain", "s2")
    assert "TRYAGAIN" in p.stdout + p.stderr, p
    said = [x for x in d.log.splitlines() if "redis refuses: TRYAGAIN" in x]
    assert said and " warn " in said[0] and len(said) < 5, said
    end_move(c, slot, src, dst)
    w.wait("ok", 2)
    t.wait(lambda: d.ctl("status", "--ready").returncode == 0, 10, "ready again")
    checks.all_good(added.sure, [w.journal])


@limit(90)
def test_no_key_beside_a_stream_that_has_gone_ahead_is_made_twice(t):
    """The reader follows its stream; who has which credits, and who has left, are keys of their own, and may be where they were:
    MIGRATE refuses to put them over a second one, and the move ends there."""
    c, d, w, _, slot, src, dst = before_a_move(t, "orders-input", service={"same_stream": "allow"})
    t.wait(lambda: src.db.cmd("EXISTS", "{orders-input}-fleet"), 10, "who has which credits")
    src.db.cmd("HSET", "{orders-input}-left", "redis-consumer-other", 1)
    open_slot(slot, src, dst)
    src.db.cmd("MIGRATE", dst.host, dst.port, "", 0, 5000, "KEYS", "orders-input")
    dst.db.pipe([("ASKING",), ("XADD", "orders-input", "*", "lbs-input", '{"DataStreamName":"s2","Info":{}}')])
    w.wait("ok", 2)
    w2 = t.worker(d, credits=7, work=0)  # news of them
    time.sleep(2)
    w.close()
    w2.close()
    assert d.stop() == 0
    assert dst.db.cmd("CLUSTER", "GETKEYSINSLOT", slot, 100) == ["orders-input"]
    end_move(c, slot, src, dst)
    assert d.consumer in c.db.cmd("HGETALL", "{orders-input}-left"), "that it has left is where the others look"


@limit(90)
def test_a_dead_letter_goes_where_its_stream_has_gone_ahead(t):
    """The slot of the dead letters stays half moved: nothing waits for the end of that."""
    dlq = "orders-input-dlq"
    c, _, w, added, slot, src, dst = before_a_move(
        t, dlq, service={"retry": {"max_retries": 0}}, result=lambda a: {"t": "fail", "lease": a["lease"], "reason": "bad"})
    open_slot(slot, src, dst)
    src.db.cmd("MIGRATE", dst.host, dst.port, "", 0, 5000, "KEYS", dlq)
    added.one("orders", "s2")
    w.wait("ok", 2)
    assert dst.db.pipe([("ASKING",), ("XLEN", dlq)])[1] == 2
    assert src.db.cmd("CLUSTER", "GETKEYSINSLOT", slot, 10) == []
    end_move(c, slot, src, dst)
    assert [json.loads(x["lbs-input"])["DataStreamName"] for x in checks.dead_letters(c.db)] == ["s1", "s2"]


@limit(150)
def test_master_added_and_removed(t):
    """A fourth master takes slots, then gives them back and leaves."""
    from lib.servers import Server

    def trouble(c, ws):
        n = Server(t.dir, "n-new", cluster=True, args=["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-announce-ip",
                                                      c.nodes[0].host, "--bind-source-addr", c.nodes[0].host])
        t.ending(n.kill)
        n.start()
        n.id = n.db.cmd("CLUSTER", "MYID")
        c.nodes[0].db.cmd("CLUSTER", "MEET", n.host, n.port)
        c.nodes.append(n)
        c.wait_ok()
        t.wait(lambda: all(c.view(x) == len(c.nodes) for x in c.nodes), 20)
        slots = [slot_of("orders-input")] + random.Random(2).sample(range(16384), 60)
        home = {s: next(x for x in c.nodes for a, b, addr in c.db.ranges if a <= s <= b and addr == x.tcp)
                for s in slots if c.db.refresh() is None}
        for s in slots:
            c.move_slot(s, n)
        progress(t, ws, 40)
        for s in slots:
            c.move_slot(s, home[s])
        for x in c.nodes[:-1]:
            x.db.cmd("CLUSTER", "FORGET", n.id)
        n.kill()
        c.nodes.remove(n)
        progress(t, ws, 40)
    under_load(t, trouble, replicas=0)


@limit(150)
def test_no_lease_is_lost_in_a_manual_failover(t):
    """Long-lived streams keep their owner through failovers of every master."""
    c = t.cluster(replicas=1)
    d = t.daemon(c, T=6)
    w = t.worker(d, credits=60)
    add = Added(c.db)
    add.many("orders", [f"s{i}" for i in range(60)])
    w.wait("assign", 60)
    for m in c.masters():
        c.failover(m)
        c.wait_ok()
        w.wait("ping", len(w.frames("ping")) + 3, timeout=20)
    assert not w.frames("revoke") and not w.frames("fence", d="ev") and len(w.frames("assign")) == 60
    for a in list(w.held.values()):
        w.finish(a)
    checks.wait_clean(c.db, timeout=30)
    checks.all_good(add.sure, [w.journal])


@limit(180)
def test_daemon_killed_while_a_master_fails_over(t):
    c = t.cluster(replicas=1)
    a, b = [t.daemon(c, name=x, T=6) for x in "ab"]
    w = t.worker(a, credits=90)
    add = Added(c.db)
    add.many("orders", [f"s{i}" for i in range(90)])
    w.wait("assign", 90)
    m = next(n for n in c.masters() if n is not c.master_of("orders-input"))
    a.kill()
    m.kill()
    v = t.worker(b, credits=90, work=0)
    checks.wait_clean(c.db, timeout=60)
    checks.none(checks.overlaps([w.journal, v.journal]) + checks.lost(add.sure, [v.journal]))
