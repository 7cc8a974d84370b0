#!/usr/bin/env python3
"""The Python client under the conformance suite: its handler does what `info` says (README.md). $CLIENT_MODE: "" | threads | async."""
import asyncio
import json
import os
import signal
import sys
import time

sys.path.insert(0, os.environ.get("SLUICE_CLIENT") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../etc/clients/python"))
from sluice import Fail, Release, SluiceError, Stopped, Worker  # noqa: E402

JOURNAL = os.open(os.environ["CONF_JOURNAL"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
ENTRIES = os.environ.get("CONF_ENTRIES")  # each or batch
MODE = os.environ.get("CLIENT_MODE", "")


def note(e, job, **more):
    rec = {"ms": time.monotonic() * 1000, "e": e, "stream": job.stream, "token": job.token, **more}
    os.write(JOURNAL, json.dumps(rec).encode() + b"\n")


def begin(job):
    note("begin", job, service=job.service, id=job.id, retry=job.retry, info=job.info, trace=job.trace, pid=os.getpid())


def plain(fields):
    return [[x if isinstance(x, str) else {"bytes": x.hex()} for x in f] for f in fields]


def ends(do):
    if "raise" in do:
        raise ValueError(do["raise"])
    if "fail" in do:
        raise Fail(do["fail"], dead=do.get("dead", False), retry_ms=do.get("retry_ms"))
    if do.get("release"):
        raise Release(retry_ms=do.get("retry_ms"))
    if "exit" in do:
        os.kill(os.getpid(), signal.SIGKILL)


def block(do, job, e):
    """Work that will not hear of being stopped."""
    end = time.monotonic() + do.get("block", 0)
    while time.monotonic() < end:
        try:
            note("tick", job, **e)
            time.sleep(min(0.03, max(0, end - time.monotonic())))
        except Stopped:
            pass


def pauses(do, job, e):
    """Yields pauses; a tick before each."""
    for id in do.get("ack", []):
        job.ack(id)
    for n in range(do.get("progress", 0)):
        job.progress(f"note {n}")
    end = time.monotonic() + do.get("sleep", 0)
    while time.monotonic() < end:
        note("tick", job, **e)
        yield min(0.03, max(0, end - time.monotonic()))


def work(job, entry=None):
    do, e = job.info if isinstance(job.info, dict) else {}, {}
    if entry is None:
        begin(job)
    else:
        e = {"entry": entry.id}
        note("entry", job, **e, tries=entry.tries, fields=plain(entry.fields))
        do = json.loads(entry.get("do") or "{}")
    try:
        for s in pauses(do, job, e):
            time.sleep(s)
    except Stopped:
        note("stopped", job, **e)
        raise
    block(do, job, e)
    ends(do)
    if do.get("done"):
        job.finish()
    note("end", job, **e)


def work_batch(job, entries):
    for e in entries:
        work(job, e)


async def work_batch_async(job, entries):
    for e in entries:
        await work_async(job, e)


async def work_async(job, entry=None):
    do, e = job.info if isinstance(job.info, dict) else {}, {}
    if entry is None:
        begin(job)
    else:
        e = {"entry": entry.id}
        note("entry", job, **e, tries=entry.tries, fields=plain(entry.fields))
        do = json.loads(entry.get("do") or "{}")
    try:
        for s in pauses(do, job, e):
            await asyncio.sleep(s)
    except asyncio.CancelledError:
        note("stopped", job, **e)
        raise
    block(do, job, e)
    ends(do)
    if do.get("done"):
        job.finish()
    note("end", job, **e)


try:
    handlers = [work_async, work_batch_async] if MODE == "async" else [work, work_batch]
    Worker(None, handlers[ENTRIES == "batch"], credits=int(os.environ["CONF_CREDITS"]), entries=ENTRIES, threads=MODE == "threads",
           on_term=os.environ.get("CONF_ON_TERM", "finish")).run()
except SluiceError as e:
    sys.exit(f"{e.code}: {e}")
