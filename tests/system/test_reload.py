"""Reload: every setting's answer is the manual's, and what is said to be applied holds, without a connection less."""
import copy
import grp
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time

from lib import checks
from lib.case import limit, no_acl
from lib.certs import Authority, tls_redis
from lib.checks import Added
from lib.daemon import ROOT, program, timing
from lib.fleet import finish, hold, unnoticed
from lib.gate import Gates
from lib.redis import scan
from lib.servers import loopback
from lib.worker import Raw

issue = 5


def reload(d, code=0):
    """{setting: row}; a rejected one: the text."""
    p = d.ctl("--json", "reload")
    assert p.returncode == code, f"{p.returncode}: {p.stdout}{p.stderr}"
    if code:
        return p.stdout + p.stderr
    rows = map(json.loads, p.stdout.splitlines())
    return {x["setting"]: x for x in rows if x["result"] != "unchanged"}


def clients(r, user=None):
    """{client id: row} of the daemon's connections."""
    rows = [dict(w.split("=", 1) for w in x.split() if "=" in w) for x in r.db.cmd("CLIENT", "LIST").splitlines()]
    return {x["id"]: x for x in rows if x["name"].startswith("redis-consumer-") and user in (None, x["user"])}


def works(w, add, name):
    """A new stream gets all the way through."""
    n = len(w.frames("ok"))
    add.one("orders", name)
    w.wait("ok", n + 1, timeout=20)


# ---- every setting

def manual():
    """{setting: (type, "live" or "restart")} as sluiced.yaml(5) says."""
    with open(os.path.join(ROOT, "man/sluiced.yaml.5")) as f:
        text = f.read()
    found = {}
    for path, entry in re.findall(r"^\.It Ic ([a-z_.\[\]]+)\n(.*?)(?=^\.It |^\.El)", text, re.M | re.S):
        claim = re.search(r"^\.Pq (\S[^;\n]*); .*; (live|restart)$", entry, re.M)
        if claim:
            found[path] = claim[1], claim[2]
    return found


OTHER = {"integer": 7, "percent": "30%", "size": "2MiB", "mode": "0600"}  # another good value, by type
VALUES = {  # and by name
    "node.id": "other", "redis.topology": "standalone", "redis.endpoints": ["unix:/nowhere"], "redis.db": 1, "redis.username": "ann",
    "redis.tls.enabled": True, "redis.tls.ca_file": "/a/ca", "redis.tls.cert_file": "/a/cert", "redis.tls.key_file": "/a/key", "redis.tls.server_name": "name",
    "redis.connect_timeout": "4s", "redis.command_timeout": "2s", "redis.reconnect.initial": "50ms", "redis.reconnect.max": "4s",
    "redis.keyspace_events": "off", "redis.topology_refresh": "20s", "services[].group_start": "$", "services[].same_stream": "allow",
    "redis.fail_fast": True, "services[].recovery.probe": False, "services[].lease.ttl": "9s", "services[].lease.renew_every": "3s",
    "services[].lease.stop_margin": "3s", "services[].recovery.interval": "50s", "services[].recovery.min_idle": "40s",
    "services[].dead_letter.stream": "dead", "workers.socket": "/a/w", "control.socket": "/a/c", "workers.hello_timeout": "9s",
    "workers.ping_every": "2s", "workers.resume_grace": "4s", "workers.progress_timeout": "1h", "maintenance.mode": "disabled",
    "maintenance.endpoint_type": "none", "maintenance.relaxed_timeout": "9s", "maintenance.relaxed_cap": "50s",
    "maintenance.post_handoff_relaxed": "10s", "maintenance.handoff_timeout": "10s", "maintenance.circuit_breaker.reset": "50s",
    "redis.password.refresh": "30s", "redis.sentinel.master": "m", "redis.sentinel.username": "ann", "services[].recovery.forget_consumer": "25h",
    "services[].retry.initial": "2s", "services[].retry.max": "4m", "services[].retry.release_delay": "3s",
    "services[].entries.enabled": True, "services[].entries.start": "$", "services[].entries.on_ack": "trim",
    "services[].entries.on_done": "delete", "services[].entries.idle_release": "9s", "services[].entries.position_ttl": "100h",
    "services[].entries.poll_max": "300ms", "services[].entries.retry.initial": "2s", "services[].entries.retry.max": "4m",
    "services[].entries.dead_letter.stream": "dead-entries",
    "shutdown.mode": "drain", "shutdown.drain_timeout": "50s", "log.level": "notice", "log.format": "json"}
DERIVED = {"services[].lease.renew_every", "services[].lease.stop_margin", "services[].recovery.min_idle", "workers.ping_every",
           "workers.resume_grace", "redis.command_timeout"}


def at(cfg, path):
    """The mapping that holds the setting, its key."""
    *maps, key = path.replace("services[]", "services").split(".")
    for m in maps:
        cfg = cfg[m][0] if m == "services" else cfg.setdefault(m, {})
    return cfg, key


@limit(120)
@no_acl("changes the user, too")
def test_every_setting_answers_as_the_manual_says(t):
    with open(t.path("pw"), "w") as f:
        f.write("secret\n")
    os.mkdir(t.path("creds"))
    shutil.copy(t.path("pw"), t.path("creds/pw"))
    group = grp.getgrgid(os.getgid()).gr_name
    values = {**VALUES, "redis.password.file": t.path("pw"), "redis.password.credential": "pw", "redis.password.env": "TEST_PW",
              "redis.sentinel.password.file": t.path("pw"), "redis.sentinel.password.credential": "pw",
              "redis.sentinel.password.env": "TEST_PW", "workers.group": group, "control.group": group, "workers.allow_uids": [os.getuid()],
              "metrics.listen": f"unix:{t.path('m.sock')}"}
    r = t.redis()
    d = t.daemon(r, env={"TEST_PW": "secret", "CREDENTIALS_DIRECTORY": t.path("creds")},
                 cfg={"redis": {"tls": {"cert_file": "/cert", "key_file": "/key"}}})
    w = t.worker(d, credits=1)
    Added(r.db).one("orders", "held")
    w.wait("assign")
    good, before, claims = copy.deepcopy(d.cfg), clients(r), manual()
    assert len(claims) > 60 and {how for _, how in claims.values()} == {"live", "restart"}

    def write(path, value):
        d.cfg = copy.deepcopy(good)
        if path:
            m, key = at(d.cfg, path)
            m[key] = value
        d.write()
    for path, (kind, how) in claims.items():
        if path == "services[].name":  # the next test
            continue
        shown = path.replace("services[]", "services[orders]")
        write(path, {"no such": "thing"})
        problem = re.escape(path).replace(re.escape("services[]"), r"services\[0\]")
        assert re.search(rf"sluiced\.yaml:\d+:\d+: {problem}\S*: ", reload(d, 78)), path
        write(path, values.get(path, OTHER.get(kind)))
        rows = reload(d)
        assert shown in rows and rows[shown]["result"] == {"live": "applied", "restart": "needs_restart"}[how], (path, rows)
        more = {x.replace("services[orders]", "services[]") for x in set(rows) - {shown}}
        assert more <= DERIVED | {"redis.password"}, (path, rows)
        if how == "restart":
            assert reload(d) == rows, f"{path}: said until it is restarted"
        write(None, None)
        back = reload(d)
        assert set(back) == (set(rows) if how == "live" else set()), (path, rows, back)
        assert all(back[x]["to"] == rows[x]["from"] for x in back), (path, rows, back)
    assert reload(d) == {} and set(before) <= set(clients(r)), "no connection of the daemon has ended"
    assert not w.frames("revoke") and not w.frames("closed", d="ev")


# ---- what is applied holds

def assigned(w):
    return len(w.frames("assign"))


@limit(60)
def test_services_come_and_go(t):
    """What runs of a service that goes ends as ever; nothing new of it begins; back again, it goes on."""
    r = t.redis()
    d = t.daemon(r)
    w = t.worker(d, credits=10)
    add = Added(r.db)
    add.one("orders", "o1")
    w.wait("assign")
    orders = d.cfg["services"][0]
    d.write(services=[{**orders, "name": "bills"}])
    rows = reload(d)
    assert rows["services[orders]"]["to"] is None and rows["services[bills]"]["from"] is None
    add.many("bills", ["b1"])
    assert w.wait("assign", 2)["service"] == "bills"
    for verb in (["ls"], ["show", "o1"], ["explain", "o1"]):  # what is left of it is found by its name
        assert [x["stream"] for x in d.json(*verb, "--service", "orders")] == ["o1"]
    assert d.ctl("add", "orders", "x").returncode == 1 and d.ctl("pause", "orders").returncode == 1
    add.one("orders", "o2")
    w.finish(w.frames("assign")[0])
    w.wait("ok")
    assert not w.frames("revoke") and r.db.cmd("XLEN", "orders-input") == 1
    t.wait(lambda: {x["service"] for x in d.json("status")[0]["services"]} == {"bills"}, 10, "orders is gone")
    d.wait_log("service=orders removed: what waits in orders-input stays there until a daemon has the service again")
    p = d.ctl("explain", "o2")
    assert p.returncode == 1 and "was never added to a service that this daemon has" in p.stderr, p
    d.write(services=[orders, {**orders, "name": "bills"}])
    assert set(reload(d)) == {"services[orders]"}
    assert w.wait("assign", 3)["stream"] == "o2"
    for a in w.frames("assign")[1:]:
        w.finish(a)
    checks.wait_clean(r.db, ["orders", "bills"])
    checks.all_good(add.sure, [w.journal])


@limit(60)
def test_what_became_of_leases_outlives_their_service(t):
    """Removed with its last entry: a worker that comes back hears how it ended, one that stops late has its credit again."""
    r = t.redis()
    d = t.daemon(r, services=("orders", "bills"))
    add = Added(r.db)
    orders, bills = d.cfg["services"]
    for way in ("done", "revoked"):
        w = t.worker(d, credits=1, answers_revoke=False, reconnect=True)
        add.one("orders", way)
        a = w.wait("assign")
        d.write(services=[bills])
        reload(d)
        if way == "done":
            w.send(done := {"t": "done", "lease": a["lease"]})
            w.drop()
        else:
            d.ctl_ok("revoke", w.name)
            w.wait("revoke")
        t.wait(lambda: {x["service"] for x in d.json("status")[0]["services"]} == {"bills"}, 20, "orders is gone")
        if way == "done":
            assert w.wait("welcome", 2)["gone"] == [{"lease": a["lease"], "outcome": "done"}]
            w.send(done)
            assert w.wait("ok", lease=a["lease"])["outcome"] == "done"
        else:
            add.one("bills", "next")
            w.send({"t": "revoked", "lease": a["lease"]})
            w.finish(w.wait("assign", 2))
            w.wait("ok")
        assert not w.frames("err"), w.frames("err")
        w.close()
        d.write(services=[orders, bills])
        reload(d)


@limit(60)
def test_another_service_in_its_place_is_not_its_workers(t):
    """A worker gets what it named, whatever comes and goes: nothing of a new service, and its own again when that is back."""
    r = t.redis()
    d = t.daemon(r, services=("orders", "bills"))
    add = Added(r.db)
    orders, bills = d.cfg["services"]
    w = t.worker(d, credits=3, services=["bills"], work=0)
    w.wait("welcome")

    def now(*services):
        d.write(services=list(services))
        reload(d)
        t.wait(lambda: {x["service"] for x in d.json("status")[0]["services"]} == {x["name"] for x in services}, 10, "the services")
    now(orders)
    assert d.json("workers")[0]["services"] == []
    now(orders, {**bills, "name": "cards"})
    add.one("cards", "c")
    time.sleep(0.5)
    assert not w.frames("assign"), w.frames("assign")
    now(orders, {**bills, "name": "cards"}, bills)
    add.one("bills", "b")
    assert w.wait("assign")["stream"] == "b"
    assert d.json("workers")[0]["services"] == ["bills"]
    assert r.db.cmd("XLEN", "cards-input") == 1


@limit(60)
def test_limits_and_timings_hold_at_once(t):
    r = t.redis()
    d = t.daemon(r, service={"max_streams": 2})
    w = t.worker(d, credits=10)
    Added(r.db).many("orders", ["a", "b", "c"])
    w.wait("assign", 2)
    d.cfg["services"][0]["max_streams"] = 3
    assert set(reload_with(d)) == {"services[orders].max_streams"}
    w.wait("assign", 3)
    lock, = scan(r.db, "a<MUTEX_KEY_SEP>*")
    for ttl, low, high in (("4s", 0, 4000), ("20s", 10001, 20000)):
        d.cfg["services"][0]["lease"] = {"ttl": ttl}
        d.cfg["services"][0]["recovery"] = {"min_idle": "60s"}
        before = r.db.cmd("PTTL", lock)
        assert "services[orders].lease.ttl" in reload_with(d)
        assert r.db.cmd("PTTL", lock) > before - 2000, "workers know of the longer one"
        t.wait(lambda: low < r.db.cmd("PTTL", lock) <= high, 15, f"the lease lasts {ttl}")
    n = len(w.frames("ping"))
    reload_with(d, workers={"ping_every": "100ms", "max_sessions": 1})
    w.wait("ping", n + 10, timeout=10)
    v = Raw(d.worker_sock).send({"t": "hello", "v": 1, "name": "v", "credits": 1})
    assert v.until("err")["code"] == "too_many_sessions"
    reload_with(d, workers={"max_sessions": 2})
    v = Raw(d.worker_sock).send({"t": "hello", "v": 1, "name": "v", "credits": 1})
    assert v.until("welcome")
    assert not w.frames("revoke") and not w.frames("closed", d="ev")


def reload_with(d, **cfg):
    d.write(**cfg)
    return reload(d)


@limit(60)
def test_log_and_metrics_change_at_once(t):
    d = t.daemon(t.redis(), cfg={"log": {"level": "info"}})
    n = len(d.log.splitlines())
    reload_with(d, log={"format": "json"}, metrics={"listen": f"unix:{t.path('m1')}"})
    new = d.log.splitlines()[n:]
    assert new and all(json.loads(x) for x in new) and os.path.exists(t.path("m1"))
    reload_with(d, log={"level": "error", "format": "text"}, metrics={"listen": f"unix:{t.path('m2')}"})
    assert os.path.exists(t.path("m2")) and not os.path.exists(t.path("m1"))
    t.worker(d, name="unsaid").wait("welcome")
    reload_with(d, log={"level": "info"})
    t.worker(d, name="said").wait("welcome")
    d.wait_log("worker=said")
    assert "worker=unsaid" not in d.log


@limit(60)
def test_what_cannot_be_opened_rejects_the_whole_file(t):
    """The file itself is good; a socket of it is not to be had: nothing of it is applied, by neither way of asking."""
    r = t.redis()
    d = t.daemon(r, cfg={"metrics": {"listen": f"unix:{t.path('m')}"}})
    good = copy.deepcopy(d.cfg)
    d.write(metrics={"listen": f"unix:{t.path('no/such/dir/m')}"}, services=[{"name": "bills"}], log={"level": "info"})
    assert t.path("no/such/dir/m") in reload(d, 78)
    d.signal(signal.SIGHUP)
    d.wait_log("reload rejected, nothing changed: ")
    assert os.path.exists(t.path("m")) and {x["service"] for x in d.json("status")[0]["services"]} == {"orders"}
    d.cfg = good
    d.write()
    assert reload(d) == {}


def test_metrics_move_to_another_address_of_the_same_port(t):
    """From loopback to every address and back: we hold the port ourselves. Where that fails, the old address goes on."""
    r = t.redis()
    with socket.create_server(("0.0.0.0", 0)) as s:  # free at every address, which free_port does not look for
        port = s.getsockname()[1]

    def answers(host):
        try:
            with socket.create_connection((host, port), 5) as s:
                s.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
                return s.recv(99).startswith(b"HTTP/1.1 200 ")
        except ConnectionRefusedError:
            return False
    mine, other = loopback(), loopback(64)
    d = t.daemon(r, cfg={"metrics": {"listen": f"{mine}:{port}"}})
    assert answers(mine) and not answers(other)
    d.write(metrics={"listen": f"0.0.0.0:{port}"})
    assert reload(d)["metrics.listen"]["result"] == "applied"
    assert answers(mine) and answers(other)
    d.write(metrics={"listen": f"{mine}:{port}"})
    assert reload(d)["metrics.listen"]["result"] == "applied"
    assert answers(mine) and not answers(other)
    with socket.create_server((other, port)):
        d.write(metrics={"listen": f"0.0.0.0:{port}"})
        assert "address already in use" in reload(d, 78)
        assert answers(mine)
    assert reload(d)["metrics.listen"]["result"] == "applied"
    assert answers(other)


@limit(60)
def test_reconnect_pauses_change_under_way(t):
    """Paused for hours, every connection comes back at once when the pauses are made short."""
    r = t.redis()
    d = t.daemon(r, cfg={"redis": {"reconnect": {"initial": "10m", "max": "10m"}}})
    w = t.worker(d, credits=1, work=0)
    before = clients(r)
    r.db.pipe([("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"), ("CLIENT", "KILL", "TYPE", "pubsub")])
    t.wait(lambda: not set(clients(r)) & set(before) and d.ctl("status", "--ready").returncode == 1, 10, "all are gone")
    add = Added(r.db)
    add.one("orders", "a")
    reload_with(d, redis={"reconnect": {"initial": "20ms", "max": "100ms"}})
    w.wait("ok", timeout=20)
    t.wait(lambda: len(clients(r)) == len(before), 10, "all are back, the subscriber and the one for the topology too")


@limit(60)
def test_endpoint_type_counts_from_the_next_connection(t):
    r, gates = t.redis(), Gates(t)
    g = gates.gate(r)
    d = t.daemon([g.endpoint])

    def opted():
        return {c["opted"] for c in g.conns(open=True)}
    t.wait(lambda: len(g.conns(open=True)) == 4 and opted() == {"internal-ip"}, 10, "four connections")
    reload_with(d, maintenance={"endpoint_type": "external-fqdn"})
    g.ask("close")
    t.wait(lambda: len(g.conns(open=True)) == 4 and opted() == {"external-fqdn"}, 10, "the same with the new type")


@limit(90)
def test_reloads_under_load(t):
    """Leases, limits, timings and another service change twice a second: nobody who works notices."""
    r = t.redis()
    d = t.daemon(r)
    holders, add = hold(t, d, 4, 5)
    ws = [t.worker(d, credits=5, work=0.05, reconnect=True) for _ in range(4)]
    orders = d.cfg["services"][0]
    T = [4, 30, 10, 60, 3, 5]
    for n in range(18):
        add.many("orders", [f"q{n}.{i}" for i in range(40)])
        service, redis, workers = timing(T[n % len(T)])
        d.cfg["services"] = [{**orders, **service, "max_streams": 40 + n}] + [{**orders, **service, "name": "bills"}] * (n % 2)
        d.cfg["workers"] = {"socket": d.worker_sock, **workers, "ping_every": f"{500 + 100 * (n % 3)}ms"}
        d.write(redis={"endpoints": r.endpoints, "command_timeout": "3s", **redis}, maintenance={"mode": "disabled" if n % 2 else "auto"})
        assert "services[orders].lease.ttl" in reload(d)
        time.sleep(0.5)
    t.wait(lambda: len(checks.finished([w.journal for w in ws])) == 18 * 40, 30, "all short ones are done")
    unnoticed(holders + ws)
    finish(t, d, holders, Added(r.db))
    checks.all_good(add.sure, [w.journal for w in holders + ws])
    assert set(checks.finished([w.journal for w in holders + ws]).values()) == {1}


# ---- credentials

def put(path, text):
    with open(path, "w") as f:
        f.write(text)


def n_auths(r):
    stats = r.db.cmd("INFO", "commandstats")
    return int((re.search(r"cmdstat_auth:calls=(\d+)", stats) or [0, 0])[1])


@limit(60)
@no_acl("has a user of its own")
def test_password_is_rotated_over_open_connections(t):
    """The server learns the new password, the daemon, the server forgets the old one: not one connection ends. A password
    that the server does not know costs nothing but a line."""
    r = t.redis()
    r.db.cmd("ACL", "SETUSER", "sluiced", "on", ">one", "~*", "&*", "+@all")
    put(t.path("pw"), "one")
    d = t.daemon(r, cfg={"redis": {"username": "sluiced", "password": {"file": t.path("pw")}}})
    w, add = t.worker(d, credits=5, work=0), Added(r.db)
    works(w, add, "with one")
    t.wait(lambda: len(clients(r, "sluiced")) == 4, 10, "command, reader, subscriber, topology")
    before = clients(r, "sluiced")

    def rotate(password):
        n = n_auths(r)
        put(t.path("pw"), password)
        assert reload(d) == {"redis.password": {"setting": "redis.password", "result": "applied", "from": "***", "to": "***",
                                                "problem": None}}
        t.wait(lambda: n_auths(r) == n + 4, 10, "all of them said AUTH")
    r.db.cmd("ACL", "SETUSER", "sluiced", ">two")
    rotate("two")
    r.db.cmd("ACL", "SETUSER", "sluiced", "<one")
    works(w, add, "with two")
    assert set(clients(r, "sluiced")) == set(before) and "refuses" not in d.log

    rotate("three")  # the server does not have it
    t.wait(lambda: d.log.count("refuses the new credentials, the connection goes on with the old: WRONGPASS") == 4, 10)
    works(w, add, "still with two")
    assert set(clients(r, "sluiced")) == set(before) and "three" not in d.log
    r.db.cmd("ACL", "SETUSER", "sluiced", ">three", "<two")
    for i in before:
        r.db.cmd("CLIENT", "KILL", "ID", i)
    works(w, add, "with three, on new connections")
    assert not set(clients(r, "sluiced")) & set(before) and not w.frames("revoke")


@limit(60)
def test_missing_password_file_changes_nothing(t):
    r = t.redis(password="one")
    put(t.path("pw"), "one")
    d = t.daemon(r, start=False)
    d.cfg["redis"]["password"] = {"file": t.path("pw")}
    d.write()
    d.start()
    before, w = clients(r), t.worker(d, credits=1, work=0)
    os.rename(t.path("pw"), t.path("away"))
    assert t.path("pw") in reload(d, 78)
    works(w, Added(r.db), "a")
    assert set(before) <= set(clients(r))


@limit(60)
def test_wrong_password_at_start_is_mended_by_a_reload(t):
    r = t.redis(password="one")
    put(t.path("pw"), "wrong")
    d = t.daemon(r, start=False)
    d.cfg["redis"]["password"] = {"file": t.path("pw")}
    d.write()
    d.start(ready=False)
    d.wait_log("authentication refused: WRONGPASS")
    p = d.ctl("status", "--ready")
    assert p.returncode == 1 and "WRONGPASS" in p.stdout + p.stderr
    put(t.path("pw"), "one")
    assert set(reload(d)) == {"redis.password"}
    d.wait_ready()


# ---- certificates

@limit(90)
def test_certificates_are_rotated(t):
    """A new authority on both sides: open connections stay, new ones show and want the new certificates."""
    one, two = Authority(t.path("one")), Authority(t.path("two"))
    host = f"IP:{loopback()}"
    ca, crt, key = t.path("ca.pem"), t.path("client.crt"), t.path("client.key")

    def use(authorities, pair):
        put(ca, "".join(open(a.crt).read() for a in authorities))
        for src, dst in zip(pair, (crt, key)):
            shutil.copy(src, dst)
    old, new = one.issue("DNS:client"), two.issue("DNS:client")
    use([one], old)
    r, endpoint = tls_redis(t, one, one.issue(host), "--tls-auth-clients", "yes")
    d = t.daemon([endpoint], cfg={"redis": {"tls": {"enabled": True, "ca_file": ca, "cert_file": crt, "key_file": key}}})
    w, add = t.worker(d, credits=5, work=0), Added(r.db)
    works(w, add, "a")
    t.wait(lambda: len(clients(r)) == 4, 10)
    before = clients(r)
    applied = {"redis.tls": {"setting": "redis.tls", "result": "applied", "from": "old files", "to": "new files", "problem": None}}

    def serve(authority, pair):
        r.db.cmd("CONFIG", "SET", "tls-ca-cert-file", authority, "tls-cert-file", pair[0], "tls-key-file", pair[1])

    def stay(name):
        works(w, add, name)
        assert set(clients(r)) == set(before), name

    def again(name):
        for i in clients(r):
            r.db.cmd("CLIENT", "KILL", "ID", i)
        works(w, add, name)
        t.wait(lambda: len(clients(r)) == 4, 10)
        return clients(r)
    use([one, two], old)
    assert reload(d) == applied and reload(d) == {}
    stay("two is trusted as well")
    serve(ca, two.issue(host))
    stay("the server has another certificate")
    before = again("new connections accept it")
    use([two], new)
    assert reload(d) == applied
    serve(two.crt, two.issue(host))
    stay("only two is left, on both sides")
    before = again("new connections show the new certificate")

    def broken(name, path, text):
        good = open(path).read()
        put(path, text)
        assert f"redis.tls.{name}" in reload(d, 78) or f"tls.{name} {path}" in reload(d, 78), name
        again(f"what was loaded is still used: {name}")
        put(path, good)
    broken("ca_file", ca, "nonsense")
    broken("cert_file", crt, "")
    broken("key_file", key, open(old[1]).read())  # of another certificate
    os.unlink(key)
    assert key in reload(d, 78)
    assert not w.frames("revoke") and not w.frames("closed", d="ev")


# ---- drain

@limit(60)
def test_drain_wait_waits_for_the_work(t):
    r = t.redis()
    d = t.daemon(r)
    w = t.worker(d, credits=2)
    add = Added(r.db)
    add.many("orders", ["a", "b"])
    w.wait("assign", 2)
    p = subprocess.Popen([program("sluicectl"), "--socket", d.control_sock, "--json", "drain", "--wait"], stdout=subprocess.PIPE, text=True)
    t.ending(p.kill)
    w.wait("drain")
    add.one("orders", "late")
    w.finish(w.frames("assign")[0])
    w.wait("ok")
    time.sleep(1)
    assert p.poll() is None, "one stream is still in work"
    w.finish(w.frames("assign")[1])
    rows = [json.loads(x) for x in p.communicate(timeout=20)[0].splitlines()]
    assert p.returncode == 0 and rows[-1]["owned"] == 0 and assigned(w) == 2
    d.signal(signal.SIGUSR2)  # the same switch
    w.wait("assign", 3)
    w.finish(w.frames("assign")[2])
    checks.wait_clean(r.db)
