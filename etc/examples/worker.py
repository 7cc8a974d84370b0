#!/usr/bin/env python3
"""A worker for sluiced that speaks its protocol itself, see sluice-worker(7). Put your work into work(). Python 3.9 or newer.

usage: worker.py [SOCKET [CREDITS]]      SIGTERM: finish what is held, then leave; once more: leave now
"""
import ctypes
import json
import mmap
import os
import signal
import socket
import struct
import sys
import threading
import time
from multiprocessing.connection import Pipe, wait


FENCE = mmap.mmap(-1, 8)  # when every lease ends, as told last; shared with the works' processes


def work(job):
    """Runs in a process of its own, so it may block. Returns: done. Raises: tried again. It is killed when its lease ends.
    Hand job["token"] on to what you write to, and let that refuse a lower one."""
    info = job["info"]  # any JSON value
    os.write(1, f"{job['stream']} {info}\n".encode())
    time.sleep(info.get("seconds", 1) if isinstance(info, dict) else 1)


def finish(job):
    try:
        work(job)
    except SystemExit as e:
        if e.code:  # sys.exit(0) is no failure
            raise


class Work:
    """The process of one stream."""
    answer = None  # the frame that tells how it ended
    is_stopped = is_told = False

    def __init__(self, job, sock):
        parent, (self.said, self.says), self.pid = os.getpid(), Pipe(False), os.fork()
        os.setpgid(self.pid, self.pid)  # a group, with whatever it starts
        if self.pid == 0:
            self.run(job, sock, parent)
        self.end_fd = os.pidfd_open(self.pid)

    def run(self, job, sock, parent):
        try:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it dies with the worker
            for s in (signal.SIGTERM, signal.SIGINT):  # these are for the worker
                signal.signal(s, signal.SIG_IGN)
            sock.close()
            threading.Thread(target=self.keep_fence, daemon=True).start()
            if os.getppid() == parent:
                finish(job)
            sys.stdout.flush()
            self.says.send(dict(t="done"))
        except BaseException as e:
            self.says.send(dict(t="fail", reason=repr(e)[:300]))
        finally:
            os._exit(0)

    def keep_fence(self):
        """The worker does it sooner, unless it is itself stopped."""
        while time.monotonic() < struct.unpack("=d", FENCE)[0] - 0.2:
            time.sleep(0.05)
        self.says.send(dict(t="revoked"))
        os.kill(0, signal.SIGKILL)

    def stop(self):
        if not self.answer:
            self.is_stopped = True
            os.killpg(self.pid, signal.SIGKILL)

    def end(self):
        os.killpg(self.pid, signal.SIGKILL)  # what it left running
        os.waitpid(self.pid, 0)
        os.close(self.end_fd)
        self.answer = self.said.recv() if self.said.poll() else dict(t="fail", reason="its process was killed")
        self.is_stopped |= self.answer["t"] == "revoked"
        if self.is_stopped:
            self.answer = dict(t="revoked")


class Worker:
    sock = session = None
    is_welcome = False
    until = next_try = n_stops = 0
    pause = 0.1

    def __init__(self, path, credits):
        self.path, self.credits, self.held = path, credits, {}
        for s in (signal.SIGTERM, signal.SIGINT):
            signal.signal(s, self.on_signal)

    def on_signal(self, *_):
        self.n_stops += 1

    def serve(self):
        while self.n_stops < 2 and (self.credits or self.held):
            try:
                self.turn()
            except (OSError, ValueError):
                self.lose()
        for lease in list(self.held):
            self.drop(lease)
        if self.is_welcome:
            self.send(t="bye")

    def turn(self):
        if not self.sock and time.monotonic() >= self.next_try:
            self.connect()
        works = {w.end_fd: w for w in self.held.values() if not w.answer}
        for x in wait([*works, *filter(None, [self.sock])], 0.1):
            self.receive() if x is self.sock else works[x].end()
        if time.monotonic() > self.until - 0.3:  # the fence holds whatever the daemon says or does not say
            for w in self.held.values():
                w.stop()
        self.tell()

    # ---- the connection

    def connect(self):
        self.next_try, self.pause, self.rest = time.monotonic() + self.pause, min(2 * self.pause, 2), b""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(2)
        self.sock.connect(self.path)
        back = dict(session=self.session, resume=list(self.held)) if self.session else {}
        self.send(t="hello", v=1, name=f"worker.py:{os.getpid()}", credits=self.credits, **back)

    def lose(self):
        """The work goes on: to its end, or to its fence."""
        if self.sock:
            self.sock.close()
        self.sock, self.is_welcome = None, False
        for w in self.held.values():
            w.is_told = False

    def send(self, **frame):
        self.sock.sendall(json.dumps(frame).encode() + b"\n")

    def receive(self):
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionError
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            try:
                frame = json.loads(line)
            except RecursionError:  # an Info that nobody can read: it alone fails
                self.send(t="fail", lease=line.split(b'"lease":"')[1].split(b'"')[0].decode(), reason="Info is nested too deep")
                continue
            if isinstance(frame, dict):
                self.on_frame(frame.get("t"), frame.get("lease"), frame)

    # ---- frames; those it does not know are ignored

    def on_frame(self, t, lease, frame):
        if frame.get("until_ms"):  # the last one told is the fence of every lease
            self.until = frame["until_ms"] / 1000
            struct.pack_into("=d", FENCE, 0, self.until)
        if t == "assign":
            self.held[lease] = Work(frame, self.sock)
        elif t == "ping":
            self.send(t="pong", n=frame["n"])
        elif t == "revoke" and lease in self.held:
            self.held[lease].stop()
        elif t == "ok":
            self.drop(lease)
        elif t == "err":
            sys.stderr.write(f"sluiced: {frame['code']}: {frame['msg']}\n")
            self.drop(lease)
        elif t == "welcome":
            if abs(frame.get("now_ms", 1000 * time.monotonic()) - 1000 * time.monotonic()) > frame["lease_ms"]:
                sys.exit("its clock is not ours, so fences mean nothing: we must share the daemon's time namespace")
            self.session, self.is_welcome, self.pause = frame["session"], True, 0.1
            for gone in set(self.held) - set(frame["resumed"]):  # somebody else may own it by now
                self.drop(gone)

    def drop(self, lease):
        w = self.held.pop(lease, None)
        if w and not w.answer:
            w.stop()
            w.end()

    def tell(self):
        """How works ended, again after a lost connection, until it is ok. `revoked` gets no ok."""
        if self.n_stops and self.credits and (self.is_welcome or not self.sock):
            self.credits = 0
            if self.is_welcome:
                self.send(t="credits", n=0)
        for lease, w in [x for x in self.held.items() if x[1].answer]:
            if self.is_welcome and not w.is_told:
                self.send(lease=lease, **w.answer)
                w.is_told = True
            if (w.is_told and w.is_stopped) or (self.n_stops and time.monotonic() > self.until):
                self.drop(lease)


if __name__ == "__main__":
    Worker(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("SLUICED_WORKER", "/run/sluiced/worker.sock"),
           int(sys.argv[2]) if len(sys.argv) > 2 else 4).serve()
