"""A service manager that keeps descriptors, as far as sluiced uses it, and sluiced as a unit of it."""
import array
import fcntl
import os
import select
import socket
import sys
import threading

from lib.daemon import Daemon, program
from lib.servers import spawn

HIGH = 600  # our copies of what is passed on: above what a program opens
PASS = """import os, sys
for i, fd in enumerate(map(int, sys.argv[1].split(","))):
    os.dup2(fd, 3 + i)
    os.close(fd)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


class Manager:
    """NOTIFY_SOCKET, the descriptor store and the socket units of systemd, as far as sluiced uses them."""

    def __init__(self, t, name="manager.sock"):
        self.path, self.lines, self.store, self.lock = t.path(name), [], {}, threading.Lock()
        self.is_deaf = False  # forgets what it is given
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(self.path)
        self.listening = {}
        t.ending(self.close)
        threading.Thread(target=self.loop, daemon=True).start()

    def listen(self, name, path):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        s.bind(path)
        s.listen(128)
        self.listening[name] = s

    def loop(self):
        while True:
            try:
                data, anc, _, _ = self.sock.recvmsg(65536, socket.CMSG_SPACE(4 * 16))
            except OSError:
                return
            fds = array.array("i")
            for _, _, d in anc:
                fds.frombytes(d[:len(d) - len(d) % 4])
            self.handle(dict(x.split("=", 1) for x in data.decode().splitlines()), list(fds))

    def handle(self, said, fds):
        with self.lock:
            self.lines += [f"{k}={v}" for k, v in said.items()]
            name = said.get("FDNAME")
            if "FDSTORE" in said and not self.is_deaf:
                self.store.setdefault(name, []).extend(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH) for fd in fds)
            if "FDSTOREREMOVE" in said:
                for fd in self.store.pop(name, []):
                    os.close(fd)
        for fd in fds:
            os.close(fd)

    def poll(self):
        """A stored socket whose peer has gone is forgotten."""
        with self.lock:
            for name, fds in list(self.store.items()):
                p = select.poll()
                p.register(fds[0], 0)
                if name != "state" and p.poll(0):
                    os.close(self.store.pop(name)[0])

    def passed(self):
        with self.lock:
            return [(n, s.fileno()) for n, s in self.listening.items()] + [(n, fd) for n, fds in self.store.items() for fd in fds]

    def close(self):
        self.sock.close()
        for s in self.listening.values():
            s.close()


class Unit(Daemon):
    """sluiced as a unit of `manager`."""

    def __init__(self, t, redis, manager, **kw):
        super().__init__(t.dir, t.name("d"), redis, **kw)
        t.ending(self.kill)
        self.manager = manager
        self.env["NOTIFY_SOCKET"] = manager.path
        for name, path in (("worker", self.worker_sock), ("control", self.control_sock)):
            manager.listen(name, path)
        self.start()

    def start(self, ready=True):
        self.manager.poll()
        self.note_log()
        high = [(n, fcntl.fcntl(fd, fcntl.F_DUPFD, HIGH)) for n, fd in self.manager.passed()]
        env = dict(self.env, LISTEN_FDS=str(len(high)), LISTEN_FDNAMES=":".join(n for n, _ in high))
        argv = [sys.executable, "-ISc", PASS, ",".join(str(fd) for _, fd in high), self.binary or program("sluiced"), "-c", self.conf]
        self.proc = spawn(argv, self.log_path, env=env, cwd=self.dir, pass_fds=[fd for _, fd in high])
        for _, fd in high:
            os.close(fd)
        if ready:
            self.wait_ready()
        return self
