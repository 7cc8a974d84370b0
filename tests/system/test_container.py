"""The daemon as a container has it (etc/container, etc/kubernetes): the rootfs of scripts/make-rootfs, uid 65534, read-only, PID namespaces
of their own for it and for its workers. Without root or namespaces nothing is tested, which is said."""
import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time

from lib import container
from lib.case import limit, no_acl
from lib.checks import Added
from lib.daemon import ROOT, http, program
from lib.servers import Process, spawn

issue = 17
NOBODY, WORKER, SHARED = 65534, 10001, 10002
HERE = os.path.dirname(os.path.abspath(__file__))


def containerfile():
    """{instruction: its last argument}; JSON is parsed."""
    with open(os.path.join(ROOT, "etc", "container", "Containerfile")) as f:
        lines = re.findall(r"^([A-Z]+) (.*)$", f.read().replace("\\\n", " "), re.M)
    return {k: json.loads(v[v.index("["):]) if "[" in v else v for k, v in lines}


def rootfs(t):
    """A new one; None where containers cannot be had."""
    if not container.is_possible():
        print("= not root, or no namespaces: containers are not tested")
        return None
    dir = t.path("rootfs")
    subprocess.run([os.path.join(ROOT, "scripts", "make-rootfs"), os.path.dirname(os.path.realpath(program("sluiced"))), dir], check=True)
    return dir


class Pod:
    """A daemon in its container, configured by its environment, and workers in theirs: they share a directory for the sockets, as an emptyDir
    with an fsGroup is shared, the host, and nothing else."""

    def __init__(self, t, root, redis, name, env=None, volume=None, preload=None, ids=f"{NOBODY}:{NOBODY}:{SHARED}", ident=None):
        self.t, self.root, self.name = t, root, ident or name
        self.run = volume or t.path(f"{self.name}-run")
        if not volume:
            os.makedirs(self.run)
            os.chown(self.run, 0, SHARED)
            os.chmod(self.run, 0o2770)
        for d in (os.path.dirname(t.dir), t.dir, os.path.dirname(redis.path)):
            os.chmod(d, 0o711)
        self.program = {}
        for p in ("sluiced", "sluice-run"):  # where any user reaches them
            self.program[p] = t.path(p)
            if not os.path.exists(t.path(p)):
                shutil.copy(program(p), t.path(p))
        os.chmod(redis.path, 0o777)
        self.env = {"POD_NAME": name, "SLUICED_SERVICES__0__NAME": "orders", "SLUICED_REDIS__ENDPOINTS": f"unix:{redis.path}",
                    "SLUICED_LOG__LEVEL": "debug", **(env or {})}
        if root == "/":
            self.env.update(SLUICED_WORKERS__SOCKET=f"{self.run}/worker.sock", SLUICED_CONTROL__SOCKET=f"{self.run}/control.sock")
        if preload:
            self.env["LD_PRELOAD"] = preload
        self.ids, self.volumes = ids, [f"{self.run}=/run/sluiced", os.path.dirname(redis.path)]
        argv = containerfile()["ENTRYPOINT"] if root != "/" else [self.program["sluiced"], "-c", "/dev/null"]
        self.daemon = self.start("daemon", root, ids, argv, self.env)
        self.workers = []

    def start(self, what, root, ids, argv, env):
        p = Process()
        p.log_path = self.t.path(f"{self.name}-{what}.log")
        p.proc = spawn([*container.argv(root, ids, self.volumes if root != "/" else ()), *argv], p.log_path, env=dict(env, PATH=os.environ["PATH"]))
        self.t.ending(p.kill)
        return p

    def ctl(self, *args):
        return subprocess.run([program("sluicectl"), "--socket", f"{self.run}/control.sock", *args], text=True, capture_output=True)

    def wait_ready(self):
        def is_ready():
            assert self.daemon.is_running(), open(self.daemon.log_path).read()[-2000:]
            return self.ctl("status", "--ready").returncode == 0
        self.t.wait(is_ready, 20, f"{self.name} ready")
        return self

    def exec(self, *argv):
        """What an exec probe or hook does in the daemon's container."""
        return subprocess.run([*container.argv(self.root, self.ids, self.volumes), *argv], text=True, capture_output=True)

    def worker(self, command, options=(), env=None):
        """sluice-run in another container: another PID namespace, another uid; the group of the volume is shared."""
        w = self.start(f"worker{len(self.workers)}", "/", f"{WORKER}:{WORKER}:{SHARED}",
                       [self.program["sluice-run"], "-s", f"{self.run}/worker.sock", *options, "--", *command], env or {})
        self.workers.append(w)
        return w

    def log(self):
        with open(self.daemon.log_path, errors="replace") as f:
            return f.read()

    def inner_pid(self):
        return children(self.daemon.proc.pid)[0]


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return [int(x) for x in f.read().split()]


@limit(60)
@no_acl("the settings of a pod are its environment's")
def test_started_by_its_environment_alone(t):
    if not (root := rootfs(t)):
        return
    r = t.redis()
    pod = Pod(t, root, r, "orders-0").wait_ready()
    image = containerfile()
    assert image["USER"] == f"{NOBODY}:{NOBODY}" and image["VOLUME"] == "/run/sluiced" and image["STOPSIGNAL"] == "SIGTERM"
    assert pod.exec(*image["HEALTHCHECK"]).returncode == 0
    status = open(f"/proc/{pod.inner_pid()}/status").read()
    assert re.search(rf"^Uid:\t{NOBODY}\t{NOBODY}", status, re.M) and re.search(r"^CapEff:\t0+$", status, re.M), status
    assert re.search(r"^NSpid:\t\d+\t1$", status, re.M), "PID 1 of its own namespace"
    for line in open(f"/proc/{pod.inner_pid()}/mountinfo"):
        where, how = line.split()[4:6]
        assert how.startswith("ro") or where == "/proc" or where in ("/run/sluiced", os.path.dirname(r.path)), line
    st = os.stat(f"{pod.run}/worker.sock")
    assert st.st_uid == NOBODY and st.st_gid == SHARED and stat.S_IMODE(st.st_mode) == 0o660
    pod.worker(["sh", "-c", "echo $(id -u) $$ $SLUICE_STREAM >&2"], ["-n", "4"])
    Added(r.db).many("orders", [f"s{i}" for i in range(40)])
    t.wait(lambda: r.db.cmd("XLEN", "orders-input") == 0, 20, "all done")
    assert all(x["pid"] == 0 and x["uid"] == WORKER for x in map(json.loads, pod.ctl("--json", "workers").stdout.splitlines()))
    assert "redis-consumer-orders-0" in str(r.db.cmd("XINFO", "CONSUMERS", "orders-input", "orders-group"))
    pod.daemon.signal(signal.SIGTERM)
    assert pod.daemon.wait(15) == 0
    assert pod.exec(*image["HEALTHCHECK"]).returncode != 0
    programs = sorted(f for f in os.listdir(root + "/usr/bin") + os.listdir(root + "/usr/sbin"))
    assert programs == ["sluice-run", "sluicectl", "sluiced"] and not os.path.exists(root + "/bin"), "no shell"
    assert not [f for _, _, files in os.walk(root + "/tmp") for f in files]


@limit(60)
@no_acl("the settings of a pod are its environment's")
def test_a_worker_that_dies_in_another_pid_namespace_is_missed_at_once(t):
    """Its connection ends and its pidfd says that it is dead: its stream does not wait for resume_grace."""
    if not (root := rootfs(t)):
        return
    r = t.redis()
    pod = Pod(t, root, r, "p").wait_ready()
    w = pod.worker(["sleep", "1000"])
    Added(r.db).one("orders", "s")
    t.wait(lambda: '"assigned"' in pod.ctl("--json", "ls").stdout, 10, "assigned")
    died_at = time.monotonic()
    os.kill(children(w.proc.pid)[0], signal.SIGKILL)
    t.wait(lambda: "died: its streams go back" in pod.log(), 10, "the daemon sees the death")
    assert time.monotonic() - died_at < 4, "resume_grace is 5 s"
    assert "older than Linux 6.5" not in pod.log()


SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <sys/socket.h>
int getsockopt(int fd, int level, int name, void *value, socklen_t *len)
{
	int (*real)(int, int, int, void *, socklen_t *) = (int (*)(int, int, int, void *, socklen_t *))dlsym(RTLD_NEXT, "getsockopt");
	if (level == SOL_SOCKET && name == 77) {
		errno = ENOPROTOOPT;
		return -1;
	}
	return real(fd, level, name, value, len);
}
"""


@limit(60)
@no_acl("the settings of a pod are its environment's")
def test_a_kernel_without_peerpidfd_is_told_of_once(t):
    """Then a dead worker in another PID namespace looks like one that may come back: resume_grace has to pass."""
    if not container.is_possible() or "asan" in os.path.realpath(program("sluiced")):  # a sanitizer wants to be the first that is loaded
        print("= not root, no namespaces, or a sanitizer: not tested")
        return
    with open(t.path("shim.c"), "w") as f:
        f.write(SHIM)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", t.path("shim.so"), t.path("shim.c"), "-ldl"], check=True)
    r = t.redis()
    pod = Pod(t, "/", r, "p", preload=t.path("shim.so"), ids=f"0:0:{SHARED}").wait_ready()
    w = [pod.worker(["sleep", "1000"]) for _ in range(3)]
    t.wait(lambda: len(pod.ctl("--json", "workers").stdout.splitlines()) == 3, 10, "three workers")
    assert pod.log().count("older than Linux 6.5") == 1
    Added(r.db).one("orders", "s")
    t.wait(lambda: '"assigned"' in pod.ctl("--json", "ls").stdout, 10, "assigned")
    died_at = time.monotonic()
    for x in w:
        x.kill()
    t.wait(lambda: '"limbo"' in pod.ctl("--json", "ls").stdout, 10, "it may come back")
    t.wait(lambda: '"limbo"' not in pod.ctl("--json", "ls").stdout, 20, "it does not")
    assert time.monotonic() - died_at > 4.5


def wrappers(t, root):
    """A build directory whose sluiced and sluicectl run in the rootfs as uid 65534, and whose sluice-run is in a PID namespace of its own
    under another uid; each test's own directory is their volume."""
    dir = t.path("programs")
    os.makedirs(dir)
    for d in (os.path.dirname(t.dir), t.dir):
        os.chmod(d, 0o711)
    shutil.copy(program("sluice-run"), t.path("sluice-run"))
    for name, ids, path in (("sluiced", f"{NOBODY}:{NOBODY}", "/usr/sbin/sluiced"), ("sluicectl", f"{NOBODY}:{NOBODY}", "/usr/bin/sluicectl"),
                            ("sluice-run", f"{WORKER}:{WORKER}:{NOBODY}", t.path("sluice-run"))):
        inside = container.argv("/" if name == "sluice-run" else root, ids)
        volumes = '"$TMPDIR"'
        with open(os.path.join(dir, name), "w") as f:
            f.write("#!/bin/sh\nchmod 711 \"${TMPDIR%/*}\"\nchmod -R a+rwX \"$TMPDIR\" 2>/dev/null\n"
                    f"exec {' '.join(map(shlex.quote, inside[:-2]))} {volumes} -- {path} \"$@\"\n")
        os.chmod(os.path.join(dir, name), 0o755)
    return dir


@limit(400)
def test_the_whole_main_job_in_the_rootfs(t):
    if not (root := rootfs(t)):
        return
    env = {k: v for k, v in os.environ.items() if k != "TMPDIR"}
    r = subprocess.run([sys.executable, os.path.join(HERE, "run.py"), "--build", wrappers(t, root), "--only", "main_job.*"], text=True,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env)
    assert r.returncode == 0, r.stdout
    print("= in the rootfs:", r.stdout.splitlines()[-1])


def manifest():
    """etc/kubernetes/statefulset.yaml: (environment of the sidecar, its preStop command, the worker's options, grace, probes' paths)"""
    text = subprocess.run(["/usr/bin/python3", "-c", "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))",
                           os.path.join(ROOT, "etc", "kubernetes", "statefulset.yaml")], check=True, text=True, stdout=subprocess.PIPE).stdout
    pod = json.loads(text)["spec"]["template"]["spec"]
    sidecar, worker = pod["initContainers"][0], pod["containers"][0]
    command = worker["command"]
    return ({e["name"]: e["value"] for e in sidecar["env"] if "value" in e}, sidecar["lifecycle"]["preStop"]["exec"]["command"],
            command[1:command.index("--")], pod["terminationGracePeriodSeconds"],
            {p: sidecar[p]["httpGet"]["path"] for p in ("startupProbe", "livenessProbe", "readinessProbe")})


def terminate(pod, pre_stop, grace):
    """As the kubelet ends a pod with a native sidecar: the sidecar's preStop and SIGTERM to the worker; when that has ended, SIGTERM to the
    sidecar; SIGKILL to what is left at the end of the grace. False: something had to be killed."""
    end = time.monotonic() + grace
    assert pod.exec(*pre_stop).returncode == 0
    well = True
    for p in [*pod.workers, pod.daemon]:
        p.signal(signal.SIGTERM)
        try:
            p.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            p.kill()
            well = False
    return well


@limit(240)
@no_acl("the settings of a pod are its environment's")
def test_ten_rolling_updates_with_the_manifests_settings(t):
    """Each pod of two is replaced five times under load, one after the other. A stream that takes longer than all of it is given back each
    time and never counted as failed; every other one is done, though what is given back begins anew."""
    if not (root := rootfs(t)):
        return
    env, pre_stop, options, grace, probes = manifest()
    r = t.redis()
    for k in ("SLUICED_REDIS__ENDPOINTS", "SLUICED_REDIS__PASSWORD__FILE"):
        env.pop(k)
    env["SLUICED_METRICS__LISTEN"] = "unix:/run/sluiced/metrics.sock"
    done = t.path("done")
    open(done, "w").close()
    os.chmod(done, 0o666)
    command = ["sh", "-c", f'sleep 0.$(($$ % 10)); [ "$SLUICE_STREAM" != long ] || while [ ! -e {t.path("go")} ]; do sleep 0.1; done; '
               f'echo "$SLUICE_STREAM $SLUICE_RETRY" >>{done}']

    def up(name, n):
        pod = Pod(t, root, r, f"orders-worker-{name}", env, ident=f"{name}.{n}")
        pod.worker(command, options)
        t.wait(lambda: http(f"{pod.run}/metrics.sock", probes["startupProbe"])[0] == 200, 20, "started")
        t.wait(lambda: http(f"{pod.run}/metrics.sock", probes["readinessProbe"])[0] == 200, 20, "ready")
        assert http(f"{pod.run}/metrics.sock", probes["livenessProbe"])[0] == 200
        return pod
    pods, added, took = [up(i, 0) for i in range(2)], Added(r.db), []
    n = 0
    added.one("orders", "long")
    for update in range(10):
        added.many("orders", [f"s{n + i}" for i in range(30)])
        n += 30
        i = update % 2
        t.wait(lambda: '"assigned"' in pods[i].ctl("--json", "ls").stdout, 20, "it works")
        began = time.monotonic()
        assert terminate(pods[i], pre_stop, grace), "ends by itself within the grace"
        took.append(time.monotonic() - began)
        pods[i] = up(i, update + 1)
    t.wait(lambda: r.db.cmd("XLEN", "orders-input") == 1, 40, "all done but one")
    open(t.path("go"), "w").close()
    t.wait(lambda: r.db.cmd("XLEN", "orders-input") == 0, 40, "all done")
    lines = open(done).read().split("\n")[:-1]
    assert len(set(lines)) == n + 1, (len(lines), n + 1)
    assert all(x.endswith(" 0") for x in lines), "no retry is counted"
    assert not r.db.cmd("EXISTS", "orders-input-dlq")
    print(f"= ten rolling updates: {n + 1} streams done, one of them across all, no retry counted; a pod ended within {max(took):.1f} s")


@limit(60)
@no_acl("the settings of a pod are its environment's")
def test_what_the_sidecar_page_says_to_type(t):
    """Its commands, with this test's Redis, folder and programs for those of the page."""
    if not container.is_possible():
        print("= not root, or no namespaces: src/doc/sidecar.md is not tried")
        return
    with open(os.path.join(ROOT, "src", "doc", "sidecar.md")) as f:
        page = f.read()
    block = re.search(r"<!-- tried by .*?-->\n```sh\n(.*?)```", page, re.S)[1]
    build, r = os.path.dirname(os.path.realpath(program("sluiced"))), t.redis()
    os.chmod(t.dir, 0o755)
    os.chmod(os.path.dirname(t.dir), 0o755)
    shutil.copy(program("sluice-run"), t.path("sluice-run"))
    for a, b in (("make && ", ""), ("build/release", build), ("scripts/", f"{ROOT}/scripts/"), ("/tmp/sluiced-root", t.path("root")),
                 ("127.0.0.1:6379", f"{r.host}:{r.port}"), ("build/sluicectl", program("sluicectl")), ("build/sluice-run", t.path("sluice-run"))):
        assert a in block, a
        block = block.replace(a, b)
    out = open(t.path("out"), "w")
    p = subprocess.Popen(["bash", "-euc", block + "sleep 60"], stdout=out, stderr=out, start_new_session=True)
    try:
        t.wait(lambda: "works on orders:7" in open(t.path("out")).read(), 30, "the work is done")
        t.wait(lambda: r.db.cmd("XLEN", "orders-input") == 0, 10, "and acknowledged")
    finally:
        os.killpg(p.pid, signal.SIGKILL)
        p.wait()
        print(open(t.path("out")).read())


def test_pages_of_the_sidecar_name_what_there_is(t):
    with open(os.path.join(ROOT, "src", "doc", "sidecar.md")) as f:
        page = f.read()
    for path in set(re.findall(r"\betc/[a-z]+(?:/[\w.-]+)?", page)):
        assert os.path.exists(os.path.join(ROOT, path)), path
    for name in re.findall(r"`(autoscaling-\w+\.yaml)`", page):
        assert os.path.exists(os.path.join(ROOT, "etc", "kubernetes", name)), name
    image = re.findall(r"sluiced:(\d+\.\d+\.\d+)", page + open(os.path.join(ROOT, "etc", "kubernetes", "statefulset.yaml")).read())
    assert len(set(image)) == 1, image
