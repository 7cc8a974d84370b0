#!/usr/bin/python3
"""Runs the system tests: every test_* function of tests/system/test_*.py, each in a process of its own.

  run.py [--build DIR] [--only PATTERN] [--issues 2,3] [--list] [--jobs N] [--log-dir DIR] [--scale X] [--long]

--long: those of tests/system/long_*.py instead, which take minutes of real time each (make long).

Needs sluiced, sluicectl, sluice-run in DIR (or $SLUICE_BUILD; default build/) and redis-server ($SLUICE_REDIS_SERVER: another
program for it). With $SLUICE_TEST_ACL=1 daemons log in as the Redis user of etc/sluiced.acl (lib/acl.py). A test fails when it raises, runs
out of time, or leaves a sanitizer report. Exit status 0 = all passed, 1 = some failed, 2 = nothing selected."""
import argparse
import concurrent.futures
import fnmatch
import glob
import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True
from lib.sanitizers import environment, reports  # noqa: E402
LIMIT = 90
at_work = set()  # the processes of the tests that run now
is_ending = threading.Event()
root = None  # the directory that holds those of the tests


def discover(kind="test"):
    """[(name, function or script, issue, seconds)]; kind: what the files' names begin with."""
    out = []
    for path in sorted(glob.glob(os.path.join(HERE, f"{kind}_*.py"))):
        name = os.path.basename(path)[:-3]
        with open(path) as f:
            if "\nissue = " not in f.read():  # a script of its own: SCRIPT BUILD_DIR
                out.append(("script." + name[5:], path, 2, 300))
                continue
        mod = importlib.import_module(name)
        out += [(f"{mod.__name__[5:]}.{n[5:]}", f, getattr(f, "issue", mod.issue), getattr(f, "limit", LIMIT))
                for n, f in vars(mod).items() if n.startswith("test_") and callable(f)]
    return out


def child(name, dir):
    """One test, in this process."""
    from lib.case import Case
    from lib.daemon import program
    f = next(f for n, f, _, _ in [*discover(), *discover("long")] if n == name)
    if isinstance(f, str):
        env = {k: v for k, v in os.environ.items() if not k.startswith("SLUICE_")}
        os.execve(sys.executable, [sys.executable, f, os.path.dirname(program("sluiced"))], env)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("out of time"))
    t, rc = Case(dir), 0
    if getattr(f, "no_acl", None):
        os.environ.pop("SLUICE_TEST_ACL", None)
    try:
        f(t)
        t.nothing_denied()
    except BaseException:
        traceback.print_exc()
        rc = 1
    t.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(rc)


def tail(path, n):
    with open(path, errors="replace") as f:
        return "".join(f.readlines()[-n:])


def not_logs(dir, names):
    """What a copy of a test's directory goes without: Redis' data, sockets and pipes."""
    return [n for n in names if n.endswith((".aof", ".rdb"))
            or not (os.path.isfile(p := os.path.join(dir, n)) or os.path.isdir(p))]


def run_one(test, root, scale, log_dir):
    name, _, _, limit = test
    if is_ending.is_set():
        threading.Event().wait()
    dir = tempfile.mkdtemp(prefix="t", dir=root)  # short: unix socket paths
    env = dict(os.environ, **environment(dir), TMPDIR=dir, PYTHONDONTWRITEBYTECODE="1")
    out, start = os.path.join(dir, "out"), time.monotonic()
    with open(out, "wb") as f:
        p = subprocess.Popen([sys.executable, os.path.join(HERE, "run.py"), "--child", name, "--dir", dir], stdin=subprocess.DEVNULL,
                             stdout=f, stderr=f, env=env, start_new_session=True)
        at_work.add(p)
        try:
            rc = p.wait(limit * scale)
        except subprocess.TimeoutExpired:
            rc = f"out of time ({limit * scale:g} s)"
            p.terminate()  # it prints where it is
            try:
                p.wait(10)
            except subprocess.TimeoutExpired:
                pass
    try:
        os.killpg(p.pid, signal.SIGKILL)  # its own group: what it started and did not end
    except ProcessLookupError:
        pass
    p.wait()
    at_work.discard(p)
    bad, text = reports(dir), ""
    if rc or bad:
        text = f"--- {name}: {rc if rc else 'sanitizer report'}\n{tail(out, 40)}"
        for path in bad[:2]:
            text += f"--- {os.path.basename(path)}\n{tail(path, 60)}"
        for path in sorted(glob.glob(f"{dir}/*/log")):
            text += f"--- {path[len(dir) + 1:]}\n{tail(path, 15)}"
    else:
        with open(out, errors="replace") as f:  # measured figures
            text = "".join(x for x in f if x.startswith("= "))
    if log_dir:
        shutil.copytree(dir, os.path.join(log_dir, name), dirs_exist_ok=True, ignore_dangling_symlinks=True, ignore=not_logs)
    shutil.rmtree(dir, ignore_errors=True)
    return name, not (rc or bad), time.monotonic() - start, text


def interrupted(number, _):
    """Ends every test that runs; each ends what it started. The rest is not begun."""
    is_ending.set()
    for p in list(at_work):
        p.terminate()
    for p in list(at_work):
        try:
            p.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(p.pid, signal.SIGKILL)
    shutil.rmtree(root, ignore_errors=True)
    print(f"interrupted by {signal.Signals(number).name}", flush=True)
    os._exit(128 + number)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build")
    p.add_argument("--only", action="append", default=[], help="glob or part of the name; may be repeated")
    p.add_argument("--issues", default="", help="only tests that belong to these, e.g. 2,3")
    p.add_argument("--list", action="store_true")
    p.add_argument("--jobs", type=int, default=5)
    p.add_argument("--log-dir")
    p.add_argument("--scale", type=float, default=float(os.environ.get("SLUICE_TEST_SCALE", 1)), help="stretches the time limits")
    p.add_argument("--long", action="store_true", help="long_*.py instead of test_*.py")
    p.add_argument("--no-second-try", action="store_true", help="a test that fails beside others is not run again alone")
    p.add_argument("--child", help=argparse.SUPPRESS)
    p.add_argument("--dir", help=argparse.SUPPRESS)
    o = p.parse_args()
    for sig in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(sig, signal.SIG_DFL)  # a job in the background ignores them, and what it starts does too
    if o.child:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        child(o.child, o.dir)
    if o.build:
        os.environ["SLUICE_BUILD"] = os.path.abspath(o.build)
    issues = {int(i) for i in o.issues.split(",") if i}
    tests = [t for t in discover("long" if o.long else "test") if (not issues or t[2] in issues)
             and (not o.only or any(fnmatch.fnmatch(t[0], x) or x in t[0] for x in o.only))]
    if o.list:
        for name, _, issue, limit in tests:
            print(f"{name}  issue={issue} limit={limit}s")
        return 0
    if not tests:
        print("no test selected")
        return 2
    if o.log_dir:
        os.makedirs(o.log_dir, exist_ok=True)
    global root
    root, failed = tempfile.mkdtemp(prefix="sl"), []
    for sig in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(sig, interrupted)
    tests.sort(key=lambda t: -t[3])
    try:
        with concurrent.futures.ThreadPoolExecutor(o.jobs) as pool:
            jobs = [pool.submit(run_one, t, root, o.scale, o.log_dir) for t in tests]
            for j in concurrent.futures.as_completed(jobs):
                name, ok, secs, text = j.result()
                print(f"{text}ok {name} ({secs:.1f})" if ok else f"{text}FAILED {name} ({secs:.1f})", flush=True)
                if not ok:
                    failed.append(name)
        again, failed = ([] if o.no_second_try else failed), (failed if o.no_second_try else [])
        for t in [t for t in tests if t[0] in again]:  # these tests tell time: once more, alone, before it counts
            name, ok, secs, text = run_one(t, root, o.scale, o.log_dir)
            print(f"ok {name} ({secs:.1f}) alone, after it had failed beside others" if ok
                  else f"{text}FAILED {name} ({secs:.1f}) twice", flush=True)
            if not ok:
                failed.append(name)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    for name in failed:
        print(f"FAILED {name}")
    print(f"{len(tests) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
