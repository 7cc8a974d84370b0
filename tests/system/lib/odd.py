"""What a Redis server, or something between it and us, may say at random: errors of every class, maintenance pushes with every kind of
endpoint, and, from one that breaks the protocol's rules, replies of another shape and maps of slots that cannot be."""
import re

from lib.gate import end_of

ERRORS = [
    "LOADING Redis is loading the dataset in memory", "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "READONLY You can't write against a read only replica.", "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "CLUSTERDOWN The cluster is down", "CLUSTERDOWN Hash slot not served", "TRYAGAIN Multiple keys request during rehashing of slot",
    "NOAUTH Authentication required.", "NOPERM this user has no permissions to run the 'x' command",
    "OOM command not allowed when used memory > 'maxmemory'.", "MISCONF Redis is configured to save RDB snapshots",
    "WRONGPASS invalid username-password pair or user is disabled.",
    "ERR unknown command 'x', with args beginning with: ", "ERR", "", "NOSCRIPT No matching script.",
    "NOGROUP No such key 'orders-input' or consumer group", "EXECABORT Transaction discarded", "UNBLOCKED client unblocked via CLIENT UNBLOCK",
    "NOREPLICAS Not enough good replicas to write.", "ERR max number of clients reached", "x" * 5000, "ERR Protocol error: \x01\x7f\xff",
    "NOPROTO unsupported protocol version", "CROSSSLOT Keys in request don't hash to the same slot"]
CLUSTER_ERRORS = ["MOVED", "MOVED x", "MOVED 99999 a:b", "ASK 1", "ASK -1 :0", "MOVED 5 127.0.0.1:1", "ASK 5 127.0.0.1:1", "MOVED 3999 ?:7001",
                  "MOVED 5 :7001"]
LIES = ["WRONGTYPE Operation against a key holding the wrong kind of value"]  # believed: the stream becomes a dead letter
ATOMS = [b"_\r\n", b"$-1\r\n", b"*-1\r\n", b"*0\r\n", b"+OK\r\n", b"+QUEUED\r\n", b"#t\r\n", b"=7\r\ntxt:abc\r\n", b"!5\r\nERR x\r\n"]
INTEGERS = [0, 1, -1, 2**63 - 1, -2**63, 2**31, 2**32, 5, 65536]
SECONDS = [0, 1, 1, 2, 3, 4, 15, 15, 30, -1, -2**63, 2**63 - 1, 10**9]
TEXTS = ["", "x", "1-0", "99999999999999999999", "0-0", "-1", "orders", "\x00", "x" * 70000]
SLOT_RANGES = ["1-100", "x", "", "1-", "-", "0-16383", "99999-1", "5,6,7-9"]
EVENTS = ["expired", "del", "set", "", "EXPIRED"]
LOCKS = ["", "x", "k1<MUTEX_KEY_SEP>", "k1<MUTEX_KEY_SEP>1-0", "k1<MUTEX_KEY_SEP>99999999999999999999-1", "<MUTEX_KEY_SEP>1-0", "k\x00"]
SUBSCRIBER_KINDS = ["pmessage", "message", "psubscribe", "punsubscribe", "subscribe", "smessage", "sunsubscribe"]


def bulk(s):
    if s is None:
        return b"_\r\n"
    b = s.encode()
    return b"$%d\r\n%s\r\n" % (len(b), b)


def number(n):
    return b":%d\r\n" % n


def error(text):
    return b"-" + text.encode() + b"\r\n"


def array(items, kind=b"*"):
    return kind + b"%d\r\n" % len(items) + b"".join(items)


def addresses(host, port):
    """Ways to name an address, right and wrong ones."""
    right = f"{host}:{port}"
    return [None, None, right, right, right, right, "127.0.0.1:1", f"localhost:{port}", "nosuch.invalid:6379", "unix:/nonexist", "/tmp/x",
            f"[::1]:{port}", f"::1:{port}", "[::1]", "127.0.0.1", f"?:{port}", f":{port}", "", "null", "a:b:c", "x" * 300 + ":1", f"{host}:0",
            f"{host}:65536", f"{host}:-1", f"{host}:99999999999", "\x00\x01:1", f" {right}", f"0.0.0.0:{port}", "10.255.255.1:6379"]


class Odd:
    """`more_addresses`: what else a MOVING may name."""

    def __init__(self, rnd, is_cluster=False, lies=False, more_addresses=()):
        self.rnd, self.seq, self.lies, self.more_addresses = rnd, 0, lies, list(more_addresses)
        self.errors = ERRORS + (CLUSTER_ERRORS if is_cluster else []) + (LIES if lies else [])

    def error(self):
        return error(self.rnd.choice(self.errors))

    # ---- replies of another shape
    def atom(self):
        r = self.rnd
        return r.choice([
            lambda: r.choice(ATOMS), lambda: number(r.choice(INTEGERS)), lambda: b":99999999999999999999\r\n", lambda: bulk(r.choice(TEXTS)),
            self.error, lambda: b",%s\r\n" % r.choice([b"1.5", b"inf", b"nan", b"-inf", b"1e400"]),
            lambda: b"(%s\r\n" % r.choice([b"123456789012345678901234567890", b"0"])])()

    def reply(self, depth=0):
        if depth > 3 or self.rnd.random() < 0.65:
            return self.atom()
        n = self.rnd.randrange(4)
        return self.rnd.choice([
            lambda: array([self.reply(depth + 1) for _ in range(n)]), lambda: array([self.reply(depth + 1) for _ in range(n)], b"~"),
            lambda: b"%%%d\r\n" % n + b"".join(self.reply(depth + 1) for _ in range(2 * n)),
            lambda: b"|1\r\n+a\r\n+b\r\n" + self.reply(depth + 1), lambda: b"*1\r\n" * self.rnd.choice([3, 7, 9, 12]) + b":1\r\n"])()

    def mutated(self, one):
        """The same reply with one element of it replaced."""
        starts = [m.start() + (2 if m[0].startswith(b"\r\n") else 0) for m in re.finditer(rb"(?:^|\r\n)[:$+*%_~,#-]", one)]
        if not starts:
            return self.reply()
        at = self.rnd.choice(starts)
        try:
            end = end_of(one, at)
        except ValueError:  # inside of a text
            end = -1
        return self.reply() if end < 0 else one[:at] + self.reply(2) + one[end:]

    def hello_of_old(self):
        """HELLO answered by one that speaks RESP2, with any id, mode and role."""
        r = self.rnd
        pairs = [("server", bulk("redis")), ("version", bulk("7.0.0")), ("proto", number(2)), ("id", number(r.choice([1, -1, 0, 2**63 - 1]))),
                 ("mode", bulk(r.choice(["standalone", "cluster", "sentinel", "", "x"]))), ("role", bulk(r.choice(["master", "replica"]))),
                 ("modules", b"*0\r\n")]
        return array([x for name, value in pairs for x in (bulk(name), value)])

    # ---- pushes
    def next_seq(self):
        if self.rnd.random() < 0.5:
            self.seq += 1
            return self.seq
        return self.rnd.choice([self.seq, self.seq, max(0, self.seq - 1), self.seq + 5, 0, -1, 2**63 - 1, -2**63, 2**31])

    def integer(self, n):
        return self.rnd.choice([bulk(str(n)), b"+%d\r\n" % n] + 6 * [number(n)])

    def name(self, s):
        return self.rnd.choice([b"+" + s.encode() + b"\r\n", bulk(s.lower())] + 6 * [bulk(s)])

    def address(self, peers):
        """One of `peers`, (host, port), in one of many ways."""
        return self.rnd.choice(addresses(*self.rnd.choice(peers)) + self.more_addresses)

    def maintenance(self, peers):
        """The elements of a notification."""
        r, seq, seconds = self.rnd, self.integer(self.next_seq()), self.integer(self.rnd.choice(SECONDS))
        rows = [array([bulk(self.address(peers)), bulk(self.address(peers)), bulk("1-5")][:r.choice([3, 3, 3, 2, 1, 0])])
                for _ in range(r.randrange(4))]
        return r.choices([
            [self.name("MOVING"), seq, seconds, bulk(self.address(peers))],
            [self.name(r.choice(["MIGRATING", "FAILING_OVER"])), seq, seconds, bulk('["1"]')],
            [self.name(r.choice(["MIGRATED", "FAILED_OVER"])), seq, bulk('["1"]')], [self.name("SMIGRATING"), seq, bulk(r.choice(SLOT_RANGES))],
            [self.name("SMIGRATED"), seq, r.choice([array(rows), array(rows), self.reply(2)])]], [8, 4, 2, 1, 1])[0]

    def event(self):
        """The elements of an invalidation, or of something subscribed to."""
        r = self.rnd
        keys = array([bulk(f"k{i}") for i in range(r.choice([1, 30, 2000]))])
        channel = "__keyspace@0__:"
        return r.choice([
            [bulk("invalidate"), r.choice([b"_\r\n", b"*0\r\n", array([bulk("orders")]), keys, self.reply(1)])],
            [bulk(r.choice(SUBSCRIBER_KINDS)), self.reply(2), self.reply(2), self.reply(2)][:r.randrange(1, 5)],
            [bulk("pmessage"), bulk(channel + "*"), bulk(channel + r.choice(LOCKS)), bulk(r.choice(EVENTS))],
            [self.reply(2) for _ in range(r.randrange(4))]])

    def spoilt(self, items):
        """A notification's elements: too few, too many, one of another kind, in another order, twice."""
        r = self.rnd
        return r.choice([lambda: items[:r.randrange(1, len(items) + 1)], lambda: items + [self.reply(2)],
                         lambda: [self.reply(2) if i == r.randrange(len(items)) else x for i, x in enumerate(items)],
                         lambda: items[:1] + r.sample(items[1:], len(items) - 1), lambda: items * 2])()

    def push(self, peers):
        if self.rnd.random() < 0.2:
            items = self.event()
        else:
            items = self.maintenance(peers)
            if self.rnd.random() < 0.2:
                items = self.spoilt(items)
        return array(items, b">") * self.rnd.choice([1, 1, 1, 1, 2, 12])

    # ---- maps of slots
    def slots(self, addresses):
        """CLUSTER SLOTS as no cluster says it."""
        def row(first, last, host, port, id=None):
            return array([number(first), number(last), array([bulk(host), number(port), bulk(id or "%040x" % (port + first)), b"*0\r\n"])])
        (host, port), (host2, port2) = addresses[0], addresses[-1]
        return self.rnd.choice([
            lambda: b"*0\r\n", lambda: array([row(0, 16383, host, port), row(0, 16383, host2, port2)]),
            lambda: array([row(0, 100, host, port), row(200, 16383, host, port)]), lambda: array([row(0, 16383, "", port)]),
            lambda: array([row(0, 16383, None, port)]), lambda: array([row(0, 16383, host, 0)]), lambda: array([row(0, 16383, host, 70000)]),
            lambda: array([row(i * 27, i * 27 + 26 if i < 599 else 16383, "127.0.0.1", 20000 + i) for i in range(600)]),
            lambda: array([row(0, 8000, host, port, "a" * 40), row(8001, 16383, host2, port2, "a" * 40)]), lambda: array([row(16383, 0, host, port)]),
            lambda: array([row(-5, 70000, host, port)]), lambda: array([row(0, 16383, "x" * 300, port)]), lambda: array([row(0, 16383, "?", port)]),
            lambda: array([row(i, i, *addresses[i % len(addresses)]) for i in range(16384)]),
            lambda: array([row(0, 5000, host, port), self.reply(1), row(5001, 16383, host2, port2)])])()
