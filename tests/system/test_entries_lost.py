"""Entries of data streams that are trimmed or deleted before anybody has acknowledged them are counted and told."""
from lib.case import limit
from lib.entries import add, entries, hand, lbs, position
from lib.maintenance import metric

issue = 16


@limit(60)
def test_what_a_producer_trims_unread_is_counted_once_and_told(t):
    r = t.redis()
    d = t.daemon(r, service=entries(batch=5))
    ids = add(r.db, "orders:k", 10)
    lbs(r.db, "orders", "orders:k")
    h = hand(t, d)
    a = h.assign()
    h.ids(10)
    h.ack(a["lease"], ids[2])
    has_added = "entries-added" in str(r.db.cmd("XINFO", "STREAM", "orders:k"))
    assert position(r.db, "orders:k")["n"] == (f"{ids[2]}:3" if has_added else "")
    h.done(a["lease"])
    r.db.cmd("XTRIM", "orders:k", "MAXLEN", 2)  # 3 read, 5 lost
    for run in range(2):  # the next run, and one after it
        lbs(r.db, "orders", "orders:k")
        a = h.assign()
        assert [e[0] for e in h.ids(2)] == ids[8:]
        if run == 0 and has_added:
            t.wait(lambda: metric(d, "sluice_entries_trimmed_total") == 5, 10, "they are counted")
            assert "5 of its entries were trimmed or deleted before they were acknowledged" in d.ctl_ok("explain", "orders:k")
        h.done(a["lease"])
    more = add(r.db, "orders:k", 3)
    lbs(r.db, "orders", "orders:k")
    a = h.assign()
    h.ids(5)
    h.ack(a["lease"], more[-1])
    h.done(a["lease"])
    lbs(r.db, "orders", "orders:k")
    h.assign()
    assert position(r.db, "orders:k")["n"] == (f"{more[-1]}:13" if has_added else "")
    t.wait(lambda: metric(d, "sluice_entries_acked_total") == 8, 10, "the counters have come")
    assert metric(d, "sluice_entries_trimmed_total") == 5 * has_added
    lines = [x for x in d.log.splitlines() if "entries lost" in x]
    assert len(lines) == has_added and all(" warn " in x and "stream=orders:k" in x and "n=5" in x for x in lines), lines
