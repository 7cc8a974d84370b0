"""TLS to Redis: whom the daemon talks to, whom it refuses and how clearly, in time."""
import os
import socket
import ssl
import threading
import time

from lib.case import limit
from lib.certs import Authority, tls_redis
from lib.checks import Added
from lib.servers import loopback

issue = 7
TIMEOUT_S = 3


def dial(t, endpoint, ca_file, ready=True, **tls):
    return t.daemon([endpoint], ready=ready, cfg={"redis": {
        "connect_timeout": f"{TIMEOUT_S}s", "tls": {"enabled": True, "ca_file": ca_file, **tls}}})


class Listener(threading.Thread):
    """Accepts; each connection is given to `serve`. What it heard from TLS hellos is in .names."""

    def __init__(self, t, serve):
        super().__init__(daemon=True)
        self.sock = socket.create_server((loopback(), 0))
        self.endpoint = "%s:%d" % self.sock.getsockname()
        self.serve, self.conns, self.names = serve, [], []
        t.ending(self.sock.close)
        self.start()

    def run(self):
        while True:
            try:
                c, _ = self.sock.accept()
            except OSError:
                return
            self.conns.append(c)
            self.serve(self, c)


def server_context(pair):
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ctx.load_cert_chain(*pair)
    return ctx


def handshake_with(ctx):
    def serve(listener, c):
        ctx.sni_callback = lambda _sock, name, _ctx: listener.names.append(name)
        c.settimeout(5)
        try:
            ctx.wrap_socket(c, server_side=True).close()
        except OSError:
            c.close()
    return serve


def refused(t, endpoint, ca_file, *words, **tls):
    """One line with all the words, within the connect timeout; the daemon goes on, not ready."""
    start = time.monotonic()
    d = dial(t, endpoint, ca_file, ready=False, **tls)
    d.wait_log("trying again", TIMEOUT_S + 5)
    took = time.monotonic() - start
    line, = [x for x in d.log.splitlines() if "trying again" in x]
    assert endpoint in line and all(w in line for w in words), line
    time.sleep(0.5)
    assert len([x for x in d.log.splitlines() if " warn " in x or " error " in x]) == 1, d.log
    assert d.is_running() and d.ctl("status", "--ready").returncode == 1
    p = d.ctl("status")
    assert any(w in p.stdout for w in words[:1]), p.stdout
    d.kill()
    return took


@limit(120)
def test_refused_with_the_reason(t):
    ca, stranger, host = Authority(t.path("ca")), Authority(t.path("stranger")), loopback()
    good = ca.issue(f"IP:{host}")
    _, at = tls_redis(t, ca, ca.issue("DNS:elsewhere.example"))
    refused(t, at, ca.crt, f"it is not for {host}", "IP address mismatch")
    refused(t, at, ca.crt, "it is not for redis.example", "hostname mismatch", server_name="redis.example")
    _, at = tls_redis(t, ca, ca.issue(f"IP:{host}", end="20200201000000Z"))
    refused(t, at, ca.crt, "certificate has expired", "2020-02-01")
    _, at = tls_redis(t, ca, ca.issue(f"IP:{host}", start="20980101000000Z"))
    refused(t, at, ca.crt, "not yet valid", "2098-01-01")
    _, at = tls_redis(t, ca, ca.self_signed(f"IP:{host}"))
    refused(t, at, ca.crt, "self-signed certificate", "unknown authority")
    _, at = tls_redis(t, ca, good)
    refused(t, at, stranger.crt, "unknown authority")
    _, at = tls_redis(t, ca, good, "--tls-auth-clients", "yes")
    refused(t, at, ca.crt, "wants a client certificate")
    refused(t, at, ca.crt, "does not accept our certificate", cert_file=stranger.issue("DNS:x")[0],
            key_file=stranger.path("c1.key"))


@limit(60)
def test_old_protocol_is_refused(t):
    ca = Authority(t.path("ca"))
    ctx = server_context(ca.issue(f"IP:{loopback()}"))
    ctx.set_ciphers("ALL:@SECLEVEL=0")
    ctx.minimum_version, ctx.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    refused(t, Listener(t, handshake_with(ctx)).endpoint, ca.crt, "protocol version", "TLS 1.2")


@limit(60)
def test_silent_server_ends_by_the_connect_timeout(t):
    ca = Authority(t.path("ca"))
    quiet = Listener(t, lambda *_: None)
    took = refused(t, quiet.endpoint, ca.crt, "TLS handshake: no answer within 3000 ms")
    assert TIMEOUT_S <= took < 2 * TIMEOUT_S + 1, took
    assert quiet.conns


@limit(60)
def test_name_is_sent_and_address_is_not(t):
    """SNI: the configured name; none for an address (RFC 6066)."""
    ca = Authority(t.path("ca"))
    s = Listener(t, handshake_with(server_context(ca.issue(f"DNS:redis.example,IP:{loopback()}"))))
    d = dial(t, s.endpoint, ca.crt, ready=False, server_name="redis.example")
    t.wait(lambda: s.names)
    assert set(s.names) == {"redis.example"}
    d.kill()
    n = len(s.names)
    dial(t, s.endpoint, ca.crt, ready=False)
    t.wait(lambda: len(s.names) > n)
    assert set(s.names[n + 1:]) <= {None}


@limit(90)
def test_works_by_address_and_by_name(t):
    """With a client certificate, which the server wants."""
    ca, host = Authority(t.path("ca")), loopback()
    mine = ca.issue("DNS:sluiced")
    r, at = tls_redis(t, ca, ca.issue(f"IP:{host},DNS:redis.example"), "--tls-auth-clients", "yes")
    for name in ("", "redis.example"):
        d = dial(t, at, ca.crt, server_name=name, cert_file=mine[0], key_file=mine[1])
        w = t.worker(d, credits=10, work=0)
        Added(r.db).many("orders", [f"{name}{i}" for i in range(50)])
        w.wait("ok", 50)
        assert d.json("nodes")
        w.close()
        d.stop()


@limit(90)
def test_new_certificates_by_reload(t):
    """The server moves to another authority; after a reload the next connections accept it, and show our new certificate."""
    old, new, host = Authority(t.path("old")), Authority(t.path("new")), loopback()
    r, at = tls_redis(t, old, old.issue(f"IP:{host}"), "--tls-auth-clients", "yes")
    mine = old.issue("DNS:sluiced")
    for src, dst in ((old.crt, "ca.pem"), (mine[0], "crt.pem"), (mine[1], "key.pem")):
        os.symlink(src, t.path(dst))
    d = dial(t, at, t.path("ca.pem"), cert_file=t.path("crt.pem"), key_file=t.path("key.pem"))
    w = t.worker(d, credits=5, work=0)
    Added(r.db).one("orders", "before")
    w.wait("ok")
    crt, key = new.issue(f"IP:{host}")
    mine = new.issue("DNS:sluiced")
    r.db.cmd("CONFIG", "SET", "tls-ca-cert-file", new.crt, "tls-cert-file", crt, "tls-key-file", key)
    for src, dst in ((new.crt, "ca.pem"), (mine[0], "crt.pem"), (mine[1], "key.pem")):
        os.unlink(t.path(dst))
        os.symlink(src, t.path(dst))
    d.ctl_ok("reload")
    r.db.pipe([("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"), ("CLIENT", "KILL", "TYPE", "pubsub")])
    Added(r.db).one("orders", "after")
    w.wait("ok", 2, timeout=20)
    assert "not accepted" not in d.log
