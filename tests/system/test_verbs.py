"""Every verb of sluicectl: its JSON against the manual page, and how long it takes while many leases are held.

SLUICE_TEST_LEASES: how many (5000; 50000 is the goal's size). SLUICE_TEST_VERB_MS: the most that a verb may take until its first
byte, best of three (2000; the goal is 100). The tables come from `sluicectl --help`, so a verb without a row fails."""
import json
import os
import re
import select
import subprocess
import time

from lib import manual
from lib.case import limit
from lib.checks import Added
from lib.daemon import program
from lib.worker import Raw

issue = 5
N = int(os.environ.get("SLUICE_TEST_LEASES", 5000))
BOUND_MS = float(os.environ.get("SLUICE_TEST_VERB_MS", 2000))

# verb -> arguments; S is a stream in work, W a worker
ARGUMENTS = {
    "status": [], "ls": [], "show": ["S"], "explain": ["S"], "workers": [], "nodes": [], "pause": ["bills"], "resume": ["bills"],
    "release": ["S"], "requeue": ["S"], "add": ["bills", "x"], "scan": ["orders"], "topology refresh": [],
    "dlq ls": ["orders"], "dlq show": ["orders", "--limit", "5"], "dlq replay": ["orders", "--limit", "1", "--dry-run"],
    "dlq purge": ["orders", "--limit", "1", "--dry-run"], "entries-dlq ls": ["orders"], "entries-dlq show": ["orders"],
    "fleet": [], "delayed ls": [], "delayed now": ["bills", "--limit", "1"], "delayed drop": ["bills"],
    "entries-dlq replay": ["orders", "--dry-run"], "entries-dlq purge": ["orders", "--dry-run"], "reload": [], "doctor": [], "metrics": [], "events": [], "version": [],
    "drain": [], "undrain": [], "revoke": ["W"]}
NO_JSON = {"top"}  # a live view; its own tests are in test_sluicectl_cli
# arguments with which the answer has another form, or another way to end
MORE = [("drain", ["--wait"]), ("status", ["--ready"]), ("explain", ["waits"]), ("explain", ["bad"]), ("show", ["S", "--service", "orders"]),
        ("dlq replay", ["orders", "--limit", "1"]), ("dlq purge", ["orders"])]


def command(verb, args, stream="s0", worker="w1"):
    return [*verb.split(), *({"S": stream, "W": worker}.get(a, a) for a in args)]


def test_every_verb_has_a_row(t):
    verbs = manual.verbs(t)
    assert len(verbs) > 20 and set(ARGUMENTS) | NO_JSON == verbs, set(ARGUMENTS) | NO_JSON ^ verbs
    assert set(manual.json_keys()) == set(ARGUMENTS), set(manual.json_keys()) ^ set(ARGUMENTS)


def keys_of(row):
    """{"a", "b.c"}: the keys of an object and of the objects in its lists; not of those whose keys are data."""
    out = set()
    for k, v in row.items():
        out.add(k)
        for x in v if isinstance(v, list) else [v] if k == "daemon" else []:
            if isinstance(x, dict):
                out |= {f"{k}.{c}" for c in x}
    return out


def check_rows(verb, args, text):
    want, n = manual.json_keys()[verb], 0
    for line in text.splitlines():
        row = json.loads(line)
        assert isinstance(row, dict), (verb, line)
        n += 1
        got = keys_of(row)
        nested = {k.split(".")[0] for k in got if "." in k}  # an empty list shows none of its keys
        assert got == {k for k in want if "." not in k or k.split(".")[0] in nested}, (verb, args, got ^ want, line)
        no_rows = {k for k, v in row.items() if v == [] or v is None}
        assert {k.split(".")[0] for k in want if "." in k} <= nested | no_rows, (verb, line)
    assert n, (verb, args)


def test_json_of_every_verb_is_what_the_manual_says(t):
    r = t.redis()
    d = t.daemon(r, services=("orders", "bills"), node="n1")
    w = t.worker(d, name="w1", credits=2, services=["orders"], result=lambda a: {"t": "fail", "lease": a["lease"], "dead": True})
    add = Added(r.db)
    add.many("orders", ["bad", "worse"])
    for a in (w.wait("assign", n) for n in (1, 2)):
        w.finish(a, "fail", dead=True, reason="no good")
    w.wait("ok", 2)
    add.many("orders", ["s0", "s1"])
    w.wait("assign", 4)
    add.one("bills", "waits")
    d.ctl_ok("add", "bills", "later", "--in", "1h", "--count", "2")
    r.db.cmd("XADD", "orders-entries-dlq", "*", "n", "1", "_dlq_stream", "orders:k", "_orig_id", "1-1")
    changes = {"drain", "revoke", "delayed now", "delayed drop"}
    for verb, args in sorted(ARGUMENTS.items(), key=lambda x: x[0] in changes):
        if verb in ("undrain", "revoke"):
            continue
        check_rows(verb, args, d.ctl_ok("--json", *command(verb, args)))
        if verb == "drain":
            check_rows("undrain", [], d.ctl_ok("--json", "undrain"))
        if verb in ("release", "requeue"):  # the same stream again
            t.wait(lambda: any(x["stream"] == "s0" and x["state"] == "assigned" for x in d.json("ls")), what="s0 comes back")
    for verb, args in MORE[1:]:
        check_rows(verb, args, d.ctl_ok("--json", *command(verb, args)))
    check_rows("revoke", ["W"], d.ctl_ok("--json", "revoke", "w1"))
    t.wait(lambda: any(x["state"] == "assigned" for x in d.json("ls")), what="work again")
    w.work = 0
    for a in list(w.held.values()):
        w.finish(a)
    check_rows("drain", ["--wait"], d.ctl_ok("--json", "drain", "--wait"))


# ---- how long

class Asked:
    """One run of sluicectl, while another worker pings the daemon: ms to the first byte, to the last, the slowest pong."""

    def __init__(self, d, pinger, args):
        self.first = self.last = None
        self.pong, self.n_bytes = 0, 0
        start = sent = time.monotonic()
        p = subprocess.Popen([program("sluicectl"), "--socket", d.control_sock, "--json", *args], stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        pinger.send({"t": "ping", "n": 1})
        while True:
            ready, _, _ = select.select([p.stdout, pinger.sock], [], [], 60)
            now = time.monotonic()
            if pinger.sock in ready:
                f = pinger.frame()
                if f["t"] == "ping":
                    pinger.send({"t": "pong", "n": f["n"]})
                elif f["t"] == "pong":
                    self.pong = max(self.pong, 1000 * (now - sent))
                    sent = time.monotonic()
                    pinger.send({"t": "ping", "n": 1})
            if p.stdout in ready:
                data = os.read(p.stdout.fileno(), 1 << 20)
                self.first = self.first or 1000 * (now - start)
                self.n_bytes += len(data)
                if not data:
                    break
            assert ready, f"silence: {args}"
        self.last = 1000 * (time.monotonic() - start)
        self.rc, self.err = p.wait(), p.stderr.read().decode()
        p.stderr.close()
        while True:  # the pong that is still on its way
            f = pinger.frame()
            if f["t"] == "ping":
                pinger.send({"t": "pong", "n": f["n"]})
            elif f["t"] == "pong":
                self.pong = max(self.pong, 1000 * (time.monotonic() - sent))
                return

    def __lt__(self, other):
        return self.first < other.first


def hold(t, r, d):
    """N leases, held by other processes; as many dead letters."""
    per = min(10000, -(-N // 5))
    for i in range(-(-N // per)):
        t.proc_worker(d, name=f"w{i}", credits=min(per, N - i * per), work="hold", services=["orders"])
    add = Added(r.db)
    for i in range(0, N, 5000):
        add.many("orders", [f"s{k}" for k in range(i, min(i + 5000, N))])
        r.db.pipe([("XADD", "orders-input-dlq", "*", "lbs-input", json.dumps({"DataStreamName": f"dead{k}", "Info": {}}), "_dlq_reason",
                    "rejected", "_dlq_at", 1700000000000, "_dlq_node", "n1", "_orig_id", "1-0", "_retry_count", 0)
                   for k in range(i, min(i + 5000, N, 10000))])  # dead_letter.max_len

    def n_assigned():
        s, = d.json("status")
        return sum(x["owned"]["assigned"] for x in s["services"])
    t.wait(lambda: n_assigned() == N, 60, f"{N} leases are held", 0.3)


def n_late(d):
    """Turns of all event loops that came later than 100 ms."""
    text = d.ctl_ok("metrics")
    n = {word: sum(map(int, re.findall(rf'^sluice_event_loop_lag_seconds_{word} (\d+)$', text, re.M)))
         for word in (r'count{loop="[^"]*"}', r'bucket{loop="[^"]*",le="0.1"}')}
    total, in_time = n.values()
    assert total, "the loops have turned"
    return total - in_time


@limit(300)
def test_every_verb_answers_at_once_while_many_leases_are_held(t):
    r = t.redis()
    d = t.daemon(r, services=("orders", "bills"), node="n1", service={"max_streams": N + 10}, cfg={"log": {"level": "info"}})
    hold(t, r, d)
    pinger = Raw(d.worker_sock).send({"t": "hello", "v": 1, "name": "pinger", "credits": 0})
    pinger.until("welcome")
    late, late_before = [], n_late(d)
    once = {"add", "reload", "drain", "undrain", "release", "requeue", "revoke"}
    rows = [(v, a) for v, a in ARGUMENTS.items() if v != "revoke"] + [("explain", ["waits"]), ("explain", ["nobody"]), ("revoke", ["W"])]
    Added(r.db).one("bills", "waits")
    for i, (verb, args) in enumerate(rows):
        args = command(verb, args, stream=f"s{i}", worker=f"w{i % 5}")
        best = min(Asked(d, pinger, args) for _ in range(1 if verb in once else 3))
        assert best.rc == ("nobody" in args), (args, best.rc, best.err)
        print(f"= {N} leases: {' '.join(args)}: first byte {best.first:.1f} ms, last {best.last:.1f} ms, {best.n_bytes} bytes, "
              f"slowest pong of a worker meanwhile {best.pong:.1f} ms")
        if best.first > BOUND_MS:
            late.append((args, best.first))
        if best.pong > BOUND_MS:
            late.append((args, "pong", best.pong))
    print(f"= {N} leases: turns later than 100 ms meanwhile: {n_late(d) - late_before}")
    assert not late, late
    assert d.is_running() and "lease lost" not in d.log
