"""A daemon that dies, or stops for longer than a lease, at any point between two commands or messages costs nothing.

The build variant V=fault knows its points (src/run/fault.h). For each of them: a daemon with that point armed, its worker, and
work that makes it pass the point; then a second, healthy daemon. At the end everything is done once more or accounted for,
nothing is left in Redis, and no two workers were told to own one stream. Scenarios share a cluster, each has its own service."""
import os
import re
import signal
import subprocess
import time

from lib import acl, checks
from lib.case import limit
from lib.daemon import ROOT, Daemon, program
from lib.redis import SEP, RedisError, pairs
from lib.servers import spawn

issue = 3
T = 3
ENTRIES_MODE = r"\.(feed_|tracking|caching)|^(read\.n?ack|write\.(entries|ended))$"  # test_entries_faults has these
AT_ONCE = int(os.environ.get("SLUICE_FAULT_JOBS", 24))
# what no scenario can make happen for sure
BY_CHANCE = {"send.undoor", "answer.undoor"}  # another daemon finishes an entry between two commands of our recovery
ASSIGNED = r"stream=(\S+) ready -> assigned"
if acl.is_on():
    BY_CHANCE |= {"send.config_set_events", "answer.config_set_events"}  # never: CONFIG is denied


class Sweep:
    """What the scenarios of one sweep share."""

    def __init__(self, t, points, action):
        os.environ["SLUICE_BUILD"] = os.environ.get("SLUICE_FAULT_BUILD") or os.path.join(ROOT, "build", "fault")
        self.t, self.action = t, action
        known = subprocess.run([program("sluiced"), "--list-faults"], text=True, check=True, stdout=subprocess.PIPE).stdout.split()
        assert len(known) > 100
        known = [p for p in known if not re.search(ENTRIES_MODE, p)]  # test_entries_faults
        self.points = [p for p in known if re.search(points, p) and p not in BY_CHANCE]
        self.cluster = t.cluster()
        self.single = None
        if any(p.endswith(".wait") for p in self.points):
            self.single = t.redis()
            t.redis(args=["--replicaof", self.single.host, str(self.single.port)])
        self.lock_time, self.lock_keys = {}, {}

    def locks_of(self, db, prefix):
        """Keys of locks, looked up a few times a second for all scenarios."""
        now = time.monotonic()
        if now - self.lock_time.get(id(db), 0) > 0.3:
            self.lock_time[id(db)], self.lock_keys[id(db)] = now, [k for k, _ in checks.locks(db)]
        return [k for k in self.lock_keys[id(db)] if k.startswith(prefix)]

    def run(self):
        waiting = [Scenario(self, i, p) for i, p in enumerate(self.points)]
        for s in waiting:
            s.prepare()
        live, failed, start = [], [], time.monotonic()
        while waiting or live:
            while waiting and len(live) < AT_ONCE:
                s = waiting.pop(0)
                live.append((s, s.run()))
            for s, steps in list(live):
                try:
                    next(steps)
                    continue
                except StopIteration:
                    pass
                except (AssertionError, OSError, RedisError) as e:
                    failed.append(f"{s.point}: {e}")
                    print(f"FAILED {s.point} ({s.svc}): {e}\n{s.story()}", flush=True)
                live.remove((s, steps))
                s.close()
            time.sleep(0.01)
        print(f"{self.action}: {len(self.points)} points in {time.monotonic() - start:.1f} s: {' '.join(self.points)}")
        print(f"not covered: {' '.join(sorted(BY_CHANCE))}")
        assert not failed, f"{len(failed)} points: {failed}"


def until(cond, seconds, what):
    end = time.monotonic() + seconds
    while not cond():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:g} s: {what() if callable(what) else what}")
        yield


def pause(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield


class Scenario:
    def __init__(self, sweep, i, point):
        self.sweep, self.t, self.i, self.point, self.what = sweep, sweep.t, i, point, point.split(".", 1)[1]
        self.svc = f"f{i}"
        self.redis = sweep.single if self.is_for("wait") else sweep.t.redis() if self.is_for("config_set_events") else sweep.cluster
        self.db, self.lbs, self.group = self.redis.db, f"{self.svc}-input", f"{self.svc}-group"
        self.far_dlq = self.is_for("dead_add", "dead_read")
        self.dlq = f"{self.svc}-input-dlq" if self.far_dlq else f"{{{self.lbs}}}-dlq"  # another slot, or the same
        self.names, self.procs, self.workers, self.tries, self.dead = set(), [], [], {}, set()
        self.n_unreadable = 1 if "dead" in self.what or i % 4 == 0 else 0
        self.armed = self.healthy = None
        self.log, self.log_at_stop = [], ""

    def is_for(self, *whats):
        return self.what in whats

    def say(self, text):
        self.log.append(f"  [{time.monotonic():.3f}] {text}")

    # ---- work
    def stream(self, name, dead=False):
        self.names.add(f"{self.svc}.{name}")
        if dead:
            self.dead.add(f"{self.svc}.{name}")
        return f"{self.svc}.{name}"

    def add(self, name, *more, id="*", dead=False):
        return ("XADD", self.lbs, id, "lbs-input", f'{{"DataStreamName":"{self.stream(name, dead)}","Info":{{}}}}', *more)

    def prepare(self):
        """Entries of a consumer that is gone, then the work of every scenario."""
        self.db.cmd("XGROUP", "CREATE", self.lbs, self.group, "0", "MKSTREAM")
        if self.is_for("forget"):
            self.db.cmd("XGROUP", "CREATECONSUMER", self.lbs, self.group, "redis-consumer-old")
        cmds = [self.add(f"ghost{n}") for n in range(4)] + [self.add("ghostdead", "_retry_count", "3", dead=True), self.add("gone")]
        cmds.append(("XREADGROUP", "GROUP", self.group, "redis-consumer-ghost", "COUNT", 10, "STREAMS", self.lbs, ">"))
        r = self.db.node_for(self.lbs).pipe(cmds)
        self.names.discard(f"{self.svc}.gone")
        self.ghost_lock = f"{self.svc}.ghost0{SEP}{r[0]}"
        self.db.cmd("XDEL", self.lbs, r[5])
        if self.is_for("ghost_back"):
            node = self.db.node_for(self.lbs)
            node.pipe([self.add("lost"), ("XREADGROUP", "GROUP", self.group, "deleted", "COUNT", 1, "STREAMS", self.lbs, ">"),
                       ("XGROUP", "DELCONSUMER", self.lbs, self.group, "deleted")])
        cmds = [self.add("a"), self.add("b"), self.add("fail"), self.add("dead", dead=True), self.add("release"), self.add("two"),
                self.add("two"), self.add("hold")] + [("XADD", self.lbs, "*", "x", "y")] * self.n_unreadable
        bad = [x for x in self.db.node_for(self.lbs).pipe(cmds) if isinstance(x, RedisError)]
        assert not bad, bad

    def work(self, a, is_first):
        """Only the armed daemon's worker fails, releases and holds, and only the first time."""
        n = self.tries[a["stream"]] = self.tries.get(a["stream"], 0) + 1
        is_held = a["stream"].endswith(".hold") or (self.is_for("done_many") and re.search(r"\.(a|b|ghost\d|more\d+)$", a["stream"]))
        return None if is_first and is_held and n == 1 else 0.02

    def result(self, a, is_first):
        kind, lease = a["stream"].split(".")[1], a["lease"]
        if kind in ("dead", "ghostdead"):
            return {"t": "fail", "lease": lease, "dead": True}
        if is_first and kind in ("fail", "release") and self.tries[a["stream"]] == 1:
            return {"t": kind, "lease": lease}
        return {"t": "done", "lease": lease}

    # ---- processes
    def daemon(self, name, node, **kw):
        service = {"recovery": {"interval": "5s", "forget_consumer": "1s" if self.is_for("forget") else "24h"},
                   "dead_letter": {"stream": self.dlq}}
        if self.is_for("wait"):
            service["wait_replicas"] = 1
        if self.is_for("later", "op_later"):
            service["retry"] = {"initial": "200ms", "release_delay": "200ms"}
        d = Daemon(self.t.dir, self.svc + name, self.redis, services=[self.svc], T=T, service=service, node=self.svc + node, **kw)
        self.procs.append(d)
        return d.start(ready=False)

    def worker(self, d, is_first):
        """Steps until it is connected, or the daemon has ended."""
        while d.is_running() and not (d is self.armed and self.is_hit()):
            try:
                w = self.t.worker(d, f"{self.svc}{d.name[-1]}{len(self.workers)}", credits=6, work=lambda a: self.work(a, is_first),
                                  result=lambda a: self.result(a, is_first))
                self.workers.append(w)
                return w
            except OSError:
                yield

    def is_hit(self):
        if not self.armed:
            return False
        if self.sweep.action == "kill" or self.armed.proc.poll() is not None:
            return self.armed.proc.poll() is not None
        with open(f"/proc/{self.armed.proc.pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] == "T"

    def ctl(self, *args):
        p = spawn([program("sluicectl"), "--socket", self.armed.control_sock, *args], self.armed.path("ctl.log"))
        self.t.ending(p.kill)
        return p

    def close(self):
        for w in self.workers:
            w.is_stopping = True
            w.poke()
        for p in self.procs:
            p.kill()

    def story(self):
        tail = "\n".join(f"  {d.name}: {line}" for d in self.procs for line in d.log.splitlines()[-12:])
        return "\n".join(self.log) + "\n" + tail

    # ---- what makes it pass the point
    def drive(self):
        if self.is_for("expired"):
            self.db.cmd("SET", self.ghost_lock, "redis-consumer-ghost/1", "PX", 2000)
        w = yield from self.worker(self.armed, True)
        if not w:
            return
        if self.is_for("busy", "lock_get"):  # with somebody to read it, before its lock ends
            ms = int(time.time() * 1000) + 1000
            self.db.cmd("SET", f"{self.stream('busy')}{SEP}{ms}-7", "redis-consumer-other/1", "PX", 2500)
            self.db.cmd(*self.add("busy", id=f"{ms}-7"))
        yield from until(lambda: len(w.frames("assign")) >= 6 or self.is_hit(), 8, f"work for {w.name}")
        yield from pause(0.2)
        for a in list(w.held.values())[:1]:
            w.send({"t": "progress", "lease": a["lease"], "note": "n"})
        w.send({"t": "what"})
        yield from self.drive_one(w)
        w.send({"t": "credits", "n": 0})
        yield from pause(0.5)
        w.send({"t": "credits", "n": 6})
        for end in ("drop", "bye"):
            v = yield from self.worker(self.armed, True)
            if v and end == "bye":
                v.send({"t": "bye"})
            elif v:
                v.drop()

    def drive_one(self, w):
        held = [a for a in w.held.values() if a["stream"].endswith(".hold")]
        lock = [f"{a['stream']}{SEP}{a['id']}" for a in held]
        if self.is_for("lost") and lock:
            self.db.cmd("SET", lock[0], "redis-consumer-thief/1", "PX", 1500)
        elif self.is_for("recreated") and lock:
            self.db.cmd("DEL", lock[0])
        elif self.is_for("revoke", "revoked") and held:
            self.ctl("release", held[0]["stream"])
        elif self.is_for("fetch", "op_fetch"):
            body = f'{{"DataStreamName":"{self.stream("unknown")}","Info":{{}}}}'
            script = """redis.call('XADD',KEYS[1],'*','lbs-input',ARGV[1])
                        return redis.call('XREADGROUP','GROUP',ARGV[2],ARGV[3],'COUNT',100,'STREAMS',KEYS[1],'>')"""
            self.db.cmd("EVAL", script, 1, self.lbs, body, self.group, self.armed.consumer)
        elif self.is_for("add", "op_add"):
            self.ctl("add", self.svc, self.stream("added"))
            if self.point in ("send.add", "post.op_add"):  # nobody was promised anything yet
                self.names.discard(f"{self.svc}.added")
        elif self.is_for("add_later"):
            self.ctl("add", self.svc, self.stream("added"), "--in", "300ms")
            self.names.discard(f"{self.svc}.added")  # nobody was promised anything yet: the first answer is that the script is not known
        elif self.is_for("delayed_now", "delayed_drop"):
            self.names.add(f"{self.svc}.added")  # its first try is that the script is not known: nothing is forgotten yet
            p = self.ctl("add", self.svc, self.stream("added"), "--in", "8s")
            yield from until(lambda: p.poll() is not None or self.is_hit(), 5, "it waits")
            self.ctl("delayed", self.what.split("_")[1], self.svc)
        elif self.is_for("sift") and held:
            self.db.node_for(self.lbs).pipe([self.add("hold")] * 200)  # behind the running one
        elif self.is_for("done", "op_done") and held:  # alone: several would go as done_many
            w.send({"t": "done", "lease": held[0]["lease"]})
        elif self.is_for("take", "op_take"):  # likewise
            yield from until(lambda: len(w.held) < 3 or self.is_hit(), 8, "there is room")
            self.db.cmd(*self.add("alone"))
        elif self.is_for("take_many"):  # more than one read at once, whatever the locks' masters are
            w.send({"t": "credits", "n": 60})
            self.db.node_for(self.lbs).pipe([self.add(f"more{n}") for n in range(60)])
        elif self.is_for("done_many"):
            for again in range(5):  # the daemon may read them one by one, and have nothing under way when the next comes
                yield from until(lambda: len(w.held) >= 3 or self.is_hit(), 8, "some are held")
                w.send_together([{"t": "done", "lease": a["lease"]} for a in list(w.held.values())])
                yield from pause(1)
                if self.is_hit():
                    break
                self.db.node_for(self.lbs).pipe([self.add(f"more{again}{n}") for n in range(6)])
        elif self.is_for("scan"):
            self.ctl("scan", self.svc)
        elif self.is_for("dlq_range", "dlq_del", "replay"):
            yield from until(lambda: self.dead_names() >= {f"{self.svc}.dead"} or self.is_hit(), 10, "a dead letter")
            p = self.ctl("dlq", "replay", self.svc)
            yield from until(lambda: p.poll() is not None or self.is_hit(), 5, "replayed")
        elif self.is_for("leave", "op_leave"):
            self.armed.signal(signal.SIGTERM)
        elif self.is_for("died"):
            p = self.t.proc_worker(self.armed, f"{self.svc}p", credits=1, work="hold")
            yield from until(lambda: p.frames("welcome") or self.is_hit(), 10, "the worker that dies is there")
            p.kill()

    def before(self):
        """A former process of the same node left something."""
        if not self.is_for("lock_swap", "lock_get", "entries_own", "ack_del", "op_ack_del"):
            return
        d = self.daemon("z", "a")
        w = yield from self.worker(d, True)
        yield from until(lambda: w.frames("assign", stream=f"{self.svc}.hold"), 10, "the former process has work")
        d.kill()
        self.tries.pop(f"{self.svc}.hold", None)
        if self.is_for("ack_del", "op_ack_del"):
            self.db.cmd("XDEL", self.lbs, w.frames("assign", stream=f"{self.svc}.hold")[0]["id"])
            self.names.discard(f"{self.svc}.hold")

    # ---- the end
    def dead_names(self):
        return {m.group(1) for _, f in self.db.cmd("XRANGE", self.dlq, "-", "+")
                if (m := re.search('"DataStreamName":"([^"]*)"', pairs(f).get("lbs-input", "")))}

    def leftovers(self):
        n = self.db.node_for(self.lbs)
        length, pend, reg, delayed, parked = n.pipe([("XLEN", self.lbs), ("XPENDING", self.lbs, self.group), ("HLEN", f"{{{self.lbs}}}-active"),
                                                     ("ZCARD", f"{{{self.lbs}}}-delayed"), ("ZCARD", f"{{{self.lbs}}}-parked")])
        if self.is_for("ack_del", "op_ack_del"):
            reg = 0  # the name of a deleted entry's stream is not known any more: its record is replaced when the stream comes again
        bad = [f"{x} {what}" for x, what in ((length, "in the LBS"), (pend[0], "pending"), (reg, "in the registry"), (delayed, "delayed"),
                                             (parked, "parked")) if x]
        return bad or self.sweep.locks_of(self.db, self.svc + ".")

    def check(self):
        journals = [w.journal for w in self.workers]
        if self.sweep.action == "stop" and not self.point.startswith(("send.", "answer.")):
            journals = [in_time(j) for j in journals]  # the coordinator stopped after it had decided, before it wrote: the fence holds
        elif self.sweep.action == "stop":  # likewise what it had decided in the turn that met the point
            early = decided_before(self.armed.log, self.log_at_stop)
            journals = [[r for r in j if not (is_late(r) and r["f"]["stream"] in early)] for j in journals]
        checks.none(checks.lost(self.names, journals, self.dead) + checks.overlaps(journals) + checks.credits_exceeded(journals) +
                    checks.token_order([single(j) for j in journals]) + after_ok(journals) + too_late(journals))
        rows = [pairs(f) for _, f in self.db.cmd("XRANGE", self.dlq, "-", "+")]
        unreadable = sum(f["_dlq_reason"] == "unparseable" for f in rows)
        assert self.dead_names() == self.dead, f"dead letters {self.dead_names()}"
        assert unreadable >= self.n_unreadable, "the unreadable entry was lost"
        if not self.far_dlq and not self.is_for("dlq_range", "dlq_del", "replay"):
            assert len(rows) == len(self.dead) + self.n_unreadable, f"{len(rows)} dead letters"

    def settle(self):
        yield from until(lambda: not self.leftovers(), 30, lambda: f"left over: {self.leftovers()}")

    def run(self):
        yield from self.before()
        self.armed = self.daemon("a", "a", env={"SLUICE_FAULT": f"{self.point}:{self.sweep.action}"})
        self.say("armed daemon started")
        for _ in self.drive():
            if self.is_hit():
                break
            yield
        yield from until(self.is_hit, 15, "the point is passed")
        assert f"fault point {self.point} passed" in self.armed.log, f"it ended by itself: {self.armed.proc.poll()}"
        self.say("hit")
        self.log_at_stop = self.armed.log  # it stands still: nothing of what its threads do is under way
        self.healthy = self.daemon("b", "b")
        yield from self.worker(self.healthy, False)
        yield from self.settle()
        self.say("settled")
        if self.sweep.action == "stop":
            self.armed.signal(signal.SIGCONT)
            yield from pause(1)
            yield from self.settle()
        self.check()
        ends = self.sweep.action == "kill" or self.is_for("leave", "op_leave")
        assert self.healthy.is_running() and (ends or self.armed.is_running())


def is_late(r):
    return r["d"] == "in" and r["f"]["t"] == "assign" and r["f"]["until_ms"] <= r["ms"]


def decided_before(log, at_stop):
    """Streams that were given to a worker before the daemon stood still, and not again when it went on."""
    return set(re.findall(ASSIGNED, at_stop)) - set(re.findall(ASSIGNED, log[len(at_stop):]))


def in_time(journal):
    return [r for r in journal if not is_late(r)]


def too_late(journals):
    """Work that was given out when its time had passed already."""
    return [f"{r['f']['stream']} given to {r['w']} {r['ms'] - r['f']['until_ms']:.0f} ms too late" for j in journals for r in j if is_late(r)]


def single(journal):
    """Without the stream that has two entries: the second one's token is its own."""
    return [r for r in journal if not r["f"].get("stream", "").endswith(".two")]


def after_ok(journals):
    """An entry of which a worker was told `ok ... done` ran again."""
    name = {r["f"]["lease"]: r["f"]["id"] for j in journals for r in j if r["f"]["t"] == "assign"}
    ok = {name[r["f"]["lease"]]: r["ms"] for j in journals for r in j if r["f"]["t"] == "ok" and r["f"]["outcome"] == "done"}
    return [f"{r['f']['stream']} {r['f']['id']} ran again after ok" for j in journals for r in j
            if r["f"]["t"] == "assign" and r["ms"] > ok.get(r["f"]["id"], r["ms"])]


@limit(240)
def test_killed_at_every_point(t):
    Sweep(t, os.environ.get("SLUICE_FAULT_POINTS", "."), "kill").run()


@limit(240)
def test_stopped_at_every_point(t):
    """SIGSTOP until everything has been recovered and done elsewhere, then SIGCONT: the late one does no harm."""
    Sweep(t, os.environ.get("SLUICE_FAULT_POINTS", "."), "stop").run()
