"""A small Redis client: one connection with pipelines, and cluster routing.

Replies are str (surrogateescape keeps bytes exact), int, list, None; errors are RedisError, raised by cmd(), returned
in place by pipe(). Nothing is retried on a single connection; ClusterClient follows MOVED, ASK and failovers."""
import binascii
import socket
import time

SEP = "<MUTEX_KEY_SEP>"
N_SLOTS = 16384


class RedisError(Exception):
    pass


def slot_of(key):
    k = key.encode(errors="surrogateescape")
    a = k.find(b"{")
    b = k.find(b"}", a + 1)
    if a >= 0 and b > a + 1:
        k = k[a + 1:b]
    return binascii.crc_hqx(k, 0) % N_SLOTS


def encode(args):
    out = [b"*%d\r\n" % len(args)]
    for a in args:
        b = a if isinstance(a, bytes) else str(a).encode(errors="surrogateescape")
        out.append(b"$%d\r\n%s\r\n" % (len(b), b))
    return b"".join(out)


class Redis:
    """One connection to `addr`, a unix socket path or (host, port); opened at the first use and after an error."""

    def __init__(self, addr, password=None, timeout=10):
        self.addr, self.password, self.timeout = addr, password, timeout
        self.sock = self.file = None

    def _open(self):
        is_unix = isinstance(self.addr, str)
        s = socket.socket(socket.AF_UNIX if is_unix else socket.AF_INET, socket.SOCK_STREAM)
        s.settimeout(self.timeout)
        try:
            s.connect(self.addr)
            if not is_unix:
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            s.close()
            raise
        self.sock, self.file = s, s.makefile("rb", 1 << 16)
        if self.password:
            self.cmd("AUTH", self.password)

    def close(self):
        if self.sock:
            self.file.close()
            self.sock.close()
        self.sock = self.file = None

    def send(self, *args):
        if not self.sock:
            self._open()
        self.sock.sendall(encode(args))

    def read(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("connection closed by Redis")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest.decode(errors="surrogateescape")
        if kind == b"-":
            return RedisError(rest.decode(errors="replace"))
        if kind == b":":
            return int(rest)
        n = int(rest)
        if n < 0:
            return None
        if kind == b"$":
            data = self.file.read(n + 2)
            if len(data) != n + 2:
                raise ConnectionError("connection closed by Redis")
            return data[:-2].decode(errors="surrogateescape")
        return [self.read() for _ in range(n)]

    def pipe(self, cmds, chunk=500):
        """Sends `cmds` in chunks; returns one reply each, errors among them."""
        if not self.sock:
            self._open()
        out = []
        try:
            for i in range(0, len(cmds), chunk):
                part = cmds[i:i + chunk]
                self.sock.sendall(b"".join(map(encode, part)))
                out += [self.read() for _ in part]
        except (OSError, ValueError) as e:
            self.close()
            raise ConnectionError(str(e)) from e
        return out

    def cmd(self, *args):
        r = self.pipe([args])[0]
        if isinstance(r, RedisError):
            raise r
        return r

    def masters(self):
        return [self]

    def node_for(self, _key):
        return self


RETRY = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "LOADING", "READONLY", "MASTERDOWN", "UNBLOCKED")


def key_of(args):
    name = str(args[0]).upper()
    if name in ("XINFO", "XGROUP", "OBJECT", "MEMORY"):
        return args[2]
    if name in ("XREADGROUP", "XREAD"):
        return args[[str(a).upper() for a in args].index("STREAMS") + 1]
    if name in ("EVAL", "EVALSHA"):
        return args[3]
    return args[1]


class ClusterClient:
    """Routes by key; retries for `patience` seconds while the cluster moves, fails over or restarts."""

    def __init__(self, addrs, patience=20, timeout=3):
        self.addrs, self.patience, self.timeout = list(addrs), patience, timeout
        self.conns, self.ranges = {}, []

    def conn(self, addr):
        if addr not in self.conns:
            self.conns[addr] = Redis(addr, timeout=self.timeout)
        return self.conns[addr]

    def refresh(self):
        for a in self.addrs:
            try:
                rows = self.conn(a).cmd("CLUSTER", "SLOTS")
            except (OSError, RedisError):
                continue
            if rows:
                self.ranges = [(r[0], r[1], (r[2][0], r[2][1])) for r in rows]
                return
        raise ConnectionError("no cluster node answers")

    def node_for(self, key):
        if not self.ranges:
            self.refresh()
        s = slot_of(key)
        for a, b, addr in self.ranges:
            if a <= s <= b:
                return self.conn(addr)
        raise ConnectionError(f"slot {s} is not served")

    def masters(self):
        self.refresh()
        return [self.conn(a) for a in dict.fromkeys(r[2] for r in self.ranges)]

    def cmd(self, *args):
        end = time.monotonic() + self.patience
        while True:
            try:
                node = self.node_for(key_of(args))
                r = node.pipe([args])[0]
                if isinstance(r, RedisError) and str(r).startswith("ASK "):
                    host, port = str(r).split()[2].rsplit(":", 1)
                    r = self.conn((host, int(port))).pipe([("ASKING",), args])[1]
                if not isinstance(r, RedisError):
                    return r
                if not str(r).startswith(RETRY) or time.monotonic() > end:
                    raise r
            except OSError:
                if time.monotonic() > end:
                    raise
            time.sleep(0.02)
            self.ranges = []

    def pipe(self, cmds):
        """Groups by key's node; an error reply is sent again alone. Replies in order."""
        out, by = [None] * len(cmds), {}
        for i, c in enumerate(cmds):
            by.setdefault(self.node_for(key_of(c)).addr, []).append(i)
        for addr, idx in by.items():
            for i, r in zip(idx, self.conn(addr).pipe([cmds[i] for i in idx])):
                out[i] = self.cmd(*cmds[i]) if isinstance(r, RedisError) and str(r).startswith(RETRY) else r
        return out

    def close(self):
        for c in self.conns.values():
            c.close()
        self.conns, self.ranges = {}, []


def scan(db, pattern):
    """Every key that matches, on every master."""
    found = []
    for m in db.masters():
        cur = "0"
        while True:
            cur, keys = m.cmd("SCAN", cur, "MATCH", pattern, "COUNT", 1000)
            found += keys
            if cur == "0":
                break
    return found


def pairs(flat):
    return dict(zip(flat[::2], flat[1::2]))


def entries(db, key):
    """[(id, {field: value})] of a stream."""
    return [(i, pairs(f)) for i, f in db.cmd("XRANGE", key, "-", "+")]
