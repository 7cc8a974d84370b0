"""The fixtures themselves: servers, cluster, Go-style consumers. No daemon needed."""
from lib.redis import slot_of
from lib.servers import wait_until

issue = 2


def test_fixture_standalone_stop_cont_restart(t):
    r = t.redis(aof=True)
    r.db.cmd("SET", "k", "v\xff")
    assert r.db.pipe([("GET", "k"), ("XADD", "k", "*", "a", "b")])[1].args[0].startswith("WRONGTYPE")
    r.pause()
    try:
        r.client(timeout=0.2).cmd("PING")
        raise SystemExit("a stopped server answered")
    except OSError:
        pass
    r.cont()
    r.kill()
    r.start()
    assert r.db.cmd("GET", "k") == "v\xff"


def test_fixture_cluster_three_masters(t):
    c = t.cluster()
    for i in range(50):
        c.db.cmd("SET", f"k{i}", i)
    assert c.db.pipe([("GET", f"k{i}") for i in range(50)]) == [str(i) for i in range(50)]
    src = c.master_of("k1")
    dst = next(n for n in c.masters() if n is not src)
    c.move_key("k1", dst)
    assert c.db.cmd("GET", "k1") == "1" and c.master_of("k1") is dst, slot_of("k1")


def test_fixture_cluster_failover_manual_and_kill(t):
    c = t.cluster(replicas=1)
    c.db.cmd("SET", "k", "v")
    old = c.master_of("k")
    new = c.failover(old)
    assert c.db.cmd("GET", "k") == "v"
    wait_until(lambda: c.replica_of(new) is old, 20, "the old master follows the new one")
    c.wait_ok()
    new.kill()
    assert wait_until(lambda: c.db.cmd("GET", "k"), 20) == "v"
    new.start()
    c.wait_ok()
    assert c.role(new) == "slave"
