"""Checkers over journals (lib/worker) and over what is left in Redis. Each returns a list of findings, [] = good."""
import json
import time

from lib.redis import SEP, RedisError, entries, pairs, scan
from lib.servers import wait_until

ENDS = ("done", "fail", "release", "revoked")


class Added:
    """What the test put into the load-balancer streams: stream name -> Info."""

    def __init__(self, db, n_replicas=1):
        self.db, self.sure, self.maybe, self.n_replicas = db, {}, {}, n_replicas

    def many(self, service, names, info=None):
        names = list(names)
        for n in names:
            self.sure[n] = info(n) if callable(info) else info or {}
        r = self.db.pipe([("XADD", f"{service}-input", "*", "lbs-input",
                           json.dumps({"DataStreamName": n, "Info": self.sure[n]}, ensure_ascii=False)) for n in names])
        bad = [x for x in r if isinstance(x, RedisError)]
        assert not bad, bad[0]
        return r

    def one(self, service, name, info=None):
        return self.many(service, [name], info)[0]

    def replicated(self, service, name):
        """In times of failover: sure only when a replica has it, if there is one, else it may be there or not."""
        key = f"{service}-input"
        try:
            body = json.dumps({"DataStreamName": name, "Info": {}})
            cmds = [("XADD", key, "*", "lbs-input", body), ("WAIT", min(1, self.n_replicas), 300)]
            r = self.db.node_for(key).pipe(cmds)
            if str(r[0]).startswith("ASK "):
                host, port = str(r[0]).split()[2].rsplit(":", 1)
                r = self.db.conn((host, int(port))).pipe([("ASKING",), *cmds])[1:]
            ok = not isinstance(r[0], RedisError) and not isinstance(r[1], RedisError) and r[1] >= min(1, self.n_replicas)
        except (OSError, RedisError):
            ok, r = False, [""]
        if not ok:
            self.db.ranges = []
        (self.sure if ok else self.maybe)[name] = {}
        return ok


def in_time(journal):
    """By time. Who kills notes the time before: what the worker still wrote after that comes before its death all the same."""
    dead_at, out = float("inf"), []
    for r in reversed(journal):
        if r["f"]["t"] == "dead":
            dead_at = min(dead_at, r["ms"])
        out.append({**r, "ms": min(r["ms"], dead_at)})
    return sorted(reversed(out), key=lambda r: r["ms"])


def told(journal):
    """The times in which a worker was told that it owns: {service, stream, id, lease, w, start, end, how}.
    A time ends when the worker ends the work, at the revoke's grace, at the session's last until_ms, or at its death. In entries mode it
    ends when the worker has acknowledged all that it was given: the daemon may end the lease then, before the worker hears of it."""
    open_, out, until = {}, [], None

    def end(lease, ms, how):
        if lease in open_:
            i = open_.pop(lease)
            ms = min(ms, i["idle_from"] or ms)
            if i["limit"] is not None and i["limit"] < ms:
                ms, how = i["limit"], "grace"
            out.append({**i, "end": max(ms, i["start"]), "how": how})
    last = 0
    for r in in_time(journal):
        f, ms = r["f"], r["ms"]
        t = f["t"]
        last = ms
        if until is not None and ms > until:
            for lease in list(open_):
                end(lease, until, "fence")
        if "until_ms" in f and r["d"] == "in":
            until = f["until_ms"]
        if t == "assign" and r["d"] == "in":
            end(f["lease"], ms, "again")
            if f.get("until_ms", ms) < ms:  # read after its fence (the worker was stopped): it never begins
                continue
            open_[f["lease"]] = {"service": f["service"], "stream": f["stream"], "id": f["id"], "lease": f["lease"],
                                 "w": r["w"], "start": ms, "limit": None, "token": f.get("token"), "given": None,
                                 "idle_from": ms if "entries" in f else None}
        elif r["d"] == "out" and t in ENDS + ("dead",):
            end(f.get("lease"), ms, t)
        elif t == "revoke" and f["lease"] in open_:
            open_[f["lease"]]["limit"] = ms + f.get("grace_ms", 0)
        elif t == "welcome":
            for g in f.get("gone", []):
                end(g["lease"], ms, "gone")
        elif t == "fence":
            for lease in f["leases"]:
                end(lease, ms, "fence")
        elif t == "entries" and f["lease"] in open_:
            open_[f["lease"]].update(given=f["e"][-1][0], idle_from=None)
        elif t == "ack" and f["lease"] in open_ and f["id"] == open_[f["lease"]]["given"]:
            open_[f["lease"]]["idle_from"] = ms
        elif t == "ended":
            end(f["lease"], ms, "ended")
        elif t == "dead":
            for lease in list(open_):
                end(lease, ms, "dead")
            until = None
        elif r["d"] == "out" and t == "bye":
            for lease in list(open_):
                end(lease, ms, "bye")
    for lease in list(open_):
        end(lease, last if until is None else min(last, until), "open")
    return out


def overlaps(journals, by="stream", slack_ms=0):
    """Two told owners of one stream (or entry: by="id") at the same time."""
    per, bad = {}, []
    for j in journals:
        for i in told(j):
            per.setdefault((i["service"], i[by]), []).append(i)
    for key, times in per.items():
        times.sort(key=lambda i: i["start"])
        far = times[0]
        for i in times[1:]:
            if i["start"] < far["end"] - slack_ms:
                bad.append(f"{key}: {far['w']} until {far['end']:.0f} ({far['how']}), {i['w']} from {i['start']:.0f}: "
                           f"{far['end'] - i['start']:.0f} ms")
            if i["end"] > far["end"]:
                far = i
    return bad


def finished(journals):
    """stream -> how often workers finished it: leases for which done was said, however often it was repeated."""
    n = {}
    for j in journals:
        name = {r["f"]["lease"]: r["f"]["stream"] for r in j if r["f"]["t"] == "assign"}
        for lease in {r["f"]["lease"] for r in j if r["d"] == "out" and r["f"]["t"] == "done"} & set(name):
            n[name[lease]] = n.get(name[lease], 0) + 1
    return n


def lost(added, journals, dead=()):
    """Added for sure, but no worker said done and it is not among the dead letters."""
    done = finished(journals)
    return [f"{s} was never done" for s in added if s not in done and s not in dead]


def stray(added, journals):
    """Done, but never added."""
    return [f"{s} was never added" for s in finished(journals) if s not in added]


def token_order(journals):
    """Each new owner of a stream's entry has a higher token (a resumed lease keeps its own)."""
    per, bad = {}, []
    for j in journals:
        for i in told(j):
            per.setdefault((i["service"], i["stream"]), []).append(i)
    for key, times in per.items():
        times.sort(key=lambda i: i["start"])
        bad += [f"{key}: token {b['token']} of {b['w']} after {a['token']}" for a, b in zip(times, times[1:])
                if None not in (a["token"], b["token"]) and int(b["token"]) <= int(a["token"])]
    return bad


def credits_exceeded(journals, settle_ms=1000):
    """A worker was given more than its credits. After a lower `credits` frame the old number counts for settle_ms."""
    bad = []
    for j in journals:
        held, limit, seen = {}, 0, []
        for r in j:
            f, t = r["f"], r["f"]["t"]
            held = {k: v for k, v in held.items() if v is None or v > r["ms"]}
            if r["d"] == "out" and t == "hello":  # what it does not name it stopped before, by its fence for example
                held = {k: v for k, v in held.items() if k in f.get("resume", [])}
            if r["d"] == "out" and t in ("hello", "credits"):
                seen.append((r["ms"], limit))
                limit = f.get("credits", f.get("n", 0))
            elif t == "welcome":
                for g in f.get("gone", []):
                    held.pop(g["lease"], None)
            elif t == "assign":
                held[f["lease"]] = None
                most = max([limit] + [old for ms, old in seen if r["ms"] - ms < settle_ms])
                if len(held) > most:
                    bad.append(f"{r['w']}: {len(held)} held with {most} credits at {r['ms']:.0f}")
            elif t == "ended" or (r["d"] == "out" and t in ENDS):
                held.pop(f.get("lease"), None)
            elif t == "revoke" and f["lease"] in held:
                held[f["lease"]] = r["ms"] + f.get("grace_ms", 0)
            elif t in ("dead", "bye"):
                held = {}
    return bad


def late_revokes(journal, T_ms):
    """A lease that was not renewed any more must be revoked before its fence: a lost lease with no revoke in time."""
    bad = []
    for i in told(journal):
        if i["how"] == "fence":
            bad.append(f"{i['stream']} of {i['w']}: no revoke before until_ms")
        elif i["end"] - i["start"] > T_ms and i["how"] == "open":
            bad.append(f"{i['stream']} of {i['w']}: still open")
    return bad


def locks(db):
    """Entries' locks; tombstones of recovery (gone:…) are left to expire and do not count."""
    out = []
    for k in scan(db, f"*{SEP.replace('[', '')}*"):
        v = db.cmd("GET", k)
        if v is not None and not v.startswith("gone:"):
            out.append((k, v))
    return out


def pending(db, service):
    try:
        return db.cmd("XPENDING", f"{service}-input", f"{service}-group")[0]
    except RedisError as e:
        if "NOGROUP" in str(e):
            return 0
        raise


def pending_names(db, service):
    """The streams of the entries that somebody has read and not finished."""
    if not pending(db, service):
        return []
    ids = [row[0] for row in db.cmd("XPENDING", f"{service}-input", f"{service}-group", "-", "+", 10000)]
    rows = [db.cmd("XRANGE", f"{service}-input", i, i) for i in ids]
    return [json.loads(pairs(r[0][1])["lbs-input"])["DataStreamName"] for r in rows if r]


def waits(db, service):
    """[text] of what waits for its time: how long still, by our clock, and what is known of it."""
    key = f"{{{service}-input}}-delayed"
    rows = db.cmd("ZRANGE", key, 0, 4, "WITHSCORES")
    return [f"{i} for {float(at) / 1000 - time.time():.1f} s: {db.cmd('HGET', key + '-data', i)}" for i, at in zip(rows[::2], rows[1::2])]


def leftovers(db, services, dlq=0, registry=0):
    """Whatever a finished job must not leave in Redis. dlq, registry: how many are expected, None = any."""
    bad = []
    for s in services:
        for what, n in (("entries in the LBS", db.cmd("XLEN", f"{s}-input")), ("pending", pending(db, s)),
                        ("waiting for their time", db.cmd("ZCARD", f"{{{s}-input}}-delayed")),
                        ("in the registry", 0 if registry is None else db.cmd("HLEN", f"{{{s}-input}}-active"))):
            if n:
                bad.append(f"{s}: {n} {what}")
        bad += [f"{s}: waits: {x}" for x in waits(db, s)]
        n = db.cmd("XLEN", f"{s}-input-dlq")
        if dlq is not None and n != dlq:
            bad.append(f"{s}: {n} dead letters, expected {dlq}")
    return bad + [f"lock {k} = {v}" for k, v in locks(db)[:10]]


def wait_clean(db, services=("orders",), timeout=30, dlq=0, registry=0):
    last = []

    def clean():
        last[:] = leftovers(db, services, dlq, registry)
        return not last
    try:
        wait_until(clean, timeout, "nothing left in Redis", 0.1)
    except AssertionError as e:
        raise AssertionError(f"{e}: {last[:5]}") from None


def dead_letters(db, service="orders"):
    """[{field: value}] of the service's dead-letter stream."""
    return [f for _, f in entries(db, f"{service}-input-dlq")]


def none(findings):
    assert not findings, f"{len(findings)} findings: {findings[:5]}"


def all_good(added, journals, by="stream", dead=()):
    """The three that hold in every test: nothing lost, no overlap, no credit exceeded."""
    none(lost(added, journals, dead))
    none(overlaps(journals, by))
    none(credits_exceeded(journals))
