"""The cluster bus behind relays, so that one node can be cut off from the others while its client port stays open."""
import socket
import threading

from lib import servers
from lib.servers import loopback


class Relay:
    """Listens for bus connections to one node."""

    def __init__(self, node, is_cut):
        self.node, self.is_cut, self.pairs = node, is_cut, []
        self.sock = socket.create_server((loopback(), 0), backlog=64)
        self.port = self.sock.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                c, addr = self.sock.accept()
            except OSError:
                return
            if self.is_cut(self.node, addr[0]):
                c.close()
                continue
            u = socket.socket()
            try:
                u.bind((addr[0], 0))
                u.connect((self.node.host, self.node.port + 10000))
            except OSError:
                c.close()
                u.close()
                continue
            self.pairs.append((c, u, addr[0]))
            for a, b in ((c, u), (u, c)):
                threading.Thread(target=self.pump, args=(a, b), daemon=True).start()

    @staticmethod
    def pump(a, b):
        try:
            while data := a.recv(65536):
                b.sendall(data)
        except OSError:
            pass
        for s in (a, b):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def drop(self):
        """Ends what may not be any more."""
        for c, _u, source in self.pairs:
            if self.is_cut(self.node, source):
                try:
                    c.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def close(self):
        self.sock.close()


class BusCluster(servers.Cluster):
    """nodes[0] has a source address of its own and can be cut off: cut(), join()."""

    def __init__(self, dir, **kw):
        super().__init__(dir, **kw)
        self.cut_off = False
        self.relays = [Relay(n, self.refuses) for n in self.nodes]
        for n, r in zip(self.nodes, self.relays):
            n.argv += ["--cluster-announce-bus-port", str(r.port)]
        own = self.nodes[0].argv
        own[own.index("--bind-source-addr") + 1] = loopback(64)

    def refuses(self, node, source):
        return self.cut_off and (node is self.nodes[0] or source == loopback(64))

    def cut(self):
        self.cut_off = True
        for r in self.relays:
            r.drop()

    def join(self):
        self.cut_off = False

    def kill(self):
        super().kill()
        for r in self.relays:
            r.close()
