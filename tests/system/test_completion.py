"""The completions of etc/completion, each in its own shell: they know every verb, word and option that `sluicectl --help` does, and
what services, streams and workers are called is quoted, never run."""
import os
import re
import shlex

from lib import manual
from lib.case import limit
from lib.checks import Added
from lib.daemon import ROOT, program
from lib.manual import section

issue = 17
COMPLETION = os.path.join(ROOT, "etc", "completion")
ZSH = """
compadd() { [[ $1 == -a ]] && print -rl -- ${(P)2} || print -rl -- $@ }
_describe() { local -a rows=(${(P)@[-1]}); print -rl -- ${rows%%:*} }
_message() { }
_files() { print -r -- FILES }
"""


def in_bash(*line):
    words = " ".join(shlex.quote(w) for w in line)
    return ["bash", "-c", f"source {COMPLETION}/sluicectl.bash; COMP_WORDS=({words}); COMP_CWORD={len(line) - 1}; "
            "_sluicectl; printf '%s\\n' \"${COMPREPLY[@]}\""]


def in_zsh(*line):
    words = " ".join(shlex.quote(w) for w in line)
    return ["zsh", "-f", "-c", f"{ZSH}words=({words}); CURRENT={len(line)}; source {COMPLETION}/_sluicectl"]


def in_fish(*line):
    words = " ".join(line[:-1] + (line[-1],))
    return ["fish", "-N", "-c", f"source {COMPLETION}/sluicectl.fish; complete -C {shlex.quote(words)}"]


SHELLS = {"bash": in_bash, "zsh": in_zsh, "fish": in_fish}


def completed(t, shell, *line, begins=True):
    """What the shell offers for the last word of the line; only what begins like it, when `begins`."""
    env = dict(os.environ, PATH=f"{program('')}:{os.environ['PATH']}", HOME=t.dir, XDG_CONFIG_HOME=t.dir)
    r = t.run(SHELLS[shell]("sluicectl", *line), cwd=t.dir, env=env)
    assert not r.stderr, (shell, line, r.stderr)
    offers = {x.split("\t")[0] for x in r.stdout.splitlines() if x}
    return {x for x in offers if x.startswith(line[-1])} if begins else offers


def options_of(t, verb):
    return set(re.findall(r"^  (--[a-z-]+)", t.run([program("sluicectl"), "help", *verb.split()]).stdout, re.M))


def following(verbs, *given):
    n = len(given)
    return {v.split()[n] for v in verbs if v.split()[:n] == list(given) and len(v.split()) > n}


@limit(180)
def test_every_verb_and_option_in_every_shell(t):
    verbs = manual.verbs(t)
    assert len(verbs) > 20 and "dlq replay" in verbs
    for shell in SHELLS:
        assert completed(t, shell, "") == following(verbs) | {"help"}, shell
        assert completed(t, shell, "help", "") - {"help"} == following(verbs), shell
        for first in {v.split()[0] for v in verbs if " " in v}:
            assert completed(t, shell, first, "") == following(verbs, first), (shell, first)
            assert completed(t, shell, "--timeout", "1s", "help", first, "") == following(verbs, first), (shell, first)
        for verb in verbs:
            assert completed(t, shell, *verb.split(), "--") == options_of(t, verb), (shell, verb)
        assert completed(t, shell, "--json", "top") == {"top", "topology"}, shell
        assert not completed(t, shell, "dlq", "ls", "orders", ""), f"{shell}: nothing follows the service"


@limit(60)
def test_values_are_those_of_the_manual(t):
    for shell in SHELLS:
        for option, verb, title in (("--state", ["ls"], "Looking"), ("--reason", ["dlq", "ls"], "Steering")):
            offered = completed(t, shell, *verb, option, "")
            text = " ".join(section("sluicectl.1", title))
            assert len(offered) >= 5 and all(re.search(rf"\b{w}\b", text) for w in offered), (shell, option, offered)
        assert "10s" in completed(t, shell, "--timeout", ""), shell
        assert completed(t, shell, "--socket", "/", begins=False), f"{shell}: files"


@limit(60)
def test_names_come_from_the_daemon_and_are_only_quoted(t):
    """Workers and streams choose their names."""
    d = t.daemon(t.redis())
    trap = t.path("trap")
    names = [f"$(touch {trap})", f"`touch {trap}`", f"'; touch {trap}; '", "two words", "a*", "plain:1"]
    w = [t.worker(d, name=n, credits=1) for n in names]
    Added(d.redis.db).many("orders", names)
    for x in w:
        x.wait("assign")
    env = dict(os.environ, PATH=f"{program('')}:{os.environ['PATH']}", HOME=t.dir, XDG_CONFIG_HOME=t.dir)
    for line in (["revoke"], ["release"], ["ls", "--stream"], ["ls", "--service"], ["add"]):
        want = {"orders"} if line[-1] in ("--service", "add") else set(names)
        if line == ["ls", "--stream"]:
            line = ["dlq", "ls", "orders", "--stream"]
        for shell in SHELLS:
            script = SHELLS[shell]("sluicectl", "--socket", d.control_sock, *line, "")
            if shell == "bash":  # as the shell does when the line is entered
                script[-1] = script[-1].rsplit(";", 1)[0] + "; eval \"printf '%s\\n' ${COMPREPLY[*]}\""
            r = t.run(script, cwd=t.dir, env=env)
            assert not os.path.exists(trap), f"{shell} {line}: a name was run as a command"
            assert set(r.stdout.splitlines()) == want, (shell, line, r.stdout, r.stderr)
