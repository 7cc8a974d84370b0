"""What a service manager hears of a service (sd_notify), without one."""
import socket
import threading
import time

from lib.servers import wait_until


class Notify:
    """The service manager's end of NOTIFY_SOCKET."""

    def __init__(self, path):
        self.path, self.got = path, []
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(path)
        threading.Thread(target=self.loop, daemon=True).start()

    def loop(self):
        while True:
            self.got.append((time.monotonic(), self.sock.recv(65536).decode()))

    def lines(self):
        return [x for _, m in self.got for x in m.splitlines()]

    def times(self, text):
        """When each came, CLOCK_MONOTONIC seconds."""
        return [at for at, m in self.got for x in m.splitlines() if text in x]

    def wait(self, text, n=1, timeout=15):
        wait_until(lambda: sum(text in x for x in self.lines()) >= n, timeout, f"{n} × {text}; got {self.lines()[-10:]}")
