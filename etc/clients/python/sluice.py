"""sluice - a worker for sluiced. One file, Python 3.9 or newer, the standard library only.

    from sluice import Worker

    def work(job):
        print(job.stream, job.info, job.token)

    Worker("/run/sluiced/worker.sock", work, credits=4).run()

`work` returns: the stream is done. It raises: one retry is counted, with the exception as reason. `Fail` and `Release` say
more. SIGTERM and SIGINT: no new work, what is held is finished, then run() returns. A lost connection or a restarted daemon
costs nothing: the work goes on, the worker comes back with what it holds, and results are told until they are confirmed.

Where the handler runs, and how it is stopped when its stream is revoked or the fence (the time until which the daemon
promised the stream) comes near:

    def work            a child process, used again for the next stream: at most `credits` of them. `Stopped` is raised in
                        it, also out of a blocking call; what has not ended in time is killed, with the programs it has
                        started. Other streams go on. Memory is not shared, as with multiprocessing's fork.
    async def work      a task of one event loop; cancelled (asyncio.CancelledError).
    threads=True        a thread: `Stopped` is raised between two lines of Python, and job.stopping becomes true.

Pings are answered whatever the handler does. A task or thread that has not ended in time cannot be killed alone: then this
process ends (status 70), which is the only sure way left to keep two workers from one stream.

Entries mode (`entries="each"` or "batch"; services with `entries: {enabled: true}`):

    def work(job, entry):           # "batch": work(job, entries)
        print(job.stream, entry.id, entry["name"])

    Worker("/run/sluiced/worker.sock", work, credits=4, entries="each").run()

An entry is acknowledged when `work` has returned from it. `Fail` makes it come again, alone, after a delay; nothing behind
it is given out before. `job.finish()` ends the lease of the stream after this call. In "batch", `job.ack(id)` acknowledges
up to an entry, and an exception is held against the first entry that was not, or the one that Fail(..., id=) names.
"""
import asyncio
import base64
import collections
import ctypes
import inspect
import json
import logging
import mmap
import os
import re
import selectors
import signal
import socket as sockets
import struct
import sys
import threading
import time

__version__ = "0.2.0"
__all__ = ["Worker", "Job", "Entry", "Fail", "Release", "Stopped", "SluiceError", "Refused", "ClockError", "Unconfirmed"]

log = logging.getLogger("sluice")
DEFAULT_SOCKET = "/run/sluiced/worker.sock"
EXIT_NOT_STOPPED = 70
PAUSE_FIRST, PAUSE_MOST = 0.1, 2.0     # between two attempts to connect
MISFIT_BACK_MS = 30000  # a stream of a service without entries
PROGRESS_ROOM = 1 << 20                # more than that waits for the daemon: progress is left out
REASON_BYTES = 1024
RETRY_MS_MOST = 86400000


class Fail(Exception):
    """Raised by a handler: it failed. `dead`: never again; `retry_ms`: not before; `id`: the entry, in a batch."""

    def __init__(self, reason="", dead=False, retry_ms=None, id=None):
        super().__init__(reason)
        self.reason, self.dead, self.retry_ms, self.id = reason, dead, retry_ms, id


class Release(Exception):
    """Raised by a handler: give the stream back, no retry is counted."""

    def __init__(self, retry_ms=None):
        super().__init__("released")
        self.retry_ms = retry_ms


class Stopped(BaseException):
    """Raised in a handler that has to stop: the stream is not its own any more. Clean up, at once, and let it pass."""


class SluiceError(Exception):
    """run() cannot go on; `code` says why, in one word."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


class Refused(SluiceError):
    """The daemon does not take this worker: `code` is its own (bad_hello, unauthorized, …)."""


class ClockError(SluiceError):
    """Worker and daemon share no clock (another host, a time namespace): no fence could hold."""


class Unconfirmed(SluiceError):
    """Told to leave, but the daemon did not come back to confirm the last results before the fence."""


class Entry:
    """One entry of a data stream: id, tries, fields = [(name, value), …] in order; entry["name"] is the last of that name.
    What is not UTF-8 is bytes."""
    __slots__ = ("id", "tries", "fields")

    def __init__(self, row):
        self.id, self.tries = row[0], row[2] if len(row) > 2 and row[2] else 0
        flat = [base64.b64decode(v["b64"]) if isinstance(v, dict) else v for v in row[1]]
        self.fields = list(zip(flat[::2], flat[1::2]))

    def get(self, name, default=None):
        return next((v for k, v in reversed(self.fields) if k == name), default)

    def __getitem__(self, name):
        for k, v in reversed(self.fields):
            if k == name:
                return v
        raise KeyError(name)


class Job:
    """What a handler works on: service, stream, id, token, retry, info, trace (dict), lease."""

    def __init__(self, frame, report):
        self.lease, self.service, self.stream, self.id = frame["lease"], frame["service"], frame["stream"], frame["id"]
        self.token, self.retry, self.info = frame["token"], frame.get("retry") or 0, frame.get("info")
        self.trace, self.stopping = frame.get("trace") or {}, False
        self._report, self._wants_end = report, False

    def progress(self, note=None):
        """The work goes on; the note is shown by sluicectl."""
        self._report(["p", clean(note)])

    def ack(self, id):
        """Entries mode: everything up to and including `id`, one of this call's entries, is finished. Another id changes nothing."""
        self._report(["a", str(id)])

    def finish(self):
        """Entries mode: this stream needs nobody any more; its lease ends after this call of the handler."""
        self._wants_end = True


def clean(text):
    """What may stand in a frame: valid UTF-8 of at most 1 KiB."""
    return None if text is None else str(text).encode(errors="replace")[:REASON_BYTES].decode(errors="ignore")


def pause_of(retry_ms):
    """What a frame may say of it: a whole number in its range, or nothing."""
    try:
        return None if retry_ms is None else min(max(0, int(retry_ms)), RETRY_MS_MOST)
    except (TypeError, ValueError):
        return None
    except OverflowError:  # infinite
        return RETRY_MS_MOST if retry_ms > 0 else 0


def now_ms():
    return time.monotonic() * 1000  # CLOCK_MONOTONIC, the clock of until_ms


def id_key(id):
    ms, _, seq = id.partition("-")
    return int(ms), int(seq or 0)


def without_info(line):
    """The frame of a line that the parser gives up on, without its `info`: that may nest deeper than Python can."""
    depth, is_info, begin = 0, False, None
    for m in re.finditer(rb'"(?:[^"\\]|\\.)*"|[][{}]|,', line):
        c = m.group()
        if depth == 1 and begin is not None and (c == b"," or c == b"}"):
            return json.loads(line[:begin] + b"null" + line[m.start():])
        if c in b"{[":
            depth += 1
        elif c in b"}]":
            depth -= 1
        elif depth == 1 and c == b'"info"' and line[m.end():m.end() + 8].lstrip().startswith(b":"):
            is_info = True
        if is_info and begin is None:
            begin = line.index(b":", m.end()) + 1
    raise ValueError("no info in it")


def parse(line):
    try:
        return json.loads(line)
    except RecursionError:
        return {**without_info(line), "too_deep": True}


# ---- calling the handler: what came of it is ["e", how, {more}]

def problem(e):
    if isinstance(e, Release):
        return ["e", "release", {"retry_ms": pause_of(e.retry_ms)}]
    if isinstance(e, Fail):
        return ["e", "fail", {"reason": clean(e.reason), "id": None if e.id is None else str(e.id), "retry_ms": pause_of(e.retry_ms),
                              "dead": True if e.dead else None}]
    return ["e", "fail", {"reason": clean(f"{type(e).__name__}: {e}")}]


def say_failed(job, e):
    if not isinstance(e, Release):
        log.warning("%s: the handler failed: %s", job.stream, clean(e.reason if isinstance(e, Fail) else f"{type(e).__name__}: {e}"))
        log.debug("the handler of %s failed", job.stream, exc_info=True)


def ending(job, end):
    end[2]["finish"] = job._wants_end
    job._report = lambda _what: None  # what a thread that it has left behind says is about no other call
    return end


def returns(handler, *args):
    """Calls it; sys.exit(0) is no failure, as of a process."""
    try:
        handler(*args)
    except SystemExit as e:
        if e.code:
            raise


def call(handler, mode, job, entries):
    try:
        if entries is None:
            returns(handler, job)
        elif mode == "each":
            for e in entries:
                if job.stopping:
                    break
                returns(handler, job, e)
                job.ack(e.id)
        else:
            returns(handler, job, entries)
            if not job.stopping:
                job.ack(entries[-1].id)
        return ending(job, ["e", "stopped" if job.stopping else "done", {}])  # who was told to stop may have returned early
    except Stopped:
        return ending(job, ["e", "stopped", {}])
    except BaseException as e:
        say_failed(job, e)
        return ending(job, problem(e))


async def call_async(handler, mode, job, entries):
    try:
        if entries is None:
            await handler(job)
        elif mode == "each":
            for e in entries:
                if job.stopping:
                    break
                await handler(job, e)
                job.ack(e.id)
        else:
            await handler(job, entries)
            if not job.stopping:
                job.ack(entries[-1].id)
        return ending(job, ["e", "stopped" if job.stopping else "done", {}])
    except (asyncio.CancelledError, Stopped):
        return ending(job, ["e", "stopped", {}] if job.stopping else problem(Fail("cancelled")))
    except BaseException as e:
        say_failed(job, e)
        return ending(job, problem(e))


# ---- where handlers run. start(lease, rows) begins a call, cancel(lease) asks it to stop, kill(lease) stops it

class Child:
    """A process that runs one call after the other. Lines go over a socket pair: two to it (assign, entries or null), any
    number back."""

    def __init__(self, pool):
        sys.stdout.flush()
        sys.stderr.flush()
        self.stop_by = mmap.mmap(-1, 8)  # ms, shared; 0: its call has been told nothing
        mine, its = sockets.socketpair()
        try:
            self.pid = os.fork()
        except OSError:
            mine.close()
            its.close()
            raise
        if self.pid == 0:
            try:
                mine.close()
                pool.engine.leave_fork()
                child_main(pool.engine.worker, its, pool.until, self.stop_by)
            except BaseException:
                log.exception("the child ends")
            os._exit(1)
        its.close()
        mine.setblocking(False)
        self.pool, self.sock, self.buf, self.out, self.writes = pool, mine, b"", b"", selectors.EVENT_READ
        self.lease, self.is_spent, self.is_killed = None, False, False
        try:
            self.pidfd = os.pidfd_open(self.pid)
        except (AttributeError, OSError):
            self.pidfd = None  # an old kernel: only the end of the socket tells

    def fileno(self):
        return self.sock.fileno()

    def register(self):
        self.pool.engine.sel.register(self, selectors.EVENT_READ, self.on_event)
        if self.pidfd is not None:
            self.pool.engine.sel.register(self.pidfd, selectors.EVENT_READ, self.on_end)

    def unregister(self):
        self.pool.engine.sel.unregister(self)
        if self.pidfd is not None:
            self.pool.engine.sel.unregister(self.pidfd)

    def close(self):
        self.sock.close()
        self.stop_by.close()
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None

    def send(self, data):
        self.out += data
        self.on_event(selectors.EVENT_WRITE)

    def on_event(self, mask):
        if self not in self.pool.all:  # its end was seen in the same turn
            return
        if mask & selectors.EVENT_WRITE and self.out:
            try:
                self.out = self.out[self.sock.send(self.out):]
            except BlockingIOError:
                pass
            except OSError:
                self.out = b""  # it has ended: that is read
            writes = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.out else 0)
            if writes != self.writes:
                self.writes = writes
                self.pool.engine.sel.modify(self, writes, self.on_event)
        if mask & selectors.EVENT_READ:
            self.read()

    def on_end(self, _mask):
        """The process has ended, and what it has forked may hold its end of the socket: what it has said is there."""
        while self in self.pool.all and self.read():
            pass
        if self in self.pool.all:
            self.pool.ended(self)

    def read(self):
        """False when there is nothing to read, now or any more."""
        if self not in self.pool.all:
            return False
        try:
            data = self.sock.recv(1 << 16)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.pool.ended(self)
            return False
        *lines, self.buf = (self.buf + data).split(b"\n")
        for line in lines:
            self.pool.report(self, json.loads(line))
        return True


class Children:
    def __init__(self, engine):
        self.engine, self.idle, self.all, self.zombies = engine, [], set(), set()
        self.waiting, self.fork_at = collections.deque(), 0  # calls without a process yet; the ms when one may be begun
        self.until = mmap.mmap(-1, 8)

    def moved(self, until_ms):
        struct.pack_into("=d", self.until, 0, until_ms)

    def start(self, lease, rows):
        self.reap()
        lease.runner = None
        if self.idle:
            self.give(self.idle.pop(), lease, rows)
        else:
            self.waiting.append((lease, rows))

    def turn(self):
        """One process more for what waits. Only one: between two forks the daemon is heard, and who has ended takes the next."""
        if not self.waiting or now_ms() < self.fork_at:
            return
        try:
            c = Child(self)
        except OSError as e:  # too many processes, no memory: those that are there go on
            log.warning("no process can be started: %s; trying again each second", e.strerror or e)
            self.fork_at = now_ms() + 1000
        else:
            self.all.add(c)
            c.register()
            self.give(c, *self.waiting.popleft())

    def give(self, c, lease, rows):
        c.lease, lease.runner = lease, c
        c.send(lease.line + b"\n" + (b"null" if rows is None else json.dumps(rows).encode()) + b"\n")

    def told(self, lease):
        """To stop by lease.stop_by."""
        if lease.runner:
            struct.pack_into("=d", lease.runner.stop_by, 0, lease.stop_by)

    def cancel(self, lease):
        if lease.runner:
            self.told(lease)
            self.signal(lease.runner, signal.SIGUSR1)
        else:
            self.waiting = collections.deque(x for x in self.waiting if x[0] is not lease)
            self.engine.post(self.engine.reported, lease, ["e", "stopped", {}])

    def kill(self, lease):
        if lease.runner:
            lease.runner.is_killed = True
            self.signal(lease.runner, signal.SIGKILL)

    def signal(self, c, sig):
        c.is_spent = True  # whenever it is delivered, it meets no other call
        try:
            if sig == signal.SIGKILL:
                os.killpg(c.pid, sig)
            os.kill(c.pid, sig)
        except (ProcessLookupError, PermissionError):
            pass

    def report(self, c, what):
        lease = c.lease
        if lease is None:
            return
        if what[0] == "e":
            c.lease = None
            if c.is_spent:
                c.sock.shutdown(sockets.SHUT_WR)
            elif self.waiting:
                self.give(c, *self.waiting.popleft())
            else:
                self.idle.append(c)
        self.engine.reported(lease, what)

    def ended(self, c):
        c.unregister()
        c.close()
        self.all.discard(c)
        if c in self.idle:
            self.idle.remove(c)
        self.zombies.add(c.pid)
        self.signal(c, signal.SIGKILL)  # and what it has started, and left
        status = self.reap().get(c.pid)
        lease, c.lease = c.lease, None
        if lease is None:
            return
        how = "" if status is None else f", signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f", status {os.WEXITSTATUS(status)}"
        by = min(self.engine.until, lease.stop_by) if lease.is_told else self.engine.until
        was_stopped = c.is_killed or now_ms() >= by  # in time it ends itself
        self.engine.reported(lease, ["e", "stopped" if was_stopped else "fail", {"reason": "the handler's process ended" + how}])

    def reap(self):
        got = {}
        for pid in list(self.zombies):
            try:
                p, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                p, status = pid, None
            if p:
                self.zombies.discard(pid)
                got[pid] = status
        return got

    def close(self):
        for c in list(self.all):
            self.signal(c, signal.SIGKILL)
            c.close()
            try:
                os.waitpid(c.pid, 0)
            except ChildProcessError:
                pass
        self.reap()


def child_main(worker, sock, until, stop_by):
    """The child's life. It stops in time by itself too, at the fence or when it was told to: its parent may be frozen."""
    os.setpgid(0, 0)
    parent = os.getppid()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no work without the connection that owns it
    if os.getppid() != parent or parent == 1 and worker.pid != 1:
        os._exit(1)
    busy, in_handler, job = threading.Event(), [False], None

    def watch():
        while busy.wait():
            times = [struct.unpack_from("=d", x, 0)[0] for x in (until, stop_by)]
            left = min(times[0], times[1] or times[0]) - now_ms()
            if left <= 0 and busy.is_set():
                os.killpg(0, signal.SIGKILL)
            time.sleep(min(max(left, 1), 250) / 1000)

    def stop(*_):
        if in_handler[0]:
            job.stopping = True
            raise Stopped
    for sig in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sig, lambda *_: None)  # for the parent to decide; not ignored, or what we start would ignore it
    signal.signal(signal.SIGUSR1, stop)
    signal.set_wakeup_fd(-1)
    threading.Thread(target=watch, daemon=True).start()
    file = sock.makefile("rb")

    def report(what):
        sock.sendall(json.dumps(what).encode() + b"\n")
    while True:
        line, rows = file.readline(), file.readline()
        if not rows.endswith(b"\n"):
            os._exit(0)
        job = Job(parse(line), report)
        rows = json.loads(rows)
        busy.set()
        try:
            in_handler[0] = True
            end = call(worker.handler, worker.entries, job, rows and [Entry(r) for r in rows])
            in_handler[0] = False
        except Stopped:
            end = ending(job, ["e", "stopped", {}])
        in_handler[0] = False
        busy.clear()
        sys.stdout.flush()
        sys.stderr.flush()
        report(end)


class Inside:
    """Threads and tasks of this process: asked to stop they may; what does not ends the process."""
    waiting = ()

    def turn(self):
        pass

    def __init__(self, engine):
        self.engine = engine

    def moved(self, until_ms):
        pass

    def told(self, lease):
        pass

    def kill(self, lease):
        self.engine.die(f"the handler of {lease.job.stream} did not stop in time")

    def job(self, lease):
        job = lease.job
        job._report = lambda what: self.engine.post(self.engine.reported, lease, what)
        job._wants_end = False
        return job

    def close(self):
        pass


class Threads(Inside):
    def __init__(self, engine):
        super().__init__(engine)
        self.idle, self.lock = [], threading.Lock()

    def start(self, lease, rows):
        with self.lock:
            box = self.idle.pop() if self.idle else None
        if box is None:
            box = collections.deque(), threading.Semaphore(0)
            threading.Thread(target=self.life, args=[box], daemon=True).start()
        lease.runner = None
        box[0].append((lease, self.job(lease), rows))
        box[1].release()

    def life(self, box):
        w = self.engine.worker
        while True:
            box[1].acquire()
            lease, job, rows = box[0].popleft()
            try:
                with self.lock:
                    lease.runner = threading.get_ident()
                    was_told = job.stopping
                end = ["e", "stopped", {}] if was_told else call(w.handler, w.entries, job, rows and [Entry(r) for r in rows])
                with self.lock:
                    lease.runner = None
            except Stopped:
                end = ending(job, ["e", "stopped", {}])
                lease.runner = None
            self.engine.post(self.engine.reported, lease, end)
            if job.stopping:
                return  # a Stopped may still be on its way to this thread
            with self.lock:
                self.idle.append(box)

    def cancel(self, lease):
        with self.lock:
            lease.job.stopping = True
            if lease.runner is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(lease.runner), ctypes.py_object(Stopped))


class Tasks(Inside):
    def __init__(self, engine):
        super().__init__(engine)
        self.loop, self.jobs = engine.worker._loop, collections.deque()

    def start(self, lease, rows):
        self.jobs.append((lease, self.job(lease), rows))
        if len(self.jobs) == 1:
            self.loop.call_soon_threadsafe(self.begin)

    def begin(self):
        while self.jobs:
            lease, job, rows = self.jobs.popleft()
            lease.runner = self.loop.create_task(self.life(lease, job, rows))

    async def life(self, lease, job, rows):
        w = self.engine.worker
        if job.stopping:
            end = ["e", "stopped", {}]
        else:
            end = await call_async(w.handler, w.entries, job, rows and [Entry(r) for r in rows])
        self.engine.post(self.engine.reported, lease, end)

    def cancel(self, lease):
        lease.job.stopping = True
        self.loop.call_soon_threadsafe(lambda: lease.runner and lease.runner.cancel())


# ---- the connection and what is held

class Lease:
    __slots__ = ("name", "line", "job", "is_feed", "runner", "is_busy", "is_told", "is_quiet", "stop_by", "result", "queue", "given",
                 "finished", "acked", "barrier", "last")

    def __init__(self, name, line, job, is_feed):
        self.name, self.line, self.job, self.is_feed, self.runner = name, line, job, is_feed, None
        self.is_busy = False   # a call of the handler is under way
        self.is_told = False   # to stop, by stop_by
        self.is_quiet = False  # nobody waits for an answer
        self.stop_by = None
        self.result = None     # the frame to tell until it is confirmed
        self.queue = collections.deque()  # entries: frames that wait for the call before them
        self.given = {}        # entries: the ids of the call under way
        self.finished = None   # entries: the last id that is
        self.acked = None      # entries: the last id that was acknowledged over this connection
        self.barrier = False   # entries: a nack is on its way, what comes before its ok is void
        self.last = None       # the result, as soon as no call is under way


class Engine:
    """One thread: the socket, the deadlines, and what the runners report."""

    def __init__(self, worker):
        self.worker, self.leases, self.stopping, self.acks, self.misfits = worker, {}, set(), {}, set()
        self.sel, self.posted, self.is_asleep = selectors.DefaultSelector(), collections.deque(), False
        self.wake_r, self.wake_w = sockets.socketpair()
        self.wake_r.setblocking(False)
        self.wake_w.setblocking(False)
        self.sel.register(self.wake_r, selectors.EVENT_READ, self.on_wake)
        self.sock, self.is_welcome, self.buf, self.out, self.writes = None, False, b"", [], selectors.EVENT_READ
        self.n_out, self.session, self.until, self.fenced, self.lead = 0, None, None, None, 300.0
        self.pause, self.retry_at, self.hello_at, self.said = PAUSE_FIRST, 0.0, 0.0, None
        self.is_leaving = self.is_over = False
        self.error = None
        self.runners = Tasks(self) if worker.is_async else Threads(self) if worker.threads else Children(self)

    # ---- turns

    def post(self, f, *args):
        """From any thread."""
        self.posted.append((f, args))
        if self.is_asleep:
            try:
                self.wake_w.send(b"x")
            except OSError:
                pass

    def on_wake(self, _mask):
        try:
            self.wake_r.recv(4096)
        except BlockingIOError:
            pass

    def loop(self):
        try:
            while not self.is_over:
                self.is_asleep = True
                wait = 0 if self.posted else self.wait()
                events = self.sel.select(wait)
                self.is_asleep = False
                for key, mask in events:
                    key.data(mask)
                while self.posted:
                    f, args = self.posted.popleft()
                    f(*args)
                self.look_at_the_time()
                self.runners.turn()
                for x in list(self.acks.values()):
                    self.ack(x)
                self.flush()
        finally:
            self.disconnect()
            self.runners.close()
            self.sel.close()
            self.wake_r.close()
            self.wake_w.close()
        if self.error:
            raise self.error

    def wait(self):
        """Seconds to the next deadline, None when there is none."""
        at = [x.stop_by for x in self.stopping]
        if self.runners.waiting:
            at.append(self.runners.fork_at)
        if self.until and self.until != self.fenced:
            at.append(self.until - self.lead)
        if not self.sock and not self.error:
            at.append(self.retry_at * 1000)
        if self.is_leaving and not self.is_welcome and self.until and not self.stopping:
            at.append(self.until)
        return max(0.0, (min(at) - now_ms()) / 1000) if at else None

    def look_at_the_time(self):
        now = now_ms()
        if self.until and self.until != self.fenced and now >= self.until - self.lead:
            self.fenced = self.until
            for x in list(self.leases.values()):
                if not x.is_told and not x.result:
                    self.stop_work(x, self.until)
        for x in list(self.stopping):
            if now >= x.stop_by and x.is_busy:
                x.stop_by = now + 1000  # a killed one is gone before that
                log.warning("%s: the handler has not stopped in time", x.job.stream)
                self.runners.kill(x)
        if not self.sock and not self.error and time.monotonic() >= self.retry_at:
            self.connect()
        if self.is_leaving and not self.is_welcome:
            if self.leases and not self.error and now >= self.until and not any(x.is_busy for x in self.leases.values()):
                self.give_up(Unconfirmed("unconfirmed", f"{len(self.leases)} results were not confirmed: the daemon is away"))
            self.is_over = self.is_over or not self.leases

    def give_up(self, error):
        """run() raises it as soon as no handler is at work any more."""
        self.error, self.is_leaving = error, True
        self.disconnect()
        for x in list(self.leases.values()):
            self.lose(x)

    def die(self, why):
        os.write(2, f"sluice: {why}: this process ends\n".encode(errors="replace"))
        os._exit(EXIT_NOT_STOPPED)

    # ---- the socket

    def connect(self):
        s = sockets.socket(sockets.AF_UNIX)
        s.setblocking(False)
        try:
            s.connect(self.worker.socket)
        except OSError as e:
            s.close()
            self.trouble(f"{self.worker.socket}: {e.strerror or e}; trying until it answers")
            return self.later()
        self.sock, self.buf, self.writes = s, b"", selectors.EVENT_READ
        self.sel.register(s, selectors.EVENT_READ, self.on_socket)
        w = self.worker
        hello = {"t": "hello", "v": 1, "name": w.name, "credits": 0 if self.is_leaving else w.credits}
        if w.services is not None:
            hello["services"] = list(w.services)
        if w.entries:
            hello["entries"] = True
        if self.session:
            hello.update(session=self.session, resume=[x.name for x in self.leases.values() if not x.is_quiet])
        self.hello_at = now_ms()
        self.send(hello)

    def trouble(self, text):
        """Why there is no session: once, until there is one."""
        if self.said != text:
            self.said = text
            log.warning("%s", text)

    def later(self):
        self.retry_at = time.monotonic() + self.pause
        self.pause = min(2 * self.pause, PAUSE_MOST)

    def disconnect(self):
        if self.sock:
            self.sel.unregister(self.sock)
            self.sock.close()
        self.sock, self.is_welcome, self.out, self.n_out = None, False, [], 0

    def leave_fork(self):
        """In a child: its copies of what is ours, above all of the connection, are closed."""
        for s in [self.sock, self.wake_r, self.wake_w] + list(self.runners.all):
            if s:
                s.close()
        self.sel.close()

    def send(self, frame):
        self.send_line(json.dumps(frame).encode() + b"\n")

    def send_line(self, line):
        if self.sock:
            self.out.append(line)
            self.n_out += len(line)

    def flush(self):
        if not self.sock or not self.out:
            return
        data = b"".join(self.out)
        try:
            data = data[self.sock.send(data):]
        except BlockingIOError:
            pass
        except OSError:
            return  # the end of the connection is read, after what the daemon has still said
        self.out, self.n_out = [data] if data else [], len(data)
        writes = selectors.EVENT_READ | (selectors.EVENT_WRITE if data else 0)
        if writes != self.writes:
            self.writes = writes
            self.sel.modify(self.sock, writes, self.on_socket)

    def on_socket(self, mask):
        if not mask & selectors.EVENT_READ:
            return
        try:
            data = self.sock.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:  # what is left in buf is half a frame
            self.disconnect()
            return self.later()
        *lines, self.buf = (self.buf + data).split(b"\n") if self.buf else data.split(b"\n")
        for line in lines:
            if line.strip():
                self.on_line(line)
            if self.is_over or not self.sock:
                return

    def on_line(self, line):
        try:
            f = parse(line)
        except ValueError:
            f = None
        if not isinstance(f, dict) or not isinstance(f.get("t"), str):
            self.trouble(f"{self.worker.socket}: this is not the worker protocol: {line[:80].decode(errors='replace')!r}; connecting again")
            self.disconnect()
            return self.later()
        until = f.get("until_ms")
        if until is not None:
            self.until = until
            self.runners.moved(until)
        do = self.FRAMES.get(f["t"])
        if do:
            do(self, f, line)

    # ---- frames

    def on_welcome(self, f, _line):
        mine, its = now_ms(), f.get("now_ms")
        if its is not None and not self.hello_at - f["lease_ms"] <= its <= mine + f["lease_ms"]:  # it was written in between
            self.send({"t": "bye"})
            self.flush()
            return self.give_up(ClockError("clock", f"this worker's monotonic clock says {mine:.0f} ms, the daemon's {its:.0f} ms: they "
                                                    "share no clock (another host, or a time namespace), so no fence could hold"))
        if its is None and self.worker.entries:  # 0.1 would ignore that we want entries, and assign streams without end
            self.send({"t": "bye"})
            self.flush()
            return self.give_up(Refused("bad_version", f"{f.get('server')} is older than entries mode, which came with sluiced 0.2"))
        for name in set(f.get("not_served") or []) - self.misfits:
            self.misfits.add(name)
            log.warning("%s is in entries mode: this worker takes no entries, so it gets nothing of it", name)
        self.session, self.is_welcome, self.pause, self.said = f["session"], True, PAUSE_FIRST, None
        self.lead = min(500.0, f["lease_ms"] / 10)
        resumed = set(f.get("resumed") or [])
        gone = {g["lease"]: g.get("outcome") for g in f.get("gone") or []}
        for x in list(self.leases.values()):
            if x.name in resumed:
                self.resume(x)
            else:
                if x.result and gone.get(x.name) == "lost":
                    log.warning("%s: the result was not accepted: the stream was lost", x.job.stream)
                self.lose(x)
        if self.is_leaving:
            self.send({"t": "credits", "n": 0})
        self.maybe_leave()

    def resume(self, x):
        x.barrier, x.acked = False, None
        x.queue.clear()  # its entries come again
        if x.finished:
            self.ack(x)
        if x.result:
            self.tell(x)

    def on_assign(self, f, line):
        if self.is_leaving:
            return self.send({"t": "release", "lease": f["lease"]})
        if f["lease"] in self.leases:
            return
        if "too_deep" in f:
            line, f["info"] = json.dumps(f).encode(), None
        x = self.leases[f["lease"]] = Lease(f["lease"], line, Job(f, None), bool(self.worker.entries))
        if "too_deep" in f:
            return self.result(x, {"t": "fail", "reason": "info is nested deeper than this worker can read"})
        if self.until and now_ms() >= self.until - self.lead:
            return self.result(x, {"t": "revoked"})  # read too late: it never begins
        if self.worker.entries and f.get("entries") is None:
            return self.misfit(x)
        if not x.is_feed:
            self.begin(x, None)

    def misfit(self, x):
        """Somebody else must work on it: it comes back after a while, so that a backlog of them does not go round and round."""
        if x.job.service not in self.misfits:
            self.misfits.add(x.job.service)
            log.warning("%s is a service without entries: its streams are given back for %d s each; name the services of this worker",
                        x.job.service, MISFIT_BACK_MS // 1000)
        self.result(x, {"t": "release", "retry_ms": MISFIT_BACK_MS})

    def begin(self, x, rows):
        x.is_busy, x.given = True, dict.fromkeys(r[0] for r in rows or ())
        self.runners.start(x, rows)

    def on_entries(self, f, _line):
        x = self.leases.get(f["lease"])
        if x and not x.barrier and not x.is_told and not x.result:
            x.queue.append(f["e"])
            self.pump(x)

    def pump(self, x):
        """The next call for a stream's entries."""
        while not x.is_busy and x.queue and not x.last:
            done = id_key(x.finished) if x.finished else (-1, 0)
            rows = [r for r in x.queue.popleft() if id_key(r[0]) > done]
            if rows:
                return self.begin(x, rows)
            x.acked = None
            self.ack(x)  # it came again after all was finished
        if x.last and not x.is_busy and not x.result:
            self.result(x, x.last)

    def ack(self, x):
        self.acks.pop(x.name, None)
        if self.is_welcome and x.acked != x.finished:
            x.acked = x.finished
            self.send({"t": "ack", "lease": x.name, "id": x.finished})

    def on_ok(self, f, _line):
        x = self.leases.get(f["lease"])
        if f.get("for") == "ack" or x is None:
            return
        if f.get("for") == "nack":
            x.barrier = False
            x.queue.clear()
        elif x.result:
            self.forget(x)

    def on_ping(self, f, _line):
        self.send({"t": "pong", "n": f.get("n", 0)})

    def on_revoke(self, f, _line):
        x = self.leases.get(f["lease"])
        if x is None:
            self.send({"t": "revoked", "lease": f["lease"]})
        elif not x.result:
            self.stop_work(x, now_ms() + (f.get("grace_ms") or 0))

    def on_ended(self, f, _line):
        x = self.leases.get(f["lease"])
        if x:
            self.lose(x)

    def on_err(self, f, _line):
        code, x = f.get("code"), self.leases.get(f.get("lease"))
        about = x.job.stream if x else f.get("lease")
        text = f"sluiced: {code}: {f.get('msg')}" + (f" ({about})" if about else "")
        if f.get("fatal"):
            self.trouble(text)
        else:
            log.warning("%s", text)
        if code in ("bad_version", "bad_hello", "unauthorized"):
            self.give_up(Refused(code, f"{code}: {f.get('msg')}"))
        elif x and code in ("not_owner", "unknown_lease") or x and x.result and code == "bad_field":
            self.lose(x)
        elif x and x.barrier and code == "bad_field":  # no answer to the nack will come
            self.result(x, {"t": "release"})

    FRAMES = {"welcome": on_welcome, "assign": on_assign, "entries": on_entries, "ok": on_ok, "ping": on_ping, "revoke": on_revoke,
              "ended": on_ended, "err": on_err}

    # ---- a lease's way to its end

    def stop_work(self, x, by):
        """Work has to stop by then; asked now, killed then."""
        by = min(by, self.until) if self.until else by
        if x.is_told:
            x.stop_by = min(x.stop_by, by)
            self.runners.told(x)
            return
        x.is_told, x.stop_by = True, by
        if x.is_busy:
            self.stopping.add(x)
            self.runners.cancel(x)
        else:
            self.stopped(x)

    def stopped(self, x):
        if x.finished:
            self.ack(x)
        self.result(x, x.last if x.last and x.last["t"] == "release" else {"t": "revoked"})

    def lose(self, x):
        """Not ours any more, and nobody waits for an answer."""
        x.is_quiet = True
        if x.is_busy:
            self.stop_work(x, now_ms() + self.lead)
        else:
            self.forget(x)

    def reported(self, x, what):
        kind = what[0]
        if kind == "p":
            if self.n_out < PROGRESS_ROOM and self.is_welcome and not x.is_quiet:
                self.send({"t": "progress", "lease": x.name, **({} if what[1] is None else {"note": what[1]})})
            return
        if kind == "a":
            if self.is_unfinished(x, what[1]):
                x.finished = what[1]
                if not x.is_quiet:
                    self.acks[x.name] = x
            return
        x.is_busy = False
        self.stopping.discard(x)
        how, more = what[1], what[2]
        if x.is_quiet:
            return self.forget(x)
        if how == "stopped" or x.is_told and (how != "done" or x.is_feed):
            return self.stopped(x)
        if x.is_feed:
            return self.entries_ended(x, how, more)
        more = {k: v for k, v in more.items() if k in ("reason", "dead", "retry_ms") and v is not None}
        self.result(x, {"t": how, **more})

    def entries_ended(self, x, how, more):
        if x.finished:
            self.ack(x)
        if how == "release":
            x.last = {"t": "release", **({} if more.get("retry_ms") is None else {"retry_ms": more["retry_ms"]})}
        elif how == "fail" and (bad := more.get("id") if self.is_unfinished(x, more.get("id")) else self.first_given(x)):
            x.barrier = True
            x.queue.clear()
            self.send({"t": "nack", "lease": x.name, "id": bad,
                       **{k: more[k] for k in ("reason", "dead", "retry_ms") if more.get(k) is not None}})
        elif how == "fail":
            log.warning("%s: %s, when it had done all", x.job.stream, more.get("reason"))
        elif more.get("finish"):
            x.last = {"t": "done"}
        if self.is_leaving and not x.last:
            x.last = {"t": "release"}
        self.pump(x)

    def is_unfinished(self, x, id):
        """One of the entries of the call under way, and not finished yet."""
        return id in x.given and (not x.finished or id_key(id) > id_key(x.finished))

    def first_given(self, x):
        """What a handler that failed without naming one was at work on."""
        return next((id for id in x.given if self.is_unfinished(x, id)), None)

    def result(self, x, frame):
        x.result = {**frame, "lease": x.name}
        if self.is_welcome:
            self.tell(x)

    def tell(self, x):
        self.send(x.result)
        if x.result["t"] == "revoked":  # gets no answer
            self.forget(x)

    def forget(self, x):
        self.leases.pop(x.name, None)
        self.acks.pop(x.name, None)
        self.stopping.discard(x)
        self.maybe_leave()

    def leave(self):
        """SIGTERM: no new work; what is held is finished or given back, as `on_term` says."""
        if self.is_leaving:
            return
        self.is_leaving = True
        if self.is_welcome:
            self.send({"t": "credits", "n": 0})
        for x in list(self.leases.values()):
            if x.result:
                continue
            if self.worker.on_term == "release":
                x.last = {"t": "release"}
                self.stop_work(x, now_ms() + 5000)
            elif x.is_feed:
                x.last = {"t": "release"}  # after the call that is under way
                self.pump(x)
        self.maybe_leave()

    def maybe_leave(self):
        if self.is_leaving and not self.leases and self.is_welcome:
            self.send({"t": "bye"})
            self.flush()
            self.is_over = True


class Worker:
    """Takes streams from sluiced, at most `credits` at once, and calls `handler` for each.

    socket    path of the worker socket; None: $SLUICED_WORKER, else /run/sluiced/worker.sock
    handler   def or async def, see above
    name      shown by sluicectl; default: program@host:pid, host = $POD_NAME if set
    services  names of services, default: all
    entries   None: streams; "each" or "batch": their entries
    threads   a plain handler runs in threads of this process instead of child processes
    on_term   "finish", or "release": give back at SIGTERM what is not finished; no retry is counted
    """

    def __init__(self, socket, handler, credits=1, *, name=None, services=None, entries=None, threads=False, on_term="finish"):
        if not 0 <= credits <= 10000:
            raise ValueError("credits: 0 to 10000")
        if entries not in (None, False, True, "each", "batch"):
            raise ValueError('entries: None, "each" or "batch"')
        if on_term not in ("finish", "release"):
            raise ValueError('on_term: "finish" or "release"')
        self.socket = socket or os.environ.get("SLUICED_WORKER") or DEFAULT_SOCKET
        self.handler, self.credits, self.services, self.on_term = handler, credits, services, on_term
        self.entries = "each" if entries is True else entries or None
        self.is_async = inspect.iscoroutinefunction(handler)
        self.threads, self.pid = threads, os.getpid()
        host = os.environ.get("POD_NAME") or sockets.gethostname()
        self.name = name or f"{(os.path.basename(sys.argv[0]) or 'python')[:50]}@{host[:60]}:{os.getpid()}"
        self._engine = self._loop = None

    def run(self):
        """Returns when the worker has left after stop() or a signal; raises SluiceError when it cannot go on."""
        if self.is_async:
            return asyncio.run(self.run_async())
        self._engine = Engine(self)
        with self._signals():
            self._engine.loop()

    async def run_async(self):
        """The same for a handler that is `async def`, inside a loop that runs already."""
        if not self.is_async:
            raise TypeError("the handler is not async: use run()")
        self._loop = asyncio.get_running_loop()
        self._engine = engine = Engine(self)
        ended = self._loop.create_future()

        def live():
            try:
                engine.loop()
                end = ended.set_result, None
            except BaseException as e:
                end = ended.set_exception, e
            self._loop.call_soon_threadsafe(*end)
        with self._signals():
            threading.Thread(target=live, name="sluice", daemon=True).start()
            try:
                await asyncio.shield(ended)
            except asyncio.CancelledError:
                self.stop()
                await ended
                raise

    def stop(self):
        """No new work, finish, leave. From any thread, or a handler in a thread."""
        if self._engine:
            self._engine.post(self._engine.leave)

    def _signals(self):
        return _Signals(self)


class _Signals:
    def __init__(self, worker):
        self.worker, self.old = worker, {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for sig in (signal.SIGTERM, signal.SIGINT):
                self.old[sig] = signal.signal(sig, lambda *_: self.worker.stop())

    def __exit__(self, *_):
        for sig, old in self.old.items():
            signal.signal(sig, old)
