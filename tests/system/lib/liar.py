"""A node of a cluster, or a Sentinel, that does not tell the truth: a TCP front before a real one that answers one command itself."""
import socket
import threading

from lib.gate import end_of, words_of
from lib.servers import loopback


def resp(v):
    if v is None:
        return b"$-1\r\n"
    if isinstance(v, int):
        return b":%d\r\n" % v
    if isinstance(v, list):
        return b"*%d\r\n" % len(v) + b"".join(map(resp, v))
    return b"$%d\r\n%s\r\n" % (len(v), v.encode())


class Liar:
    def __init__(self, node, about=("CLUSTER", "SLOTS")):
        self.node, self.answer, self.n_lies = node, None, 0
        self.about = [w.encode() for w in about]
        self.sock = socket.create_server((loopback(), 0), backlog=64)
        self.endpoint = "%s:%d" % self.sock.getsockname()
        threading.Thread(target=self.accept, daemon=True).start()

    def stick_to(self, rows):
        """Tells these rows from now on."""
        self.answer = resp(rows)

    def accept(self):
        while True:
            try:
                c, _ = self.sock.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(c,), daemon=True).start()

    def serve(self, c):
        """One command and its answer after the other: enough for a client that asks for the topology."""
        is_unix = hasattr(self.node, "path")
        u = socket.socket(socket.AF_UNIX if is_unix else socket.AF_INET)
        buf, back = bytearray(), bytearray()
        try:
            u.connect(self.node.path if is_unix else (self.node.host, self.node.port))
            while data := c.recv(65536):
                buf += data
                while buf and (end := end_of(buf, 0)) >= 0:
                    words = words_of(buf, 0, end)
                    if self.answer and [w.upper() for w in words[:2]] == self.about:
                        self.n_lies += 1
                        c.sendall(self.answer)
                    else:
                        u.sendall(buf[:end])
                        while (n := end_of(back, 0)) < 0:
                            if not (data := u.recv(65536)):
                                return
                            back += data
                        c.sendall(back[:n])
                        del back[:n]
                    del buf[:end]
        except OSError:
            pass
        finally:
            c.close()
            u.close()

    def close(self):
        self.sock.close()
