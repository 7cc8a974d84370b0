"""The Redis password: where it comes from, and where it is not: arguments, environment, logs, dumps, core files, memory but once."""
import os
import resource
import secrets
import signal
import subprocess

from lib import acl, servers
from lib.case import limit, no_acl
from lib.certs import Authority, tls_redis
from lib.checks import Added
from lib.daemon import program

issue = 7
SOURCES = ("file", "credential", "env")


def new_password():
    return "pw-" + secrets.token_hex(16)


def places(pid, secret):
    """[(mapping, flags of it)] for each time the secret, or a piece of it, stands in the memory of the process."""
    flags, name = {}, None
    with open(f"/proc/{pid}/smaps") as f:
        for line in f:
            if line.startswith("VmFlags:"):
                flags[name] = line.split()[1:]
            elif line[0] in "0123456789abcdef":
                name = line.strip()
    out, piece = [], secret[8:24].encode()
    with open(f"/proc/{pid}/mem", "rb", 0) as mem:
        for name, fl in flags.items():
            a, b = (int(x, 16) for x in name.split()[0].split("-"))
            if "rd" not in fl or "[vv" in name or b - a > 1 << 30:  # > 1 GiB: the shadow of a sanitizer
                continue
            mem.seek(a)
            try:
                data = mem.read(b - a)
            except OSError:
                continue
            out += [(name, fl)] * data.count(piece)
    return out


def one_place(t, d, secret):
    """Once, where core files leave it out: what the connections need to log in again."""
    found = []

    def once():
        found[:] = places(d.proc.pid, secret)
        return len(found) == 1
    try:
        t.wait(once, 5)
    except AssertionError:
        raise AssertionError(f"the password stands {len(found)} times in memory: {[x[0] for x in found]}") from None
    assert "dd" in found[0][1], found


def put(path, secret):
    with open(path, "w") as f:
        f.write(secret + "\n")
    os.chmod(path, 0o600)


def with_source(t, redis, kind, secret, cfg=None, **kw):
    """A daemon that has the password from a source of this kind."""
    d = t.daemon(redis, start=False, cfg=cfg, **kw)
    d.env.pop("TEST_REDIS_PASSWORD", None)
    d.env["LD_BIND_NOW"] = "1"  # as the release build is linked; a lazy look-up saves registers on the stack
    if kind == "env":
        d.env["PW_FOR_REDIS"] = secret
    elif kind == "credential":
        os.makedirs(t.path("creds"), exist_ok=True)
        put(t.path("creds/redis-pw"), secret)
        d.env["CREDENTIALS_DIRECTORY"] = t.path("creds")
    else:
        put(t.path("pw"), secret)
    d.cfg["redis"]["password"] = {kind: {"file": t.path("pw"), "credential": "redis-pw", "env": "PW_FOR_REDIS"}[kind]}
    d.write()
    return d


def output_of(d):
    """Everything the daemon and sluicectl show, at level debug."""
    seen = [d.log]
    for args in (["status"], ["ls"], ["workers"], ["nodes"], ["doctor"], ["topology", "refresh"], ["events"], ["metrics"], ["version"],
                 ["reload"], ["dlq", "ls", "orders"], ["explain", "s"]):
        for json in ([], ["--json"]):
            p = d.ctl(*json, *args)
            seen.append(p.stdout + p.stderr)
    for args in (["--check"], ["--dump-config"]):
        p = subprocess.run([program("sluiced"), "-c", d.conf, *args], text=True, env=d.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert p.returncode == 0, p.stdout
        seen.append(p.stdout)
    before = len(d.log)
    d.signal(signal.SIGUSR1)
    servers.wait_until(lambda: len(d.log) > before, 10, "the dump")
    return seen + [d.log[before:]]


@limit(90)
def test_password_is_nowhere_but_in_one_place(t):
    """From each source; after work, cut connections, a reload, and a change of the password."""
    for kind in SOURCES[:2] if "asan" in program("sluiced") else SOURCES:  # asan keeps the environment of the start
        secret = new_password()
        r = t.redis(password=secret)
        d = with_source(t, r, kind, secret).start()
        w = t.worker(d, credits=5, work=0)
        Added(r.db).many("orders", [f"s{i}" for i in range(20)])
        w.wait("ok", 20)
        one_place(t, d, secret)
        r.db.pipe([("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"), ("CLIENT", "KILL", "TYPE", "pubsub")])
        Added(r.db).one("orders", "after")
        w.wait("ok", 21, timeout=20)
        for text in output_of(d):
            assert secret not in text, f"{kind}: {next(x for x in text.splitlines() if secret in x)}"
        one_place(t, d, secret)
        with open(f"/proc/{d.proc.pid}/cmdline") as f:
            assert secret not in f.read()
        with open(f"/proc/{d.proc.pid}/environ") as f:
            env = f.read()
            assert "PATH=" in env and secret not in env
        if kind != "env":
            change(t, r, d, w, kind, secret)
        assert d.stop() == 0 and secret not in d.log


def change(t, r, d, w, kind, old, n_ok=22):
    new = new_password()
    r.db.cmd("CONFIG", "SET", "requirepass", new)
    r.db.password = r.password = new
    put(t.path("pw" if kind == "file" else "creds/redis-pw"), new)
    d.ctl_ok("reload")
    Added(r.db).one("orders", "new")
    w.wait("ok", n_ok)
    one_place(t, d, new)
    t.wait(lambda: not places(d.proc.pid, old), 5, "the old password is wiped")
    assert new not in d.log


@limit(60)
def test_password_in_a_cluster(t):
    """Four threads and a dozen connections share the one copy."""
    acl.switch_on()
    secret, c = acl.PASSWORD, t.cluster()
    d = with_source(t, c, "file", secret).start()
    w = t.worker(d, credits=50, work=0)
    Added(c.db).many("orders", [f"s{i}" for i in range(100)])
    w.wait("ok", 100)
    one_place(t, d, secret)
    assert secret not in d.log


@limit(60)
def test_password_over_tls(t):
    """Nor does a copy stay in OpenSSL's buffers; the key of the client certificate is another matter."""
    ca, secret = Authority(t.path("ca")), new_password()
    crt, key = ca.issue(f"IP:{servers.loopback()}")
    r, at = tls_redis(t, ca, (crt, key), password=secret)
    d = with_source(t, r, "file", secret)
    d.cfg["redis"]["endpoints"] = [at]
    d.write(redis={"tls": {"enabled": True, "ca_file": ca.crt}})
    d.start()
    w = t.worker(d, credits=5, work=0)
    Added(r.db).many("orders", [f"s{i}" for i in range(20)])
    w.wait("ok", 20)
    one_place(t, d, secret)
    change(t, r, d, w, "file", secret, n_ok=21)


def crash(d):
    """SIGABRT with core files allowed: the core file, None when there was none."""
    resource.prlimit(d.proc.pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
    d.signal(signal.SIGABRT)
    is_dumped = os.waitid(os.P_PID, d.proc.pid, os.WEXITED | os.WNOWAIT).si_code == os.CLD_DUMPED
    d.wait()
    if not is_dumped:
        return None
    with open(d.path(next(x for x in os.listdir(d.dir) if x.startswith("core"))), "rb") as f:
        return f.read()


@limit(60)
def test_core_files(t):
    """A core file has the names of the keys, not the password; with the key of a client certificate there is no core file."""
    with open("/proc/sys/kernel/core_pattern") as f:
        if f.read().strip() != "core":
            print("= skipped: core files do not go to the working directory here")
            return
    ca, secret = Authority(t.path("ca")), new_password()
    crt, key = ca.issue(f"IP:{servers.loopback()}")
    r, at = tls_redis(t, ca, (crt, key), password=secret)
    core = crash(with_source(t, r, "file", secret).start())
    assert core and b"orders-input" in core and secret.encode() not in core and secret[8:24].encode() not in core
    d = with_source(t, r, "env", secret)
    d.cfg["redis"]["endpoints"] = [at]
    d.write(redis={"tls": {"enabled": True, "ca_file": ca.crt, "cert_file": crt, "key_file": key}})
    assert crash(d.start()) is None


@limit(60)
@no_acl("about the default user's password")
def test_server_that_quotes_the_password(t):
    """An unknown command is answered with its arguments: without HELLO, and without AUTH too."""
    for renamed, says in ((["HELLO"], None), (["HELLO", "AUTH"], "refused: ")):
        secret = new_password()
        r = t.redis(start=False, args=["--requirepass", secret, *[x for n in renamed for x in ("--rename-command", n, f"{n}-x")]])
        r.launch()
        d = with_source(t, r, "file", secret)
        d.start(ready=says is None)
        d.wait_log(says or "no RESP3: ")
        assert secret not in d.log, [x for x in d.log.splitlines() if secret in x]
