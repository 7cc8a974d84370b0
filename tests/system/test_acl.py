"""Least privilege: everything works as the Redis user of etc/sluiced.acl, with CONFIG denied; doctor names what is missing."""
import hashlib
import json
import os

import test_cluster_trouble
import test_ctl
import test_main_job
import test_recovery
from lib import acl
from lib.case import limit, no_acl
from lib.checks import Added

issue = 7


# ---- tests of others, as that user (all of them: SLUICE_TEST_ACL=1); at the end nothing but CONFIG may have been denied

def as_the_user(f, *args):
    def test(t):
        acl.switch_on()
        f(t, *(a(t) if callable(a) else a for a in args))
        assert acl.SERVERS and acl.EXTRA
    test.limit = getattr(f, "limit", 90)
    return test


test_whole_job_standalone = as_the_user(test_main_job.whole_job, lambda t: t.redis(), 400)
test_whole_job_cluster = as_the_user(test_main_job.whole_job, lambda t: t.cluster(), 300)
test_dead_letters_in_a_cluster = as_the_user(test_ctl.test_dlq_and_explain_in_a_cluster)
test_half_moved_slot = as_the_user(test_cluster_trouble.test_half_moved_slot_answers_ask)
test_killed = as_the_user(test_recovery.kill_case, lambda t: t.redis(), 100)


@limit(90)
def test_another_database_with_a_replica(t):
    """SELECT, WAIT, the other channel; retries and dead letters; renewals; a kill, a restart and what was held."""
    acl.switch_on()
    r = t.redis()
    t.redis(args=["--replicaof", r.host, str(r.port)])
    r.db.cmd("SELECT", 1)
    T = 3
    d = t.daemon(r, T=T, service={"wait_replicas": 1, "retry": {"max_retries": 1}}, cfg={"redis": {"db": 1}})
    w = t.worker(d, credits=20, work=0, reconnect=True,
                 result=lambda a: {"t": "fail" if a["stream"].startswith("bad") else "done", "lease": a["lease"]})
    Added(r.db).many("orders", [f"good{i}" for i in range(20)] + [f"bad{i}" for i in range(5)])
    w.wait("ok", 30)  # 5 of them requeued once
    t.wait(lambda: len(d.json("dlq", "ls", "orders")) == 5, what="five dead letters")
    d.ctl_ok("dlq", "replay", "orders", "--limit", "1")
    d.ctl_ok("dlq", "purge", "orders", "--limit", "1")
    holder = t.worker(d, name="holder", credits=1, reconnect=True)
    w.send({"t": "credits", "n": 0})
    Added(r.db).one("orders", "long")
    a = holder.wait("assign")
    holder.wait("ping", 4, timeout=4 * T)
    d.restart()
    holder.wait("welcome", 2, timeout=20)
    holder.finish(a)
    assert holder.wait("ok", timeout=20)["outcome"] == "done"
    assert not holder.frames("revoke")
    t.wait(lambda: "keyspace_subscriptions 1" in d.ctl_ok("metrics"), what="the channel of database 1")


# ---- the file itself

@no_acl("has a server with an aclfile")
def test_the_file_is_an_aclfile(t):
    """A server loads it; without a password nobody can log in; with its hash in the line, the password does."""
    with open(os.path.join(acl.ROOT, "etc", "sluiced.acl")) as f:
        line = f.read().strip()
    for extra, can in (("", False), (f" #{hashlib.sha256(b'pw-5').hexdigest()}", True)):
        path = t.path(t.name("users.acl"))
        with open(path, "w") as f:
            f.write(f"user default on nopass ~* &* +@all\n{line}{extra}\n")
        r = t.redis(args=["--aclfile", path, "--notify-keyspace-events", "Kx"])
        d = t.daemon(r, ready=can, cfg={"redis": {"username": "sluiced", "password": {"env": "PW"}}}, env={"PW": "pw-5"})
        if not can:
            d.wait_log("WRONGPASS")
            continue
        w = t.worker(d, credits=1, work=0)
        Added(r.db).one("orders", "s")
        w.wait("ok")
        d.ctl_ok("doctor")


# ---- doctor

def doctor_with(r, d, rules, result="fail"):
    """Exit status and what failed (or had another result), when the user has these rules."""
    r.db.cmd("ACL", "SETUSER", acl.USER, "reset", *rules, f">{acl.PASSWORD}")
    p = d.ctl("--json", "doctor")
    rows = [json.loads(x) for x in p.stdout.splitlines()]
    return p.returncode, {x["found"] for x in rows if x.get("result") == result and (result == "fail" or x["check"] == "permissions")}


def each_right(t, *extra):
    """Two services, one of them with a tag of its own and dead letters elsewhere: each rule of the file, taken away alone, is named."""
    acl.switch_on()
    r = t.redis()
    d = t.daemon(r, services=["orders", "{shop}bills"], service={"dead_letter": {"stream": "graveyard"}, "entries": {"enabled": True}})
    needed = [x for x in acl.file_rules() if x[0] in "+&" or "MUTEX_KEY_SEP" in x]
    assert len([x for x in needed if x[0] == "+"]) == len(set(needed)) - 2 > 30
    for lbs in ("orders-input", "{shop}bills-input"):
        tagged = lbs if "{" in lbs else "{" + lbs + "}"
        needed += ["~" + lbs, *(f"~{tagged}-{x}" for x in ("active", "delayed", "delayed-data", "parked", "left", "fleet"))]
    needed += ["~graveyard"]
    head = [x for x in acl.file_rules() if x[0] not in "+~&"] + list(extra)
    assert doctor_with(r, d, head + needed) == (0, set())
    for x in needed:
        if x.endswith("-fleet"):  # all works without
            assert doctor_with(r, d, head + [y for y in needed if y != x], "warn") == (0, {f"missing: {x}"}), x
            continue
        assert doctor_with(r, d, head + [y for y in needed if y != x]) == (1, {f"missing: {x}"}), x
    assert doctor_with(r, d, head + needed) == (0, set())
    keys = [k for k in r.db.cmd("KEYS", "*") if not str(k).endswith("-fleet")]  # those the daemon itself writes, each 10 s
    assert len(keys) == 2, f"the two streams: doctor writes nothing: {keys}"
    r.db.cmd("ACL", "LOG", "RESET")


@limit(120)
def test_doctor_names_each_missing_right_by_dryrun(t):
    each_right(t, "+acl|dryrun")


@limit(120)
def test_doctor_names_each_missing_right_by_trying(t):
    each_right(t)
