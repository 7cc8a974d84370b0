#!/usr/bin/python3
"""chaos.py [SEED [SECONDS]] [--seed N] [--seconds N] [--build DIR] [--dir DIR] [--keep]: random trouble on a 3-master 3-replica cluster, 3 daemons, 9 workers.

Every worker keeps a journal; at the end all is healed, the rest of the work is done, and the checkers say whether an entry
was lost or two workers were told to own one stream at once. The seed gives the order of the trouble, not its timing.
Exit status 0 = nothing found."""
import argparse
import collections
import os
import random
import shutil
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True
from lib import checks  # noqa: E402
from lib.case import Case  # noqa: E402
from lib.load import Load  # noqa: E402
from lib.redis import SEP, N_SLOTS, RedisError, slot_of  # noqa: E402
from lib.servers import wait_until  # noqa: E402

T = 6
SERVICES = ("orders", "bills")


class Chaos:
    def __init__(self, t, seed):
        self.t, self.rnd, self.start = t, random.Random(seed), time.monotonic()
        self.counts, self.later, self.n_later = collections.Counter(), [], 0
        self.c = t.cluster(replicas=1)
        service = {"retry": {"max_retries": 1000}, "recovery": {"interval": "5s"}}
        cfg = {"redis": {"topology_refresh": "2s"}, "workers": {"progress_timeout": "8s"}}
        self.daemons = [t.daemon(self.c, name=f"d{i}", services=SERVICES, T=T, service=service, cfg=cfg) for i in range(3)]
        self.workers = [t.proc_worker(self.daemons[i % 3], name=f"w{i}", credits=4 + 4 * (i // 3), work="0-1.5",
                                      hang=0.02 if i % 3 == 0 else 0) for i in range(9)]
        self.load = Load(self.c, services=SERVICES, rate=25)
        self.busy = set()  # what is down, paused or in a failover now

    def say(self, text):
        print(f"[{time.monotonic() - self.start:7.2f}] {text}", flush=True)

    def after(self, seconds, f):
        self.n_later += 1
        self.later.append((time.monotonic() + seconds, self.n_later, f))

    def run_later(self, everything=False):
        now = time.monotonic()
        due = sorted(x for x in self.later if everything or x[0] <= now)
        self.later = [x for x in self.later if x not in due]
        for _, _, f in due:
            f()

    def idle(self, things):
        return [x for x in things if x not in self.busy]

    def down(self, thing, seconds, back, what):
        """Marks `thing` until back() has run."""
        self.busy.add(thing)
        self.counts[what] += 1
        self.say(f"{what} {thing.name} for {seconds:.1f} s")

        def end():
            back()
            self.busy.discard(thing)
            self.say(f"  {thing.name} is back")
        self.after(seconds, end)

    # ---- the trouble
    def kill_worker(self):
        w = self.rnd.choice(self.idle(self.workers) or [None])
        if w:
            w.kill()
            self.down(w, self.rnd.uniform(0, 3), w.start, "kill -9 worker")

    def pause_worker(self):
        w = self.rnd.choice(self.idle(self.workers) or [None])
        if w:
            w.pause()
            self.down(w, self.rnd.uniform(0.2, 1.5 * T), w.cont, "pause worker")

    def kill_daemon(self):
        d = self.rnd.choice(self.idle(self.daemons) or [None])
        if d:
            d.kill()
            self.down(d, self.rnd.choice([0, 0.5, 2, T + 3]), lambda: d.start(ready=False), "kill -9 daemon")

    def stop_daemon(self):
        d = self.rnd.choice(self.idle(self.daemons) or [None])
        if d:
            self.stopped(d)
            self.down(d, self.rnd.choice([0, 1, T]), lambda: d.start(ready=False), "SIGTERM daemon")

    @staticmethod
    def stopped(d):
        rc = d.stop(timeout=30)
        assert rc == 0 or not d.has_begun(), f"{d.name} ended with {rc}"

    def pause_daemon(self):
        d = self.rnd.choice(self.idle(self.daemons) or [None])
        if d:
            d.pause()
            self.down(d, self.rnd.choice([0.5, 2, T, 3 * T]), d.cont, "pause daemon")

    def healthy(self):
        """At most one node in trouble at a time, and a replica for it."""
        if any(n in self.busy for n in self.c.nodes):
            return None
        try:
            self.c.wait_ok(0.5)
            m = self.rnd.choice(self.c.masters())
            return m if self.c.replica_of(m) else None
        except (AssertionError, OSError, RedisError):
            return None

    def kill_master(self):
        if m := self.healthy():
            replica = self.c.replica_of(m)
            m.kill()
            self.down(m, self.rnd.uniform(2.5, 6), lambda: self.start_after_failover(m, replica), "kill -9 master")

    def start_after_failover(self, m, replica):
        """A master that comes back with its old file before its replica has taken over is Redis losing data, not sluiced."""
        try:
            wait_until(lambda: replica and self.c.role(replica) == "master", 30, f"{m.name} is replaced")
        except (AssertionError, OSError, RedisError) as e:
            self.say(f"  {e}: what was written since its file is lost")
            self.counts["master restarted with old data"] += 1
        m.start()

    def pause_master(self):
        if m := self.healthy():
            m.pause()
            self.down(m, self.rnd.choice([0.4, 3, 5]), m.cont, "pause master")

    def failover(self):
        if m := self.healthy():
            self.counts["failover"] += 1
            self.say(f"failover of {m.name}")
            try:
                self.c.failover(m, timeout=8)
            except (AssertionError, OSError, RedisError) as e:
                self.say(f"  did not come: {e}")

    def move_slots(self):
        if not self.healthy():
            return
        slots = [slot_of(self.rnd.choice(SERVICES) + "-input")] if self.rnd.random() < 0.4 else []
        slots += [self.rnd.randrange(N_SLOTS) for _ in range(5)]
        slots += [slot_of(k) for k, _ in self.some_locks()]
        dst = self.rnd.choice(self.c.masters())
        self.counts["slot moved"] += len(slots)
        self.say(f"{len(slots)} slots to {dst.name}")
        for s in slots:
            try:
                self.c.move_slot(s, dst)
            except (OSError, RedisError, StopIteration) as e:
                self.say(f"  slot {s}: {e}")
                break

    def some_locks(self):
        m = self.rnd.choice(self.c.masters())
        keys = m.db.cmd("SCAN", 0, "MATCH", f"*{SEP}*", "COUNT", 200)[1]
        return [(k, None) for k in keys[:3]]

    def run(self, seconds):
        trouble = [(self.kill_worker, 5), (self.pause_worker, 3), (self.kill_daemon, 4), (self.stop_daemon, 2), (self.pause_daemon, 3),
                   (self.kill_master, 2), (self.pause_master, 2), (self.failover, 2), (self.move_slots, 3)]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.rnd.choices([f for f, _ in trouble], [w for _, w in trouble])[0]()
            pause = time.monotonic() + self.rnd.uniform(0.2, 1.5)
            while time.monotonic() < pause:
                self.run_later()
                time.sleep(0.05)
            for d in self.daemons:
                assert d in self.busy or d.is_running(), f"{d.name} ended by itself: {d.log[-800:]}"

    def heal(self):
        self.say("healing")
        added = self.load.stop()
        self.run_later(everything=True)
        self.wait_whole()
        for w in self.workers:  # no more hanging
            w.argv[w.argv.index("--hang") + 1] = "0"
            w.kill()
            w.start()
        for d in self.daemons:
            d.wait_ready(60)
        self.left = []
        try:
            checks.wait_clean(self.c.db, SERVICES, timeout=120, registry=None)  # a stale registry entry is replaced when it matters
        except AssertionError as e:
            self.left = [str(e)]
        return added

    def wait_whole(self):
        """The cluster's own healing may leave a slot half moved or with nobody: what an operator would mend is mended."""
        for n in self.c.nodes:  # some were started a moment ago, on a machine that may be slow
            n.wait_up()
        for last in (False, False, True):
            self.fix_slots()
            self.give_out_slots()
            try:
                return self.c.wait_ok(25)
            except AssertionError:
                for n in self.c.nodes:
                    self.say(f"  {n.name}: {n.db.cmd('CLUSTER', 'INFO').split()[0]} {self.c.info(n).get('master_link_status')} {self.c.owners(n)}")
                if last:
                    raise

    def give_out_slots(self):
        """A slot whose move was cut off by a kill can be nobody's, or for one master only."""
        views = [(n, {x: r[2][2] for r in n.db.cmd("CLUSTER", "SLOTS") for x in range(r[0], r[1] + 1)}) for n in self.c.masters()]
        known = {slot: owner for _, view in views for slot, owner in view.items()}
        for n, view in views:
            for slot in sorted(set(range(N_SLOTS)) - set(view))[:100]:
                owner = known.setdefault(slot, n.id)
                try:
                    n.db.cmd("CLUSTER", *(("ADDSLOTS", slot) if owner == n.id else ("SETSLOT", slot, "NODE", owner)))
                    self.say(f"  slot {slot} was nobody's for {n.name}: {owner}")
                except RedisError as e:
                    self.say(f"  slot {slot}: {e}")

    def fix_slots(self):
        """Ends half-done migrations, as an operator's `redis-cli --cluster fix` does."""
        for n in self.c.nodes:
            row = next(r for r in n.db.cmd("CLUSTER", "NODES").splitlines() if "myself" in r)
            for part in row.split()[8:]:
                if part.startswith("["):
                    slot = int(part[1:].split("-")[0])
                    try:
                        if "->-" in part:
                            dst = next(x for x in self.c.nodes if x.id == part[:-1].split("->-")[1])
                            if dst in self.c.masters():
                                self.c.move_slot(slot, dst)
                        n.db.cmd("CLUSTER", "SETSLOT", slot, "STABLE")
                    except (OSError, RedisError, StopIteration) as e:
                        self.say(f"  slot {slot}: {e}")

    def report(self, added):
        journals = [w.journal for w in self.workers]
        done = checks.finished(journals)
        found = {"lost": checks.lost(added.sure, journals), "overlap": checks.overlaps(journals),
                 "credits exceeded": checks.credits_exceeded(journals),
                 "never added": checks.stray({**added.sure, **added.maybe}, journals), "left in Redis": self.left}
        print("\n".join(f"{n:6} × {what}" for what, n in sorted(self.counts.items())))
        print(f"{len(added.sure)} added for sure, {len(added.maybe)} perhaps; {len(done)} done, "
              f"{sum(done.values()) - len(done)} wasted runs, {sum(len(checks.told(j)) for j in journals)} assignments")
        print(f"{sum(self.c.db.cmd('HLEN', f'{{{s}-input}}-active') for s in SERVICES)} stale in the registry")
        for what, bad in found.items():
            print(f"{what}: {len(bad)}")
            for x in bad[:10]:
                print(f"  {x}")
        return not any(found.values())


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("pos", nargs="*", type=float, metavar="SEED SECONDS")
    p.add_argument("--seed", type=int, help="default: a new one, printed")
    p.add_argument("--seconds", type=float)
    p.add_argument("--build", help="where sluiced is (or $SLUICE_BUILD; default build/)")
    p.add_argument("--dir", help="kept: journals and logs")
    p.add_argument("--keep", action="store_true", help="keep the directory")
    o = p.parse_args()
    pos = o.pos + [None, None]
    o.seed = next((int(x) for x in (o.seed, pos[0]) if x is not None), random.randrange(10**6))
    o.seconds = o.seconds or pos[1] or 20
    if o.build:
        os.environ["SLUICE_BUILD"] = os.path.abspath(o.build)
    dir = o.dir or tempfile.mkdtemp(prefix="slc")
    t, ok = Case(dir), False
    try:
        chaos = Chaos(t, o.seed)
        print(f"seed {o.seed}, {o.seconds:g} s, in {dir}", flush=True)
        chaos.run(o.seconds)
        ok = chaos.report(chaos.heal())
    finally:
        t.close()
        if not o.dir and not o.keep and ok:
            shutil.rmtree(dir, ignore_errors=True)
        elif not ok:
            print(f"journals and logs are in {dir}")
    print("nothing lost, no overlap" if ok else "FAILED")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
