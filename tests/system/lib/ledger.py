"""What a random driver asked for, a number for each entry of the load-balancer streams, and what became of it, by the workers' journals."""
import collections
import itertools
import json
import time

from lib.checks import in_time
from lib.redis import RedisError, entries


class Ledger:
    """n -> {"service", "stream", "ms" (monotonic, before it was sent), "sure" (Redis has it), "excused" (why it need not end)}"""

    def __init__(self):
        self.wishes, self.numbers = {}, itertools.count()

    def begin(self, service, stream):
        n = next(self.numbers)
        self.wishes[n] = {"service": service, "stream": stream, "ms": time.monotonic() * 1000, "sure": False, "excused": None}
        return n

    def add(self, db, service, stream, info=None):
        """One entry, written by us; its number."""
        n = self.begin(service, stream)
        body = json.dumps({"DataStreamName": stream, "Info": {**(info or {}), "n": n}})
        try:
            db.cmd("XADD", f"{service}-input", "*", "lbs-input", body)
            self.wishes[n]["sure"] = True
        except (OSError, RedisError):  # it may be there
            pass
        return n

    def excuse(self, why, service, stream=None):
        for w in list(self.wishes.values()):
            if w["service"] == service and stream in (None, w["stream"]):
                w["excused"] = why


def runs(journals):
    """n -> the times a worker was given it: {"ms", "w", "token", "retry", "is_done", "is_late": it was read after
    its fence}, by time. Done is what a worker said so of, even when it
    was told then that its lease was lost: that may have been after Redis had it. What Redis has not is still there, see leftovers."""
    out = collections.defaultdict(list)
    for j in journals:
        open_ = {}
        for r in in_time(j):
            f, lease = r["f"], r["f"].get("lease")
            if f["t"] == "assign" and r["d"] == "in":
                open_[lease] = {"ms": r["ms"], "w": r["w"], "token": f.get("token"), "retry": f.get("retry", 0), "is_done": False,
                                "is_late": f.get("until_ms", r["ms"]) < r["ms"]}
                out[f.get("info", {}).get("n")].append(open_[lease])
            elif lease in open_ and (f["t"] == "done" or f["t"] == "ended"):
                open_[lease]["is_done"] = True
    for all_of_one in out.values():
        all_of_one.sort(key=lambda run: run["ms"])
    return out


def falling_tokens(runs_of):
    """An entry given out again has the same token, when its requeue was not needed, or a higher one. A frozen worker reads when it wakes
    up what was over long ago. What has no number was added by somebody else: nobody knows which entries are the same."""
    bad = []
    for n, all_of_one in runs_of.items():
        if n is None:
            continue
        rs = [run for run in all_of_one if not run["is_late"]]
        bad += [f"number {n}: token {b['token']} of {b['w']} after {a['token']} of {a['w']}" for a, b in zip(rs, rs[1:]) if b["token"] < a["token"]]
    return bad


def lost(wishes, runs_of, dead, merging=()):
    """Added for sure, and neither done nor dead nor excused. In `merging` services one run is for all that was there when it began."""
    by_stream = collections.defaultdict(list)
    for n, w in wishes.items():
        by_stream[w["service"], w["stream"]].append(n)

    def is_over(n):
        return n in dead or wishes[n]["excused"] or any(run["is_done"] for run in runs_of.get(n, []))

    def covers(n, since):
        is_away = wishes[n]["ms"] >= since and (n in dead or wishes[n]["excused"])
        return is_away or any(run["is_done"] and run["ms"] >= since for run in runs_of.get(n, []))
    bad = []
    for n, w in wishes.items():
        if not w["sure"] or is_over(n):
            continue
        if w["service"] in merging and any(covers(m, w["ms"]) for m in by_stream[w["service"], w["stream"]]):
            continue
        bad.append(f"number {n}, {w['service']}: {w['stream']}: never done, its runs {runs_of.get(n, [])}")
    return bad


def dead_letters(db, services):
    """(n -> reason, those that do not say why)"""
    reasons, silent = {}, []
    for s in services:
        for id, f in entries(db, f"{s}-input-dlq"):
            n = json.loads(f["lbs-input"]).get("Info", {}).get("n")
            reasons[n] = f.get("_dlq_reason")
            if not reasons[n]:
                silent.append(f"{s}: dead letter {id} says no reason")
    return reasons, silent


def dead_entries(db, services):
    """({(data stream, id)}, those that do not say why)"""
    found, silent = set(), []
    for s in services:
        for id, f in entries(db, f"{s}-entries-dlq"):
            found.add((f["_dlq_stream"], f["_orig_id"]))
            if not f.get("_dlq_reason"):
                silent.append(f"{s}: dead entry {id} says no reason")
    return found, silent


def entry_lines(journals):
    """(who, stream, token, "did" or "nack", id) of every entry worked on, by time; who ends with its process' number."""
    rows = []
    for j in journals:
        n = 0
        for r in in_time(j):
            t = r["f"]["t"]
            n += t == "dead"
            if t in ("did", "nack") and r["d"] == "ev":
                rows.append((r["ms"], f"{r['w']}.{n}", r["f"]["stream"], r["f"]["token"], t, r["f"]["id"]))
    return [row[1:] for row in sorted(rows, key=lambda row: row[0])]


def lost_leases(journals):
    """(worker, stream) where a worker was told so."""
    found = set()
    for j in journals:
        stream_of = {r["f"]["lease"]: r["f"]["stream"] for r in j if r["f"]["t"] == "assign"}
        for r in j:
            f = r["f"]
            if f["t"] == "revoke" or f["t"] == "fence":
                found |= {(r["w"], stream_of.get(lease)) for lease in f.get("leases", [f.get("lease")])}
            elif f["t"] == "welcome":
                found |= {(r["w"], stream_of.get(g["lease"])) for g in f.get("gone", [])}
    return found
