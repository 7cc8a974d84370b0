"""Keys that the daemons keep for themselves are no data streams: an entry that names one is a dead letter, and add refuses it."""
import json

from lib import checks
from lib.case import limit
from lib.entries import add, entries, hand, lbs
from lib.maintenance import metric

issue = 16

STATE = ["orders-input", "{orders-input}-active", "{orders-input}-delayed", "{orders-input}-delayed-data", "{orders-input}-parked",
         "{orders-input}-left", "{orders-input}-fleet"]
OTHERS = ["orders-input-dlq", "orders-entries-dlq", "bills-input", "{bills-input}-active", "bills-dead", "{x}-sluice", "a{x}b-sluice"]


@limit(60)
def test_entries_mode_reads_none_of_them(t):
    r = t.redis()
    d = t.daemon(r, services=("orders", "bills"), service={"same_stream": "coalesce", **entries(on_done="delete", on_ack="trim")})
    d.cfg["services"][1]["entries"]["dead_letter"] = {"stream": "bills-dead"}
    d.write()
    d.ctl_ok("reload")
    h = hand(t, d, credits=100)
    for name in STATE + OTHERS:
        lbs(r.db, "orders", name)
    t.wait(lambda: r.db.cmd("XLEN", "orders-input-dlq") == len(STATE + OTHERS), 20, "dead letters")
    why = {json.loads(f["lbs-input"])["DataStreamName"]: f for f in checks.dead_letters(r.db)}
    assert {f["_dlq_reason"] for f in why.values()} == {"bad_name"} and set(why) == set(STATE + OTHERS)
    said = {name: f["_dlq_error"] for name, f in why.items()}
    assert said["orders-input"] == "orders-input is the load-balancer stream of service orders, not a data stream"
    assert said["bills-dead"] == "bills-dead is the dead-letter stream of service bills, not a data stream"
    assert said["{bills-input}-active"] == "{bills-input}-active is a key that sluiced keeps for service bills, not a data stream"
    assert said["{x}-sluice"] == "{x}-sluice is the position in another stream, not a data stream"
    assert metric(d, "sluice_dead_letters_total", service="orders", reason="bad_name") == len(why)
    names = ["x-sluice", "{x}-sluice-1", "more-input", "orders-input-2"]  # like ours, but nobody's
    ids = {name: add(r.db, name) for name in names}
    for name in names:
        lbs(r.db, "orders", name)
    for _ in names:
        a = h.assign()
        h.ids(1, lease=a["lease"])
        h.ack(a["lease"], *ids.pop(a["stream"]))
    assert r.db.cmd("XLEN", "orders-input-dlq") == len(why)
    for name in STATE + OTHERS:
        no = d.ctl("add", "orders", name)
        assert (no.returncode, no.stdout, no.stderr.count("\n")) == (64, "", 1) and said[name] in no.stderr, no
    no = d.ctl("add", "orders", "bills-input", "--in", "1h")
    assert no.returncode == 64 and r.db.cmd("EXISTS", "{orders-input}-delayed") == 0


@limit(60)
def test_lease_mode_gives_out_none_of_its_own(t):
    """But what others keep, and dead letters: a worker may have to do with those."""
    r = t.redis()
    d = t.daemon(r, services=("orders", "bills"))
    w = t.worker(d, credits=50, work=0)
    for name in STATE + OTHERS:
        lbs(r.db, "orders", name)
    checks.wait_clean(r.db, dlq=len(STATE))
    assert {a["stream"] for a in w.frames("assign")} == set(OTHERS)
    assert {f["_dlq_reason"] for f in checks.dead_letters(r.db)} == {"bad_name"}
    no = d.ctl("add", "orders", "orders-input")
    assert no.returncode == 64 and "orders-input is the load-balancer stream of service orders" in no.stderr
    assert d.ctl("add", "orders", "bills-input").returncode == 0


@limit(60)
def test_add_refuses_a_name_of_several(t):
    r = t.redis()
    d = t.daemon(r, services=("orders",), service=entries(dead_letter={"stream": "dead-2"}))
    no = d.ctl("add", "orders", "dead", "--count", "3")
    assert no.returncode == 64 and "dead-2 is the dead-letter stream" in no.stderr


@limit(60)
def test_doctor_names_keys_of_another_type(t):
    """Another program made them: each is a row of its own, with what it is and what to do."""
    r = t.redis()
    d = t.daemon(r, service=entries())
    for key, type in [*((k, "a hash") for k in STATE[1:]), ("orders-input-dlq", "a stream"), ("orders-entries-dlq", "a stream")]:
        if "delayed" in key and "data" not in key or "parked" in key:
            type = "a sorted set"
        r.db.cmd("DEL", key)
        r.db.cmd("SET", key, "what?")
        p = d.ctl("doctor")
        assert f"{key} is not {type}" in p.stdout and "rename or delete it" in p.stdout, p
        assert p.returncode == (0 if "-fleet" in key else 1), p  # that one is for display only
        r.db.cmd("DEL", key)
    assert d.ctl("doctor").returncode == 0
    r.db.cmd("DEL", "orders-input")
    r.db.cmd("SET", "orders-input", "what?")
    p = d.ctl("doctor")
    assert p.returncode == 1 and "orders-input is not a stream" in p.stdout, p
    t.wait(lambda: "(sluicectl doctor says which of orders-input, " in d.log, 20, "the line says where to look")


@limit(60)
def test_dead_letters_go_to_none_of_them(t):
    """They would be refused as of a wrong type for ever: the configuration is, by a check and by a reload."""
    r = t.redis()
    d = t.daemon(r)
    for path, name in [(p, n) for p in ("dead_letter", "entries.dead_letter") for n in STATE[1:] + ["{bills-input}-active", "{x}-sluice"]]:
        service = dict(d.cfg["services"][0])
        before = d.cfg["services"][0]
        if path == "dead_letter":
            service["dead_letter"] = {"stream": name}
        else:
            service["entries"] = {"dead_letter": {"stream": name}}
        d.cfg["services"][0] = service
        d.write()
        no = d.ctl("reload")
        assert no.returncode == 78 and f"services[0].{path}.stream: {name} is a key that sluiced keeps" in no.stderr, no
        d.cfg["services"][0] = before
    d.write()
    d.ctl_ok("reload")
