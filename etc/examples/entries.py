#!/usr/bin/env python3
"""A worker for entries mode: the entries of its streams, in order, no Redis client. usage: entries.py [SOCKET]"""
import json
import os
import socket
import sys

sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("SLUICED_WORKER") or "/run/sluiced/worker.sock")
void = set()  # leases with a nack that is not answered yet: what comes meanwhile does not count


def send(**frame):
    sock.sendall(json.dumps(frame).encode() + b"\n")


def work(stream, entry, fields):
    print(stream, entry, dict(zip(fields[::2], fields[1::2])), flush=True)  # your work


def entries(lease, batch):
    for entry, fields, *tries in batch:
        if lease in void:
            return
        try:
            work(streams[lease], entry, fields)
            send(t="ack", lease=lease, id=entry)
        except Exception as e:  # it comes again, nothing of its stream before it
            void.add(lease)
            send(t="nack", lease=lease, id=entry, reason=repr(e))


streams = {}
send(t="hello", v=1, name="entries.py", credits=8, entries=True)
for frame in map(json.loads, sock.makefile("rb")):
    t, lease = frame["t"], frame.get("lease")
    if t == "assign":
        streams[lease] = frame["stream"]
    elif t == "entries":
        entries(lease, frame["e"])
    elif t == "ok" and frame["for"] == "nack":
        void.discard(lease)
    elif t == "revoke":
        send(t="revoked", lease=lease)  # everything finished is acknowledged already
    elif t == "ping":
        send(t="pong", n=frame["n"])
    elif t == "err" and frame["fatal"]:
        sys.exit(str(frame))
