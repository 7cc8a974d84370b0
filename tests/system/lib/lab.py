"""A small network of our own: a bridge in a network namespace, hosts on it that are namespaces too. Nothing of the machine's network is
touched. cut() takes a host off the bridge: packets to it and from it vanish, so that connections hang as behind a broken switch.

Needs root, ip(8) and nsenter(1). Lab() moves the calling process into the namespace, for good: make it first in a test."""
import ctypes
import os
import subprocess
import sys

from lib.servers import LIBC, die_with_parent

NEWNET = 0x40000000


def is_possible():
    return os.geteuid() == 0 and subprocess.run(["unshare", "-n", "ip", "link", "add", "lab", "type", "bridge"], capture_output=True).returncode == 0


def run(*argv):
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)


class Lab:
    def __init__(self, t):
        if LIBC.unshare(NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        self.t, self.n, self.address = t, 1, "10.77.0.1"
        for line in ("link set lo up", "link add lab type bridge", f"addr add {self.address}/24 dev lab", "link set lab up"):
            run("ip", *line.split())

    def host(self):
        self.n += 1
        return Host(self, self.n)


class Host:
    def __init__(self, lab, n):
        self.address, self.link = f"10.77.0.{n}", f"h{n}"
        code = "import ctypes, time; assert ctypes.CDLL(None).unshare(0x40000000) == 0; print(1, flush=True); time.sleep(1e9)"
        self.keeper = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, preexec_fn=die_with_parent)
        lab.t.ending(self.end)
        assert self.keeper.stdout.readline()
        run("ip", "link", "add", self.link, "type", "veth", "peer", "name", "lan", "netns", str(self.keeper.pid))
        for line in ("link set lo up", f"addr add {self.address}/24 dev lan", "link set lan up"):
            run(*self.inside("ip", *line.split()))
        run("ip", "link", "set", self.link, "up")
        self.join()

    def inside(self, *argv):
        """What to run so that argv runs there."""
        return ["nsenter", f"--net=/proc/{self.keeper.pid}/ns/net", *argv]

    def cut(self):
        run("ip", "link", "set", self.link, "nomaster")

    def join(self):
        run("ip", "link", "set", self.link, "master", "lab")

    def end(self):
        self.keeper.kill()
        self.keeper.wait()
