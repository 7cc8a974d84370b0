"""sluice-run in entries mode: a process per entry, per batch, per stream."""
import base64
import json
import os
import subprocess
import time

from lib.case import limit
from lib.daemon import program
from lib.entries import add, check_order, lbs, position, text
from lib.servers import spawn

issue = 16


def entries(**kw):
    return {"entries": {"enabled": True, **kw}}


def run(t, d, *args, n=4):
    name = t.name("run")
    p = spawn([program("sluice-run"), "-s", d.worker_sock, "-n", str(n), *args], t.path(name + ".log"))

    def end():
        p.kill()
        p.wait()
    t.ending(end)
    return p


def lines(path):
    if not os.path.exists(path):
        return []
    with open(path, "rb") as f:
        return f.read().splitlines()


def plain_and_keyed(t, r):
    """A daemon of two services; the second is in entries mode."""
    d = t.daemon(r, services=("plain", "keyed"))
    d.cfg["services"][1].update(entries())
    d.write()
    d.ctl_ok("reload")
    return d


@limit(60)
def test_ordinary_streams_do_not_go_round(t):
    """--each without --service, and a service that is not in entries mode: said once, and each stream given back once."""
    r = t.redis()
    d = plain_and_keyed(t, r)
    for i in range(20):
        lbs(r.db, "plain", f"p{i}")
    p = run(t, d, "--each", "--", "true")
    t.wait(lambda: r.db.cmd("ZCARD", "{plain-input}-delayed") == 20, 20, "each is put aside")
    added = add(r.db, "k", 3)
    lbs(r.db, "keyed", "k")
    t.wait(lambda: position(r.db, "k").get("pos") == added[-1], 20, "its own work goes on")
    log, = [x for x in os.listdir(t.dir) if x.startswith("run")]
    with open(t.path(log)) as f:
        said = [x for x in f if "not in entries mode" in x]
    assert len(said) == 1 and "plain" in said[0] and p.poll() is None, said


@limit(60)
def test_a_worker_that_takes_no_entries_says_what_it_gets_nothing_of(t):
    """Once, however often it connects, and in the daemon's log; not where it named the services that it serves."""
    r = t.redis()
    d = plain_and_keyed(t, r)

    def log_of(*args):
        before = set(os.listdir(t.dir))
        run(t, d, *args, "--", "true")
        log, = [x for x in set(os.listdir(t.dir)) - before if x.startswith("run")]
        t.wait(lambda: any(b"connected to" in x for x in lines(t.path(log))), 20, "it is there")
        return t.path(log)

    def said(log):
        return [x for x in lines(log) if b"in entries mode" in x]
    plain = log_of()
    t.wait(lambda: said(plain), 20, "it is said")
    assert b"keyed is in entries mode: this worker takes no entries" in said(plain)[0], said(plain)
    d.wait_log("takes no entries, and so nothing of services=keyed, which is in entries mode")
    d.handover()
    t.wait(lambda: sum(b"connected to" in x for x in lines(plain)) == 2, 20, "it comes back")
    named, each = log_of("--service", "plain"), log_of("--each")
    time.sleep(0.3)  # it would be said with the welcome
    assert [len(said(x)) for x in (plain, named, each)] == [1, 0, 0]


@limit(60)
def test_each_runs_one_process_per_entry_in_order(t):
    r = t.redis()
    d = t.daemon(r, service=entries(retry={"initial": "50ms", "factor": 1, "jitter": "0%"}))
    out = t.path("out")
    script = f'read -r line; echo "$SLUICE_STREAM $line" >> {out}; case "$line" in *bad*) echo no good >&2; exit 3;; *dead*) exit 65;; esac'
    added = {f"orders:{k}": add(r.db, f"orders:{k}", 10) for k in range(3)}
    bad = text(r.db.cmd("XADD", "orders:0", "*", "n", "bad"))
    dead = text(r.db.cmd("XADD", "orders:0", "*", "n", "dead"))
    after = add(r.db, "orders:0", 2, 90)
    for k in added:
        lbs(r.db, "orders", k)
    run(t, d, "--each", "--", "sh", "-c", script)
    t.wait(lambda: position(r.db, "orders:0").get("pos") == after[-1] and
           all(position(r.db, k).get("pos") == added[k][-1] for k in ("orders:1", "orders:2")), 30, "all acknowledged")
    seen = [x.decode().split(" ", 1) for x in lines(out)]
    seen = [(k, json.loads(v)) for k, v in seen]
    for k in added:
        ids = added[k] + ([bad] * 4 + [dead] + after if k == "orders:0" else [])
        assert [v["id"] for s, v in seen if s == k] == ids, (k, seen)
    assert [v["tries"] for s, v in seen if s == "orders:0" and v["id"] == bad] == [0, 1, 2, 3]
    assert seen[0][1]["fields"] == [["n", "0"]]
    rows = [dict(zip(map(text, f[::2]), map(text, f[1::2]))) for _, f in r.db.cmd("XRANGE", "orders-entries-dlq", "-", "+")]
    assert [(x["_orig_id"], x["_dlq_reason"]) for x in rows] == [(bad, "max_retries_exceeded"), (dead, "rejected")], rows
    assert rows[0]["_dlq_error"] == "exit status 3: no good"


@limit(60)
def test_batch_acks_all_of_it(t):
    r = t.redis()
    d = t.daemon(r, service=entries(batch=7, retry={"initial": "50ms", "factor": 1}))
    out = t.path("out")
    ids = add(r.db, "orders:k", 30)
    lbs(r.db, "orders", "orders:k")
    run(t, d, "--batch", "--fields=object", "--", "sh", "-c", f"cat >> {out}")
    t.wait(lambda: position(r.db, "orders:k").get("pos") == ids[-1], 20, "all acknowledged")
    seen = [json.loads(x) for x in lines(out)]
    assert [x["id"] for x in seen] == ids and seen[3]["fields"] == {"n": "3"}


@limit(60)
def test_feed_keeps_one_process_and_acks_by_descriptor(t):
    r = t.redis()
    d = t.daemon(r, T=3, service=entries())
    out = t.path("out")
    ids = add(r.db, "orders:k", 5)
    lbs(r.db, "orders", "orders:k")
    script = f'echo start $SLUICE_STREAM >> {out}; while read -r l; do echo "$l" >> {out}; ' \
             'id=${l#*id\\":\\"}; echo "${id%%\\"*}" >&$SLUICE_ACK_FD; done; echo end >> ' + out
    p = run(t, d, "--feed", "--", "sh", "-c", script)
    t.wait(lambda: position(r.db, "orders:k").get("pos") == ids[-1], 20, "five acknowledged")
    ids += add(r.db, "orders:k", 5, 5)
    t.wait(lambda: position(r.db, "orders:k").get("pos") == ids[-1], 20, "ten acknowledged")
    got = lines(out)
    assert got[0] == b"start orders:k" and [json.loads(x)["id"] for x in got[1:]] == ids
    p.terminate()  # its stdin ends, it ends, the stream goes back
    assert p.wait(10) == 0
    assert lines(out)[-1] == b"end"
    t.wait(lambda: r.db.cmd("XLEN", "orders-input") == 1 or r.db.cmd("ZCARD", "{orders-input}-delayed") == 1, 10, "given back")


@limit(60)
def test_feed_that_exits_with_0_has_finished_its_stream(t):
    r = t.redis()
    d = t.daemon(r, service=entries())
    ids = add(r.db, "orders:k", 5)
    lbs(r.db, "orders", "orders:k")
    run(t, d, "--feed", "--", "sh", "-c", 'read -r l; id=${l#*id\\":\\"}; echo "${id%%\\"*}" >&3')
    t.wait(lambda: r.db.cmd("XLEN", "orders-input") == 0, 20, "done")
    assert position(r.db, "orders:k")["pos"] == ids[0]


@limit(60)
def test_feed_that_dies_of_an_entry_costs_that_entry_alone(t):
    """It is tried as often as with --each, goes to the dead letters, and what is behind it is worked on."""
    r = t.redis()
    d = t.daemon(r, service=entries(retry={"max_retries": 2, "initial": "100ms"}))
    for end, error in ("kill -9 $$", "killed by signal 9 (Killed)"), ("exit 3", "exit status 3"):
        key = f"orders:{len(end)}"
        ids = [text(r.db.cmd("XADD", key, "*", "n", n)) for n in ("0", "1", "bad", "3", "4")]
        lbs(r.db, "orders", key)
        p = run(t, d, "--feed", "--", "sh", "-c", f'while read -r l; do case $l in *bad*) {end};; esac; '
                'id=${l#*id\\":\\"}; echo "${id%%\\"*}" >&3; done')
        t.wait(lambda k=key, last=ids[-1]: position(r.db, k).get("pos") == last, 15, "all behind it acknowledged")
        p.terminate()
        assert p.wait(10) == 0
        flat = r.db.cmd("XREVRANGE", "orders-entries-dlq", "+", "-")[0][1]
        letter = dict(zip(flat[::2], flat[1::2]))
        assert (letter["_orig_id"], letter["_tries"], letter["_dlq_error"]) == (ids[2], "3", error), letter
    assert r.db.cmd("XLEN", "orders-entries-dlq") == 2 and r.db.cmd("XLEN", "orders-input-dlq") == 0


@limit(60)
def test_feed_that_writes_no_ids_is_said_once(t):
    """A command whose debug output goes to descriptor 3: one line for the process, and the ids between count."""
    r = t.redis()
    d = t.daemon(r, service=entries())
    ids = add(r.db, "orders:k", 3)
    lbs(r.db, "orders", "orders:k")
    run(t, d, "--feed", "--", "sh", "-c", 'yes garbage | head -5000 >&3; head -c 100000 /dev/zero | tr "\\0" 1 >&3; echo >&3; '
        'while read -r l; do echo 9999999999999-0 >&3; id=${l#*id\\":\\"}; printf "%s\\r\\n" "${id%%\\"*}" >&3; done')
    t.wait(lambda: position(r.db, "orders:k").get("pos") == ids[-1], 20, "all acknowledged")
    log, = [x for x in os.listdir(t.dir) if x.startswith("run")]
    assert len([x for x in lines(t.path(log)) if b"SLUICE_ACK_FD" in x]) == 1, lines(t.path(log))[:5]


@limit(90)
def test_every_byte_arrives(t):
    r = t.redis()
    d = t.daemon(r, service=entries(batch_bytes="1MiB"), cfg={"workers": {"max_frame": "4MiB", "write_buffer": "16MiB"}})
    out = t.path("out")
    big = os.urandom(1 << 20)
    cases = [[b"bin", bytes(range(256)), b"\xff\xfe", b"\x80"], [b"", b""], [b"a", b"1", b"a", b"2", b"a", b""],
             [b"text", "ü€😀\"\\\n\x00".encode()], [b"big", big], [b"txt", b"x" * (1 << 20)],
             [x for i in range(10000) for x in (b"f%d" % i, b"v%d" % i)]]
    ids = [text(r.db.cmd("XADD", "orders:k", "*", *c)) for c in cases]
    lbs(r.db, "orders", "orders:k")
    run(t, d, "--each", "--", "sh", "-c", f"cat >> {out}")
    t.wait(lambda: position(r.db, "orders:k").get("pos") == ids[-1], 40, "all acknowledged")

    def raw(v):
        return base64.b64decode(v["b64"]) if isinstance(v, dict) else v.encode()
    got = [[raw(x) for pair in json.loads(line)["fields"] for x in pair] for line in lines(out)]
    for want, have in zip(cases, got):
        assert want == have, (want[:4], have[:4])
    assert len(got) == len(cases)


@limit(60)
def test_fields_as_variables(t):
    r = t.redis()
    d = t.daemon(r, service=entries())
    out = t.path("out")
    id = text(r.db.cmd("XADD", "orders:k", "*", "order-id", "7 ü", "nul", "a\x00b", "Ok", "x=y"))
    lbs(r.db, "orders", "orders:k")
    run(t, d, "--each", "--fields=env", "--", "sh", "-c", f"env | grep ^SLUICE_F_ | sort > {out}")
    t.wait(lambda: position(r.db, "orders:k").get("pos") == id, 20, "acknowledged")
    assert lines(out) == ["SLUICE_F_OK=x=y".encode(), "SLUICE_F_ORDER_ID=7 ü".encode()], lines(out)


def command(t):
    """Where a command can be put and taken away: its path and both of them. It notes what it gets."""
    path, out = t.path("command"), t.path("out")

    def put():
        with open(path + ".new", "w") as f:
            f.write(f"#!/bin/sh\ncat >> {out}\n")
        os.chmod(path + ".new", 0o755)
        os.rename(path + ".new", path)
    return path, put, lambda: os.unlink(path)


def log_of(t):
    log, = [x for x in os.listdir(t.dir) if x.startswith("run")]
    with open(t.path(log)) as f:
        return f.read()


def no_entry_paid(t, db, n):
    seen = [json.loads(x) for x in lines(t.path("out"))]
    assert len(seen) == n and all(x["tries"] == 0 for x in seen), seen
    assert db.cmd("XLEN", "orders-entries-dlq") == 0 and db.cmd("XLEN", "orders-input-dlq") == 0


@limit(60)
def a_command_that_cannot_be_started(t, mode):
    """Not the entry's fault: the stream goes back and nothing is counted; no new work until it can be started."""
    r = t.redis()
    d = t.daemon(r, service=entries(retry={"initial": "50ms", "factor": 1, "max_retries": 1}))
    path, put, _ = command(t)
    added = {f"orders:{k}": add(r.db, f"orders:{k}", 5) for k in range(4)}
    for k in added:
        lbs(r.db, "orders", k)
    run(t, d, mode, "--", path)
    t.wait(lambda: "cannot be started (exit status 127" in log_of(t), 20, "the pause")
    assert not lines(t.path("out")) and not any(position(r.db, k).get("tries", "0") != "0" for k in added)
    put()
    t.wait(lambda: all(position(r.db, k).get("pos") == ids[-1] for k, ids in added.items()), 30, "all acknowledged")
    no_entry_paid(t, r.db, 20)
    said = [x for x in log_of(t).splitlines() if "be started" in x]
    assert len(said) == 2 and said[1].endswith("can be started again: taking work"), said


def test_each_with_a_command_that_cannot_be_started(t):
    a_command_that_cannot_be_started(t, "--each")


def test_batch_with_a_command_that_cannot_be_started(t):
    a_command_that_cannot_be_started(t, "--batch")


@limit(60)
def test_streams_held_while_the_command_cannot_be_started(t):
    """The pause holds for them too: those without an entry go back, so that the one of the next try is one with work."""
    r = t.redis()
    d = t.daemon(r, service=entries(retry={"initial": "50ms", "factor": 1, "max_retries": 1}))
    path, put, take_away = command(t)
    put()
    names = [f"orders:{k}" for k in range(6)]
    added = {k: add(r.db, k) for k in names}
    for k in names:
        lbs(r.db, "orders", k)
    run(t, d, "--each", "--", path, n=6)
    t.wait(lambda: all(position(r.db, k).get("pos") == added[k][-1] for k in names), 20, "all acknowledged")
    take_away()
    for k in names[:4]:
        added[k] += add(r.db, k)
    t.wait(lambda: "cannot be started" in log_of(t), 20, "the pause")
    t.wait(lambda: not [x for x in d.json("ls") if x["state"] in ("assigned", "blocked")], 2, "nothing is held in the pause")
    put()
    t.wait(lambda: all(position(r.db, k).get("pos") == added[k][-1] for k in names), 30, "all acknowledged")
    no_entry_paid(t, r.db, 10)


@limit(60)
def test_usage(t):
    for args in (["--each", "--batch", "--", "true"], ["--fields=object", "--", "true"], ["--fields=x", "--each", "--", "true"],
                 ["--batch", "--fields=env", "--", "true"]):
        p = subprocess.run([program("sluice-run"), *args], capture_output=True)
        assert p.returncode == 64, (args, p)


@limit(120)
def test_order_per_key_while_workers_and_the_daemon_are_killed(t):
    r = t.redis()
    d = t.daemon(r, T=3, service=entries(batch=10, retry={"initial": "50ms", "factor": 1}))
    out = t.path("out")
    added = {f"orders:{k}": [] for k in range(20)}
    script = f'read -r line; sleep 0.01; echo "$SLUICE_STREAM $line" >> {out}'
    runs = [run(t, d, "--each", "--", "sh", "-c", script, n=10) for _ in range(3)]
    for k in added:
        added[k] += add(r.db, k, 10)
        lbs(r.db, "orders", k)
    time.sleep(1)
    runs[0].kill()
    for k in added:
        added[k] += add(r.db, k, 5, 10)
    d.kill()
    d.start()
    runs[1].kill()
    run(t, d, "--each", "--", "sh", "-c", script, n=20)
    t.wait(lambda: all(position(r.db, k).get("pos") == ids[-1] for k, ids in added.items()), 60, "all acknowledged")
    done = []
    for x in lines(out):
        stream, line = x.decode().split(" ", 1)
        done.append((stream, json.loads(line)["id"]))
    assert check_order(done, added) == 300
    assert r.db.cmd("XLEN", "orders-entries-dlq") == 0
    for k, ids in added.items():  # nothing is worked on before what is before it was finished once
        top = None
        for s, id in done:
            if s == k:
                i = ids.index(id)
                assert top is None or i <= top + 1, (k, i, top)
                top = i if top is None else max(top, i)
