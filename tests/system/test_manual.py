"""The manual pages against the programs, both ways: options, defaults, exit codes, metrics, error codes, states, reasons; what etc/
takes from them too (completions: test_completion.py). Settings are held by tests/unit/config/test_options.c."""
import json
import os
import re
import shutil
import subprocess

from lib import manual
from lib.case import limit
from lib.checks import Added
from lib.daemon import ROOT, program
from lib.manual import codes, items, page, section, words

issue = 5


def source(*names):
    return "".join(open(os.path.join(ROOT, "src", n)).read() for n in names)


def files(*folders):
    """Of src/ and all below them."""
    return [os.path.relpath(os.path.join(dir, n), os.path.join(ROOT, "src")) for f in folders
            for dir, _, names in os.walk(os.path.join(ROOT, "src", f)) for n in sorted(names) if n.endswith((".c", ".h"))]


def same(what, program_says, page_says):
    a, b = set(program_says), set(page_says)
    assert a, f"{what}: the program says nothing"
    assert a == b, f"{what}: only the program has {sorted(a - b)}, only the page has {sorted(b - a)}"


# ---- options

def getopt_options(name, short):
    """-x and --word of the program's own getopt tables."""
    text = source(name)
    assert f'"{short}"' in text
    return {f"-{c}" for c in re.sub(r"[+:]", "", short)} | {f"--{w}" for w in re.findall(r'\{"([a-z-]+)", (?:required|no)_argument', text)}


def help_options(t, name):
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", "\n".join(
        line for line in t.run([program(name), "--help"]).stdout.splitlines() if line.startswith("  ")).split("COMMAND gets")[0]))


def page_options(name):
    """Of the .It Fl lines of DESCRIPTION."""
    out = set()
    for (head,), _ in items(section(name, "DESCRIPTION"), "Fl"):
        out |= {f"-{w}" for w in re.split(r" , ", re.sub(r" Ar \w+", "", head))}
    return out


def synopsis_options(name):
    text = " ".join(section(name, "SYNOPSIS"))
    return {f"-{w}" for w in re.findall(r"Fl (-?[a-z][a-z-]*)", text)} | {f"-{w}" for w in re.findall(r"\| (-[a-z-]+)", text)}


def test_options_of_the_daemon(t):
    o = getopt_options("bin/sluiced/main.c", ":c:h")
    same("sluiced --help", o, help_options(t, "sluiced"))
    same("sluiced(8)", o, page_options("sluiced.8"))
    same("sluiced(8) synopsis", o - {"--config", "-h"}, synopsis_options("sluiced.8"))


def test_options_of_the_worker(t):
    o = getopt_options("bin/sluice_run/cli.c", "+:hs:n:")
    same("sluice-run --help", o, help_options(t, "sluice-run"))
    same("sluice-run(1)", o, page_options("sluice-run.1") | {"-h", "--help", "--version"})
    same("sluice-run(1) synopsis", o - {"--socket", "--credits"}, synopsis_options("sluice-run.1"))


def ctl_help(t, verb):
    """What `sluicectl help VERB` tells: ([positionals as in its usage], {its options}, {the global ones})."""
    text = t.run([program("sluicectl"), "help", *verb.split()]).stdout
    usage, body = text.split("\n", 1)
    mine, _, every = body.partition("Every verb:")
    pick = re.compile(r"^  (--[a-z-]+)", re.M)
    return usage[len("usage: sluicectl "):], set(pick.findall(mine)), set(pick.findall(every))


def page_verbs():
    """{verb: {its options}} of sluicectl(1)."""
    filters = {"--reason", "--stream", "--id", "--older-than", "--limit"}
    out = {}
    for title in ("Looking", "Steering"):
        for (head,), _ in items(section("sluicectl.1", title), "Cm"):
            verb = re.match(r"([a-z-]+(?: (?:refresh|ls|show|replay|purge|now|drop)\b)?)", head)[1]
            out[verb] = {f"-{w}" for w in re.findall(r"Fl (-[a-z-]+)", head)} | (filters if "filters" in head else set())
    text = " ".join(section("sluicectl.1", "Steering")).split("The filters of")[1]
    same("filters in sluicectl(1)", filters, {f"-{w}" for w in re.findall(r"Fl (-[a-z-]+)", text)} - {"--dry-run"})
    return out


def test_verbs_and_their_options(t):
    pages = page_verbs()
    same("verbs", manual.verbs(t), pages)
    for verb, options in pages.items():
        _, mine, every = ctl_help(t, verb)
        assert mine == options, f"{verb}: only the program has {sorted(mine - options)}, only the page has {sorted(options - mine)}"
    same("options of every verb", every, page_options("sluicectl.1") - {"-s"})
    same("synopsis", every, synopsis_options("sluicectl.1"))


# ---- defaults

def test_defaults_of_the_command_lines(t):
    """Read where the program keeps them."""
    args, run, d = source("bin/sluicectl/args.c"), source("bin/sluice_run/cli.c"), source("bin/sluiced/main.c")
    ctl_sock = re.search(r'socket_default\[\] = "([^"]+)"', args)[1]
    ms = {k: int(v) // 1000 for k, v in re.findall(r"(TIMEOUT\w*)_MS = (\d+)", args)}
    run_sock, credits = re.search(r'DEFAULT_SOCKET\[\] = "([^"]+)"', run)[1], re.search(r"\.credits = (\d+)", run)[1]
    conf = re.search(r'\*path = "([^"]+)"', d)[1]

    def default(name, option):
        for (head,), body in items(section(name, "DESCRIPTION"), "Fl"):
            if head.startswith(option):
                return " ".join(body)
        raise AssertionError(f"{name} has no {option}")
    for name, option, value in (("sluicectl.1", "s ,", ctl_sock), ("sluice-run.1", "s ,", run_sock), ("sluiced.8", "c ", conf)):
        assert re.search(rf"default is \.Pa {re.escape(value)} \.", default(name, option)), (name, option, value)
    assert f"default is {ms['TIMEOUT']}s, for .Cm doctor {ms['TIMEOUT_DOCTOR']}s" in default("sluicectl.1", "-timeout")
    assert f"default is {credits}." in default("sluice-run.1", "n ,")
    assert f"({run_sock})" in t.run([program("sluice-run"), "--help"]).stdout
    helped = t.run([program("sluicectl"), "--help"]).stdout
    assert f"default {ctl_sock}" in helped and f"default {ms['TIMEOUT']}s, doctor {ms['TIMEOUT_DOCTOR']}s" in helped
    assert f"default {conf}" in t.run([program("sluiced"), "--help"]).stdout


def effective(t, path):
    """{setting: value} of --dump-config."""
    r = t.run([program("sluiced"), "-c", path, "--dump-config"])
    assert r.returncode == 0, r.stderr
    return [re.sub(r"\s*#.*", "", line) for line in r.stdout.splitlines()]


def test_the_installed_configuration_is_the_defaults(t):
    least = t.path("least.yaml")
    with open(least, "w") as f:
        f.write("services: [{name: orders}]\n")
    assert effective(t, os.path.join(ROOT, "etc", "sluiced.yaml")) == effective(t, least)


# ---- exit codes

def page_codes(name):
    return codes(section(name, "EXIT STATUS"))


def test_exit_codes(t):
    ctl = re.search(r"Exit: (.*)\.", t.run([program("sluicectl"), "--help"]).stdout)[1]
    same("sluicectl(1)", [x.split()[0] for x in ctl.split(", ")], page_codes("sluicectl.1"))
    enum = re.search(r"enum \{([^}]*EXIT_[^}]*)\}", source("bin/sluicectl/sluicectl.h"))[1]
    from_daemon = re.findall(r"control_end\(q, (\d+)", source(*files("run/control")))
    same("sluicectl's codes", {*re.findall(r"= (\d+)", enum), *from_daemon}, page_codes("sluicectl.1"))
    daemon = [n for n in files("bin/sluiced", "run", "config", "io", "base", "core")
              if not n.startswith(("run/control/", "run/fault"))]
    found = {n for n in daemon for n in re.findall(r"(?:return |exit\(|EXIT_\w+ = |FATAL[^;]*?|fatal\([^;]*?|end\(d, |\? |: )(6[4-9]|7[0-8])\b",
                                                   source(n))}
    same("sluiced(8)", found | {"0"}, page_codes("sluiced.8"))
    run = source(*files("bin/sluice_run"))
    mine = re.findall(r"(?:exit\(|EXIT_\w+ = |exit_code = |return )(6[4-9]|7[0-8])\b", run)
    command, own = "\n".join(section("sluice-run.1", "EXIT STATUS")).split("itself exits with")
    same("sluice-run(1), of the command", {"0", "65", "75"}, codes(command.splitlines()))
    same("sluice-run(1)", {*mine, "0"} - {"65", "75"}, codes(own.splitlines()))


# ---- metrics, error codes, states, reasons

class Metrics:
    """Of /metrics: {name: (type, {label: {values}})}."""

    def __init__(self, text):
        self.of, kind = {}, {}
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                _, _, name, kind[name] = line.split()
                self.of[name] = (kind[name], {})
            elif not line.startswith("#"):
                name, labels = re.fullmatch(r"(\w+)(?:\{(.*)\})? \S+", line).groups()
                base = name if name in self.of else re.sub(r"_(bucket|sum|count)$", "", name)
                for k, v in re.findall(r'(\w+)="([^"]*)"', labels or ""):
                    self.of[base][1].setdefault(k, set()).add(v)

    def values(self, name, label):
        return self.of[name][1][label]


def live_metrics(t):
    r = t.redis()
    d = t.daemon(r)
    Added(r.db).one("orders", "s")
    t.worker(d, credits=1).wait("assign")
    text = t.wait(lambda: all(w in (x := d.ctl_ok("metrics")) for w in ("sluice_dlq_length{", "sluice_lbs_pending{", "sluice_handoffs_total{")) and x,
                  15, "the first lengths of streams")
    return Metrics(text)


def test_metrics(t):
    m = live_metrics(t)
    rows = [(head, body) for (head,), body in items(page("sluice-metrics.7").splitlines(), "Li")]
    same("sluice-metrics(7)", m.of, [head for head, _ in rows])
    free = {"service", "redis", "version", "le"}  # their values are not ours
    elsewhere = {("sluice_streams_owned", "state"), ("sluice_worker_errors_total", "code"), ("sluice_event_loop_lag_seconds", "loop"),
                 ("sluice_redis_connections", "state")}
    bad = []
    for name, body in rows:
        kind, labels = m.of[name]
        first = body[0]
        told = re.sub(r"^\w+(; labels? )?", "", first).rstrip(".").split(", ") if ";" in first else []
        if not first.startswith(kind.capitalize()) or set(told) != set(labels) - {"le"}:
            bad.append(f"{name}: {first!r}, the program says {kind} {sorted(labels)}")
        cm = {w for line in body if re.match(r"\.(Pq )?Cm ", line) for w in words(line.split("Cm ", 1)[1])}
        values = {v for k, vs in labels.items() if k not in free and (name, k) not in elsewhere for v in vs}
        more = {v for k, vs in labels.items() if (name, k) in elsewhere for v in vs}
        if values - cm or cm - values - more:
            bad.append(f"{name}: only the program has {sorted(values - cm)}, only the page has {sorted(cm - values - more)}")
    assert not bad, "\n".join(bad)


def test_words_of_the_protocols_are_in_the_pages(t):
    m = live_metrics(t)
    errors = [(head, body) for (head,), body in items(section("sluice-worker.7", "Errors"), "Cm")]
    same("codes in sluice-worker(7)", m.values("sluice_worker_errors_total", "code"), [h for h, _ in errors])
    fatal = dict(re.findall(r'\{"(\w+)", (true|false)\}', source("codec/frame_encode.c")))
    text = "\n".join(section("sluice-worker.7", "Errors"))
    same("fatal codes", {k for k, v in fatal.items() if v == "true"}, [h for (h,), _ in items(text.split("Others:")[0].splitlines(), "Cm")])
    frames = [h for (h,), _ in items(section("sluice-worker.7", "From the daemon"), "Cm")]
    same("frames of the daemon", re.findall(r'\\?"t\\?":\\?"(\w+)\\?"', source("codec/frame_encode.c")), frames)
    from_worker = {w for (h,), _ in items(section("sluice-worker.7", "From the worker"), "Cm") for w in words(h)}
    names = re.search(r"names\[FRAME_UNKNOWN\] = \{(.*?)\}", source("codec/frame.c"), re.S)[1]
    same("frames of the worker", re.findall(r'"(\w+)"', names), from_worker)
    revoke = next(b for (h,), b in items(section("sluice-worker.7", "From the daemon"), "Cm") if h == "revoke")
    same("reasons of a revoke", m.values("sluice_worker_revokes_total", "reason"),
         [w for line in revoke if line.startswith(".Cm ") for w in words(line[4:])][1:])
    ls = next(b for (h,), b in items(section("sluicectl.1", "Looking"), "Cm") if h.startswith("ls "))
    same("states in sluicectl(1)", m.values("sluice_streams_owned", "state"),
         [w for line in ls if line.startswith(".Cm ") for w in words(line[4:])])
    told = next(b for (h,), b in items(section("sluicectl.1", "JSON"), "Cm") if h == "explain")
    told = told[:next(i for i, line in enumerate(told) if line.startswith(".Li id"))]
    explains = source(*(f for f in files("run/control") if "explain" in f))
    same("further states of explain", {
        a or b for a, b in re.findall(r'\.state = "(\w+)"|aside_row\(.*?"(\w+)"', explains)} - set(m.values("sluice_streams_owned", "state")),
         [w for line in told if line.startswith(".Cm ") for w in words(line[4:])])
    reasons = " ".join(section("sluicectl.1", "Steering")).split("The filters of")[1].split("Pq Cm ")[1].split(" ,  .Fl")[0]
    same("reasons in sluicectl(1)", m.values("sluice_dead_letters_total", "reason"), words(reasons.split(".Fl")[0]))


# ---- etc/

def test_alerts_and_dashboard_ask_for_metrics_that_exist(t):
    m = live_metrics(t)
    with open(os.path.join(ROOT, "etc", "prometheus-alerts.yml")) as f:
        alerts = f.read()
    with open(os.path.join(ROOT, "etc", "grafana-dashboard.json")) as f:
        board = json.load(f)
    exprs = [a or b for a, b in re.findall(r"expr: (?:\|\n((?: {10,}.*\n)+)|(.+)\n)", alerts)]
    recorded = re.findall(r"- record: (\S+)", alerts)
    assert len(exprs) > 15 and len(exprs) == alerts.count("- alert:") + len(recorded)
    n = len(exprs)
    exprs += everything(board, "expr") + everything(board, "query") + everything(board, "definition")
    assert len(exprs) > n + 30
    bad, used = [], set()
    for e in exprs:
        labels = set()
        for name in recorded:
            e = re.sub(rf"\b{name}\b", "", e)
        for name in re.findall(r"\bsluice_\w+", e):
            base = name if name in m.of else re.sub(r"_(bucket|sum|count)$", "", name)
            used.add(base)
            if base not in m.of or (base != name) != (m.of[base][0] == "histogram"):
                bad.append(f"{name}: {e}")
                continue
            labels |= set(m.of[base][1])
            for selector in re.findall(rf"{name}\{{([^}}]*)\}}", e):
                for k, v in re.findall(r'(\w+)\s*=\s*"([^"$]*)"', selector):
                    if k not in ("job", "instance") and v not in m.of[base][1].get(k, ()):
                        bad.append(f"{name}{{{k}={v!r}}}: {e}")
        for by in re.findall(r"\b(?:by|on|without) ?\(([^)]*)\)", e):
            bad += [f"by {k}: {e}" for k in re.split(r",\s*", by) if k not in labels | {"instance", "job", ""}]
    assert not bad, "\n".join(bad)
    assert len(used) > 30, sorted(set(m.of) - used)


def everything(v, key):
    """All strings under that key, anywhere in parsed JSON."""
    if isinstance(v, dict):
        return [x for k, y in v.items() for x in ([y] if k == key and isinstance(y, str) else everything(y, key))]
    return [x for y in v for x in everything(y, key)] if isinstance(v, list) else []


@limit(30)
def test_promtool_reads_the_alerts_and_the_metrics(t):
    """Only when it is installed (Debian: prometheus)."""
    if not shutil.which("promtool"):
        print("= promtool is not installed: etc/prometheus-alerts.yml and /metrics are not given to it")
        return
    r = t.run(["promtool", "check", "rules", os.path.join(ROOT, "etc", "prometheus-alerts.yml")])
    assert r.returncode == 0, r.stdout + r.stderr
    d = t.daemon(t.redis())
    t.wait(lambda: "sluice_handoffs_total{" in d.ctl_ok("metrics"), 10, "a first snapshot")
    r = subprocess.run(["promtool", "check", "metrics"], input=d.ctl_ok("metrics"), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert r.returncode == 0 and not r.stdout, r.stdout
