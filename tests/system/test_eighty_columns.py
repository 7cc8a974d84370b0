"""sluicectl on a terminal of 80x24, the size that somebody has at 3 a.m."""
import os
import re

from lib.case import limit
from lib.checks import Added
from test_live_views import Terminal

issue = 12
LONG = "payment-reconciliation-eu-west-1"
STREAM = "customer-4711-export-to-warehouse-0"
NEEDED = ("CREDITS", "WORKERS", "LBS", "OLDEST WAITING", "DLQ")


def busy(t):
    """A daemon with much to show: long names, several services, work, waiting, dead letters."""
    r = t.redis()
    services = ("orders", LONG, "bills")
    d = t.daemon(r, services=services, node="node-with-a-long-name-in-rack-42", service={"retry": {"max_retries": 0}})
    w = t.worker(d, name="worker-with-quite-a-long-name-7", credits=4)
    add = Added(r.db)
    add.many("orders", ["poison"])  # first: the other's backlog may use all credits
    add.many(LONG, [f"{STREAM[:-1]}{i}" for i in range(5)])
    poison = t.wait(lambda: len(w.frames("assign")) >= 2 and w.frames("assign", stream="poison"), 10)[0]
    w.send({"t": "fail", "lease": poison["lease"], "dead": True, "reason": "no"})
    w.wait("ok")
    d.ctl_ok("pause", "bills")
    t.wait(lambda: any((x["unassigned_oldest_age_ms"] or 0) > 0 and x["dlq_length"] is not None for x in d.json("status")[0]["services"]), 10)
    return r, d


def printed(t, d, *args):
    """What sluicectl prints on a terminal of 80 columns."""
    terminal = Terminal(t, d, *args)
    while terminal.read(60):
        pass
    terminal.status = os.waitpid(terminal.pid, 0)[1]
    assert terminal.status == 0, terminal.text
    return re.sub(r"\x1b\[[0-9;]*m", "", terminal.text).replace("\r\n", "\n")


def test_status_fits_80_columns(t):
    r, d = busy(t)
    out = printed(t, d, "status")
    wide = [x for x in out.splitlines() if len(x) > 80]
    assert not wide, wide
    assert all(x in out for x in NEEDED) and "payment-rec…u-west-1" in out and "paused" in out, out
    assert re.search(r"owned \d+ \(.*assigned", out), out
    assert LONG in d.ctl_ok("status"), "no terminal: nothing is shortened"
    for verb in ("ls", "ls --waiting", "workers", "nodes", "fleet", "doctor", f"dlq ls {LONG}", "dlq show orders", f"explain {STREAM}",
                 f"show {STREAM}", "events", f"delayed ls {LONG}", "version"):
        out = printed(t, d, *verb.split())
        wide = [x for x in out.splitlines() if len(x) > 80 and not re.match(r"[a-z ]+  (\S+$|\{)", x)]  # a name or JSON that is to be copied
        assert not wide and "…" not in out, (verb, wide)
    r.kill()
    t.wait(lambda: "DOWN FOR" in (x := d.ctl_ok("status")) and "refused" in x or "No such file" in x, 15, "why it is down")


@limit(60)
def test_top_is_useful_at_80x24(t):
    _, d = busy(t)
    top = Terminal(t, d, "top", rows=24, cols=80)
    top.wait("q quit", "OLDEST WAITING")
    lines = top.frame()
    screen = "\n".join(lines)
    print("\n".join(f"= |{x:80}|" for x in lines))
    assert len(lines) <= 24 and all(len(x) <= 80 for x in lines), screen
    assert all(x in screen for x in NEEDED), screen
    head = next(x for x in lines if "OLDEST WAITING" in x)
    rows = lines[lines.index(head) + 1:][:3]
    assert all(re.search(r"\d+$|-$", x.rstrip()) for x in rows), "the last column, DLQ, is whole"
    assert any("worker-w…name-7" in x for x in lines), screen
    assert "FENCE" in screen, "no column is cut off"
    assert any("customer-47" in x for x in lines), "streams below"
    top.key(b"q")
    top.end()
