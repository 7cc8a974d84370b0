"""sluicectl fleet: every daemon of a service, seen from any of them, and who is no more."""
import re

from lib import acl
from lib.case import limit
from lib.checks import Added

issue = 17


def rows(d, *args):
    return {x["node"] or x["consumer"]: x for x in d.json("fleet", *args)}


@limit(90)
def test_each_daemon_sees_all_of_them(t):
    single = t.redis()
    for server in (t.cluster(), single):
        a, b = (t.daemon(server, name=x, T=3, services=("orders", "{shop}")) for x in "ab")
        wa, wb = t.worker(a, credits=3, services=["orders"]), t.worker(b, credits=5)
        t.worker(b, credits=7, services=["orders"])
        Added(server.db).many("orders", [f"s{i}" for i in range(6)])
        t.wait(lambda: sum(x["owned"] for x in rows(a, "orders").values()) == 6, 10, "all are owned")
        server.db.cmd("XGROUP", "CREATECONSUMER", "orders-input", "orders-group", "someone-else")
        for d in (a, b):
            got = t.wait(lambda: (x := rows(d, "orders")) and x["a"]["credits"] == 3 and x["b"]["credits"] == 12 and x, 10, "credits")
            version = d.json("version")[0]["client"]
            assert {n: (x["state"], x["workers"], x["version"], x["self"]) for n, x in got.items() if n in "ab"} == {
                "a": ("alive", 1, version, d is a), "b": ("alive", 2, version, d is b)}, got
            assert {n: x["owned"] for n, x in got.items() if n in "ab"} == {n: len(x.json("ls", "--service", "orders")) for n, x in
                                                                             (("a", a), ("b", b))}
            assert all(0 <= got[n]["idle_ms"] < 3000 for n in "ab") and got["a"]["consumer"] == a.consumer
            other = got["someone-else"]
            assert (other["credits"], other["version"], other["node"], other["owned"]) == (None, None, None, 0), other
        assert {x["service"] for x in a.json("fleet")} == {"orders", "{shop}"} and rows(a, "{shop}")["a"]["credits"] == 0
        assert a.ctl("fleet", "nobody").returncode == 1
        said = a.ctl_ok("fleet", "orders")
        assert "CREDITS" in said and "alive" in said and "self" in said
        wa.close(), wb.close()
        b.kill()
        if server is not single:
            a.kill()
            continue
        t.wait(lambda: rows(a, "orders")["b"]["state"] == "silent", 15, "one is silent")
        b.start()
        assert b.stop() == 0
        t.wait(lambda: rows(a, "orders")["b"]["state"] == "left", 10, "one has left on purpose")


@limit(60)
def test_a_user_of_before_goes_on_without(t):
    """The key is new: a Redis user without a rule for it is no reason to complain."""
    acl.switch_on()
    r = t.redis()
    d = t.daemon(r, T=3)
    r.db.cmd("DEL", "{orders-input}-fleet")
    rules = [x for x in acl.user() if not x.endswith("-fleet")]
    r.db.cmd("ACL", "SETUSER", rules[0], "reset", *rules[1:])
    d.restart()
    w = t.worker(d, credits=2, work=0)
    Added(r.db).one("orders", "s")
    w.wait("ok")
    row, = d.json("fleet", "orders")
    assert row["credits"] == 2 and row["self"], "of itself it knows"
    assert d.ctl("status", "--ready").returncode == 0 and not [x for x in d.log.splitlines() if "NOPERM" in x and "config" not in x]
    r.db.cmd("ACL", "LOG", "RESET")


@limit(60)
def test_who_runs_has_not_left_when_a_namesake_has(t):
    """Two daemons with one node id, by mistake: the one that stops says so for both."""
    r = t.redis()
    a, b = (t.daemon(r, name=n, node="twin", cfg={"shutdown": {"mode": "drain"}}) for n in "ab")
    other = t.daemon(r, name="other")
    w = t.worker(b, credits=1)
    assert a.stop() == 0
    assert r.db.cmd("HEXISTS", "{orders-input}-left", b.consumer) == 1, "it has said so"
    assert rows(b)["twin"]["state"] == "alive", "it answers itself"
    Added(r.db).one("orders", "s")  # it reads again, after that
    w.wait("assign")
    r.db.cmd("HSET", "{orders-input}-left", b.consumer, int(r.db.cmd("TIME")[0]) * 1000 - 5000)
    assert rows(other)["twin"]["state"] == "alive", rows(other)


@limit(60)
def test_a_key_of_another_type_there_is_a_warning(t):
    """It is only to be looked at: the daemon is ready, and says once what the matter is."""
    r = t.redis()
    d = t.daemon(r)
    r.db.cmd("DEL", "{orders-input}-fleet")
    r.db.cmd("SET", "{orders-input}-fleet", "not a hash")
    w = t.worker(d, credits=2, work=0)
    d.wait_log("WRONGTYPE", 20)
    t.wait(lambda: re.search(r'refused_total\{redis="[^"]*",error="WRONGTYPE"\} ([5-9]|\d\d)', d.ctl_ok("metrics")), 30, "it is tried again", 0.5)
    assert d.ctl("status", "--ready").returncode == 0, d.ctl("status").stdout
    line, = [x for x in d.log.splitlines() if "WRONGTYPE" in x]
    assert "({orders-input}-fleet: other daemons are told nothing of ours)" in line, line
    row = next(x for x in d.json("doctor") if x["check"] == "keys")
    assert row["result"] == "warn" and row["found"].startswith("{orders-input}-fleet is not a hash"), row
    Added(r.db).one("orders", "s")
    w.wait("ok")
