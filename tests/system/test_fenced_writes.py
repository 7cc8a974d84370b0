"""The snippets of src/doc/fenced-writes.md against real servers: an owner with a lower token changes nothing."""
import glob
import os
import pwd
import re
import shutil
import sqlite3
import subprocess
import tempfile
import threading

from lib.case import limit, no_acl
from lib.daemon import ROOT
from lib.servers import die_with_parent

issue = 18
OLD, NEW = "1700000000000000001", "1700000000000000002"  # as floating-point numbers they are one
LARGEST = "9" * 19


def snippet(name):
    with open(os.path.join(ROOT, "src", "doc", "fenced-writes.md")) as f:
        found = re.findall(rf"```\w+ {name}\n(.*?)```", f.read(), re.S)
    assert len(found) == 1, f"{len(found)} snippets are called {name}"
    return found[0].strip()


def held_to(write, read):
    """write(token, value) -> was it let through?"""
    assert write(OLD, "1") and read() == "1"
    assert write(OLD, "2") and read() == "2", "the same owner writes again"
    assert write(NEW, "3") and read() == "3", "a later owner"
    assert not write(OLD, "4") and read() == "3", "an earlier owner that has woken up"
    assert write(LARGEST, "5") and read() == "5"
    assert not write(NEW, "6") and read() == "5"


@no_acl("the user of etc/sluiced.acl may not EVAL on the user's own keys")
def test_redis(t):
    db = t.redis().db
    script = snippet("redis-record")
    held_to(lambda token, v: db.cmd("EVAL", script, 1, "orders:7", token, "total", v) == 1, lambda: db.cmd("HGET", "orders:7", "total"))
    beside = snippet("redis-beside")
    held_to(lambda token, v: db.cmd("EVAL", beside, 2, "{orders:8}:lines", "{orders:8}:token", token, v) == 1,
            lambda: db.cmd("LINDEX", "{orders:8}:lines", -1))
    assert db.cmd("LRANGE", "{orders:8}:lines", 0, -1) == ["1", "2", "3", "5"]


def test_redis_cluster(t):
    c = t.cluster()
    beside = snippet("redis-beside")
    held_to(lambda token, v: c.db.cmd("EVAL", beside, 2, "{orders:8}:lines", "{orders:8}:token", token, v) == 1,
            lambda: c.db.cmd("LINDEX", "{orders:8}:lines", -1))


def test_sqlite(t):
    if sqlite3.sqlite_version_info < (3, 24):
        print(f"= skipped: SQLite {sqlite3.sqlite_version} is too old for ON CONFLICT DO UPDATE")
        return
    db = sqlite3.connect(t.path("db"))
    db.execute(snippet("sqlite-table"))
    row = snippet("sqlite-row")

    def write(token, v):
        with db:
            return db.execute(row, ("7", v, token)).rowcount == 1
    held_to(write, lambda: str(db.execute("SELECT total FROM orders WHERE id = '7'").fetchone()[0]))


class Postgres:
    """A server of its own on a Unix socket only. It does not run as root: then as the user of its package, else nobody."""

    def __init__(self, t):
        self.bin = self.find()
        if not self.bin:
            return
        self.dir = tempfile.mkdtemp(prefix="sluice-pg", dir="/tmp")  # not in ours: another user must reach it
        t.ending(lambda: shutil.rmtree(self.dir, ignore_errors=True))
        self.user = {}
        if os.getuid() == 0:
            names = {p.pw_name for p in pwd.getpwall()}
            self.user = {"user": "postgres" if "postgres" in names else "nobody", "extra_groups": []}
            os.chown(self.dir, pwd.getpwnam(self.user["user"]).pw_uid, -1)
        self.run("initdb", "-D", f"{self.dir}/data", "-U", "owner", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        with open(t.path("postgres.log"), "wb") as log:
            self.proc = subprocess.Popen([self.path("postgres"), "-D", f"{self.dir}/data", "-k", self.dir, "-c", "listen_addresses=", "-c", "fsync=off"],
                                         stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", preexec_fn=die_with_parent, **self.user)
        t.ending(self.end)
        t.wait(lambda: self.proc.poll() is None and self.psql("SELECT 1", check=False).returncode == 0, 30, "PostgreSQL is up", 0.1)

    @staticmethod
    def find():
        for d in [os.path.dirname(shutil.which("initdb") or "")] + sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True):
            if d and os.access(os.path.join(d, "initdb"), os.X_OK) and shutil.which("psql"):
                return d
        return None

    def path(self, name):
        return os.path.join(self.bin, name)

    def run(self, name, *args):
        r = subprocess.run([self.path(name), *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd="/", timeout=60, **self.user)
        assert r.returncode == 0, r.stdout + r.stderr

    def psql(self, text, check=True):
        r = subprocess.run(["psql", "-h", self.dir, "-U", "owner", "-d", "postgres", "-XAt", "-v", "ON_ERROR_STOP=1"], input=text, capture_output=True,
                           text=True, timeout=60)
        assert not check or r.returncode == 0, r.stderr
        return r

    def end(self):
        self.proc.terminate()
        self.proc.wait(20)


@limit(120)
def test_postgresql(t):
    pg = Postgres(t)
    if not pg.bin:
        print("= skipped: no PostgreSQL server here (Debian: postgresql)")
        return
    pg.psql(snippet("postgres-table") + snippet("postgres-fences"))
    row, fence = snippet("postgres-row"), snippet("postgres-fence")

    def write(token, v):
        return "INSERT 0 1" in pg.psql(f"PREPARE w AS {row};\nEXECUTE w('7', {v}, '{token}');").stdout
    held_to(write, lambda: pg.psql("SELECT total FROM orders WHERE id = '7';").stdout.strip())

    # several statements: the later owner waits for the earlier one's transaction, and that finds the higher token afterwards
    def transaction(token, v, pause=0):
        return pg.psql(f"PREPARE f AS {fence};\nBEGIN;\nEXECUTE f('s', '{token}');\nSELECT pg_sleep({pause});\n"
                       f"UPDATE orders SET total = {v}, token = '0' WHERE id = '7';\nCOMMIT;").stdout
    early = threading.Thread(target=transaction, args=[OLD, 11, 1])
    early.start()
    t.wait(lambda: pg.psql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep';").stdout.strip() == "1", 10, "the first has the lock")
    assert "INSERT 0 1" in transaction(NEW, 12)
    assert not early.is_alive() or early.join(1) is None
    assert pg.psql("SELECT total FROM orders WHERE id = '7';").stdout.strip() == "12"
    assert "INSERT 0 0" in pg.psql(f"PREPARE f AS {fence};\nBEGIN;\nEXECUTE f('s', '{OLD}');\nROLLBACK;").stdout


def test_the_manual_has_the_same(_t):
    """sluice-worker(7) shows the two short ones."""
    with open(os.path.join(ROOT, "man", "sluice-worker.7")) as f:
        page = f.read().split(".Ss Fenced writes")[1].split("\n.Ss ")[0]
    shown = [" ".join(x.split()) for x in re.findall(r"\.Bd -literal\n(.*?)\n\.Ed", page, re.S)]
    assert shown == [" ".join(snippet(n).split()) for n in ("redis-record", "postgres-row")], shown
