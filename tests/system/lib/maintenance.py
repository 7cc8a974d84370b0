"""What the tests of maintenance notifications share: a daemon behind gates, load, what its metrics say."""
import os
import re
import threading
import time

from lib import gate
from lib.checks import Added
from lib.daemon import merge
from lib.redis import SEP

BLOCK_MS = 2000


def metric(d, name, **labels):
    """The sum of a metric's samples with these labels."""
    total = 0.0
    for line in d.ctl_ok("metrics").splitlines():
        m = re.match(r"(\w+)(?:\{(.*)\})? (\S+)$", line)
        if m and m[1] == name and all(f'{k}="{v}"' in (m[2] or "") for k, v in labels.items()):
            total += float(m[3])
    return total


def wait_metric(t, d, want, timeout, name, **labels):
    t.wait(lambda: metric(d, name, **labels) >= want, timeout, f"{name} {labels} >= {want}", every=0.2)


def command_times(d):
    """[(le, commands so far)]"""
    return [(float(re.search(r'le="([^"]+)"', line)[1].replace("+Inf", "inf")), float(line.split()[-1]))
            for line in d.ctl_ok("metrics").splitlines() if line.startswith("sluice_redis_command_duration_seconds_bucket")]


def p99(since, until):
    """Upper bound of the bucket with the 99th percentile of the commands between the two, seconds."""
    n = [(le, b - a) for (le, a), (_, b) in zip(since, until)]
    return next(le for le, x in n if x >= 0.99 * n[-1][1])


def roles(conns):
    return sorted(r for c in conns for r in c["roles"])


def all_there(g):
    """The three kinds of connection live at this gate."""
    return {"command", "reader", "subscriber"} <= set(roles(g.conns(open=True)))


class Stream(threading.Thread):
    """Adds entries and keys that expire, at a steady rate, on a connection of its own to the server."""

    def __init__(self, redis, entries=100, events=500):
        super().__init__(daemon=True)
        self.db, self.entries, self.events = redis.client(), entries, events
        self.added, self.n_events, self.is_stopping = Added(self.db), 0, threading.Event()
        self.start()

    def run(self):
        n, start = 0, time.monotonic()
        while not self.is_stopping.wait(max(0, start + n * 0.1 - time.monotonic())):
            if self.entries:
                self.added.many("orders", [f"s{n}-{i}" for i in range(self.entries // 10)])
            k = self.events // 10
            self.db.pipe([("SET", f"e{n}x{i}{SEP}1-{n * 1000 + i}", "v", "PX", 30) for i in range(k)])
            self.n_events += k
            if n % 5 == 4:
                self.touch(n - 4, n, k)
            n += 1

    def touch(self, a, b, k):
        """Redis expires what is read: nothing stays behind."""
        self.db.pipe([("EXISTS", f"e{n}x{i}{SEP}1-{n * 1000 + i}") for n in range(a, b) for i in range(k)])

    def stop(self):
        self.is_stopping.set()
        self.join(30)
        return self.added


def setup(t, cfg=None, gates=2, T=10, credits=50, work=0.01, certs=None, **kw):
    """A server, gates in front of it, a daemon at the first one, a worker. certs: (certificate, key) of each gate."""
    r = t.redis()
    gs = gate.Gates(t)
    g = [gs.gate(r, **({"cert": certs[i][0], "key": certs[i][1]} if certs else {})) for i in range(gates)]
    d = t.daemon([g[0].endpoint], T=T, cfg=merge({"redis": {"keyspace_events": "require"}}, cfg or {}), **kw)
    w = t.worker(d, credits=credits, work=work) if credits else None
    t.wait(lambda: all_there(g[0]), 10, "all connections at the first gate")
    return r, g, d, w


def reader_overlap(old, new):
    """For how long two connections may have read the load-balancer stream, ms: the last readers of the two gates."""
    a, b = [[c for c in g.conns() if "reader" in c["roles"]][-1] for g in (old, new)]
    return a["closed"] - b["opened"]


def connections(d):
    """{role: row of `sluicectl nodes`}"""
    return {c["role"]: c for n in d.json("nodes") for c in n["connections"]}


def tls(t, *certs):
    """Settings that trust these certificates."""
    with open(t.path("ca"), "w") as f:
        f.write("".join(open(c).read() for c, _ in certs))
    return {"redis": {"tls": {"enabled": True, "ca_file": t.path("ca")}}}


def with_hosts(t, path):
    """argv that goes before a program so that the file at `path` is its /etc/hosts; None = not allowed here."""
    for who in ([], ["-r"]):
        wrap = ["unshare", *who, "-m", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', path]
        try:
            if t.run([*wrap, "true"]).returncode == 0:
                return wrap
        except FileNotFoundError:
            break
    print("= skipped: no mount namespace of its own here, so no name server that changes its mind")
    return None


def nothing_left_at(t, g, since, before, slack=1000):
    """The connections that `before` names: closed by sluiced, nothing sent later than 1 s (reader: its BLOCK + 1 s)."""
    ids = {c["id"] for c in before}
    t.wait(lambda: not [c for c in g.conns(open=True) if c["id"] in ids], 8, "old connections are closed")
    for c in g.conns():
        if c["id"] not in ids:
            continue
        late = c["last_rx"] - since
        assert late < slack + (BLOCK_MS if "reader" in c["roles"] else 0), f"sent {late:.0f} ms after the notification: {c}"
        assert c["by"] == "client", f"closed by {c['by']}: {c}"


def make_certs(t, name):
    """A CA-less certificate for DNS:name: trusted when it is the ca_file itself."""
    key, crt = t.path(f"{name}.key"), t.path(f"{name}.crt")
    p = t.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key,
               "-out", crt, "-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName={name}"])
    assert p.returncode == 0, p.stderr
    return crt, key


def n_fds(d):
    return len(os.listdir(f"/proc/{d.proc.pid}/fd"))


def rss_kib(d):
    with open(f"/proc/{d.proc.pid}/status") as f:
        return int(re.search(r"VmRSS:\s+(\d+)", f.read())[1])
