#!/usr/bin/env python3
"""A worker that keeps every promise of sluice-worker(7): it stops by its fence, resumes after a lost connection,
and tells results again until the daemon has said `ok`. Standard library only.

usage: worker_fenced.py [SOCKET [CREDITS]]
"""
import asyncio
import json
import signal
import sys

LEAD = 0.3  # seconds before the fence at which work is told to stop


async def do_work(job):
    """Your work. It is cancelled (asyncio.CancelledError) when it has to stop: do not catch that for longer than LEAD.
    Give job["token"] to whatever you write to, and let it refuse lower ones."""
    info = job["info"]  # any JSON value
    await asyncio.sleep(info.get("seconds", 1) if isinstance(info, dict) else 1)


class Lease:
    def __init__(self, job, ended):
        self.answer = None  # the frame to tell once the work has ended
        self.task = asyncio.create_task(do_work(job))
        self.task.add_done_callback(ended)


class Worker:
    def __init__(self, path, credits):
        self.path, self.credits = path, credits
        self.leases = {}
        self.session = None
        self.fence = None
        self.writer = None  # None while we are not connected and welcome
        self.is_stopping = False

    def send(self, **frame):
        if self.writer:
            self.writer.write(json.dumps(frame).encode() + b"\n")

    def good_until(self, until_ms):
        """The last one told holds for every lease. It is on the clock of asyncio: CLOCK_MONOTONIC."""
        if self.fence:
            self.fence.cancel()
        self.fence = asyncio.get_running_loop().call_at(until_ms / 1000 - LEAD, self.stop_work)

    def stop_work(self):
        for lease in self.leases.values():
            lease.task.cancel()

    # ---- one lease

    def start(self, name, job):
        self.leases[name] = Lease(job, lambda task: self.ended(name, task))

    def ended(self, name, task):
        problem = None if task.cancelled() else task.exception()
        lease = self.leases.get(name)
        if lease is None:  # nobody waits for an answer any more
            self.maybe_leave()
            return
        lease.answer = dict(t="done", lease=name)
        if task.cancelled():
            lease.answer["t"] = "revoked"
        elif problem:
            lease.answer.update(t="fail", reason=f"{type(problem).__name__}: {problem}"[:300])
        self.tell(name, lease)

    def tell(self, name, lease):
        """Results are kept until `ok`; `revoked` gets none."""
        self.send(**lease.answer)
        if self.writer and lease.answer["t"] == "revoked":
            self.forget(name)

    def forget(self, name):
        lease = self.leases.pop(name, None)
        if lease:
            lease.task.cancel()
        self.maybe_leave()

    def maybe_leave(self):
        if self.is_stopping and not self.leases and self.writer:
            self.send(t="bye")
            self.writer.close()

    # ---- frames

    def on_welcome(self, frame, writer):
        self.session, self.writer, self.was_welcome = frame["session"], writer, True
        for name, lease in list(self.leases.items()):
            if name in frame["resumed"]:
                if lease.answer:
                    self.tell(name, lease)
            else:  # somebody else may own it by now
                self.forget(name)
        if self.is_stopping:  # told to while we were not welcome yet
            self.send(t="credits", n=0)
            self.maybe_leave()

    def on_frame(self, frame, writer):
        t = frame["t"]
        if "until_ms" in frame:
            self.good_until(frame["until_ms"])
        if t == "welcome":
            self.on_welcome(frame, writer)
        elif t == "assign" and self.is_stopping:
            self.send(t="release", lease=frame["lease"])
        elif t == "assign":
            self.start(frame["lease"], frame)
        elif t == "ping":
            self.send(t="pong", n=frame["n"])
        elif t == "revoke":
            lease = self.leases.get(frame["lease"])
            if lease is None:
                self.send(t="revoked", lease=frame["lease"])
            elif not lease.answer:
                lease.task.cancel()
        elif t == "ok":
            self.forget(frame["lease"])
        elif t == "err":
            print("sluiced:", frame["code"], frame["msg"], file=sys.stderr)
            if frame["code"] in ("bad_version", "bad_hello", "unauthorized"):
                raise SystemExit(78)
            if frame.get("lease") and frame["code"] in ("not_owner", "unknown_lease"):
                self.forget(frame["lease"])

    async def serve_once(self):
        reader, writer = await asyncio.open_unix_connection(self.path, limit=64 << 20)
        try:
            hello = dict(t="hello", v=1, name="worker_fenced.py", credits=0 if self.is_stopping else self.credits)
            if self.session:
                hello.update(session=self.session, resume=list(self.leases))
            writer.write(json.dumps(hello).encode() + b"\n")
            async for line in reader:
                if line.endswith(b"\n"):  # else the daemon ended in the middle of it
                    self.on_frame(json.loads(line), writer)
        finally:
            self.writer = None
            writer.close()

    def stop(self):
        self.is_stopping = True
        self.send(t="credits", n=0)
        self.maybe_leave()

    async def serve(self):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.stop)
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self.stop)
        pause = 0.1
        while not (self.is_stopping and not self.leases):
            self.was_welcome = False
            try:
                await self.serve_once()
            except OSError:
                pass  # the work goes on until its fence
            pause = 0.1 if self.was_welcome else min(2 * pause, 2)
            if not (self.is_stopping and not self.leases):
                await asyncio.sleep(pause)


if __name__ == "__main__":
    asyncio.run(Worker(sys.argv[1] if len(sys.argv) > 1 else "/run/sluiced/worker.sock",
                       int(sys.argv[2]) if len(sys.argv) > 2 else 4).serve())
