"""sluiced under test: configuration from a dict, own sockets, log, sluicectl."""
import copy
import json
import os
import signal
import socket
import subprocess

from lib import acl
from lib.servers import Process, spawn, wait_until

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))


def program(name):
    build = os.environ.get("SLUICE_BUILD") or os.path.join(ROOT, "build")
    return os.path.join(os.path.abspath(build), name)


# What goes back comes at once: most tests are not about waiting. Those that are say retry=DEFAULTS, or their own.
AT_ONCE = {"initial": 0, "release_delay": 0}
DEFAULTS = {"initial": "1s", "release_delay": "1s"}


def ms(n):
    return f"{round(n)}ms"


def timing(T):
    """Settings (service, redis, workers) for a lease of T seconds that keep every inequality; T = 10 is the defaults."""
    if T >= 10:
        return {"lease": {"ttl": ms(T * 1000)}, "recovery": {"min_idle": ms(max(30, 2 * T) * 1000)}}, {}, {}
    margin = max(1.0, T / 5)
    return ({"lease": {"ttl": ms(T * 1000), "stop_margin": ms(margin * 1000)}, "recovery": {"min_idle": ms(2000 * T)}},
            {"command_timeout": ms((T - margin - T / 3 * 1.1) * 900)}, {"resume_grace": ms(min(5, T / 2) * 1000)})


def merge(a, b):
    for k, v in b.items():
        a[k] = merge(a.get(k) or {}, v) if isinstance(v, dict) and isinstance(a.get(k, {}), dict) else v
    return a


def yaml(v, pad=""):
    """Block style for mappings and lists of mappings, JSON for the rest."""
    out = ""
    for k, x in v.items():
        if isinstance(x, dict) and x:
            out += f"{pad}{k}:\n{yaml(x, pad + '  ')}"
        elif isinstance(x, list) and x and isinstance(x[0], dict):
            out += f"{pad}{k}:\n" + "".join(f"{pad}  - {yaml(e, pad + '    ')[len(pad) + 4:]}" for e in x)
        else:
            out += f"{pad}{k}: {json.dumps(x, ensure_ascii=False)}\n"
    return out


def http(path, what):
    """(status, body) of a GET at the metrics' socket."""
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(10)
    s.connect(path)
    s.sendall(f"GET {what} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    data = b""
    while x := s.recv(65536):
        data += x
    s.close()
    head, _, body = data.decode().partition("\r\n\r\n")
    return int(head.split()[1]), body


class Daemon(Process):
    """`redis` is a Server, a Cluster or a list of endpoints. `service` is merged into every service, `cfg` into the
    whole configuration (lists replace). `wrap`: argv before the program."""

    def __init__(self, dir, name, redis, services=("orders",), T=10, service=None, cfg=None, node=None, env=None, args=(), wrap=()):
        self.dir, self.name, self.redis, self.T = os.path.join(dir, name), name, redis, T
        os.makedirs(self.dir, exist_ok=True)
        self.conf, self.log_path = self.path("sluiced.yaml"), self.path("log")
        self.worker_sock, self.control_sock = self.path("w.sock"), self.path("c.sock")
        self.env, self.args, self.wrap = dict(os.environ, **(env or {})), list(args), list(wrap)  # wrap: a command that starts it
        self.binary = None
        s, r, w = timing(T)
        endpoints = redis if isinstance(redis, list) else redis.endpoints
        self.cfg = {"node": {"id": node or name}, "redis": {"endpoints": endpoints, **r},
                    "services": [merge(merge({"name": n, "retry": dict(AT_ONCE)}, copy.deepcopy(s)), copy.deepcopy(service or {})) for n in services],
                    "workers": {"socket": self.worker_sock, **w}, "control": {"socket": self.control_sock},
                    "log": {"level": "debug", "format": "text"}}
        if getattr(redis, "password", None):
            self.cfg["redis"]["password"] = {"env": "TEST_REDIS_PASSWORD"}
            self.env["TEST_REDIS_PASSWORD"] = redis.password
        elif acl.SERVERS:
            self.cfg["redis"].update(username=acl.USER, password={"env": "TEST_REDIS_PASSWORD"})
            self.env.setdefault("TEST_REDIS_PASSWORD", acl.PASSWORD)
        merge(self.cfg, copy.deepcopy(cfg or {}))
        if acl.SERVERS and self.cfg["redis"].get("keyspace_events") == "require":
            self.cfg["redis"]["keyspace_events"] = "merge"  # the same connections; require needs CONFIG
        self.write()
        self.consumer = f"redis-consumer-{node or name}"

    def path(self, name):
        return os.path.join(self.dir, name)

    def write(self, **cfg):
        merge(self.cfg, cfg)
        with open(self.conf, "w") as f:
            f.write(yaml(self.cfg))
        acl.grant(self.cfg)

    def note_log(self):
        self.log_from = os.path.getsize(self.log_path) if os.path.exists(self.log_path) else 0

    def start(self, ready=True):
        self.note_log()
        self.proc = spawn([*self.wrap, self.binary or program("sluiced"), "-c", self.conf, *self.args], self.log_path, env=self.env, cwd=self.dir)
        if ready:
            self.wait_ready()
        return self

    def wait_ready(self, timeout=30):
        def is_ready():
            if self.proc.poll() is not None:
                raise AssertionError(f"sluiced {self.name} ended with {self.proc.returncode}: {self.log[-1500:]}")
            return self.ctl("status", "--ready").returncode == 0
        wait_until(is_ready, timeout, f"sluiced {self.name} ready", 0.03)

    @property
    def log(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def wait_log(self, text, timeout=10):
        wait_until(lambda: text in self.log, timeout, f"{text!r} in the log of {self.name}")

    def wait_log_times(self, text, n, timeout=10):
        wait_until(lambda: self.log.count(text) >= n, timeout, f"{n} × {text!r} in the log of {self.name}")

    def ctl(self, *args, timeout=20):
        return subprocess.run([program("sluicectl"), "--socket", self.control_sock, *map(str, args)], text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout,
                              env=self.env)

    def ctl_ok(self, *args, **kw):
        r = self.ctl(*args, **kw)
        assert r.returncode == 0, f"sluicectl {' '.join(map(str, args))}: {r.returncode} {r.stdout}{r.stderr}"
        return r.stdout

    def json(self, *args):
        """Parsed `sluicectl --json ARGS`: a list of the objects printed, one a line."""
        return [json.loads(line) for line in self.ctl_ok("--json", *args).splitlines() if line]

    def has_begun(self):
        """Has logged something since its start: before that a signal finds no handler yet."""
        return os.path.getsize(self.log_path) > self.log_from

    def stop(self, sig=signal.SIGTERM, timeout=15):
        """Sends `sig`, waits; the exit status."""
        self.signal(sig)
        return self.wait(timeout)

    def end(self):
        """The test is over. SLUICE_TEST_END=stop: not by SIGKILL, so that leaks are looked for and coverage is written."""
        if os.environ.get("SLUICE_TEST_END") == "stop" and self.is_running():
            self.cont()
            for wait in (5, 20):  # the second asks to end at once
                try:
                    self.stop(timeout=wait)
                    break
                except subprocess.TimeoutExpired:
                    pass
        self.kill()

    def restart(self, ready=True):
        self.kill()
        return self.start(ready)

    def handover(self, ready=True):
        assert self.stop() == 0
        return self.start(ready)


def everything_in(v):
    """All keys and scalars inside parsed JSON, as text: for checks that need no key names."""
    if isinstance(v, dict):
        return [s for k, x in v.items() for s in [k, *everything_in(x)]]
    if isinstance(v, list):
        return [s for x in v for s in everything_in(x)]
    return [str(v)]
