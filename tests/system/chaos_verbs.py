#!/usr/bin/python3
"""chaos_verbs.py [--seed N] [--seconds N] [--topology standalone|cluster] [--rate N] [--build DIR] [--dir DIR] [--keep]: operators who do
everything at once. Three daemons, one of them a unit whose sockets a manager keeps; every verb; reloads that add, remove, rename and
reorder services, turn them from leases to entries and back, change same_stream, limits and times, and files that cannot be; daemons that
are stopped, killed, handed over, frozen, and replaced by another version where there is one (make other-version). Eight workers come and
go meanwhile, some for a few services only, with results of all kinds (lib/restless.py).

After each round all services are configured everywhere, and all must be well in the times of chaos_rounds.py. The seed gives what is
drawn, not its timing. Exit status 0 = nothing found."""
import copy
import json
import os
import signal
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True
from chaos_rounds import Rounds, drive, options  # noqa: E402
from lib import ledger  # noqa: E402
from lib.daemon import merge, program, yaml  # noqa: E402
from lib.manager import Manager, Unit  # noqa: E402
from lib.redis import RedisError, entries, slot_of  # noqa: E402

T = 4
FEED = {"same_stream": "coalesce", "entries": {"enabled": True, "batch": 10, "idle_release": "300ms", "poll_max": "500ms",
                                               "retry": {"max_retries": 3, "initial": "50ms", "factor": 2, "max": "500ms"}}}
SERVICES = {
    "serial": {"same_stream": "serialize"}, "merged": {"same_stream": "coalesce"}, "free": {"same_stream": "allow"},
    "single": {"max_streams": 1}, "varied": {"same_stream": "serialize"},  # serialize, coalesce or allow
    "feed": FEED, "flip": FEED,  # flip: entries or leases
    "gone": {}, "gonefeed": FEED,  # there or not
    "before": {}, "after": {},  # one service under two names
}
RENAMED, GONE = ("before", "after"), ("gone", "gonefeed")
BASE = {"retry": {"max_retries": 2, "initial": "300ms", "factor": 2, "max": "1500ms", "jitter": "10%", "release_delay": "200ms"},
        "recovery": {"interval": "4s"}}
BAD_FILES = ["", "services: 5\n", "services:\n  - name: x\n    nope: 1\n", "\0\0", "a: [", "workers: {socket: rel}\n"]
LOOKS = [["ls"], ["ls", "--waiting"], ["status"], ["fleet"], ["workers"], ["nodes"], ["metrics"], ["delayed", "ls"], ["doctor"],
         ["topology", "refresh"],
         ["events"], ["version"], ["--json", "ls"]]
FEW = [["gone", "merged"], ["single", "varied", "feed"], ["after", "gonefeed"]]


class Verbs(Rounds):
    feeds, merging, free = ("feed", "flip", "gonefeed"), ("merged", "varied", "feed", "flip", "gonefeed"), ("free", "varied")

    def set_up(self):
        self.c = self.t.cluster() if self.o.topology == "cluster" else self.t.redis()
        self.settings = {n: self.service(n) for n in SERVICES}
        cfg = {"redis": {"topology_refresh": "2s"}, "workers": {"resume_grace": "1200ms", "progress_timeout": "6s", "max_frame": "64KiB"},
               "services": self.configured(SERVICES), "shutdown": {"mode": "auto", "drain_timeout": "2s"}, "log": {"level": "info"}}
        self.daemons = [Unit(self.t, self.c, Manager(self.t), T=T, cfg=cfg)]
        self.daemons += [self.t.daemon(self.c, name=f"e{i}", T=T, cfg=cfg) for i in range(2)]
        self.other = program("other-version/sluiced")
        self.workers = [self.restless(self.daemons[i % 3], f"w{i}", self.rnd.choice([1, 2, 3, 4, 6]), FEW[i - 6] if i >= 6 else ()) for i in range(9)]
        self.purge_db = self.c.client(timeout=2)

    def service(self, name):
        lease = {"ttl": f"{T * 1000}ms", "stop_margin": "1000ms"}
        s = {"name": name, "lease": lease, "weight": self.rnd.randint(1, 5), "max_streams": self.rnd.choice([2, 3, 8, 1000])}
        return merge(merge(merge(s, copy.deepcopy(BASE)), {"recovery": {"min_idle": f"{4 * T}s"}}), copy.deepcopy(SERVICES[name]))

    def configured(self, names):
        return [copy.deepcopy(self.settings[n]) for n in names]

    # ---- daemons
    def some_daemon(self):
        return self.rnd.choice(self.idle(self.daemons) or [None])

    def hand_over(self):
        if d := self.some_daemon():
            self.stopped(d)
            if os.path.exists(self.other) and self.rnd.random() < 0.5:
                d.binary = None if d.binary else self.other
                self.counts["another version"] += 1
            d.start(ready=False)
            self.counts["handover"] += 1

    def stop_twice(self):
        """The second signal asks to end at once."""
        if d := self.some_daemon():
            begun = d.has_begun()
            d.signal(signal.SIGTERM)
            time.sleep(self.rnd.uniform(0, 0.3))
            d.signal(signal.SIGTERM)
            rc = d.wait(20)
            if begun and rc not in (0, 1, -signal.SIGTERM, 128 + signal.SIGTERM):
                self.found([f"{d.name} ended with {rc} at a second SIGTERM: {self.report_of(d)}"])
            self.down(d, self.rnd.choice([0, 1]), lambda: d.start(ready=False), "two SIGTERM to daemon")

    def toggle_drain(self):
        if d := self.some_daemon():
            self.signal(d, signal.SIGUSR2)
            self.after(self.rnd.uniform(0.1, 2), lambda: self.signal(d, signal.SIGUSR2))

    def dump(self):
        if d := self.some_daemon():
            self.signal(d, signal.SIGUSR1)

    @staticmethod
    def signal(d, number):
        if d.is_running() and d.has_begun():
            d.signal(number)

    # ---- reloads
    def vary(self):
        """Other settings of one service."""
        s, r = self.settings[self.rnd.choice(list(SERVICES))], self.rnd
        name = s["name"]
        if name == "varied":
            s["same_stream"] = r.choice(["serialize", "coalesce", "allow"])
        elif name == "flip":
            s["entries"]["enabled"] = not s["entries"]["enabled"]
        if name != "single":
            s["max_streams"] = r.choice([1, 2, 3, 8, 1000])
        s["weight"], s["retry"]["initial"], s["lease"]["ttl"] = r.randint(1, 5), r.choice(["0ms", "300ms"]), r.choice(["4000ms", "5000ms", "8000ms"])

    def some_names(self):
        """In any order, some left out, one of the two names of one service in its place."""
        names = [n for n in SERVICES if n not in GONE or self.rnd.random() < 0.6]
        if self.rnd.random() < 0.7:
            names.remove(self.rnd.choice(RENAMED))
        if self.rnd.random() < 0.7:
            self.rnd.shuffle(names)
        return names

    def reload(self):
        for _ in range(self.rnd.choice([0, 1, 1, 3])):
            self.vary()
        names, progress = self.some_names(), self.rnd.choice(["0s", "6s"])
        for d in self.daemons if self.rnd.random() < 0.6 else [self.rnd.choice(self.daemons)]:
            d.cfg["services"], d.cfg["workers"]["progress_timeout"] = self.configured(names), progress
            self.write(d, yaml(d.cfg))
            if d not in self.busy:
                self.ctl(d, "reload")

    @staticmethod
    def write(d, text):
        with open(d.conf, "w") as f:
            f.write(text)

    def reload_bad_file(self):
        d = self.some_daemon()
        if d and d.ctl("version").returncode == 0:  # else it may be about to read its file for the first time
            self.write(d, self.rnd.choice(BAD_FILES))
            self.ctl(d, "reload", codes=(1, 69, 78))
            self.write(d, yaml(d.cfg))

    def other_limits(self):
        if d := self.some_daemon():
            d.cfg["workers"].update(max_sessions=self.rnd.choice([60, 200]), max_frame=self.rnd.choice(["64KiB", "128KiB"]),
                                    write_buffer=self.rnd.choice(["256KiB", "1MiB"]), hello_timeout=self.rnd.choice(["1s", "5s"]))
            self.write(d, yaml(d.cfg))
            self.signal(d, signal.SIGHUP)

    # ---- verbs
    def verb(self, *args, daemon=None):
        d = daemon or self.some_daemon()
        self.counts["verb " + " ".join(args[:2] if args[0] in ("dlq", "delayed", "entries-dlq") else args[:1])] += 1
        return self.ctl(d, *args) if d else None

    def some_service(self):
        return self.rnd.choice(list(SERVICES))

    def some_stream(self, service=None):
        return f"{service or self.some_service()}.k{self.rnd.randrange(self.rnd.choice([2, 6]))}"

    def look_at_one(self):
        self.verb(self.rnd.choice(["explain", "show"]), self.some_stream())

    def look_at_all(self):
        self.verb(*self.rnd.choice(LOOKS))

    def add(self):
        s = self.some_service()
        stream = self.some_stream(s)
        n, later = self.ledger.begin(s, stream), self.rnd.choice([[], ["--in", "1ms"], ["--in", "700ms"], ["--in", "2s"]])
        r = self.verb("add", s, stream, "--info", json.dumps({"n": n}), *later)
        self.ledger.wishes[n]["sure"] = r is not None and r.returncode == 0

    def release(self):
        self.verb(self.rnd.choice(["release", "requeue"]), self.some_stream())

    def revoke(self):
        self.verb("revoke", self.rnd.choice(self.workers).name)

    def scan(self):
        self.verb("scan", self.some_service())

    def delayed_now(self):
        s = self.some_service()
        self.verb("delayed", "now", s, *([self.some_stream(s)] if self.rnd.random() < 0.6 else []))

    def delayed_drop(self):
        s = self.some_service()
        stream = self.some_stream(s)
        self.verb("delayed", "drop", s, stream, "--yes")
        self.ledger.excuse("dropped", s, stream)

    def replay(self):
        self.verb("dlq", "replay", self.some_service(), *self.rnd.choice([[], ["--limit", "1"], ["--rate", "20/s"]]))

    def purge(self):
        s = self.some_service()
        if rows := entries(self.purge_db, f"{s}-input-dlq"):
            id, f = self.rnd.choice(rows)
            if n := json.loads(f["lbs-input"])["Info"].get("n"):
                self.ledger.wishes[n]["excused"] = "purged"
            self.verb("dlq", "purge", s, "--id", id, "--yes")

    def replay_entries(self):
        """What was dead comes again under another id."""
        self.dead_seen |= ledger.dead_entries(self.purge_db, self.feeds)[0]
        self.verb("entries-dlq", "replay", self.rnd.choice(self.feeds))

    def pause_service(self):
        self.for_a_while("pause", "resume", *([self.some_service()] if self.rnd.random() < 0.6 else []))

    def drain(self):
        self.for_a_while("drain", "undrain")

    def for_a_while(self, verb, back, *args):
        if d := self.some_daemon():
            self.verb(verb, *args, daemon=d)
            self.after(self.rnd.choice([0, 0.2, 2, 4]), lambda: self.verb(back, *args, daemon=d))

    # ---- Redis, a little
    def some_node(self):
        return self.rnd.choice(self.c.nodes if self.o.topology == "cluster" else [self.c])

    def kill_clients(self):
        self.some_node().client(timeout=2).cmd("CLIENT", "KILL", "TYPE", self.rnd.choice(["normal", "pubsub"]))

    def flush_scripts(self):
        self.some_node().client(timeout=2).cmd("SCRIPT", "FLUSH")

    def move_slots(self):
        if self.o.topology == "cluster":
            slots = [slot_of(f"{self.some_service()}-input"), slot_of(self.some_stream())]
            dst = self.rnd.choice(self.c.masters())
            for s in slots:
                self.c.move_slot(s, dst)
            self.counts["slots moved"] += 1

    def disturb(self, seconds):
        trouble = {self.kill_worker: 6, self.pause_worker: 3, self.kill_daemon: 2, self.stop_daemon: 2, self.pause_daemon: 2, self.hand_over: 4,
                   self.stop_twice: 1, self.toggle_drain: 1, self.dump: 1, self.reload: 9, self.reload_bad_file: 1, self.other_limits: 1,
                   self.look_at_one: 4, self.look_at_all: 4, self.add: 6, self.release: 6, self.revoke: 3, self.scan: 3, self.delayed_now: 4, self.delayed_drop: 1,
                   self.replay: 4, self.purge: 2, self.replay_entries: 2, self.pause_service: 2, self.drain: 2, self.kill_clients: 2,
                   self.flush_scripts: 1, self.move_slots: 2}
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            what = self.rnd.choices(list(trouble), list(trouble.values()))[0]
            try:
                what()
            except (OSError, RedisError) as e:
                self.say(f"{what.__name__}: {e}")
            pause = time.monotonic() + self.rnd.choice([0, 0, 0.1, 0.3, 0.8])
            while True:
                self.run_later()
                self.alive()
                if time.monotonic() >= pause:
                    break
                time.sleep(0.02)

    def calm(self):
        self.run_later(everything=True)
        self.settings["flip"]["entries"]["enabled"] = True
        for w in self.workers:
            if not w.is_running():
                w.start()
        for d in self.daemons:
            d.cfg["services"] = self.configured(SERVICES)
            self.write(d, yaml(d.cfg))
            try:
                d.wait_ready(30)
            except AssertionError:  # not ready: said later, by who looks
                pass
            for verb in ("reload", "undrain", "resume"):
                self.ctl(d, verb)
            for s in SERVICES:
                self.ctl(d, "resume", s)


def main():
    return drive(Verbs, options(__doc__), "nothing lost, one owner, each key in order")


if __name__ == "__main__":
    sys.exit(main())
