"""The Redis user of etc/sluiced.acl, for a whole run ($SLUICE_TEST_ACL=1) or one test (acl.switch_on()): servers started from then
on have the user, daemons log in as it, CONFIG is denied to them, and a test fails when anything else was denied."""
import os

from lib.redis import RedisError

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
USER, PASSWORD = "sluiced", "acl-secret-5up3r-0123456789abcdef"
SERVERS = []  # of this process, that have the user
EXTRA = []  # rules for the keys of the services seen so far
DENIED_KNOWN = {"config|get", "acl|dryrun", "delifeq"}  # asked for; sluiced goes on without


def switch_on():
    os.environ["SLUICE_TEST_ACL"] = "1"


def is_on():
    return os.environ.get("SLUICE_TEST_ACL") == "1"


def file_rules():
    """The rules in the file, without `user sluiced`."""
    with open(os.path.join(ROOT, "etc", "sluiced.acl")) as f:
        line, = f.read().splitlines()
    words = line.split(" ")
    assert words[:2] == ["user", USER], words[:2]
    return words[2:]


def key_rules(service, dlq="", db=0):
    """The file's rules for keys and the channel, with another service's names: as sluiced(8) tells an administrator."""
    out = []
    for x in file_rules():
        if x.startswith("~") and "orders-input" in x:
            name = x.replace("orders-input", f"{service}-input")
            if "{" in service:  # has a tag of its own
                name = name.replace(f"{{{service}-input}}", f"{service}-input")
            out.append(f"~{dlq}" if dlq and name.endswith("-dlq") else name)
        elif x.startswith("&"):
            out.append(x.replace("@0__", f"@{db}__"))
    return out


def user():
    """Words for `redis-server --user` and ACL SETUSER, with what the daemons so far need."""
    return [USER, *file_rules(), *EXTRA, f">{PASSWORD}"]


def grant(cfg):
    """What a daemon of this configuration needs, on all servers, now and after their next start."""
    for s in cfg["services"]:
        for rule in key_rules(s["name"], (s.get("dead_letter") or {}).get("stream", ""), cfg["redis"].get("db", 0)):
            if rule not in EXTRA:
                EXTRA.append(rule)
    for s in SERVERS:
        if s.is_running():
            try:
                s.client(timeout=2).cmd("ACL", "SETUSER", *user())
            except OSError:  # paused: SIGSTOP
                pass


def denied(server):
    """What ACL LOG has of our user beyond what is known."""
    try:
        rows = server.db.cmd("ACL", "LOG")
    except (OSError, RedisError):
        return []  # it is down: its log is gone
    rows = [dict(zip(r[::2], r[1::2])) for r in rows]
    return [f"{server.name}: {r['reason']} {r['object']}" for r in rows if r["username"] == USER and r["object"] not in DENIED_KNOWN]
