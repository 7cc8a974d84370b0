"""src/doc/agent-sessions.md as it stands: its service, its worker. Workers die and leave in the middle; each session has each message once,
in order."""
import os
import re
import shutil
import signal
import sqlite3
import sys

import yaml

from lib.case import limit
from lib.daemon import ROOT
from lib.servers import Process, spawn

issue = 18
PAGE = os.path.join(ROOT, "src", "doc", "agent-sessions.md")
N_MESSAGES, SESSIONS = 6, [f"session:{i}" for i in range(4)]


def block(kind):
    with open(PAGE) as f:
        return re.search(rf"```{kind}\n(.*?)```", f.read(), re.S)[1]


class Agent(Process):
    def __init__(self, t, d):
        self.dir = t.path("agents")
        if not os.path.isdir(self.dir):
            os.makedirs(self.dir)
            shutil.copy(os.path.join(ROOT, "etc/clients/python/sluice.py"), self.dir)
            text, n = re.subn(r"^    return f\"answer", "    __import__('time').sleep(0.15)\n\\g<0>", block("py"), flags=re.M)
            assert n == 1
            with open(os.path.join(self.dir, "worker.py"), "w") as f:
                f.write(text)
        self.proc = spawn([sys.executable, "worker.py"], t.path(t.name("agent")) + ".log", cwd=self.dir, env=dict(os.environ, SLUICED_WORKER=d.worker_sock))
        t.ending(self.kill)


def turns(agent, session):
    path = os.path.join(agent.dir, "sessions.db")
    if not os.path.exists(path):
        return []
    db = sqlite3.connect(path, timeout=60)
    try:
        return db.execute("SELECT said, reply FROM turn WHERE session = ? ORDER BY rowid", [session]).fetchall()
    except sqlite3.OperationalError:  # not made yet
        return []
    finally:
        db.close()


@limit(90)
def test_sessions_go_on_in_order_whatever_dies(t):
    r = t.redis()
    service, = yaml.safe_load(block("yaml"))["services"]
    assert service.pop("name") == "agents"
    service["entries"]["retry"]["initial"] = "100ms"
    d = t.daemon(r, service=service)
    agents = [Agent(t, d), Agent(t, d)]
    for i in range(N_MESSAGES):
        for s in SESSIONS:
            r.db.cmd("XADD", s, "*", "text", f"message {i}")
            r.db.cmd("XADD", "orders-input", "*", "lbs-input", f'{{"DataStreamName":"{s}"}}')

    def n_turns():
        return sum(len(turns(agents[0], s)) for s in SESSIONS)
    t.wait(lambda: n_turns() >= 4, 30, "some are answered", 0.02)
    agents[0].kill()
    agents.append(Agent(t, d))
    t.wait(lambda: n_turns() >= 10, 30, "more are answered", 0.02)
    agents[1].signal(signal.SIGTERM)
    assert agents[1].wait(20) == 0
    t.wait(lambda: n_turns() >= len(SESSIONS) * N_MESSAGES, 60, "all are answered", 0.05)
    for s in SESSIONS:
        assert turns(agents[0], s) == [(f"message {i}", f"answer {i + 1} to message {i}") for i in range(N_MESSAGES)], turns(agents[0], s)
