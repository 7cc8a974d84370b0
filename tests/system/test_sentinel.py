"""Behind Sentinel: the master is found, followed through failovers, and nothing else is taken for it."""
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time

from lib import checks
from lib.case import limit, no_acl
from lib.checks import Added
from lib.daemon import ROOT, program
from lib.liar import Liar
from lib.load import Load
from lib.sentinels import NAME, Watched
from lib.servers import SERVER, free_port, loopback

issue = 17


def behind(t, w, T=6, endpoints=None, **kw):
    redis = {"topology": "sentinel", "sentinel": {"master": NAME}, "topology_refresh": "2s"}
    return t.daemon(endpoints or w.endpoints, T=T, cfg={"redis": redis}, **kw)


def one_done(worker, db, stream, timeout=15):
    n = len(worker.frames("ok"))
    Added(db).one("orders", stream)
    worker.wait("ok", n + 1, timeout)


def masters(d):
    return [x["redis"] for x in d.json("nodes") if x["role"] == "master"]


def sentinels(d):
    """By address: how it was when it was asked last, as nodes and the metrics have it."""
    def asked():
        return {x["redis"]: x["state"] for x in d.json("nodes") if x["role"] == "sentinel"}
    rows, before = asked(), None
    while rows != before:  # nothing has changed between the two
        before = rows
        ready = dict(re.findall(r'sluice_redis_connections{redis="([^"]+)",role="sentinel",state="ready"} (\d)', d.ctl_ok("metrics")))
        rows = asked()
    assert rows.keys() == ready.keys() and all((rows[x] == "answers") == (ready[x] == "1") for x in rows), (rows, ready)
    return rows


def sentinel_word(d):
    """What doctor says of them: (result, found)."""
    rows = [json.loads(x) for x in d.ctl("--json", "doctor").stdout.splitlines() if x]
    row, = [x for x in rows if x.get("check") == "sentinel"]
    return row["result"], row["found"]


def tcp(n):
    return f"{n.host}:{n.port}"


@limit(120)
@no_acl("Sentinels' own users")
def test_the_master_is_found_and_followed(t):
    """One Sentinel is configured, the others are learned; the first is dead when the master dies."""
    s = Watched(t)
    d = behind(t, s, endpoints=s.endpoints[:1])
    w = t.worker(d, credits=8, work=0)
    first = s.nodes[0]
    one_done(w, first.db, "s0")
    assert masters(d) == [tcp(first)], masters(d)
    s.sentinels[0].kill()
    first.kill()
    new = s.other_master(first)
    t0 = time.monotonic()
    one_done(w, new.db, "s1", 20)
    print(f"served {time.monotonic() - t0:.1f} s after the Sentinels agreed")
    t.wait(lambda: masters(d) == [tcp(new)], 20, "nodes names the new one")
    first.start()  # says that it is a master until the Sentinels have told it
    for i in range(5):
        one_done(w, new.db, f"t{i}")
        time.sleep(0.3)
    assert masters(d) == [tcp(new)], masters(d)


@limit(120)
@no_acl("Sentinels' own users")
def test_nothing_is_lost_in_planned_failovers(t):
    s = Watched(t)
    d = behind(t, s)
    w = t.worker(d, credits=50, work=0.02, reconnect=True)
    sure, now = {}, s.nodes[0]
    for round in range(2):
        for i in range(40):
            name = f"r{round}-{i}"
            Added(now.db).one("orders", name)
            sure[name] = {}
        t.wait(lambda: now.db.cmd("WAIT", 2, 500) == 2, 30, "both replicas have it")
        s.sentinels[0].db.cmd("SENTINEL", "FAILOVER", NAME)
        now = s.other_master(now)
        t.wait(lambda: now.db.cmd("XLEN", "orders-input") == 0, 30, "all done on the new master")
    checks.none(checks.lost(sure, [w.journal]) + checks.overlaps([w.journal]))


@limit(300)
@no_acl("Sentinels' own users")
def test_masters_killed_and_cut_off_under_load(t):
    """Nothing that a replica had is lost, nobody is told of what somebody else owns."""
    s = Watched(t)
    ds = [behind(t, s, name=x, service={"retry": {"max_retries": 100}}) for x in "ab"]
    ws = [t.worker(d, credits=60, reconnect=True, work=lambda a: random.uniform(0, 0.3)) for d in ds]
    load = Load(s, rate=200)
    t.ending(load.stop)

    def progress(n, timeout=40):
        goal = sum(len(w.frames("ok")) for w in ws) + n
        t.wait(lambda: sum(len(w.frames("ok")) for w in ws) >= goal, timeout, f"{n} more done", 0.05)
    progress(100)
    now, served = s.nodes[0], []
    for i in range(int(os.environ.get("ROUNDS", 2))):
        t0 = time.monotonic()
        now.pause() if i % 2 else now.kill()
        s.other_master(now)
        t1 = time.monotonic()
        progress(20)
        served.append(time.monotonic() - t1)
        print(f"{'paused' if i % 2 else 'killed'}: another master after {t1 - t0:.1f} s, served {served[-1]:.1f} s later")
        now.cont() if i % 2 else now.start()
        now = t.wait(s.whole_master, 40, "the old one is a replica", 0.1)  # two Sentinels may have led a failover each
        progress(100)
    added = load.stop()
    checks.wait_clean(s.client(), timeout=60)
    journals = [w.journal for w in ws]
    checks.none(checks.lost(added.sure, journals) + checks.overlaps(journals))
    print(f"= {len(served)} masters killed or paused: {len(added.sure)} added, {len(added.maybe)} maybe, 0 lost, 0 overlaps, "
          f"served within {max(served):.1f} s of the failover")


@limit(120)
@no_acl("Sentinels' own users")
def test_sentinels_with_a_password_and_without_a_majority(t):
    s = Watched(t, replicas=1, password="hush")
    with open(t.path("pw"), "w") as f:
        f.write("wrong\n")
    d = t.daemon(s.endpoints, T=6, ready=False, cfg={"redis": {
        "topology": "sentinel", "topology_refresh": "500ms", "sentinel": {"master": NAME, "password": {"file": t.path("pw")}}}})
    d.wait_log("WRONGPASS")
    p = d.ctl("status", "--ready")
    assert p.returncode == 1 and "WRONGPASS" in p.stderr, p
    with open(t.path("pw"), "w") as f:
        f.write("hush\n")
    d.wait_ready()  # the file is read again
    w = t.worker(d, credits=8, work=0)
    one_done(w, s.nodes[0].db, "s0")
    assert sentinel_word(d) == ("ok", "a majority of 3 known Sentinels agrees about the master"), sentinel_word(d)
    t.wait(lambda: sentinels(d) == {x.endpoint: "answers" for x in s.sentinels}, 20, "each is heard of")
    for x in s.sentinels[:2]:
        x.kill()
    t.wait(lambda: sentinel_word(d)[0] == "warn", 20, "doctor misses two")
    assert sentinel_word(d)[1].startswith("1 of 3 known Sentinels answer"), sentinel_word(d)
    assert sentinels(d) == {x.endpoint: "silent" if x in s.sentinels[:2] else "answers" for x in s.sentinels}, sentinels(d)
    one_done(w, s.nodes[0].db, "s1")  # what says that it is a master is kept
    assert d.ctl("status", "--ready").returncode == 0, d.ctl("status", "--ready")
    s.sentinels[2].kill()
    t.wait(lambda: sentinel_word(d)[0] == "fail", 20, "doctor misses all")
    one_done(w, s.nodes[0].db, "s2")


@limit(60)
@no_acl("Sentinels' own users")
def test_a_sentinel_that_lies_is_outvoted(t):
    """The first that is asked names a server that says it is a master, too."""
    s = Watched(t)
    decoy = t.redis()
    liar = Liar(s.sentinels[0], about=("SENTINEL", "GET-MASTER-ADDR-BY-NAME"))
    t.ending(liar.close)
    liar.stick_to([decoy.host, str(decoy.port)])
    d = behind(t, s, endpoints=[liar.endpoint, *s.endpoints[1:]])
    w = t.worker(d, credits=8, work=0)
    one_done(w, s.nodes[0].db, "s0")
    for _ in range(3):
        n = liar.n_lies
        t.wait(lambda: d.ctl("topology", "refresh") and liar.n_lies > n, 20, "it is asked, in its turn")
        assert masters(d) == [tcp(s.nodes[0])], masters(d)
    assert decoy.db.cmd("EXISTS", "orders-input") == 0


@limit(60)
@no_acl("Sentinels' own users")
def test_sentinels_that_nobody_names_any_more_are_forgotten(t):
    """They moved to other addresses: those before neither count for the majority nor take the places of new ones."""
    s = Watched(t, replicas=0)
    liar = Liar(s.sentinels[0], about=("SENTINEL", "SENTINELS"))
    t.ending(liar.close)
    gone = [f"{loopback()}:{free_port()}" for _ in range(15)]
    liar.stick_to([["ip", x.split(":")[0], "port", x.split(":")[1]] for x in gone])
    d = behind(t, s, endpoints=[liar.endpoint])
    t.wait(lambda: sentinel_word(d)[1].startswith("1 of 16 known"), 20, "most of them are silent")
    liar.answer = None
    t.wait(lambda: sentinel_word(d)[0] == "ok", 20, "a majority again")
    assert sorted(sentinels(d)) == sorted([liar.endpoint, *s.endpoints]), sentinels(d)
    s.sentinels[1].kill()
    t.wait(lambda: sentinels(d)[s.sentinels[1].endpoint] == "silent", 20, "who is named stays, silent as it is")


@limit(60)
@no_acl("Sentinels' own users")
def test_a_master_that_no_sentinel_knows(t):
    s = Watched(t, replicas=0, sentinels=1)
    d = t.daemon(s.endpoints, T=6, ready=False, cfg={"redis": {"topology": "sentinel", "sentinel": {"master": "other"}}})
    d.wait_log("knows no master named other")
    assert "knows no master named other" in d.ctl("status", "--ready").stderr
    p = d.ctl("nodes")
    assert p.returncode == 1 and re.search(rf"{s.sentinels[0].endpoint} +sentinel .*knows no such master", p.stdout), p


@limit(120)
@no_acl("Sentinels' own users")
def test_what_the_page_about_sentinel_says_to_type(t):
    """Its commands, with this test's folder and ports for those of the page."""
    if not shutil.which("redis-cli"):
        return print("= skipped: no redis-cli")
    with open(os.path.join(ROOT, "src", "doc", "sentinel.md")) as f:
        block = re.search(r"<!-- tried by .*?-->\n```sh\n(.*?)```", f.read(), re.S)[1]
    os.mkdir(t.path("bin"))
    os.symlink(shutil.which(SERVER), t.path("bin/redis-server"))
    path = os.pathsep.join([t.path("bin"), os.path.dirname(program("sluiced")), os.environ["PATH"]])
    block = block.replace("/tmp/behind-sentinel", t.path("s"))
    free = [socket.create_server(("127.0.0.1", 0)) for _ in range(5)]
    for old, s in zip(("26001", "26002", "26003", "6001", "6002"), free):  # all of 127.0.0.1, which is everybody's
        block = re.sub(rf"\b{old}\b", str(s.getsockname()[1]), block)
        s.close()
    out = open(t.path("out"), "w")
    p = subprocess.Popen(["bash", "-euc", block + "sleep 100"], stdout=out, stderr=out, start_new_session=True, env={**os.environ, "PATH": path})
    try:
        for stream in ("orders:1", "orders:2"):
            t.wait(lambda: f"works on {stream}" in open(t.path("out")).read(), 60, stream, 0.1)
    finally:
        os.killpg(p.pid, signal.SIGKILL)
        p.wait()
        print(open(t.path("out")).read()[-3000:])
