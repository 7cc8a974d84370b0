"""Leaving on purpose is no death: rolling updates of pods with new names cost no retries, and groups do not fill up."""
import json
import socket
import time

from lib import checks
from lib.case import limit
from lib.checks import Added
from lib.entries import Hand
from lib.redis import pairs

issue = 14
LEFT = "{orders-input}-left"


def consumers(r):
    return {pairs(c)["name"] for c in r.db.cmd("XINFO", "CONSUMERS", "orders-input", "orders-group")}


def pod(t, r, name, **cfg):
    """A pod of a Deployment: its name is its host's, nobody chose it, and it never comes back."""
    d = t.daemon(r, name, T=3, start=False, env={"POD_NAME": name}, cfg=cfg)
    d.cfg.pop("node")
    d.write()
    return d.start()


@limit(90)
def test_a_rolling_update_counts_nothing(t):
    r = t.redis()
    d = pod(t, r, "pod-0", shutdown={"mode": "auto", "drain_timeout": "1s"})
    w = t.worker(d, credits=4)
    Added(r.db).many("orders", ["long", "other"])
    w.wait("assign", 2)
    for n in range(1, 5):
        new = pod(t, r, f"pod-{n}", shutdown={"mode": "auto", "drain_timeout": "1s"})
        v = t.worker(new, credits=4)
        d.stop(timeout=15)
        assert r.db.cmd("HGET", LEFT, f"redis-consumer-pod-{n - 1}")
        got = v.wait("assign", 2, timeout=2.5)
        assert {a["retry"] for a in v.frames("assign")} == {0}, got
        d, w = new, v
    for a in w.frames("assign"):
        w.finish(a)
    checks.wait_clean(r.db)


@limit(60)
def test_what_was_left_in_a_handover_is_recovered_uncounted(t):
    r = t.redis()
    d = t.daemon(r, T=3, service={"retry": {"max_retries": 0}}, cfg={"shutdown": {"mode": "handover"}})
    w = t.worker(d, credits=1)
    Added(r.db).one("orders", "s")
    w.wait("assign")
    d.stop()
    w.close()
    other = t.daemon(r, T=3, service={"retry": {"max_retries": 0}})
    v = t.worker(other, credits=1)
    a = v.wait("assign", timeout=20)
    assert a["retry"] == 0 and r.db.cmd("XLEN", "orders-input-dlq") == 0, "a death would have been a dead letter"
    t.wait(lambda: 'sluice_requeues_total{service="orders",reason="owner_left"} 1' in other.ctl_ok("metrics"), 10, "counted as left")
    v.finish(a)
    checks.wait_clean(r.db)


@limit(60)
def test_who_comes_back_has_not_left(t):
    r = t.redis()
    d = t.daemon(r, T=3, node="same")
    d.stop()
    assert r.db.cmd("HGET", LEFT, d.consumer)
    d.start()
    t.wait(lambda: r.db.cmd("HGET", LEFT, d.consumer) is None, 10, "the mark is taken back")
    w = t.worker(d, credits=1)
    Added(r.db).one("orders", "s")
    w.wait("assign")
    d.proc.kill()
    w.close()
    other = t.daemon(r, T=3)
    v = t.worker(other, credits=1)
    assert v.wait("assign", timeout=20)["retry"] == 1, "this was a death"


@limit(60)
def test_consumers_that_never_come_back_are_forgotten(t):
    r = t.redis()
    r.db.cmd("XGROUP", "CREATE", "orders-input", "orders-group", "0", "MKSTREAM")
    for n in range(5):
        r.db.cmd("XGROUP", "CREATECONSUMER", "orders-input", "orders-group", f"redis-consumer-old-{n}")
    r.db.cmd("HSET", LEFT, "redis-consumer-old-1", "1700000000000")
    r.db.cmd("XADD", "orders-input", "*", "lbs-input", '{"DataStreamName":"kept"}')
    r.db.cmd("XREADGROUP", "GROUP", "orders-group", "redis-consumer-has-work", "STREAMS", "orders-input", ">")
    start = time.monotonic()
    d = t.daemon(r, service={"recovery": {"forget_consumer": "2s", "probe": False}})
    t.wait(lambda: consumers(r) == {"redis-consumer-has-work", d.consumer}, 30, "five are forgotten")
    assert time.monotonic() - start > 1.5 and not r.db.cmd("EXISTS", LEFT)


@limit(60)
def test_a_daemon_that_stops_says_why_it_drains_and_advises_nothing_it_refuses(t):
    r = t.redis()
    d = pod(t, r, "pod-0", shutdown={"mode": "auto", "drain_timeout": "10s"})
    w = t.worker(d, credits=1)
    add = Added(r.db)
    add.one("orders", "runs")
    a = w.wait("assign")
    d.signal(15)
    d.wait_log("stopping: draining (shutdown.mode is auto: node.id is not set")
    add.one("orders", "waits")
    why, = d.json("explain", "waits")
    assert "the daemon is stopping" in why["because"] and why["advice"] is None, why
    w.finish(a)
    assert d.wait(15) == 0
    d = t.daemon(r, "named", T=3)
    assert d.stop() == 0 and "(shutdown.mode is auto and node.id is set)" in d.log


@limit(60)
def test_a_dead_worker_is_named_in_the_dead_letter(t):
    r = t.redis()
    d = t.daemon(r, T=3, service={"retry": {"max_retries": 0}})
    p = t.proc_worker(d, name="mill-7", credits=1, work="60")
    Added(r.db).one("orders", "s")
    t.wait(lambda: any(x["state"] == "assigned" for x in d.json("ls")), what="assigned")
    p.kill()
    t.wait(lambda: r.db.cmd("XLEN", "orders-input-dlq") == 1, 15, "the dead letter")
    error = checks.dead_letters(r.db)[0]["_dlq_error"]
    assert error == f"worker died: mill-7 (pid {p.proc.pid}) ended without a word", error
    why = d.ctl("explain", "finished-long-ago")
    assert why.returncode == 1 and "it has finished, which leaves nothing behind, or was never added" in why.stderr


def read_while_they_leave(t, r, names, leave):
    """Redis stands still: what producers add, and that the last worker leaves, meets the read that waits there."""
    s = socket.socket(socket.AF_UNIX)
    s.connect(r.path)
    t.ending(s.close)
    r.pause()
    for n in names:
        words = ("XADD", "orders-input", "*", "lbs-input", json.dumps({"DataStreamName": n, "Info": {}}))
        s.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words))
    time.sleep(0.1)
    leave()
    time.sleep(0.3)
    r.cont()


@limit(60)
def test_what_is_read_while_the_last_worker_leaves_is_for_others_at_once(t):
    """It stayed pending for two seconds, where nobody could get it; a daemon that was killed then had it counted."""
    for mode in ({}, {"entries": {"enabled": True}}):
        for how in ("bye", "credits"):
            r = t.redis()
            d = t.daemon(r, service=mode)
            h = Hand(d.worker_sock, credits=3)
            t.wait(lambda: "XREADGROUP" in str(r.db.cmd("CLIENT", "LIST")).upper(), 10, "a read")
            read_while_they_leave(t, r, ["s"], lambda: h.send(**({"t": "bye"} if how == "bye" else {"t": "credits", "n": 0})))
            other = t.daemon(r, service=mode)
            start = time.monotonic()
            v = Hand(other.worker_sock, credits=3)
            assert v.assign(stream="s")["retry"] == 0
            assert time.monotonic() - start < 1, (how, mode, time.monotonic() - start)
            v.close(), d.kill(), other.kill(), r.kill()
