"""Passwords and certificates that change while there is work: nothing is revoked, nothing is lost, nobody reloads.

CREDENTIALS_FOR=300 CREDENTIALS_EVERY=20 is the long run: as many seconds, changed so often."""
import os
import re
import time

from lib import checks
from lib.case import limit, no_acl
from lib.certs import Authority, tls_redis
from lib.load import Load
from lib.servers import loopback

issue = 17
FOR = float(os.environ.get("CREDENTIALS_FOR", 8))
EVERY = float(os.environ.get("CREDENTIALS_EVERY", 3))
LIMIT = FOR * 2 + 90


def put(path, text):
    """As a secret is replaced: in one step."""
    with open(path + ".new", "w") as f:
        f.write(text)
    os.rename(path + ".new", path)


def logins(r):
    """How often AUTH, and HELLO with it, came."""
    stats = r.db.cmd("INFO", "commandstats")
    return sum(int(n) for n in re.findall(r"^cmdstat_(?:auth|hello):calls=(\d+)", stats, re.M))


def cut(r, user):
    """As managed servers do with whoever has not logged in anew in time."""
    r.db.cmd("CLIENT", "KILL", "USER", user)


def under_load(t, r, daemon, change, settle):
    """`change(n)` every EVERY seconds, `settle(n)` a third of that later; at the end everything is done, nothing was revoked."""
    w = t.worker(daemon, credits=60, work=lambda a: 0.05)
    load = Load(r, rate=100)
    t.ending(load.stop)
    w.wait("ok", 20, 20)
    n, end = 0, time.monotonic() + FOR
    while time.monotonic() < end:
        n += 1
        change(n)
        t0, done = time.monotonic(), len(w.frames("ok"))
        t.wait(lambda: time.monotonic() > t0 + EVERY / 1.5, EVERY + 10)
        settle(n)
        t.wait(lambda: time.monotonic() > t0 + EVERY, EVERY + 10)
        t.wait(lambda: len(w.frames("ok")) > done + 20, 20, "work goes on")
    added = load.stop()
    checks.wait_clean(r.db, timeout=30)
    checks.none(checks.lost(added.sure, [w.journal]) + checks.overlaps([w.journal]))
    assert not w.frames("revoke"), w.frames("revoke")[:3]
    print(f"= {n} changes under load: {len(added.sure)} added, {len(w.frames('ok'))} done, 0 revoked, 0 lost")
    return w


@limit(LIMIT)
@no_acl("a user whose password changes")
def test_a_password_that_changes_under_load(t):
    """Connections that are up log in with the new one before the old one is refused; every other time all are cut off then."""
    r, file = t.redis(), t.path("pw")
    r.db.cmd("ACL", "SETUSER", "app", "on", "~*", "&*", "+@all", ">pw0")
    put(file, "pw0\n")
    d = t.daemon(r, T=6, cfg={"redis": {"username": "app", "password": {"file": file, "refresh": "1s"}}})
    before = []

    def change(n):
        before.append(logins(r))
        r.db.cmd("ACL", "SETUSER", "app", f">pw{n}")
        put(file, f"pw{n}\n")

    def settle(n):
        assert logins(r) >= before[-1] + 3, "command, reader and subscriber have logged in"
        r.db.cmd("ACL", "SETUSER", "app", f"<pw{n - 1}")
        if n % 2 == 0:
            cut(r, "app")
    under_load(t, r, d, change, settle)
    assert "WRONGPASS" not in d.log and "lost:" not in "".join(x for x in d.log.splitlines() if "lease" in x), d.log[-2000:]


@limit(60)
@no_acl("a user whose password changes")
def test_a_password_that_the_server_learns_late(t):
    """The file has it first: refused, and the connections go on; asked again, they are let in."""
    r, file = t.redis(), t.path("pw")
    r.db.cmd("ACL", "SETUSER", "app", "on", "~*", "&*", "+@all", ">old")
    put(file, "old")
    d = t.daemon(r, T=6, cfg={"redis": {"username": "app", "password": {"file": file, "refresh": "1s"}}})
    w = t.worker(d, credits=5)
    checks.Added(r.db).one("orders", "s")
    w.wait("assign")
    put(file, "new")
    d.wait_log("refuses the new credentials")
    n = logins(r)
    r.db.cmd("ACL", "SETUSER", "app", ">new", "<old")
    t.wait(lambda: logins(r) >= n + 3, 10, "all have logged in")
    w.finish(next(iter(w.held.values())))
    w.wait("ok")
    assert not w.frames("revoke")


@limit(LIMIT)
@no_acl("TLS with files of its own")
def test_certificates_that_change_under_load(t):
    """The server's authority, its certificate and ours, by files alone; every other time all connections are cut off."""
    host = loopback()
    authorities = [Authority(t.path(f"ca{i}")) for i in range(2)]
    sets = [(a, a.issue(f"IP:{host}"), a.issue("DNS:sluiced")) for a in authorities]
    r, at = tls_redis(t, authorities[0], sets[0][1], "--tls-auth-clients", "yes")
    paths = [t.path(x) for x in ("ca.pem", "crt.pem", "key.pem")]

    def files(ca, mine):
        for path, source in zip(paths, (ca.crt, *mine)):
            put(path, open(source).read())
    files(sets[0][0], sets[0][2])
    d = t.daemon([at], T=6, cfg={"redis": {"tls": {"enabled": True, "ca_file": paths[0], "cert_file": paths[1], "key_file": paths[2]}}})

    def change(n):
        ca, (crt, key), mine = sets[n % 2]
        files(ca, mine)
        d.wait_log_times("new certificates are used", n)
        r.db.cmd("CONFIG", "SET", "tls-ca-cert-file", ca.crt, "tls-cert-file", crt, "tls-key-file", key)

    def settle(n):
        if n % 2 == 0:
            r.db.pipe([("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"), ("CLIENT", "KILL", "TYPE", "pubsub")])
    under_load(t, r, d, change, settle)
    put(paths[2], "no key\n")
    d.wait_log("what was read before stays")
