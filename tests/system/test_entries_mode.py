"""A service that gets into entries mode, or out of it, while leases are held: over a reload each goes on as it began, over a restart of
the daemon, too, and nothing is stuck."""
from lib import checks
from lib.case import limit
from lib.entries import Hand, add, entries, hand, lbs, position

issue = 16


def switch(t, d, how, **service):
    d.cfg["services"][0].update(service)
    d.write()
    if how == "reload":
        d.ctl_ok("reload")
        return
    if how == "handover":
        assert d.stop() == 0
    else:
        d.kill()
    d.start()


def again(t, d, h, *leases, **hello):
    """The worker comes back to the next process."""
    new = Hand(d.worker_sock, session=h.welcome["session"], resume=leases, **hello)
    t.ending(new.close)
    return new


def told(t):
    """A daemon in entries mode and a worker that was told three entries of stream k."""
    r = t.redis()
    d = t.daemon(r, T=4, service=entries())
    ids = add(r.db, "k", 3)
    lbs(r.db, "orders", "k")
    h = hand(t, d)
    lease = h.assign()["lease"]
    h.ids(3)
    return r, d, ids, h, lease


@limit(120)
def test_out_of_entries_mode(t):
    for how in ("reload", "handover", "kill"):
        r, d, ids, h, lease = told(t)
        switch(t, d, how, **entries(enabled=False))
        if how == "reload":
            h.ack(lease, ids[2])
            h.done(lease)
            assert position(r.db, "k")["pos"] == ids[2]
        else:  # nobody would tell it any entries more: it is over, and begins anew
            h = again(t, d, h, lease)
            assert (h.welcome["resumed"], [x["lease"] for x in h.welcome["gone"]]) == ([], [lease]), h.welcome
            a = h.assign()
            assert "entries" not in a and a["stream"] == "k" and a["retry"] == 0, a
            h.done(a["lease"])
        checks.wait_clean(r.db, timeout=10)
        d.end()


@limit(120)
def test_into_entries_mode(t):
    for how in ("reload", "handover", "kill"):
        r = t.redis()
        d = t.daemon(r, T=4, service={"same_stream": "allow"})
        ids = add(r.db, "k", 3)
        workers = []
        for n in range(2):  # two of one stream: lease mode allows it
            lbs(r.db, "orders", "k")
            h = hand(t, d, name=f"w{n}")
            workers.append((h, h.assign()["lease"]))
        switch(t, d, how, same_stream="coalesce", **entries(idle_release="300ms"))
        if how != "reload":  # as they would say hello by themselves: they know nothing of entries
            workers = [(again(t, d, h, lease, entries=False), lease) for h, lease in workers]
            assert [h.welcome["resumed"] for h, _ in workers] == [[lease] for _, lease in workers]
        for h, lease in workers:
            h.quiet("entries", 0.3)
            h.done(lease)
            h.close()
        lbs(r.db, "orders", "k")
        h = hand(t, d)
        lease = h.assign()["lease"]
        assert [e[0] for e in h.ids(3)] == ids, "and nobody was told them before"
        h.ack(lease, ids[2])
        checks.wait_clean(r.db, timeout=10)
        d.end()


@limit(60)
def test_a_lease_of_a_daemon_that_did_not_mark_them(t):
    """Its name has no mark: whoever takes entries goes on with them."""
    r, d, ids, h, lease = told(t)
    assert lease.endswith(".e")
    d.restart()
    lease = lease[:-2]
    h = again(t, d, h, lease)
    assert h.welcome["resumed"] == [lease], h.welcome
    assert [e[0] for e in h.ids(3, lease=lease)] == ids
    h.ack(lease, ids[2])
    assert d.json("ls")[0]["lease"] == lease
    h.done(lease)
    checks.wait_clean(r.db, timeout=10)
