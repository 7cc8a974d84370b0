"""A RESP gate in front of a real redis-server: answers the opt-in to maintenance notifications, injects pushes between
replies, refuses, hangs, stalls, loses answers, fails commands, closes, resets, speaks TLS. One process hosts any number of gates (asyncio); class Gates drives it
over stdin and stdout, one JSON object a line. Times are CLOCK_MONOTONIC ms."""
import asyncio
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import time

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from lib import servers  # noqa: E402


def now_ms():
    return time.monotonic() * 1000


def end_of(buf, at):
    """Where the RESP element at `at` ends; -1 = incomplete."""
    line = buf.find(b"\r\n", at)
    if line < 0:
        return -1
    kind, end = buf[at:at + 1], line + 2
    if kind in b"$=!":
        n = int(buf[at + 1:line])
        return end if n < 0 else end + n + 2 if len(buf) >= end + n + 2 else -1
    if kind in b"*~>%":
        n = int(buf[at + 1:line]) * (2 if kind == b"%" else 1)
        for _ in range(max(n, 0)):
            end = end_of(buf, end)
            if end < 0:
                return -1
    return end


def words_of(buf, at, end):
    out, pos = [], buf.find(b"\r\n", at) + 2
    while pos < end:
        line = buf.find(b"\r\n", pos)
        n = int(buf[pos + 1:line])
        out.append(bytes(buf[line + 2:line + 2 + n]))
        pos = line + 4 + n
    return out


class Conn:
    def __init__(self, gate, id, client):
        self.gate, self.id, self.client, self.up = gate, id, client, None
        self.waiting = []  # None = a reply from the server, bytes = our own, "cluster" = one with addresses in it
        self.info = {"id": id, "roles": [], "opened": now_ms(), "closed": None, "by": None, "last_rx": None, "n": 0, "opted": None,
                     "after": []}

    def role(self, name):
        if name not in self.info["roles"]:
            self.info["roles"].append(name)

    def answer(self):
        while self.waiting and isinstance(self.waiting[0], bytes):
            self.client.write(self.waiting.pop(0))

    def on_command(self, words):
        """Bytes = our answer, "" = none at all, None = forward."""
        name = words[0].upper()
        second = words[1].upper() if len(words) > 1 else b""
        i = self.info
        i["last_rx"], i["n"] = now_ms(), i["n"] + 1
        i["after"] = (i["after"] + [[round(i["last_rx"]), (name + b" " + second).decode(errors="replace")[:40]]])[-20:]
        self.gate.counts[name.decode()] = self.gate.counts.get(name.decode(), 0) + 1
        if name == b"PSUBSCRIBE":
            self.role("subscriber")
        elif name == b"XREADGROUP" and b"BLOCK" in words:
            self.role("reader")
        elif name in (b"EVALSHA", b"EVAL", b"GETEX", b"SET", b"XPENDING", b"CONFIG"):
            self.role("command")
        mode = self.gate.mode
        if name == b"HELLO" and mode == "wrongpass":
            return b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"
        if name == b"HELLO" and mode == "loading":
            return b"-LOADING Redis is loading the dataset in memory\r\n"
        if self.gate.fail.get(name.decode(), 0) > 0:
            self.gate.fail[name.decode()] -= 1
            return b"-LOADING Redis is loading the dataset in memory\r\n"
        if mode == "closeoptin" and second == b"MAINT_NOTIFICATIONS":
            self.client.close()
            return ""
        if mode == "hang" or (mode == "mute" and second == b"MAINT_NOTIFICATIONS"):
            return ""
        if name == b"CLIENT" and second == b"MAINT_NOTIFICATIONS" and mode != "nosupport":
            i["opted"] = words[4].decode()
            late = self.gate.replay
            return late.encode() + b"+OK\r\n" if late else b"+OK\r\n"
        return None

    async def upward(self, reader):
        buf = bytearray()
        while data := await reader.read(1 << 16):
            buf += data
            at, keep = 0, 0
            while at < len(buf) and (end := end_of(buf, at)) >= 0:
                words = words_of(buf, at, end)
                a = self.on_command(words)
                if a is None:
                    await self.gate.stall("up")
                    self.up.write(buf[at:end])
                    if words[0].upper() not in (b"PSUBSCRIBE", b"SUBSCRIBE", b"PUNSUBSCRIBE", b"UNSUBSCRIBE"):
                        self.waiting.append("cluster" if words[0].upper() == b"CLUSTER" else None)
                elif a:
                    self.waiting.append(a)
                    self.answer()
                at = keep = end
            del buf[:keep]
        return "client"

    def is_swallowed(self, one):
        """An answer that does not arrive: of a reader one with entries, of another connection any."""
        for role in self.info["roles"]:
            if self.gate.swallow.get(role) and not one.startswith(b">") and (role != "reader" or b"lbs-input" in one):
                self.gate.swallow[role] -= 1
                return True
        return False

    async def downward(self, reader):
        buf = bytearray()
        while data := await reader.read(1 << 16):
            buf += data
            at = 0
            await self.gate.stall("down")
            while at < len(buf) and (end := end_of(buf, at)) >= 0:
                one = bytes(buf[at:end])
                kind = None
                if not one.startswith(b">"):
                    kind = self.waiting.pop(0) if self.waiting else None
                if kind == "cluster" or one.startswith((b"-MOVED", b"-ASK")):
                    for a, b in self.gate.rewrite:
                        one = one.replace(a.encode(), b.encode())
                if self.is_swallowed(one):
                    one = b""
                self.client.write(one)
                self.answer()
                at = end
            del buf[:at]
            await self.client.drain()
        return "server"

    async def run(self, reader):
        task, ends, by = asyncio.current_task(), [], "client"
        self.gate.tasks[self.id] = task
        try:
            if self.gate.mode == "rst":
                self.client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                await reader.read(1 << 16)
                self.client.transport.abort()
                return
            if self.gate.mode == "hang":
                while await reader.read(1 << 16):
                    pass
                return
            up_reader, self.up = await asyncio.open_connection(*self.gate.upstream)
            ends = [asyncio.ensure_future(self.upward(reader)), asyncio.ensure_future(self.downward(up_reader))]
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            by = done.pop().result()
        except asyncio.CancelledError:
            by = "gate"
        except (OSError, ValueError):
            pass
        finally:
            for e in ends:
                e.cancel()
            self.info["closed"], self.info["by"] = now_ms(), by
            for w in (self.client, self.up):
                if w:
                    w.close()


class Gate:
    def __init__(self, name, host, port, upstream, mode="normal", cert=None, key=None, rewrite=()):
        self.name, self.host, self.port, self.upstream, self.mode = name, host, port, upstream, mode
        self.rewrite, self.conns, self.tasks, self.counts, self.replay = list(rewrite), [], {}, {}, ""
        self.server, self.stalled_until, self.lag, self.fail, self.swallow, self.names = None, 0, {}, {}, {}, []
        self.ssl = None
        if cert:
            self.ssl = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.ssl.load_cert_chain(cert, key)
            self.ssl.sni_callback = lambda _ssl, name, _context: self.names.append(name)

    async def stall(self, way):
        if self.lag.get(way):
            await asyncio.sleep(self.lag[way] / 1000)
        while (left := self.stalled_until - now_ms()) > 0:
            await asyncio.sleep(left / 1000)

    async def accept(self, reader, writer):
        c = Conn(self, len(self.conns), writer)
        self.conns.append(c)
        await c.run(reader)

    async def listen(self):
        self.server = await asyncio.start_server(self.accept, self.host, self.port, ssl=self.ssl)

    def push(self, data):
        n = 0
        for c in self.conns:
            if c.info["closed"] is None:
                c.client.write(data.encode())
                n += 1
        return n

    def close(self):
        for c in self.conns:
            if c.info["closed"] is None:
                self.tasks[c.id].cancel()

    def reset(self):
        for c in self.conns:
            if c.info["closed"] is None:
                c.client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                c.client.transport.abort()

    async def refuse(self):
        if self.server:
            self.server.close()
            self.server = None


async def serve():
    gates, loop = {}, asyncio.get_running_loop()
    stdin = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    while line := await stdin.readline():
        q = json.loads(line)
        op, g, a = q["op"], gates.get(q["gate"]), {}
        if op == "listen":
            g = gates[q["gate"]] = Gate(q["gate"], q["host"], q["port"], q["up"], **q["more"])
            await g.listen()
        elif op == "again":
            await g.listen()
        elif op == "push":
            a = {"n": g.push(q["data"])}
        elif op == "stats":
            a = {"conns": [c.info for c in g.conns], "counts": g.counts, "names": g.names}
        elif op == "mode":
            g.mode = q["mode"]
        elif op == "replay":
            g.replay = q["data"]
        elif op == "stall":
            g.stalled_until = now_ms() + q["ms"]
        elif op == "lag":
            g.lag = q["ms"]
        elif op == "fail":
            g.fail[q["command"]] = q["n"]
        elif op == "swallow":
            g.swallow[q["role"]] = q["n"]
        elif op == "upstream":
            g.upstream = q["to"]
        elif op == "close":
            g.close()
        elif op == "reset":
            g.reset()
        elif op == "refuse":
            await g.refuse()
        a["ms"] = now_ms()
        print(json.dumps(a), flush=True)


def bulk(s):
    return "_\r\n" if s is None else f"${len(s)}\r\n{s}\r\n"


def moving(seq, seconds, endpoint):
    return f">4\r\n$6\r\nMOVING\r\n:{seq}\r\n:{seconds}\r\n{bulk(endpoint)}"


def note(name, seq, *more):
    """MIGRATING (time, shards), MIGRATED (shards), SMIGRATING (slots)"""
    out = f">{2 + len(more)}\r\n{bulk(name)}:{seq}\r\n"
    return out + "".join(f":{m}\r\n" if isinstance(m, int) else bulk(m) for m in more)


def smigrated(seq, *moves):
    rows = "".join(f"*{len(m)}\r\n" + "".join(map(bulk, m)) for m in moves)
    return f">3\r\n$9\r\nSMIGRATED\r\n:{seq}\r\n*{len(moves)}\r\n{rows}"


class Handle:
    """One gate of Gates."""

    def __init__(self, gates, name, host, port):
        self.gates, self.name, self.host, self.port = gates, name, host, port
        self.endpoint = f"{host}:{port}"

    def ask(self, op, **kw):
        return self.gates.ask(dict(kw, op=op, gate=self.name))

    def push(self, data):
        """To every open connection; when it was written, ms."""
        return self.ask("push", data=data)["ms"]

    def conns(self, open=None):
        c = self.ask("stats")["conns"]
        return c if open is None else [x for x in c if (x["closed"] is None) == open]

    def count(self, command):
        return self.ask("stats")["counts"].get(command, 0)


class Gates:
    def __init__(self, t):
        self.n, self.host = 0, servers.loopback()
        with open(t.path("gate.log"), "ab") as log:
            self.proc = subprocess.Popen([sys.executable, os.path.abspath(__file__)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         stderr=log, preexec_fn=servers.die_with_parent)
        t.ending(self.end)

    def ask(self, q):
        self.proc.stdin.write(json.dumps(q).encode() + b"\n")
        self.proc.stdin.flush()
        line = self.proc.stdout.readline()
        assert line, "the gates' process ended: see gate.log"
        return json.loads(line)

    def gate(self, server, port=None, listen=True, host=None, **more):
        self.n += 1
        h = Handle(self, f"g{self.n}", host or self.host, port or servers.free_port())
        if listen:
            h.ask("listen", host=h.host, port=h.port, up=list(server.tcp), more=more)
        return h

    def end(self):
        self.proc.kill()
        self.proc.wait()


if __name__ == "__main__":
    asyncio.run(serve())
