"""Entries that nobody can work go to the dead letters at once, and the reader goes on."""
import json

from lib import checks
from lib.checks import Added

issue = 2

BAD = {"no field": ["other", "x"], "bad JSON": ["lbs-input", "{"], "not an object": ["lbs-input", "[1]"], "empty": ["lbs-input", ""],
       "no name": ["lbs-input", '{"Info":{}}'], "empty name": ["lbs-input", '{"DataStreamName":"","Info":{}}'],
       "name is a number": ["lbs-input", '{"DataStreamName":5,"Info":{}}'], "bad UTF-8": ["lbs-input", '{"DataStreamName":"\udcff"}'],
       "half a character": ["lbs-input", json.dumps({"DataStreamName": "s", "Info": {"u": "\ud800"}})]}
NO_NAME = "lbs-input has no DataStreamName that is a text of 1 to 65536 bytes without NUL"
WHY = {"no field": "there is no field lbs-input", "bad JSON": "lbs-input is not JSON", "not an object": "lbs-input is not a JSON object",
       "empty": "lbs-input is not JSON", "no name": NO_NAME, "empty name": NO_NAME, "name is a number": NO_NAME,
       "bad UTF-8": "lbs-input has bytes that are not UTF-8",
       "half a character": "lbs-input has half of a surrogate pair, such as \\ud800 alone, which is no character"}


def test_unparseable_entries_are_dead_letters_and_the_reader_goes_on(t):
    r = t.redis()
    d = t.daemon(r, node="n1")
    w = t.worker(d, credits=50, work=0)
    ids, add = {}, Added(r.db)
    for what, fields in BAD.items():
        ids[r.db.cmd("XADD", "orders-input", "*", *fields, "_retry_count", "2", "mine", "yes")] = what
        add.one("orders", f"good after {what}")
    checks.wait_clean(r.db, dlq=len(BAD))
    assert {a["stream"] for a in w.frames("assign")} == set(add.sure)
    for f in checks.dead_letters(r.db):
        what = ids.pop(f["_orig_id"])
        assert f["_dlq_reason"] == "unparseable" and f["_retry_count"] == "2" and f["mine"] == "yes", (what, f)
        assert f["_dlq_error"] == WHY[what], (what, f)
        assert f["_dlq_node"] == "n1" and abs(int(f["_dlq_at"]) - int(f["_orig_id"].split("-")[0])) < 60000, (what, f)
        k, v = BAD[what]
        assert f[k] == v, (what, f)
    assert not ids and d.is_running()


def test_missing_info_still_runs(t):
    r = t.redis()
    w = t.worker(t.daemon(r), credits=5, work=0)
    r.db.cmd("XADD", "orders-input", "*", "lbs-input", '{"DataStreamName":"s","Other":1}')
    assert w.wait("assign")["stream"] == "s"
    checks.wait_clean(r.db, dlq=0)


def test_too_large(t):
    r = t.redis()
    d = t.daemon(r, cfg={"workers": {"max_frame": "16KiB"}})
    w = t.worker(d, credits=5, work=0)
    assert w.wait("welcome")["max_frame"] == 16384
    add = Added(r.db)
    add.one("orders", "big", {"x": "y" * 17000})
    add.one("orders", "fits", {"x": "y" * 15000})
    assert w.wait("assign")["stream"] == "fits"
    checks.wait_clean(r.db, dlq=1)
    f, = checks.dead_letters(r.db)
    assert f["_dlq_reason"] == "too_large" and json.loads(f["lbs-input"])["DataStreamName"] == "big"


def test_bad_retry_counts_are_zero(t):
    r = t.redis()
    d = t.daemon(r)
    w = t.worker(d, credits=50, work=0)
    good, bad = {"2": 2, "0": 0, "003": 3}, ["-1", "1e3", "x", "", "1234567890", " 1", "2.5"]
    for v in [*good, *bad]:
        r.db.cmd("XADD", "orders-input", "*", "lbs-input", json.dumps({"DataStreamName": f"s{v}", "Info": {}}), "_retry_count", v)
    checks.wait_clean(r.db)
    assert {a["stream"]: a["retry"] for a in w.frames("assign")} == {f"s{v}": good.get(v, 0) for v in [*good, *bad]}
    assert "_retry_count" in d.log


def trimmed_is_told(t, d, dlq, max_len, n):
    """What is lost for good is counted, and one line says so."""
    t.wait(lambda: f'sluice_dead_letters_trimmed_total{{service="orders"}} {n}\n' in d.ctl_ok("metrics"), 10, f"{n} trimmed")
    line, = [x for x in d.log.splitlines() if "dead letters lost" in x]
    assert " warn " in line and f"{dlq} is longer than max_len={max_len}" in line, line


def test_dead_letter_stream_and_length_of_ones_own(t):
    r = t.redis()
    r.db.pipe([("XADD", "orders-input", "*", "no", "field")] * 1000)
    d = t.daemon(r, service={"dead_letter": {"stream": "graveyard", "max_len": 100}})
    w = t.worker(d, credits=100, work=0)
    t.wait(lambda: r.db.cmd("XLEN", "orders-input") == 0, 30, "all read")
    n = r.db.cmd("XLEN", "graveyard")
    assert 100 <= n <= 300 and not w.frames("assign"), n
    trimmed_is_told(t, d, "graveyard", 100, 1000 - n)


def test_dead_letters_in_another_slot(t):
    c = t.cluster()
    stream = next(f"dead{i}" for i in range(99) if c.master_of(f"dead{i}") is not c.master_of("orders-input"))
    d = t.daemon(c, service={"dead_letter": {"stream": stream}})
    w = t.worker(d, credits=9, work=0, result=lambda a: {"t": "fail", "lease": a["lease"], "reason": "no", "dead": True})
    Added(c.db).one("orders", "s", {"n": 2**70})
    c.db.cmd("XADD", "orders-input", "*", "no", "field")
    t.wait(lambda: c.db.cmd("XLEN", stream) == 2, 15, "two dead letters")
    checks.wait_clean(c.db)
    w.wait("ok", outcome="dead")


def test_dead_letters_trimmed_in_another_slot(t):
    c = t.cluster()
    stream = next(f"dead{i}" for i in range(99) if c.master_of(f"dead{i}") is not c.master_of("orders-input"))
    d = t.daemon(c, service={"dead_letter": {"stream": stream, "max_len": 100}})
    t.worker(d, credits=100, work=0)
    c.db.node_for("orders-input").pipe([("XADD", "orders-input", "*", "no", "field")] * 400)
    t.wait(lambda: c.db.cmd("XLEN", "orders-input") == 0, 30, "all read")
    trimmed_is_told(t, d, stream, 100, 400 - c.db.cmd("XLEN", stream))
