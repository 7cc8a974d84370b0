"""By hand: what the programs say to somebody who types, and names that tell workers apart."""
import os
import re
import socket

from lib.checks import Added
from lib.daemon import program

issue = 12


def check(t, text, env=None, *args):
    p = t.path("c.yaml")
    with open(p, "w") as f:
        f.write(text)
    return t.run([program("sluiced"), "-c", p, "--check", *args], env=dict(os.environ, POD_NAME="n1", **(env or {})))


def test_h_is_help(t):
    r = t.run([program("sluiced"), "-h"])
    assert r.returncode == 0 and "usage: sluiced" in r.stdout and not r.stderr


def test_an_empty_path_is_no_path(t):
    for args in (["-c", ""], ["--config="], ["-c"]):
        r = t.run([program("sluiced"), *args])
        assert r.returncode == 64 and r.stderr.endswith("needs a value\n") and r.stderr.count("\n") == 1, (args, r)


def test_check_looks_at_the_password_file(t):
    r = check(t, "services: [{name: a}]\nredis: {password: {file: /no/such/file}}\n")
    assert r.returncode == 78 and "redis.password.file: /no/such/file: No such file" in r.stderr, r
    with open(t.path("pw"), "w") as f:
        f.write("x")
    r = check(t, f"services: [{{name: a}}]\nredis: {{password: {{file: {t.path('pw')}}}}}\n")
    assert r.returncode == 0 and not r.stderr, r


def test_check_tells_what_the_start_would(t):
    """Each in one line, with its place; what the daemon may find elsewhere is a warning."""
    open(t.path("empty"), "w").close()
    for redis, words in {
            f"password: {{file: {t.dir}}}": "2:26: redis.password.file: .*: Is a directory",
            f"password: {{file: {t.path('empty')}}}": "2:26: redis.password.file: .*: is empty",
            "tls: {enabled: true, ca_file: /no/such}": "2:39: redis.tls.ca_file: /no/such: No such file",
            f"tls: {{enabled: true, ca_file: {t.path('empty')}}}": "2:39: redis.tls.ca_file: .*: no usable certificate",
            "tls: {enabled: true, cert_file: /no/c, key_file: /no/k}": "2:41: redis.tls.cert_file: /no/c: No such file",
            "topology: sentinel, endpoints: ['a:1'], sentinel: {master: m, password: {file: /no/p}}":
            "2:88: redis.sentinel.password.file: /no/p: No such file"}.items():
        r = check(t, f"services: [{{name: a}}]\nredis: {{{redis}}}\n")
        assert r.returncode == 78 and not r.stdout and r.stderr.count("\n") == 1, (redis, r)
        assert re.search(rf"\.yaml:{words}", r.stderr), (redis, r.stderr)
        if "sentinel" in redis:
            continue  # read for each connection
        r = t.run([program("sluiced"), "-c", t.path("c.yaml")], env=dict(os.environ, POD_NAME="n1"))
        assert r.returncode == 78 and re.search(rf"\.yaml:{words}", r.stderr) and r.stderr.count("\n") == 1, ("the start", redis, r)
    for secret, words in {"env: NO_SUCH": "password.env: the variable NO_SUCH is not set",
                          "credential: x": "password.credential: $CREDENTIALS_DIRECTORY is not set"}.items():
        r = check(t, f"services: [{{name: a}}]\nredis: {{password: {{{secret}}}}}\n", {"CREDENTIALS_DIRECTORY": ""})
        assert r.returncode == 0 and words in r.stderr and "may find it" in r.stderr, (secret, r)


def test_a_service_named_like_its_stream_is_warned_of(t):
    r = check(t, "services: [{name: orders-input}]\n")
    assert r.returncode == 0 and "did you mean orders?" in r.stderr, r
    d = t.daemon(t.redis(), services=("orders-input",))
    assert "did you mean orders?" in d.log


def test_one_underscore(t):
    r = check(t, "services: [{name: a}]\n", {"SLUICED_LOG_LEVEL": "debug"})
    assert r.returncode == 78 and "SLUICED_LOG__LEVEL" in r.stderr, r


def test_everything_in_the_environment(t):
    r = t.run([program("sluiced"), "-c", "/dev/null", "--check"], env=dict(os.environ, POD_NAME="n1", SLUICED_SERVICES__0__NAME="a"))
    assert r.returncode == 0, r


def test_an_ambiguous_name_is_refused_with_the_list(t):
    r = t.redis()
    d = t.daemon(r)
    ws = [t.worker(d, name="sleep:1", credits=1) for _ in range(3)]
    Added(r.db).many("orders", ["a", "b", "c"])
    for w in ws:
        w.wait("assign")
    sessions = [x["session"] for x in d.json("workers")]
    a = d.ctl("revoke", "sleep:1")
    assert a.returncode == 1 and all(s in a.stderr for s in sessions), a.stderr
    assert not any(w.frames("revoke") for w in ws), "nothing was done"
    assert d.ctl("revoke", sessions[0]).returncode == 0
    t.wait(lambda: sum(len(w.frames("revoke")) for w in ws) == 1, 5)


def test_sluice_run_names_itself_apart(t):
    d = t.daemon(t.redis())
    for pod in ("pod-a", "pod-b", None):
        env = {k: v for k, v in os.environ.items() if k != "POD_NAME"}
        env.update({"POD_NAME": pod} if pod else {})
        from lib.servers import spawn
        p = spawn([program("sluice-run"), "-s", d.worker_sock, "--", "/bin/sleep", "9"], t.path("log"), env=env)
        t.ending(p.kill)
    t.wait(lambda: len(d.json("workers")) == 3, 10)
    names = sorted(x["name"] for x in d.json("workers"))
    assert len(set(names)) == 3 and sum(n.startswith("sleep@pod-a:") for n in names) == 1, names
    assert any(n.startswith(f"sleep@{socket.gethostname()[:60]}:") for n in names), names
