"""Addresses in front of real servers that disturb at random what goes through: pushes between replies, errors before and after a command
was done, odd replies (lib/odd), cut, slow, reset and half-closed connections, answers that never come. `calm` lets all through again.
Everything runs in one thread of ours."""
import asyncio
import collections
import logging
import socket
import struct
import threading

from lib.gate import end_of, words_of
from lib.odd import array, bulk, error, number

HANDSHAKE = (b"HELLO", b"AUTH", b"SELECT", b"CLIENT")
RARE = (b"HELLO", b"CLUSTER", b"SCRIPT", b"CONFIG", b"INFO", b"ROLE", b"CLIENT", b"PSUBSCRIBE", b"XGROUP")  # seldom asked: disturbed more often
SUBSCRIBES = (b"PSUBSCRIBE", b"SUBSCRIBE", b"PUNSUBSCRIBE", b"UNSUBSCRIBE")  # answered by pushes


logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # that what we write to has been closed is what we do here


class Cut(Exception):
    """The connection ends here."""


class Exchange:
    """One connection to a front, and its own to the server."""

    def __init__(self, front, reader, writer):
        self.front, self.all, self.reader, self.client, self.server = front, front.all, reader, writer, None
        self.waiting = collections.deque()  # bytes = our own answer, b"" never comes; else the name of what the server was asked

    def reset(self):
        if s := self.client.get_extra_info("socket"):
            try:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            except OSError:  # it is closed already
                pass
        self.client.transport.abort()

    async def run(self):
        ends = []
        try:
            await self.beginning()
            reader, self.server = await asyncio.open_connection(*self.front.upstream)
            ends = [asyncio.ensure_future(self.upward()), asyncio.ensure_future(self.downward(reader))]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, ValueError, Cut):
            pass
        finally:
            for e in ends:
                e.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
            for w in (self.client, self.server):
                if w:
                    w.close()

    async def beginning(self):
        if self.all.is_calm or self.all.rnd.random() > 0.05:
            return
        what = self.all.rnd.choice(["reset", "push", "late"] + (["reply"] if self.all.odd.lies else []))
        self.all.count(f"{what} at the beginning")
        if what == "reset":
            self.reset()
            raise Cut
        if what == "late":
            await asyncio.sleep(self.all.rnd.choice([0.1, 1, 6]))
        else:
            self.client.write(self.front.push() if what == "push" else self.all.odd.reply())

    # ---- commands
    def answer_to(self, name, second):
        """Bytes = our answer, b"" = none ever, None = the server's."""
        a, r, odd = self.all, self.all.rnd, self.all.odd
        if name == b"CLIENT" and second == b"MAINT_NOTIFICATIONS" and (a.is_calm or self.front.has_maintenance):
            before = b"" if a.is_calm or r.random() < 0.7 else self.front.push()
            return before + (b"+OK\r\n" if a.is_calm or r.random() < 0.9 else odd.reply())
        if a.is_calm:
            return None
        if self.front.fails_with and (name not in HANDSHAKE or r.random() < 0.3):
            return self.front.fails_with
        often = 0.03 if name in RARE else 0.004
        if r.random() < often:
            a.count("error")
            return odd.error()
        if odd.lies and r.random() < 2 * often:
            a.count("odd reply")
            return odd.reply()
        if odd.lies and name == b"CLUSTER" and second == b"SLOTS" and r.random() < 0.5:
            a.count("odd map")
            return odd.slots(a.addresses())
        if name == b"HELLO" and r.random() < 0.03:
            return odd.hello_of_old()
        return b"" if r.random() < 0.001 else None

    async def upward(self):
        buf = bytearray()
        while data := await self.reader.read(1 << 16):
            buf += data
            at = 0
            while at < len(buf) and (end := end_of(buf, at)) >= 0:
                words = words_of(buf, at, end) + [b""]
                name = words[0].upper()
                answer = self.answer_to(name, words[1].upper())
                if answer == b"":
                    self.all.count("no answer")
                    await asyncio.sleep(self.all.rnd.choice([3, 9]))
                    return
                if answer is None:
                    self.server.write(bytes(buf[at:end]))
                if name not in SUBSCRIBES or answer:
                    self.waiting.append(answer or name.decode(errors="replace"))
                self.answer()
                at = end
            del buf[:at]

    def answer(self):
        while self.waiting and isinstance(self.waiting[0], bytes):
            self.client.write(self.waiting.popleft())

    # ---- replies
    async def downward(self, reader):
        buf = bytearray()
        while data := await reader.read(1 << 16):
            buf += data
            at = 0
            while at < len(buf) and (end := end_of(buf, at)) >= 0:
                one, kind = bytes(buf[at:end]), None
                if not one.startswith(b">") and self.waiting:
                    kind = self.waiting.popleft()
                if kind == "CLUSTER" or one.startswith((b"-MOVED", b"-ASK")):
                    one = self.front.rewritten(one)
                self.client.write(one if self.all.is_calm else await self.disturbed(one, kind is not None))
                self.answer()
                at = end
            del buf[:at]
            await self.client.drain()

    async def disturbed(self, one, is_reply):
        """What becomes of one reply or push."""
        r, odd = self.all.rnd, self.all.odd
        kinds = {"push before": 0.012, "cut": 0.002, "reset": 0.001, "delay": 0.0025, "half-closed": 0.001, "in pieces": 0.008,
                 "attribute before": 0.002, "error after it was done": 0.003 if is_reply else 0,
                 **({"push inside": 0.0005, "mutated": 0.023} if odd.lies else {})}
        what = r.choices([None, *kinds], [1 - sum(kinds.values()), *kinds.values()])[0]
        self.all.count(what)
        at = r.randrange(len(one))
        if what == "push before":
            return self.front.push() + one
        if what == "attribute before":
            return b"|1\r\n+a\r\n+b\r\n" + one
        if what == "error after it was done":
            return odd.error()
        if what == "push inside":
            return one[:at] + self.front.push() + one[at:]
        if what == "mutated":
            return odd.mutated(one)
        if what == "delay":
            await asyncio.sleep(r.choice([0.2, 1, 2, 5]))
        if what == "in pieces":
            for i in range(min(len(one), 30)):
                self.client.write(one[i:i + 1])
                await asyncio.sleep(0)
            return one[30:]
        if what in ("cut", "reset", "half-closed"):
            await self.end(what, one[:at])
        return one

    async def end(self, what, part):
        if what == "cut":
            self.client.write(part)
            await asyncio.sleep(self.all.rnd.choice([0, 0, 0.5, 4]))
        elif what == "reset":
            self.reset()
        else:
            self.client.write_eof()
            await asyncio.sleep(3)
        raise Cut


class Front:
    """One address in front of `server`; `rewrite`: (from, to) in what a cluster says of addresses."""

    def __init__(self, fronts, server, port, rewrite=()):
        self.all, self.host, self.port, self.upstream, self.rewrite = fronts, fronts.host, port, server.tcp, list(rewrite)
        self.exchanges, self.listener, self.peers = [], None, [self]
        self.fails_with, self.has_maintenance = None, True

    @property
    def endpoint(self):
        return f"{self.host}:{self.port}"

    async def listen(self):
        self.listener = await asyncio.start_server(self.accept, self.host, self.port)

    async def refuse(self, seconds):
        if self.listener:
            self.listener.close()
            self.listener = None
            await asyncio.sleep(seconds)
            await self.listen()

    async def accept(self, reader, writer):
        x = Exchange(self, reader, writer)
        self.exchanges.append(x)
        try:
            await x.run()
        finally:
            self.exchanges.remove(x)

    def rewritten(self, one):
        for a, b in self.rewrite:
            one = one.replace(a, b)
        return one

    def push(self):
        self.all.count("push")
        return self.all.odd.push([(f.host, f.port) for f in (self.all.fronts if self.all.odd.lies else self.peers)])


class Fronts:
    def __init__(self, host, rnd, odd):
        self.host, self.rnd, self.odd, self.fronts, self.sentinels = host, rnd, odd, [], []
        self.is_calm, self.counts = True, collections.Counter()
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def do(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    def add(self, server, port, rewrite=()):
        f = Front(self, server, port, rewrite)
        self.do(f.listen())
        self.fronts.append(f)
        return f

    def addresses(self):
        return [(f.host, f.port) for f in self.fronts]

    def count(self, what):
        if what:
            self.counts[what] += 1

    def begin(self):
        """Disturbs, until calm()."""
        self.is_calm = False
        self.trouble = asyncio.run_coroutine_threadsafe(self.make_trouble(), self.loop)

    def calm(self):
        self.is_calm = True
        self.trouble.cancel()
        self.do(self.mend())

    async def mend(self):
        for f in self.fronts:
            f.fails_with, f.has_maintenance = None, True
            if not f.listener:
                await f.listen()

    async def make_trouble(self):
        while not self.is_calm:
            await asyncio.sleep(self.rnd.uniform(0.02, 0.6))
            f, x = self.rnd.choice(self.fronts), [x for f in self.fronts for x in f.exchanges]
            kinds = {self.push_to_some: 10, self.push_many: 3, self.reset_one: 1, self.close_all: 1, self.fail_all: 1, self.toggle_maintenance: 1,
                     self.refuse: 1}
            trouble = self.rnd.choices(list(kinds), list(kinds.values()))[0]
            try:
                await trouble(f, x)
            except OSError:
                pass

    async def push_to_some(self, front, _):
        data, those = front.push(), [x for f in front.peers for x in f.exchanges]
        for x in those if self.rnd.random() < 0.5 else those[:1]:
            x.client.write(data)

    async def push_many(self, front, _):
        for _ in range(self.rnd.choice([9, 30])):
            await self.push_to_some(front, _)

    async def reset_one(self, _, exchanges):
        if exchanges:
            self.count("reset")
            self.rnd.choice(exchanges).reset()

    async def close_all(self, _, exchanges):
        self.count("all connections closed")
        for x in exchanges:
            x.client.close()

    async def fail_all(self, front, _):
        self.count("every command fails")
        front.fails_with = error("CLUSTERDOWN The cluster is down") if self.rnd.random() < 0.1 else self.odd.error()
        await asyncio.sleep(self.rnd.uniform(0.1, 2))
        front.fails_with = None

    async def toggle_maintenance(self, front, _):
        front.has_maintenance = not front.has_maintenance

    async def refuse(self, front, _):
        self.count("refused for a while")
        await front.refuse(self.rnd.uniform(0.1, 2))

    # ---- Sentinels: all of them of our own
    def add_sentinel(self, port, master, front):
        self.sentinels.append(self.do(asyncio.start_server(lambda r, w: self.sentinel(r, w, master, front), self.host, port)))
        return f"{self.host}:{port}"

    async def sentinel(self, reader, writer, master, front):
        buf = bytearray()
        try:
            while data := await reader.read(1 << 16):
                buf += data
                at = 0
                while at < len(buf) and (end := end_of(buf, at)) >= 0:
                    a, at = self.sentinel_answer(words_of(buf, at, end) + [b""], master, front), end
                    if not self.is_calm and self.rnd.random() < 0.1:
                        writer.write(a[:self.rnd.randrange(len(a) + 1)])
                        return
                    if not self.is_calm and self.rnd.random() < 0.05:
                        await asyncio.sleep(self.rnd.choice([0.3, 6]))
                    writer.write((front.push() if not self.is_calm and self.rnd.random() < 0.1 else b"") + a)
                del buf[:at]
        except (OSError, ValueError):
            pass
        finally:
            writer.close()

    def sentinel_answer(self, words, master, front):
        name, second, asks_master = words[0].upper(), words[1].upper(), words[1].upper() == b"GET-MASTER-ADDR-BY-NAME"
        if not self.is_calm and self.rnd.random() < 0.5:
            self.count("odd Sentinel")
            return self.odd_sentinel(asks_master, front) if name == b"SENTINEL" else self.odd.error()
        if name == b"HELLO":
            said = [("server", bulk("redis")), ("version", bulk("7.0.0")), ("proto", number(3)), ("id", number(1)), ("mode", bulk("sentinel")),
                    ("role", bulk("sentinel")), ("modules", b"*0\r\n")]
            return b"%7\r\n" + b"".join(bulk(k) + v for k, v in said)
        if name == b"SENTINEL":
            return array([bulk(front.host), bulk(str(front.port))] if asks_master else [])
        if name in SUBSCRIBES:
            return b"".join(array([bulk(name.decode().lower()), bulk(w.decode()), number(1)], b">") for w in words[1:-1])
        return {b"PING": b"+PONG\r\n", b"ROLE": array([bulk("sentinel"), array([bulk(master)])]),
                b"CLIENT": b"+OK\r\n"}.get(name, b"-ERR unknown command\r\n")

    def odd_sentinel(self, asks_master, front):
        r = self.rnd
        if r.random() < 0.3:
            return self.odd.error() if r.random() < 0.5 else self.odd.reply()
        if asks_master:
            hosts = [front.host, "", "nosuch.invalid", "::1", "x" * 400, "127.0.0.1", None]
            ports = [bulk(x) for x in (str(front.port), "0", "70000", "-1", "")] + [number(front.port)]
            return array([bulk(r.choice(hosts)), r.choice(ports)][:r.choice([2, 2, 2, 1, 0])])
        rows = []
        for _ in range(r.choice([0, 1, 3, 500])):
            port = r.choice([bulk("99999"), bulk("26379"), self.odd.reply(2)])
            rows.append(array([bulk("ip"), bulk(r.choice(["127.0.0.1", "", "x" * 300])), bulk("port"), port][:r.randrange(5)]))
        return array(rows)
