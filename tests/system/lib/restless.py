"""A worker process that takes streams and entries as they come and does at random what a worker may: every kind of result, early and late,
said twice or several at once, progress, other credits, bye, a dropped connection, a lease that it never ends. While its `mood` file exists
it is calm: it only does its work, quickly. Journal as in lib/worker, with events `did` and `nack` for each entry."""
import json
import os
import random
import sys
import threading
import time

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from lib.entries import ident  # noqa: E402
from lib.worker import ProcWorker, Worker, now_ms  # noqa: E402

CALM_CREDITS = 6
UNFED_MS = 10000  # the service ends an empty stream's lease after 300 ms


class Restless(Worker):
    def __init__(self, path, name, credits, services, journal, rnd, mood):
        self.rnd, self.mood, self.next_whim = rnd, mood, 0
        super().__init__(path, name, credits, services, self.time_for, self.result_of, reconnect=True, journal=journal, start=False)

    def is_calm(self):
        return os.path.exists(self.mood)

    # ---- leases
    def time_for(self, a):
        r = self.rnd
        if "entries" in a:  # ends by itself when the stream is empty, or is ended by a whim
            return None if self.is_calm() or r.random() < 0.85 else r.uniform(0.2, 2)
        if self.is_calm():
            return r.uniform(0, 0.05)
        return r.choices([None, r.uniform(3, 7), r.choice([0, 0, r.uniform(0, 0.3), r.uniform(0.2, 1.5)])], [4, 4, 92])[0]

    def result_of(self, a):
        r, lease = self.rnd, a["lease"]
        kind = "done" if self.is_calm() else r.choices(["done", "fail", "release", "dead", "revoked"], [62, 22, 11, 2, 3])[0]
        if a.get("info", {}).get("poison") and kind == "done" and not self.is_calm():
            kind = "fail"
        f = {"t": "fail", "lease": lease, "dead": True} if kind == "dead" else {"t": kind, "lease": lease}
        if kind == "fail":
            f["reason"] = "at random"
        if kind in ("fail", "release") and r.random() < 0.6:
            f["retry_ms"] = r.choice([0, 0, 1, 100, 200, 1000, 1500])
        return f

    def fence(self):
        held = list(self.held)
        super().fence()
        for lease in [x for x in held if x not in self.held]:
            self.send({"t": "revoked", "lease": lease})  # the daemon may be well, and wait for us

    # ---- entries
    def handle(self, f):
        t = f["t"]
        if t == "entries":
            self.take_entries(f)
        elif t == "ok" and f["for"] in ("ack", "nack"):  # the lease goes on
            if f["for"] == "nack" and f["lease"] in self.held:
                self.held[f["lease"]]["void"] = False
        elif t == "ended":
            self.held.pop(f["lease"], None)
        else:
            if t == "assign" and "entries" in f:
                f["pos"], f["void"], f["heard"] = f["entries"]["pos"], False, now_ms()
            super().handle(f)
            if t == "welcome":
                self.held = {k: a for k, a in self.held.items() if k in f["resumed"]}
                for a in self.held.values():
                    a["void"] = False  # what was nacked before is sent again

    def take_entries(self, f):
        if f["lease"] in self.held and "entries" not in self.held[f["lease"]]:  # its service was turned over, and its daemon restarted
            self.note("ev", {"t": "unasked", "lease": f["lease"]})
            return self.send({"t": "revoked", "lease": f["lease"]})
        if f["lease"] in self.held:
            self.held[f["lease"]]["heard"] = now_ms()
        for id, _, *_tries in f["e"]:
            a = self.held.get(f["lease"])
            if a is None or a["void"] or ident(id) <= ident(a["pos"]):
                continue
            if self.until and now_ms() >= self.until:
                return self.fence()
            if not self.is_calm() and self.rnd.random() < 0.05:
                a["void"] = True
                self.note("ev", {"t": "nack", "stream": a["stream"], "id": id, "token": a["token"]})
                how = self.rnd.choice([{}, {}, {"retry_ms": self.rnd.choice([0, 50, 500])}, {"dead": True}])
                return self.send({"t": "nack", "lease": f["lease"], "id": id, **how})
            self.note("ev", {"t": "did", "stream": a["stream"], "id": id, "token": a["token"]})
            a["pos"] = id
            if self.is_calm() or id == f["e"][-1][0] or self.rnd.random() < 0.3:  # one ack may be for several
                self.send({"t": "ack", "lease": f["lease"], "id": id})

    # ---- whims
    def turn(self):
        super().turn()
        now = time.monotonic()
        if now < self.next_whim or not self.sock:
            return
        self.next_whim = now + self.rnd.uniform(0.1, 1)
        if self.is_calm():
            return self.calm_down()
        whims = [(None, 72), (self.other_credits, 8), (self.say_progress, 4), (self.say_again, 3), (self.drop, 4), (self.say_all_at_once, 3),
                 (self.say_all_and_drop, 2), (self.say_bye, 2), (self.say_all_and_bye, 2)]
        if whim := self.rnd.choices([w for w, _ in whims], [n for _, n in whims])[0]:
            whim()

    def calm_down(self):
        """Credits for all, and what is held for ever is ended."""
        if self.credits < CALM_CREDITS:
            self.send({"t": "credits", "n": CALM_CREDITS})
        planned = {a["lease"] for _, _, a in self.due}
        for a in [a for a in self.held.values() if "entries" not in a and a["lease"] not in planned]:
            self.send({"t": "done", "lease": a["lease"]})
        for a in [a for a in self.held.values() if "entries" in a and now_ms() - a["heard"] > UNFED_MS]:
            self.note("ev", {"t": "unfed", "lease": a["lease"]})  # as below: its lease has no entries now
            self.send({"t": "release", "lease": a["lease"]})

    def other_credits(self):
        self.send({"t": "credits", "n": self.rnd.choice([0, 1, 2, 3, 5, 8])})

    def say_progress(self):
        if self.held:
            self.send({"t": "progress", "lease": self.rnd.choice(list(self.held))})

    def say_again(self):
        if self.unacked:
            self.send(self.rnd.choice(list(self.unacked.values())))

    def results(self):
        return [f for a in list(self.held.values()) if (f := self.result_of(a))["t"] != "revoked"]

    def say_all_at_once(self):
        self.send_together(self.results())

    def say_all_and_drop(self):
        self.say_all()
        self.drop()

    def say_all(self):
        for f in self.results():
            self.send(f)

    def say_all_and_bye(self):
        self.say_all()
        self.say_bye()

    def say_bye(self):
        """Goes, and comes back as another session."""
        self.send({"t": "bye"})
        self.sock.close()
        self.note("ev", {"t": "closed"})
        self.sock, self.session, self.until, self.buf = None, None, None, bytearray()
        self.held, self.unacked, self.due = {}, {}, []
        self.retry_at = time.monotonic() + self.rnd.uniform(0, 1)

    def send(self, f):
        super().send({**f, "entries": True} if f["t"] == "hello" else f)

    def loop(self):
        threading.Thread(target=self.tick, daemon=True).start()
        super().loop()

    def tick(self):
        while True:
            time.sleep(0.15)
            self.poke()


class RestlessWorker(ProcWorker):
    """It, as a process. `is_calm`: it begins so."""

    def __init__(self, dir, path, name, credits=1, services=(), seed=0, is_calm=False):
        self.name, self.path, self.credits, self.services, self.seed, self.n_starts = name, path, credits, list(services), seed, 0
        self.file, self.log, self.mood = (os.path.join(dir, f"{name}.{x}") for x in ("journal", "log", "calm"))
        if is_calm:
            self.calm()

    def start(self):
        self.n_starts += 1
        self.argv = [sys.executable, os.path.abspath(__file__), json.dumps({
            "path": self.path, "name": self.name, "credits": self.credits, "services": self.services or None, "journal": self.file, "mood": self.mood,
            "seed": f"{self.seed} {self.name} {self.n_starts}"})]
        return super().start()

    def calm(self):
        with open(self.mood, "w"):
            pass

    def upset(self):
        if os.path.exists(self.mood):
            os.unlink(self.mood)


def main():
    o = json.loads(sys.argv[1])
    w = Restless(o["path"], o["name"], o["credits"], o["services"], o["journal"], random.Random(o["seed"]), o["mood"])
    w.come_back()
    w.loop()


if __name__ == "__main__":
    main()
