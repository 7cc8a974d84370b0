"""What a container engine does, as far as sluiced notices: a program in a root file system of its own, read-only, under another uid, in a
PID namespace of its own, without capabilities. Needs root.

  container.py ROOTFS UID:GID[:GROUP…] VOLUMES -- PROGRAM ARG…

ROOTFS: / for none of its own. VOLUMES: directories that are writable in it, separated by commas: DIR, at the same path, or DIR=PATH. Signals are passed on,
and its end ends the program."""
import ctypes
import os
import signal
import subprocess
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
NEWNS, NEWPID = 0x00020000, 0x20000000
RDONLY, NOSUID, NODEV, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
PDEATHSIG, CAPBSET_DROP, NO_NEW_PRIVS = 1, 24, 38


def must(rc, what):
    if rc != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def mount(source, target, kind=None, flags=0, data=None):
    must(LIBC.mount(source.encode(), target.encode(), kind and kind.encode(), ctypes.c_ulong(flags), data and data.encode()),
         f"mount {source} at {target}")


def is_possible():
    """Are there the rights for it?"""
    return os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True).returncode == 0


def argv(rootfs, ids, volumes=()):
    """What to put before a program, so that it runs so."""
    return [sys.executable, os.path.abspath(__file__), rootfs, ids, ",".join(volumes), "--"]


def enter_root(rootfs, volumes):
    """Its root is the rootfs, read-only; the volumes and a /proc of its own are mounted into it."""
    mount(rootfs, rootfs, flags=BIND)
    mount("tmpfs", rootfs + "/tmp", "tmpfs", NOSUID | NODEV, "mode=755")
    for v in volumes:
        source, _, path = v.partition("=")
        target = rootfs + (path or source)
        os.makedirs(target, exist_ok=True)
        mount(source, target, flags=BIND)
    mount("proc", rootfs + "/proc", "proc")
    mount("none", rootfs, flags=REMOUNT | BIND | RDONLY | NOSUID)
    mount("none", rootfs + "/tmp", flags=REMOUNT | BIND | RDONLY | NOSUID)
    os.chroot(rootfs)
    os.chdir("/")


def become(ids):
    uid, gid, *groups = (int(x) for x in ids.split(":"))
    for cap in range(64):
        LIBC.prctl(CAPBSET_DROP, cap, 0, 0, 0)
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    must(LIBC.prctl(NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    LIBC.prctl(PDEATHSIG, signal.SIGKILL)


def main():
    rootfs, ids, volumes = sys.argv[1], sys.argv[2], [v for v in sys.argv[3].split(",") if v]
    command = sys.argv[5:]
    must(LIBC.unshare(NEWNS | NEWPID), "unshare")
    mount("none", "/", flags=REC | PRIVATE)
    child = os.fork()
    if child == 0:
        if rootfs != "/":
            enter_root(rootfs, volumes)
        become(ids)
        os.execv(command[0], command)
    for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT):
        signal.signal(s, lambda n, _: os.kill(child, n))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main()
