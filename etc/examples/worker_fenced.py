#!/usr/bin/env python3
"""A worker that keeps every promise of sluice-worker(7), and the one to build on where worker.py is too little: work is
asked to stop before it is killed, may be given back, rejected, and tell how far it is. Standard library, Python 3.9 or newer.

usage: worker_fenced.py [SOCKET [CREDITS]]      SIGTERM: finish what is held, then leave; once more: leave now
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

ASK, KILL = 1.0, 0.2  # seconds before a lease ends at which its work is asked to stop, and killed
FENCE = mmap.mmap(-1, 8)  # when every lease ends, as told last; shared with the works' processes


class Stopped(BaseException):
    """Raised in do_work when it has to stop: tidy up, and end within ASK - KILL seconds."""


class GiveBack(Exception):
    """To be raised by do_work: not now, or not here. Counts no retry."""


class Reject(Exception):
    """To be raised by do_work: this entry will never work. It becomes a dead letter."""


def do_work(job, progress):
    """Your work. It has a process of its own, so it may block for as long as it likes. Returns: done; raises: tried again.
    Give job["token"] to whatever you write to, and let it refuse lower ones. progress("note") shows in sluicectl."""
    info = job["info"]  # any JSON value
    os.write(1, f"{job['stream']} (token {job['token']}): {info}\n".encode())
    time.sleep(info.get("seconds", 1) if isinstance(info, dict) else 1)


class Work:
    """The process of one stream, and what is to be told of it."""

    def __init__(self, job, sock):
        self.answer = self.kill_at = None  # the frame that tells how it ended; when it will be killed
        self.is_told = False
        self.limit = mmap.mmap(-1, 8)  # kill_at, shared with its process; 0 = None
        parent, (self.said, self.says), self.pid = os.getpid(), Pipe(False), os.fork()
        os.setpgid(self.pid, self.pid)  # a group, with whatever it starts
        if self.pid == 0:
            self.run(job, sock, parent)
        self.end_fd = os.pidfd_open(self.pid)

    def run(self, job, sock, parent):
        """In the new process, which never returns from here."""
        try:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it dies with the worker
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # these two are for the worker, also when everybody gets them
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGUSR1, self.on_stop)
            sock.close()
            threading.Thread(target=self.keep_fence, daemon=True).start()
            if os.getppid() == parent:
                do_work(job, lambda note=None: self.says.send(dict(t="progress", note=note)))
            sys.stdout.flush()
            answer = dict(t="done")
        except Stopped:
            answer = dict(t="revoked")
        except GiveBack:
            answer = dict(t="release")
        except BaseException as e:
            answer = dict(t="fail", reason=f"{type(e).__name__}: {e}"[:300], dead=isinstance(e, Reject))
        finally:
            try:
                signal.signal(signal.SIGUSR1, signal.SIG_IGN)
                self.says.send(answer)
            finally:
                os._exit(0)

    def keep_fence(self):
        """The worker does it sooner, unless it is itself stopped."""
        while True:
            fence, limit = (struct.unpack("=d", x)[0] for x in (FENCE, self.limit))
            if time.monotonic() >= min(fence - KILL, limit or fence) + KILL / 2:
                break
            time.sleep(0.02)
        self.says.send(dict(t="revoked"))
        os.kill(0, signal.SIGKILL)

    @staticmethod
    def on_stop(*_):
        raise Stopped

    def stop(self, kill_at):
        """It is asked to, now; whatever it does, it has ended at kill_at."""
        if self.answer:
            return
        if self.kill_at is None:
            os.kill(self.pid, signal.SIGUSR1)
        self.kill_at = min(kill_at, self.kill_at or kill_at)
        struct.pack_into("=d", self.limit, 0, self.kill_at)
        if time.monotonic() >= self.kill_at:
            os.killpg(self.pid, signal.SIGKILL)

    def notes(self):
        """What it says; the last is its answer."""
        while self.said.poll():
            frame = self.said.recv()
            if frame["t"] == "progress":
                yield frame
            else:
                self.answer = frame

    def end(self):
        os.killpg(self.pid, signal.SIGKILL)  # what it left running
        os.waitpid(self.pid, 0)
        for _ in self.notes():
            pass
        if not self.answer:
            self.answer = dict(t="revoked") if self.kill_at else dict(t="fail", reason="its process was killed", dead=False)
        for end in (self.said, self.says):
            end.close()
        os.close(self.end_fd)
        self.end_fd = None


class Worker:
    def __init__(self, path, credits):
        self.path, self.credits = path, credits
        self.held = {}  # lease: Work
        self.sock = self.session = None
        self.is_welcome = False
        self.until = 0  # the fence: the last one told holds for every lease
        self.next_try, self.pause = 0, 0.1
        self.n_stops = 0  # how often we were asked to end

    def serve(self):
        for s in (signal.SIGTERM, signal.SIGINT):
            signal.signal(s, self.on_signal)
        while self.n_stops < 2 and (self.credits or self.held):
            try:
                self.turn()
            except (OSError, ValueError) as e:
                self.lose(e)
        for lease in list(self.held):
            self.drop(lease)
        if self.is_welcome:
            self.send(t="bye")

    def on_signal(self, *_):
        self.n_stops += 1

    def turn(self):
        if not self.sock and time.monotonic() >= self.next_try:
            self.connect()
        running = [(lease, w) for lease, w in self.held.items() if w.end_fd]
        ready = wait([x for _, w in running for x in (w.end_fd, w.said)] + ([self.sock] if self.sock else []), 0.1)
        for lease, w in running:
            for note in w.notes() if w.said in ready else ():
                if self.is_welcome and note["note"]:
                    self.send(lease=lease, **note)
            if w.end_fd in ready:
                w.end()
        if self.sock in ready:
            self.receive()
        self.keep_fences()
        self.tell()

    def keep_fences(self):
        """They hold whatever the daemon says, or does not say any more."""
        for w in self.held.values():
            if w.kill_at:
                w.stop(min(w.kill_at, self.until - KILL))
            elif time.monotonic() > self.until - ASK:
                w.stop(self.until - KILL)

    # ---- the connection

    def connect(self):
        self.next_try, self.pause, self.rest = time.monotonic() + self.pause, min(2 * self.pause, 2), b""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(2)
        self.sock.connect(self.path)
        back = dict(session=self.session, resume=list(self.held)) if self.session else {}
        self.send(t="hello", v=1, name=f"worker_fenced.py:{os.getpid()}", credits=self.credits, **back)

    def lose(self, why):
        """The work goes on: to its end, or to its fence."""
        if self.is_welcome:
            sys.stderr.write(f"sluiced: {why}; coming back\n")
        if self.sock:
            self.sock.close()
        self.sock, self.is_welcome = None, False
        for w in self.held.values():
            w.is_told = False

    def send(self, **frame):
        self.sock.sendall(json.dumps(frame).encode() + b"\n")

    def receive(self):
        data = self.sock.recv(1 << 16)
        if not data:
            raise ConnectionError("the connection was closed")
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            try:
                frame = json.loads(line)
            except RecursionError:  # one entry's Info: it alone fails. "lease" comes before it
                lease = line.split(b'"lease":"', 1)[1].split(b'"', 1)[0].decode()
                self.send(t="fail", lease=lease, reason="Info is nested too deep")
                continue
            if isinstance(frame, dict):
                self.on_frame(frame.get("t"), frame.get("lease"), frame)

    # ---- frames; those it does not know are ignored

    def on_frame(self, t, lease, frame):
        if frame.get("until_ms"):
            self.until = frame["until_ms"] / 1000
            struct.pack_into("=d", FENCE, 0, self.until)
        if t == "welcome":
            self.on_welcome(frame)
        elif t == "assign" and self.n_stops:
            self.send(t="release", lease=lease)
        elif t == "assign":
            self.held[lease] = Work(frame, self.sock)
        elif t == "ping":
            self.send(t="pong", n=frame["n"])
        elif t == "revoke" and lease in self.held:
            self.held[lease].stop(time.monotonic() + (frame.get("grace_ms") or 0) / 1000 - KILL)
        elif t == "revoke":
            self.send(t="revoked", lease=lease)
        elif t == "ok":
            self.drop(lease)
        elif t == "err":
            self.on_error(lease, frame)

    def on_welcome(self, frame):
        if abs(frame.get("now_ms", 1000 * time.monotonic()) - 1000 * time.monotonic()) > frame["lease_ms"]:
            sys.exit("its CLOCK_MONOTONIC is not ours, so fences mean nothing: worker and daemon must share a time namespace")
        self.session, self.is_welcome, self.pause = frame["session"], True, 0.1
        for lease in set(self.held) - set(frame["resumed"]):  # somebody else may own it by now
            self.drop(lease)

    def on_error(self, lease, frame):
        sys.stderr.write(f"sluiced: {frame['code']}: {frame['msg']}\n")
        if frame["code"] in ("bad_version", "bad_hello", "unauthorized"):
            sys.exit(78)
        if frame["code"] in ("not_owner", "unknown_lease"):
            self.drop(lease)

    # ---- leases

    def drop(self, lease):
        w = self.held.pop(lease, None)
        if w and w.end_fd:
            w.stop(0)
            w.end()

    def tell(self):
        """How works ended, again after a lost connection, until it is ok. `revoked` gets no ok."""
        if self.n_stops and self.credits and (self.is_welcome or not self.sock):
            self.credits = 0
            if self.is_welcome:
                self.send(t="credits", n=0)
        for lease, w in [x for x in self.held.items() if x[1].answer and not x[1].end_fd]:
            if self.is_welcome and not w.is_told:
                self.send(lease=lease, **w.answer)
                w.is_told = True
            if (w.is_told and w.answer["t"] == "revoked") or (self.n_stops and time.monotonic() > self.until):
                self.drop(lease)


if __name__ == "__main__":
    Worker(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("SLUICED_WORKER", "/run/sluiced/worker.sock"),
           int(sys.argv[2]) if len(sys.argv) > 2 else 4).serve()
