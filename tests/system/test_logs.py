"""What the log looks like where, what it holds back, and what is never in it."""
import json
import os
import pty
import re
import signal
import time

from lib.case import limit
from lib.checks import Added
from lib.daemon import program
from lib.worker import Raw

issue = 5
TEXT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (error|warn|notice|info|debug) \S.*")
INFO, PASSWORD, OTHER = "in-the-info-4711", "pass-word-0815", "pass-word-0816"


def lines_of(t, d, env=None, **log):
    """The log of a short life."""
    d.cfg["log"] = {"level": "info", **log}
    d.write()
    d.env.pop("JOURNAL_STREAM", None)
    d.env.update(env or {})
    before = os.path.getsize(d.log_path)
    d.start()
    assert d.stop() == 0
    with open(d.log_path, "rb") as f:
        f.seek(before)
        return f.read().decode().splitlines()


@limit(60)
def test_format_by_where_it_goes(t):
    """auto: journal where stderr is the journal's, text elsewhere; the three others anywhere."""
    r = t.redis()
    d = t.daemon(r, start=False)
    open(d.log_path, "w").close()
    st = os.stat(d.log_path)
    ours, others = {"JOURNAL_STREAM": f"{st.st_dev}:{st.st_ino}"}, {"JOURNAL_STREAM": f"{st.st_dev}:{st.st_ino + 1}"}

    def are_text(lines):
        return lines and all(TEXT.fullmatch(x) for x in lines)

    def are_journal(lines):
        return lines and all(re.fullmatch(r"<[3-7]>\S.*", x) for x in lines) and any(x.startswith("<5>sluiced ") for x in lines)
    assert are_text(lines_of(t, d)) and are_text(lines_of(t, d, others)) and are_text(lines_of(t, d, ours, format="text"))
    assert are_journal(lines_of(t, d, ours)) and are_journal(lines_of(t, d, format="journal"))
    for line in lines_of(t, d, ours, format="json"):
        x = json.loads(line)
        assert set(x) >= {"time", "level", "msg"} and x["msg"] and x["level"] in ("error", "warn", "notice", "info"), line


@limit(60)
def test_text_on_a_terminal(t):
    r = t.redis()
    d = t.daemon(r, start=False, cfg={"log": {"level": "info", "format": "auto"}})
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(program("sluiced"), ["sluiced", "-c", d.conf], d.env)
    try:
        t.wait(lambda: d.ctl("status", "--ready").returncode == 0, 20, "ready")
        os.write(fd, b"\x03")  # Ctrl-C
        text, end = "", time.monotonic() + 20
        while time.monotonic() < end:
            try:
                text += os.read(fd, 65536).decode()
            except OSError:
                break
        lines = text.replace("^C", "").splitlines()
        assert lines and all(TEXT.fullmatch(x) for x in lines) and "\x1b" not in text, text
        assert lines[-1].endswith("notice stopped"), lines
        assert os.WEXITSTATUS(os.waitpid(pid, 0)[1]) == 0
        pid = 0
    finally:
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(fd)


@limit(60)
def test_a_flood_is_counted_instead_of_written(t):
    r = t.redis()
    d = t.daemon(r, cfg={"log": {"level": "info"}})
    for i in range(800):
        w = Raw(d.worker_sock).send({"t": "hello", "v": 1, "name": f"flood{i}", "credits": 0})
        w.until("welcome")
        w.close()

    def n_written():
        return len(re.findall(r"info worker=flood\d+ pid=\d+ connected", d.log))
    assert 100 < n_written() < 800, n_written()
    def n_suppressed():
        return sum(map(int, re.findall(r"warn suppressed n=(\d+)", d.log)))
    t.wait(lambda: d.signal(signal.SIGHUP) or n_suppressed() + n_written() >= 800, 20, "the rest is counted", 0.5)


def live(t, r, d, w):
    """Everything that may go wrong with an entry whose Info is INFO."""
    add = Added(r.db)
    add.many("orders", [f"s{i}" for i in range(5)], {"secret": INFO})
    a = [w.wait("assign", n) for n in range(1, 6)]
    w.send({"t": "progress", "lease": a[0]["lease"], "note": "half"})
    w.finish(a[0])
    w.finish(a[1], "fail", reason="no luck")
    w.finish(a[2], "fail", dead=True, reason="bad")
    w.finish(a[3], "release")
    for bad in (f'{{"DataStreamName":"x","Info":{{"k":"{INFO}"', f'{{"DataStreamName":7,"Info":"{INFO}"}}', f'"{INFO}"', INFO):
        r.db.cmd("XADD", "orders-input", "*", "lbs-input", bad)
    r.db.cmd("XADD", "orders-input", "*", "other", INFO)
    r.db.cmd("XADD", "orders-input", "*", "lbs-input", json.dumps({"DataStreamName": "large", "Info": INFO * 200}))
    r.db.cmd("XADD", "orders-input", "*", "lbs-input", json.dumps({"DataStreamName": "s", "Info": {"k": INFO}}), "_retry_count", INFO)
    t.wait(lambda: r.db.cmd("XLEN", "orders-input-dlq") >= 7, 20, "dead letters")
    raw = Raw(d.worker_sock)
    raw.send(f'{{"t":"hello","v":1,"name":"{INFO}'.encode() + b"\n").is_closed()
    d.ctl("show", "s0"), d.ctl("explain", "s4"), d.ctl("dlq", "show", "orders"), d.ctl("events")
    d.ctl("add", "orders", "added", "--info", json.dumps(INFO))
    d.ctl("release", "s4")
    add.many("orders", ["s1", "s1"], {"secret": INFO})  # these wait here, Info and all
    t.wait(lambda: r.db.cmd("ZCARD", "{orders-input}-parked") > 0, what="an entry that waits")
    d.signal(signal.SIGUSR1)
    r.client().cmd("CONFIG", "SET", "requirepass", OTHER)  # nobody knows yet
    r.db.password = r.password = OTHER
    r.db.close()
    r.db.cmd("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    t.wait(lambda: "WRONGPASS" in d.log or "NOAUTH" in d.log, 20, "the password is wrong")
    d.ctl("doctor")
    with open(t.path("pw"), "w") as f:
        f.write(OTHER)
    assert d.ctl("reload").returncode == 0
    t.wait(lambda: d.ctl("status", "--ready").returncode == 0, 20, "the new password works")
    d.signal(signal.SIGUSR1)
    t.wait(lambda: d.log.count("dump version=") >= 2, 10, "two dumps")


@limit(90)
def test_secrets_and_info_are_not_in_the_log(t):
    """Info: never above debug. Passwords and the keys that resume sessions: never."""
    for level in ("info", "debug"):
        r = t.redis(password=PASSWORD)
        with open(t.path("pw"), "w") as f:
            f.write(PASSWORD)
        d = t.daemon(r, start=False, cfg={"log": {"level": level}, "workers": {"max_frame": "2KiB"}})
        d.cfg["redis"]["password"] = {"file": t.path("pw")}
        d.write()
        d.start()
        w = t.worker(d, credits=9)
        live(t, r, d, w)
        assert d.stop() == 0
        log = d.log
        above = [x for x in log.splitlines() if " debug " not in x]
        assert not [x for x in above if INFO in x], [x for x in above if INFO in x]
        assert "dead letter" in log and "reloaded" in log
        for secret in (PASSWORD, OTHER, w.session):
            assert secret not in log, (level, secret, [x for x in log.splitlines() if secret in x])
        w.close()
        d.kill()
        r.kill()


@limit(60)
def test_a_dead_letter_says_why(t):
    """One line each, with the reason of _dlq_reason; a long name does not push it out."""
    r = t.redis()
    d = t.daemon(r, cfg={"log": {"level": "notice"}, "workers": {"max_frame": "16KiB"}}, service={"retry": {"max_retries": 0}})
    w = t.worker(d, credits=9)
    add = Added(r.db)
    for stream, how in (("x" * 8000, {"dead": True}), ("worn", {})):
        add.one("orders", stream)
        w.finish(w.wait("assign", len(w.frames("assign")) + 1), "fail", reason="no luck", **how)
    r.db.cmd("XADD", "orders-input", "*", "lbs-input", "{")
    add.one("orders", "large", "x" * 20000)
    want = ["max_retries_exceeded", "rejected", "too_large", "unparseable"]

    def said():
        return sorted(re.findall(r"notice service=orders stream=\S+ id=\S+ dead letter reason=(\w+) retry=\d+ error=\"?\S.*$", d.log, re.M))
    t.wait(lambda: said() == want, what=f"{want}, said: {d.log[-500:]}")
    assert sorted(dict(zip(f[::2], f[1::2]))["_dlq_reason"] for _, f in r.db.cmd("XRANGE", "orders-input-dlq", "-", "+")) == want
