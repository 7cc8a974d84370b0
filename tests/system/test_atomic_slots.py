"""Slots move with all of their keys at once (CLUSTER MIGRATESLOTS, Valkey 9 and newer): nobody is answered ASK, what a master has begun
ends with MOVED."""
import json

from lib import checks
from lib.case import limit
from lib.checks import Added
from lib.entries import add, check_order, entries, hand, lbs, position
from lib.redis import N_SLOTS, RedisError, slot_of
from test_entries_run import lines, run

issue = 3


def can_migrate(c):
    """Whether this server has the command; said where not."""
    try:
        c.nodes[0].db.cmd("CLUSTER", "GETSLOTMIGRATIONS")
    except RedisError as e:
        assert "unknown subcommand" in str(e).lower(), e
        print("= skipped: this server has no CLUSTER MIGRATESLOTS")
        return False
    return True


def third(i):
    """The slots of the i-th of three masters, as they are spread in the beginning."""
    per = N_SLOTS / 3
    return round(i * per), round((i + 1) * per) - 1


def all_go_round(c, between):
    """Every master gives all of its slots to the next one and gets them back, one after the other."""
    for i, home in enumerate(c.nodes[:3]):
        away = c.nodes[(i + 1) % 3]
        for dst in (away, home):
            c.migrate_slots(*third(i), dst)
            between()


@limit(150)
def test_no_lease_is_lost(t):
    c = t.cluster()
    if not can_migrate(c):
        return
    d = t.daemon(c, T=6)
    w = t.worker(d, credits=60)
    added = Added(c.db)
    added.many("orders", [f"s{i}" for i in range(60)])
    w.wait("assign", 60)
    all_go_round(c, lambda: w.wait("ping", len(w.frames("ping")) + 2, timeout=20))
    assert not w.frames("revoke") and not w.frames("fence", d="ev") and len(w.frames("assign")) == 60
    for a in list(w.held.values()):
        w.finish(a)
    checks.wait_clean(c.db, timeout=30)
    checks.all_good(added.sure, [w.journal])


@limit(180)
def test_entries_in_order(t):
    c = t.cluster()
    if not can_migrate(c):
        return
    db = c.client()
    d = t.daemon(c, T=10, service=entries(batch=10, retry={"initial": "50ms", "factor": 1}))
    out = t.path("out")
    added = {f"orders:{k}": [] for k in range(30)}
    run(t, d, "--batch", "--", "sh", "-c", f'while read -r line; do echo "$SLUICE_STREAM $line" >> {out}; done', n=30)

    def more():
        for k in added:
            added[k] += add(db, k, 4, len(added[k]))
    for k in added:
        lbs(db, "orders", k)
    more()
    all_go_round(c, more)
    t.wait(lambda: all(position(db, k).get("pos") == ids[-1] for k, ids in added.items()), 60, "all acknowledged")
    done = [x.decode().split(" ", 1) for x in lines(out)]
    done = [(s, json.loads(v)["id"]) for s, v in done]
    assert check_order(done, added) == 30 * 28
    assert len(done) == len(set(done)), "none twice"


@limit(90)
def test_an_open_stream_follows_its_slot(t):
    """Its read is blocked at the old master as the slot goes, before there is a key and with entries that are out."""
    c = t.cluster()
    if not can_migrate(c):
        return
    db = c.client()
    d = t.daemon(c, T=5, service=entries(poll_max="1s"))
    h = hand(t, d)
    lbs(db, "orders", "orders:k")
    a = h.assign()
    h.quiet("entries", 0.5)
    home, slot = c.master_of("orders:k"), slot_of("orders:k")
    away = next(n for n in c.masters() if n is not home)
    c.migrate_slots(slot, slot, away)
    ids = add(db, "orders:k", 2)  # each may be a frame of its own, and two frames at most are out
    assert [e[0] for e in h.ids(2, timeout=15)] == ids
    c.migrate_slots(slot, slot, home)
    h.send(t="ack", lease=a["lease"], id=ids[0])
    h.acked(a["lease"], ids[0])
    more = add(db, "orders:k", 1, 2)
    assert [e[0] for e in h.ids(1, timeout=15)] == more
    h.ack(a["lease"], more[0])
    assert position(db, "orders:k")["pos"] == more[0]
