"""What chaos_replies.py and chaos_verbs.py share: rounds of trouble, each with a calm after it in which all must become well in the time that
is stated here: the daemons are ready, all work is done or in the dead letters, no session is stuck, no descriptor is left."""
import argparse
import collections
import json
import os
import random
import shutil
import subprocess
import tempfile
import threading
import time

from chaos import Chaos
from chaos_entries import judge
from lib import checks, entries, ledger, sanitizers, vitals
from lib.case import Case
from lib.maintenance import n_fds
from lib.redis import RedisError
from lib.restless import RestlessWorker
from lib.servers import wait_until

READY_WITHIN = 30  # after the trouble: the longest pause before a new connection, a refresh of the topology, a resume
WORK_WITHIN = 75  # after that: entries of dead owners are taken over after min_idle, delays of retries pass
ROUND = 20
# Also of a service that is turned from leases to entries, or back, while its daemon is down.
NEVER = {"unasked": "entries of a lease that was assigned without", "unfed": "no entries of a lease that was assigned with them"}
VERB_WITHIN = 60  # doctor asks one master after the other, each of which may be silent
SPARE_FDS = 8  # a connection that is about to be closed, a refresh of the topology under way


class Rounds(Chaos):
    """`services`: name -> settings; those of `feeds` hand out entries, of `merging` one run may be for several wishes."""
    feeds, merging, free = (), (), ()  # free: services whose streams may have several owners at once
    is_honest = True  # what Redis says is true: then order and ownership can be promised
    bounds, ready_within = vitals.Limits(), READY_WITHIN

    def __init__(self, t, o):
        self.t, self.rnd, self.start, self.o = t, random.Random(o.seed), time.monotonic(), o
        self.counts, self.later, self.n_later, self.busy = collections.Counter(), [], 0, set()
        self.repeats = collections.Counter()
        self.bad, self.ledger, self.dead_seen, self.fds = [], ledger.Ledger(), set(), {}
        self.set_up()
        self.names = {s["name"] for d in self.daemons for s in d.cfg["services"]}
        self.db, self.load_db = self.c.client(), self.c.client(timeout=2, patience=3)
        self.load_rnd, self.is_loading, self.is_over = random.Random(o.seed + 1), threading.Event(), threading.Event()
        self.loader = threading.Thread(target=self.load_loop, daemon=True)
        self.loader.start()
        for d in self.daemons:
            self.fds[d.name] = n_fds(d) if d.is_running() else 0
        self.vitals = vitals.Vitals(self.daemons, self.bounds)

    def set_up(self):
        """Makes self.c (Redis), self.daemons and self.workers."""
        raise NotImplementedError

    def restless(self, d, name, credits, services=(), is_calm=False):
        w = RestlessWorker(self.t.dir, d.worker_sock, name, credits, services, self.o.seed, is_calm)
        self.t.ending(w.kill)
        return w.start()

    # ---- work
    def load_loop(self):
        while not self.is_over.is_set():
            if self.is_loading.wait(0.1):
                try:
                    self.add_some(self.load_rnd)
                except (OSError, RedisError):  # not there now
                    pass
                self.is_over.wait(self.load_rnd.uniform(0, 2 / self.o.rate))

    def add_some(self, rnd):
        s = rnd.choice(sorted(self.names))
        stream = f"{s}.k{rnd.randrange(rnd.choice([2, 6, 25]))}"
        if s in self.feeds:
            entries.add(self.load_db, stream, rnd.choice([1, 1, 2, 5, 20]))
        self.add_wish(rnd, s, stream)

    def add_wish(self, rnd, service, stream):
        self.ledger.add(self.load_db, service, stream, {"poison": rnd.random() < 0.1, "pad": "x" * rnd.choice([0, 0, 50, 3000])})

    def data_streams(self):
        """{stream: ids} of every stream whose entries are handed out, as Redis has them."""
        names = sorted({w["stream"] for w in list(self.ledger.wishes.values()) if w["service"] in self.feeds})
        rows = self.db.pipe([("XRANGE", n, "-", "+") for n in names])
        return {n: [id for id, _ in r] for n, r in zip(names, rows) if r}

    # ---- rounds
    def disturb(self, seconds):
        raise NotImplementedError

    def calm(self):
        """Ends the trouble."""
        raise NotImplementedError

    def run(self, seconds):
        n = max(1, round(seconds / ROUND))
        for i in range(n):
            self.say(f"round {i + 1} of {n}")
            self.is_loading.set()
            for w in self.workers:
                w.upset()
            self.disturb(seconds / n)
            self.is_loading.clear()
            for w in self.workers:
                w.calm()
            self.calm()
            if self.found(self.look()):
                break
        self.is_over.set()
        self.loader.join(10)
        self.end()

    def found(self, findings):
        for x in findings:
            self.say(f"FOUND {x}")
        self.bad += findings
        return bool(findings)

    def alive(self):
        """A daemon that is not meant to be down lives. Raises."""
        for d in self.daemons:
            assert d in self.busy or d.is_running(), f"{d.name} ended by itself with {d.proc.returncode}: {self.report_of(d)}"

    def report_of(self, d):
        found = sanitizers.reports(self.t.dir)
        if not found:
            return d.log[-3000:]
        with open(found[-1], errors="replace") as f:
            return f.read(4000)

    def look(self):
        """After a calm: what is not well."""
        self.alive()
        self.db.close()  # the trouble may have been CLIENT KILL
        try:
            since = time.monotonic()
            for d in self.daemons:
                d.wait_ready(self.ready_within)
            self.say(f"ready after {time.monotonic() - since:.1f} s")
        except AssertionError as e:
            return [f"{e}: {[d.ctl('status').stdout[-1500:] for d in self.daemons]}"]
        self.wake_all()
        return self.work() or self.judged() + self.settled() + self.vitals.findings() + self.sanitizers()

    @staticmethod
    def sanitizers_in(dir):
        return [f"sanitizer report {path}: {open(path, errors='replace').read(3000)}" for path in sanitizers.reports(dir)]

    def sanitizers(self):
        return self.sanitizers_in(self.t.dir)

    def wake_all(self):
        """Entries that nobody has worked on may be there without a wish: its run was ended, or is a dead letter."""
        for stream in self.data_streams():
            self.ledger.add(self.db, stream.split(".")[0], stream)

    def unworked(self, streams):
        did = {(stream, id) for _, stream, _, what, id in ledger.entry_lines(self.journals()) if what == "did"}
        return [(s, id) for s, ids in streams.items() for id in ids if (s, id) not in did and (s, id) not in self.dead_entries()[0]]

    def dead_entries(self):
        found, silent = ledger.dead_entries(self.db, self.feeds)
        return found | self.dead_seen, silent

    def leftovers(self):
        bad = checks.leftovers(self.db, sorted(self.names - set(self.free)), dlq=None)
        bad += checks.leftovers(self.db, self.free, dlq=None, registry=None)  # made while it was none: replaced when it matters
        for s in sorted(self.names):
            for what, count in (("parked", "ZCARD"), ("delayed-data", "HLEN")):
                if n := self.db.cmd(count, f"{{{s}-input}}-{what}"):
                    bad.append(f"{s}: {n} in {what}")
        return bad

    def work(self):
        """Waits until all is done. What is not, with what the daemons say of it."""
        since, streams = time.monotonic(), self.data_streams()
        try:
            wait_until(lambda: not self.leftovers(), WORK_WITHIN, "all work is done", 0.2)
            self.say(f"all done after {time.monotonic() - since:.1f} s")
            missing = self.unworked(streams)
            return [f"{len(missing)} entries were never worked on, first {missing[0]}: {self.explained(missing[0][0])}"] if missing else []
        except AssertionError:
            left = self.leftovers()
            return [f"left after {WORK_WITHIN} s: {left[:6]}; {[self.explained(n) for n in self.some_left()]}"] if left else []

    def some_left(self):
        """Some streams that are not done."""
        names = [n for s in sorted(self.names) for n in checks.pending_names(self.db, s)[:2] + self.db.cmd("HKEYS", f"{{{s}-input}}-active")[:4]]
        return sorted({n for n in names if "\0" not in n})[:4]  # \0wish:… goes with its stream, and is no argument

    def explained(self, stream):
        return [d.ctl("explain", stream).stdout.strip() for d in self.daemons]

    def journals(self):
        return [w.journal for w in self.workers]

    def judged(self):
        """What the journals and Redis say together."""
        journals = self.journals()
        dead, silent = ledger.dead_letters(self.db, sorted(self.names))
        dead_of_streams, silent_too = self.dead_entries()
        runs = ledger.runs(journals)
        bad, never_done = silent + silent_too, ledger.lost(self.ledger.wishes, runs, dead, self.merging)
        if not self.is_honest:  # told that an entry is gone, nobody works on it any more
            self.counts["never done, after a lie"] = len(never_done)
            return bad
        bad += never_done
        bad += [x for x in checks.overlaps(journals) if not x.startswith(tuple(f"('{s}'" for s in self.free))]
        bad += checks.overlaps(journals, by="id") + checks.credits_exceeded(journals) + ledger.falling_tokens(runs)
        lines = ledger.entry_lines(journals)
        did = {(stream, id) for _, stream, _, what, id in lines if what == "did"}
        streams = {s: [id for id in ids if (s, id) in did or (s, id) not in dead_of_streams] for s, ids in self.data_streams().items()}
        out_of_order, why, _ = judge(streams, lines, ledger.lost_leases(journals))
        self.repeats = why
        return bad + out_of_order

    def settled(self):
        """No session holds anything, and descriptors are as many as at first."""
        def is_still(d):
            return not vitals.stuck(d.json("workers")) and n_fds(d) <= self.fds[d.name] + SPARE_FDS
        bad = []
        for d in self.daemons:
            try:
                wait_until(lambda: is_still(d), 15, "settled", 0.2)
            except AssertionError:
                bad += [f"{d.name}: {x}" for x in vitals.stuck(d.json("workers"))]
                if n_fds(d) > self.fds[d.name] + SPARE_FDS:
                    links = [os.readlink(f"/proc/{d.proc.pid}/fd/{x}") for x in os.listdir(f"/proc/{d.proc.pid}/fd")]
                    bad.append(f"{d.name}: descriptors {self.fds[d.name]} at first, {n_fds(d)} now: {links}")
        return bad

    def end(self):
        self.vitals.stop()
        for w in self.workers:
            w.kill()
        for d in self.daemons:
            try:
                rc = d.stop(timeout=40) if d.is_running() else "no process"
                self.found([f"{d.name} ended with {rc}: {self.report_of(d)}"] if rc else [])
            except subprocess.TimeoutExpired:
                self.found([f"{d.name} does not stop in 40 s"])
            self.found([f"log of {d.name}: {x}" for x in vitals.faults_in_log(d.log)])
        self.found(self.sanitizers())

    def report(self):
        journals = self.journals()
        for t, what in NEVER.items():
            n = sum(r["f"]["t"] == t for j in journals for r in j)
            if n:
                self.bad.append(f"{n} × {what}")
        n_told = sum(len(checks.told(j)) for j in journals)
        print("\n".join(f"{n:6} × {what}" for what, n in sorted(self.counts.items())))
        print(f"{len(self.ledger.wishes)} wishes, {n_told} assignments, {len(ledger.entry_lines(journals))} entries worked on or failed; "
              f"the most at once: {self.vitals.most()}")
        print(f"repeats of entries: {dict(self.repeats)}")
        print(f"found: {len(self.bad)}")
        for x in self.bad[:20]:
            print(f"  {x}")
        return not self.bad

    # ---- verbs
    def ctl(self, d, *args, codes=(0, 1, 69)):
        """sluicectl at `d`, which may be down. Its answer; a hang, a crash and another code are findings."""
        try:
            r = d.ctl("--timeout", "5s", *args, timeout=VERB_WITHIN)
        except subprocess.TimeoutExpired:
            self.found([f"sluicectl {' '.join(args)} hangs at {d.name}"])
            return None
        if r.returncode not in codes:
            self.found([f"sluicectl {' '.join(args)} at {d.name}: {r.returncode} {r.stdout[-300:]}{r.stderr[-1500:]}"])
        return r


def options(doc, more=lambda p: None, topologies=("standalone", "cluster")):
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seed", type=int, default=None, help="default: a new one, printed")
    p.add_argument("--seconds", type=float, default=20, help=f"of trouble, in rounds of {ROUND}; the calm after each is not counted")
    p.add_argument("--topology", choices=topologies, default="standalone")
    p.add_argument("--rate", type=float, default=20, help="wishes a second")
    p.add_argument("--build", help="where sluiced is (or $SLUICE_BUILD; default build/)")
    p.add_argument("--dir", help="kept: journals and logs")
    p.add_argument("--keep", action="store_true", help="keep the directory")
    more(p)
    o = p.parse_args()
    o.seed = random.randrange(10**6) if o.seed is None else o.seed
    if o.build:
        os.environ["SLUICE_BUILD"] = os.path.abspath(o.build)
    return o


def drive(make, o, all_well):
    """Runs one driver; the exit status."""
    dir = o.dir or tempfile.mkdtemp(prefix="slr")
    os.environ.update(sanitizers.environment(dir))
    os.environ["ASAN_OPTIONS"] += ":quarantine_size_mb=16"  # or memory says nothing
    t, ok = Case(dir), False
    print(f"{json.dumps({k: v for k, v in vars(o).items() if v is not None})} in {dir}", flush=True)
    try:
        rounds = make(t, o)
        rounds.run(o.seconds)
        ok = rounds.report()
    finally:
        t.close()
        if ok and not o.dir and not o.keep:
            shutil.rmtree(dir, ignore_errors=True)
        elif not ok:
            print(f"seed {o.seed}; journals and logs are in {dir}")
    print(all_well if ok else "FAILED")
    return 0 if ok else 1
