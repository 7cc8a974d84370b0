#!/usr/bin/python3
"""chaos_entries.py [--seed N] [--seconds N] [--topology standalone|cluster] [--keys N] [--entries N] [--whole] [--build DIR] [--dir DIR] [--keep]:
random trouble for entries mode: many keys, four producers, 3 daemons, 8 workers of four kinds (sluice-run --each, --batch, --feed,
the Python client), on one Redis with an append-only file or on 3 masters with a replica each.

Every worker appends what it worked on to one file, a line an entry, before it acknowledges. At the end all is healed and that file
is held against the streams in Redis: of each key every entry was worked on, the first times in the stream's order, and why any came
twice. Positions and tokens are looked at all the time: on one Redis neither ever goes back; in a cluster only over a failover.
The seed gives the order of the trouble, not its timing. Exit status 0 = nothing found."""
import argparse
import collections
import itertools
import json
import os
import random
import re
import shutil
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True
from chaos import Chaos  # noqa: E402
from lib import checks, gate, servers  # noqa: E402
from lib.case import Case  # noqa: E402
from lib.daemon import program  # noqa: E402
from lib.entries import ident, position_key  # noqa: E402
from lib.maintenance import metric  # noqa: E402
from lib.redis import RedisError  # noqa: E402
from lib.servers import Process, spawn, wait_until  # noqa: E402

SERVICE, LBS = "orders", "orders-input"
UNEXPLAINED = "UNEXPLAINED: the same process, the same run"
SAME_RUN = "another process of the same run: a failover lost that it was given back"  # its token is then the same
N_HOT = 20  # keys that most of the work is about
# Each line: who (with the process that runs it), key, token, what, the entry. An entry marked ! fails the first time, one that ends
# with 5 takes its time.
LOG = 'say() { echo "$W.$PPID $SLUICE_STREAM $SLUICE_TOKEN $1 $2" >>"$DONE"; }; '
BAD = 'case $l in *\'"tries":0,\'*\'!"\'*) say nack "$l"; exit 1;; *\'5"]\'*) sleep 0.05;; esac; say did "$l"'
KINDS = {
    "each": f"{LOG} read -r l; {BAD}",
    "batch": f"{LOG} while read -r l; do {BAD}; done",
    "feed": f"{LOG} while read -r l; do {BAD}; l=${{l#*\\\"id\\\":\\\"}}; echo \"${{l%%\\\"*}}\" >&3; done",
}
PYTHON = """
import asyncio, json, os, sys
sys.path.insert(0, sys.argv[1])
from sluice import Fail, Worker
fd = os.open(os.environ["DONE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def say(job, what, e):
    line = json.dumps({"id": e.id, "tries": e.tries, "fields": [list(f) for f in e.fields]})
    os.write(fd, f"{os.environ['W']}.{os.getpid()} {job.stream} {job.token} {what} {line}\\n".encode())

async def work(job, e):
    if not e.tries and e["n"].endswith("!"):
        say(job, "nack", e)
        raise Fail("not the first time")
    if e["n"].endswith("5"):
        await asyncio.sleep(0.05)
    say(job, "did", e)
Worker(sys.argv[2], work, credits=20, entries="each").run()
"""


class EntryWorker(Process):
    def __init__(self, t, name, kind, d):
        self.t, self.name, self.kind, self.d = t, name, kind, d
        self.env = dict(os.environ, W=name, DONE=t.path("done"))
        if kind == "python":
            client = os.path.join(os.path.dirname(os.path.dirname(HERE)), "etc", "clients", "python")
            self.argv = [sys.executable, "-c", PYTHON, client, d.worker_sock]
        else:
            self.argv = [program("sluice-run"), "-s", d.worker_sock, "-n", "20", f"--{kind}", "--", "sh", "-c", KINDS[kind]]
        t.ending(self.end)
        self.start()

    def start(self):
        self.proc = spawn(self.argv, self.t.path(self.name + ".log"), env=self.env)
        return self

    def end(self):
        self.cont()
        self.kill()


class Producer(threading.Thread):
    """XADD key, then the key to the load-balancer stream, which must be there, on a replica too, before the next."""

    def __init__(self, redis, keys, n, rate, rnd, n_replicas):
        super().__init__(daemon=True)
        self.db, self.keys, self.left, self.rate, self.rnd, self.n_replicas = redis.client(timeout=2), keys, n, rate, rnd, n_replicas
        self.is_stopping, self.n = threading.Event(), 0
        self.start()

    def run(self):
        start = time.monotonic()
        while self.left > 0 and not self.is_stopping.is_set():
            key = self.rnd.choice(self.keys[:N_HOT] if self.rnd.random() < 0.3 else self.keys)
            n = min(self.left, self.rnd.choice((1, 1, 2, 5, 20)))
            self.left -= n
            body = [f"{self.n + i}{'!' if self.rnd.random() < 0.01 else ''}" for i in range(n)]
            try:
                self.node(key).pipe([("XADD", key, "*", "n", x) for x in body])
            except (OSError, RedisError):  # there or not: Redis knows at the end
                self.forget()
            self.wake(key)
            self.n += n
            wait = start + self.n / self.rate - time.monotonic()
            if wait < -1:  # Redis was away: no burst afterwards
                start -= wait
            self.is_stopping.wait(max(0, wait))

    def node(self, key):
        return self.db.node_for(key)

    def forget(self):
        if hasattr(self.db, "ranges"):
            self.db.ranges = []
        else:
            self.db.close()

    def wake(self, key):
        body, wait = json.dumps({"DataStreamName": key}), [("WAIT", 1, 300)] if self.n_replicas else []
        while True:
            try:
                r = self.node(LBS).pipe([("XADD", LBS, "*", "lbs-input", body), *wait])
                if not any(isinstance(x, RedisError) for x in r) and (not wait or r[1] >= 1):
                    return
            except (OSError, RedisError):
                pass
            self.forget()
            if self.is_stopping.wait(0.1) and self.left == 0:
                return


class Watcher(threading.Thread):
    """Looks at every position all the time: (token, position) may not go back."""

    def __init__(self, redis, keys):
        super().__init__(daemon=True)
        self.db, self.keys, self.seen, self.back, self.n_looks = redis.client(timeout=5), keys, {}, [], 0
        self.is_stopping = threading.Event()
        self.start()

    def run(self):
        while not self.is_stopping.wait(0.3):
            for i in range(0, len(self.keys), 200):
                try:
                    part = self.keys[i:i + 200]
                    rows = self.db.pipe([("HMGET", position_key(k), "token", "pos") for k in part])
                except (OSError, RedisError):
                    if hasattr(self.db, "ranges"):
                        self.db.ranges = []
                    continue
                for k, row in zip(part, rows):
                    if isinstance(row, list) and row[0]:
                        self.look(k, (row[0], ident(row[1] or "0-0")))
            self.n_looks += 1

    def look(self, key, now):
        was = self.seen.get(key, ("", (0, 0)))
        if now[0] < was[0] or now[1] < was[1]:
            self.back.append((time.monotonic(), key, was, now))
        self.seen[key] = now


def why_again(first, who, token, nacked, top, was_lost):
    """An entry that came again: to `who` in the run with this token, after `first` (who, token) had worked on it. was_lost: `who` was
    told that it had lost the stream, or had to stop it. The daemon that finds its lock gone takes its own pending entry again, with the same token."""
    if token < top:
        return "an owner that did not know yet that it is none"
    if token > first[1]:
        return "a new owner, from the position"
    if token in nacked:
        return "the entry or one before it in its batch failed"
    if who == first[0] and was_lost:
        return "the lease was lost or late, and the same entry taken again"
    return SAME_RUN if who != first[0] else UNEXPLAINED


def judge(streams, lines, lost_leases=frozenset()):
    """`streams`: key -> ids as Redis has them; `lines`: (who, key, token, what, id) in order of the work; `lost_leases`: (worker, key)
    where a worker was told so. Findings, repeats by why, how many were worked on that Redis does not have."""
    per, bad, why, lost = collections.defaultdict(list), [], collections.Counter(), 0
    for who, key, token, what, id in lines:
        per[key].append((who, token, what, id))
    for key, ids in streams.items():
        known, first, nacked, top = set(ids), {}, set(), ""
        for who, token, what, id in per[key]:
            if what == "nack":
                nacked.add(token)
            elif id not in known:
                lost += 1
            elif id not in first:
                first[id] = (who, token)
            else:
                reason = why_again(first[id], who, token, nacked, top, (who.rsplit(".", 1)[0], key) in lost_leases)
                why[reason] += 1
                if reason == UNEXPLAINED:
                    bad.append(f"{key} {id}: first {first[id]}, again {(who, token)}: {reason}")
                first[id] = max(first[id], (who, token), key=lambda x: x[1])
            top = max(top, token)
        if list(first) != ids:
            got = list(first)
            at = next((i for i, (a, b) in enumerate(zip(got, ids)) if a != b), min(len(got), len(ids)))
            bad.append(f"{key}: worked on {len(got)} of {len(ids)}; at number {at}: {got[at:at + 3]} but {ids[at:at + 3]}")
    return bad, why, lost


class EntryChaos(Chaos):
    def __init__(self, t, o):
        self.t, self.rnd, self.start, self.o = t, random.Random(o.seed), time.monotonic(), o
        self.counts, self.later, self.n_later, self.busy = collections.Counter(), [], 0, set()
        self.is_cluster, self.n_refused, self.moved = o.topology == "cluster", 0, 0
        self.c = t.cluster(replicas=1) if self.is_cluster else t.redis(aof=True)
        self.daemons = self.start_daemons()
        kinds = [*KINDS, "python"]
        self.workers = [EntryWorker(t, f"w{i}-{kinds[i % 4]}", kinds[i % 4], self.daemons[i % 3]) for i in range(8)]
        self.keys = [f"key-{i}" for i in range(o.keys)]
        total = o.keys * o.entries
        self.producers = [Producer(self.c, self.keys, total // 4, total / 4 / o.seconds, random.Random(o.seed * 10 + i), self.is_cluster)
                          for i in range(4)]
        self.watcher = Watcher(self.c, self.keys)
        self.added, self.did, self.n_read = {}, collections.defaultdict(set), 0  # key -> ids

    def start_daemons(self):
        """Behind gates: they say MOVING."""
        nodes = self.c.nodes if self.is_cluster else [self.c]
        gates = gate.Gates(self.t)
        ports = [(n.port, servers.free_port()) for n in nodes]
        rewrite = [(f":{a}\r\n", f":{b}\r\n") for a, b in ports] + [(f":{a}", f":{b}") for a, b in ports]
        self.gates = [gates.gate(n, port=b, rewrite=rewrite if self.is_cluster else ()) for n, (_, b) in zip(nodes, ports)]
        service = {"retry": {"max_retries": 1000, "max": "20s"}, "recovery": {"interval": "5s"}, "same_stream": "coalesce",
                   "entries": {"enabled": True, "batch": 20, "idle_release": "300ms",
                               "retry": {"max_retries": 100000, "initial": "50ms", "factor": 1}}}
        cfg = {"redis": {"topology_refresh": "2s"}, "workers": {"progress_timeout": "8s"}, "log": {"level": "info"}}
        return [self.t.daemon([g.endpoint for g in self.gates[:3]], name=f"d{i}", services=(SERVICE,), T=self.o.T, service=service, cfg=cfg)
                for i in range(3)]

    # ---- the trouble that differs from chaos.py's
    def note_refused(self, d):
        if d.is_running() and d not in self.busy:
            try:
                self.n_refused += metric(d, "sluice_ack_refused_total")
            except (AssertionError, OSError, ValueError):
                pass

    def kill_daemon(self):
        if d := self.rnd.choice(self.idle(self.daemons) or [None]):
            self.note_refused(d)
            d.kill()
            self.down(d, self.rnd.choice([0, 0.5, 2, self.o.T + 2]), lambda: d.start(ready=False), "kill -9 daemon")

    def stop_daemon(self):
        if d := self.rnd.choice(self.idle(self.daemons) or [None]):
            self.note_refused(d)
            self.stopped(d)
            self.down(d, self.rnd.choice([0, 1, self.o.T]), lambda: d.start(ready=False), "SIGTERM daemon")

    def pause_daemon(self):
        if d := self.rnd.choice(self.idle(self.daemons) or [None]):
            d.pause()
            self.down(d, self.rnd.choice([0.5, 2, self.o.T, 2 * self.o.T]), d.cont, "pause daemon")

    def pause_worker(self):
        if w := self.rnd.choice(self.idle(self.workers) or [None]):
            w.pause()
            self.down(w, self.rnd.choice([0.3, 2, 1.5 * self.o.T]), w.cont, "pause worker")

    def kill_redis(self):
        if self.c not in self.busy:
            self.c.kill()
            self.down(self.c, self.rnd.uniform(0.2, 1.5), self.c.launch, "kill -9 Redis")

    def pause_redis(self):
        if self.c not in self.busy:
            self.c.pause()
            self.down(self.c, self.rnd.choice([0.4, 1, self.o.T - 1]), self.c.cont, "pause Redis")

    def move(self):
        """MOVING without an endpoint: every connection of one node is made anew, the old ones are closed by us afterwards."""
        g = self.rnd.choice(self.gates)
        self.moved += 1
        self.counts["MOVING"] += 1
        self.say(f"MOVING at {g.name}")
        g.push(gate.moving(self.moved, 3, None))

    def run(self, seconds):
        trouble = [(self.kill_worker, 5), (self.pause_worker, 3), (self.kill_daemon, 3), (self.stop_daemon, 2), (self.pause_daemon, 3),
                   (self.move, 2)]
        trouble += [(self.kill_master, 2), (self.pause_master, 2), (self.failover, 1), (self.move_slots, 3)] if self.is_cluster else \
            [(self.kill_redis, 2), (self.pause_redis, 2)]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.rnd.choices([f for f, _ in trouble], [w for _, w in trouble])[0]()
            pause = time.monotonic() + self.rnd.uniform(0.3, 1.5)
            while time.monotonic() < pause:
                self.run_later()
                time.sleep(0.05)
            for d in self.daemons:
                assert d in self.busy or d.is_running(), f"{d.name} ended by itself: {d.log[-800:]}"

    # ---- the end
    def heal(self):
        self.say("healing")
        for p in self.producers:
            p.rate = 10**9 if self.o.whole else p.rate
            if not self.o.whole:
                p.is_stopping.set()
        self.run_later(everything=True)
        if self.is_cluster:
            self.wait_whole()
        self.left = []
        self.until("everything is added", lambda: {p.name: f"{p.left} entries left" for p in self.producers if p.is_alive()}, 60)
        for d in self.daemons:
            d.wait_ready(60)
        self.say("all is up: waiting for the rest of the work")
        self.added = self.streams()
        self.until("every entry was worked on", self.unworked, 120)
        if self.is_cluster:  # an acknowledgement that a failover lost, of a lease that had ended: nobody owns it, and its work is done
            try:
                wait_until(lambda: not self.unacked(), 10, "acknowledged")
            except AssertionError:
                keys = self.unacked()
                self.counts["woken again: a failover lost the last acknowledgement"] += len(keys)
                for k in keys:
                    self.c.db.cmd("XADD", LBS, "*", "lbs-input", json.dumps({"DataStreamName": k}))
        self.until("every entry is acknowledged", self.unacked, 60)
        try:
            checks.wait_clean(self.c.db, (SERVICE,), timeout=60, registry=None)
        except AssertionError as e:
            self.left.append(str(e))
        self.watcher.is_stopping.set()
        self.watcher.join(30)
        for d in self.daemons:
            self.note_refused(d)

    def until(self, what, left, seconds):
        """Finding: `seconds` have passed without any progress."""
        rest, at = left(), time.monotonic()
        while rest and time.monotonic() < at + seconds:
            time.sleep(0.5)
            now = left()
            rest, at = now, at if now == rest else time.monotonic()
        if rest:
            self.left += [f"not so: {what}: {k}: {n}" for k, n in list(rest.items())[:10]] + [f"{len(rest)} keys in all"]

    def ask(self, cmds):
        """Replies, in order. A connection that was open before its master was killed shows that only now."""
        for again in range(10):
            try:
                return self.c.db.pipe(cmds)
            except ConnectionError:
                time.sleep(0.5)
        return self.c.db.pipe(cmds)

    def streams(self):
        rows = self.ask([("XRANGE", k, "-", "+") for k in self.keys])
        return {k: [id for id, _ in row] for k, row in zip(self.keys, rows) if isinstance(row, list) and row}

    def lines(self, first=0):
        """(who, key, token, what, id) in order, from the first-th on."""
        try:
            with open(self.t.path("done")) as f:
                for line in itertools.islice(f, first, None):
                    if not line.endswith("\n"):  # it is being written
                        return
                    who, key, token, what, entry = line.split(" ", 4)
                    yield who, key, token, what, json.loads(entry)["id"]
        except FileNotFoundError:
            return

    def unworked(self):
        for _, key, _, what, id in self.lines(self.n_read):
            self.n_read += 1
            if what == "did":
                self.did[key].add(id)
        return {k: f"{len(missing)} missing, first {missing[0]}" for k, ids in self.added.items()
                if (missing := [x for x in ids if x not in self.did[k]])}

    def unacked(self):
        streams = self.added
        rows = self.ask([("HGET", position_key(k), "pos") for k in streams])
        return {k: f"at {pos}, ends with {ids[-1]}" for (k, ids), pos in zip(streams.items(), rows) if pos != ids[-1]}

    def lost_leases(self):
        """(worker, key), by what sluice-run says. One that it stopped at the fence may go on, when the renewal comes late."""
        found = set()
        for w in self.workers:
            with open(self.t.path(w.name + ".log"), errors="replace") as f:
                found.update((w.name, m[1]) for m in re.finditer(r"stream (\S+?)(?: revoked: lost|: not renewed in time)", f.read()))
        return found

    def report(self):
        streams = self.streams()
        bad, why, lost = judge(streams, self.lines(), self.lost_leases())
        n = sum(map(len, streams.values()))
        back = self.watcher.back
        dead = self.c.db.cmd("XLEN", f"{SERVICE}-entries-dlq") + self.c.db.cmd("XLEN", f"{SERVICE}-input-dlq")
        print("\n".join(f"{k:6} × {what}" for what, k in sorted(self.counts.items())))
        print(f"{n} entries of {self.o.keys} keys, {sum(why.values())} repeats; {self.n_refused:.0f} late acknowledgements refused; "
              f"{self.watcher.n_looks} looks at the positions")
        print("\n".join(f"{k:6} repeats: {what}" for what, k in sorted(why.items())))
        if self.is_cluster:
            print(f"{lost} worked on that a failover lost, {len(back)} positions went back over failovers")
        else:
            bad += [f"{key}: position went back from {was} to {now}" for _, key, was, now in back]
            bad += [f"{lost} worked on that are not in Redis"] if lost else []
            bad += [f"{why[SAME_RUN]} by another process of the same run, without a failover"] if why[SAME_RUN] else []
        bad += [f"{dead} dead letters"] if dead else []
        for what, rows in (("order, skipped, unexplained", bad), ("left", self.left)):
            print(f"{what}: {len(rows)}")
            for x in rows[:20]:
                print(f"  {x}")
        return not bad and not self.left


def options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seed", type=int, default=None, help="default: a new one, printed")
    p.add_argument("--seconds", type=float, default=20)
    p.add_argument("--topology", choices=("standalone", "cluster"), default="cluster")
    p.add_argument("--keys", type=int, default=None, help="default: 5 a second, at most 10,000")
    p.add_argument("--entries", type=int, default=50, help="of each key, on average")
    p.add_argument("--whole", action="store_true", help="what is left of keys × entries when the time is over is added then, at once")
    p.add_argument("--T", type=float, default=6)
    p.add_argument("--build", help="where sluiced is (or $SLUICE_BUILD; default build/)")
    p.add_argument("--dir", help="kept: what was worked on, and logs")
    p.add_argument("--keep", action="store_true", help="keep the directory")
    o = p.parse_args()
    o.seed = random.randrange(10**6) if o.seed is None else o.seed
    o.keys = o.keys or min(10000, max(N_HOT, round(5 * o.seconds)))
    if o.build:
        os.environ["SLUICE_BUILD"] = os.path.abspath(o.build)
    return o


def main():
    o = options()
    dir = o.dir or tempfile.mkdtemp(prefix="sle")
    t, ok = Case(dir), False
    try:
        chaos = EntryChaos(t, o)
        print(f"seed {o.seed}, {o.seconds:g} s, {o.topology}, {o.keys} keys × {o.entries} entries, T = {o.T:g} s, in {dir}", flush=True)
        chaos.run(o.seconds)
        chaos.heal()
        ok = chaos.report()
    finally:
        t.close()
        if not o.dir and not o.keep and ok:
            shutil.rmtree(dir, ignore_errors=True)
        elif not ok:
            print(f"logs are in {dir}")
    print("each key in order, nothing skipped" if ok else "FAILED")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
