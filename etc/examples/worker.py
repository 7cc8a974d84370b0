#!/usr/bin/env python3
import json, socket, sys, threading, time
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1] if len(sys.argv) > 1 else "/run/sluiced/worker.sock")
def send(**frame): sock.sendall(json.dumps(frame).encode() + b"\n")
def work(job):
    try:
        print(job["stream"], job["info"], flush=True)
        time.sleep(job["info"].get("seconds", 1) if isinstance(job["info"], dict) else 1)  # your work; it has job["token"]
        send(t="done", lease=job["lease"])
    except Exception as e: send(t="fail", lease=job["lease"], reason=repr(e))
send(t="hello", v=1, name="worker.py", credits=4)
for frame in map(json.loads, sock.makefile("rb")):
    if frame["t"] == "assign": threading.Thread(target=work, args=[frame], daemon=True).start()
    elif frame["t"] == "ping": send(t="pong", n=frame["n"])
    elif frame["t"] in ("revoke", "err"): sys.exit(str(frame))  # ending is the surest way to stop
