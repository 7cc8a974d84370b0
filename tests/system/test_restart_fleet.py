"""Many workers, all with work in hand, while the daemon is restarted again and again: by itself, under a manager that keeps
descriptors, killed, and as another version. SLUICE_TEST_WORKERS (40; ten streams each) and SLUICE_TEST_RESTARTS (3 of each
kind) are the size."""
import os
import resource
import time

from lib import checks
from lib.case import limit
from lib.daemon import program
from lib.fleet import Locks, finish, hold, kept, unnoticed
from lib.manager import Manager, Unit

issue = 5
N_WORKERS, PER = int(os.environ.get("SLUICE_TEST_WORKERS", 40)), 10
N_RESTARTS = int(os.environ.get("SLUICE_TEST_RESTARTS", 3))
T, STOP_MARGIN_MS = 10, 2000  # the default lease


def raise_descriptors():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def once_a_second(t, action):
    """How long each took, ms."""
    took = []
    for _ in range(N_RESTARTS):
        begin = time.monotonic()
        action()
        took.append(round((time.monotonic() - begin) * 1000))
        t.wait(lambda: time.monotonic() > begin + 1, 2)
    return took


def restarts(t, d, what, after_handover):
    ws, add = hold(t, d, N_WORKERS, PER)
    locks = Locks(t, d, N_WORKERS * PER)
    handover = once_a_second(t, d.handover)
    after_handover(ws)
    killed = once_a_second(t, d.restart)
    kept(t, d, ws, PER)
    time.sleep(T - STOP_MARGIN_MS / 1000 + 0.5)  # until a lease that this process has not renewed would show
    locks.end()
    assert not locks.gone, f"{len(locks.gone)} locks were gone"
    assert locks.low_ms >= STOP_MARGIN_MS, f"a lock had {locks.low_ms:.0f} ms left"
    assert checks.pending(d.redis.db, "orders") == N_WORKERS * PER
    finish(t, d, ws, add)
    print(f"= {what}: workers={N_WORKERS} streams={N_WORKERS * PER} handovers={N_RESTARTS} ready_after_ms={max(handover)} "
          f"kills={N_RESTARTS} ready_after_ms={max(killed)} lowest_lock_ms={locks.low_ms:.0f} samples={locks.n_samples}")


@limit(300)
def test_without_a_store(t):
    raise_descriptors()
    d = t.daemon(t.redis())
    restarts(t, d, "restarts without a store", lambda ws: kept(t, d, ws, PER))


@limit(300)
def test_with_a_store(t):
    """A handover is not noticed by any worker; after kill -9 they come back."""
    raise_descriptors()
    m = Manager(t)
    d = Unit(t, t.redis(), m)

    def after_handover(ws):
        t.wait(lambda: not m.store, 10, "all were adopted")
        kept(t, d, ws, PER)
        unnoticed(ws)
    restarts(t, d, "restarts with a store", after_handover)


def version(d):
    return d.json("version")[0]["daemon"]["version"]


@limit(120)
def test_upgrade_and_downgrade(t):
    """Another version of the daemon takes over, with the store and without, and the first one after it."""
    other = program("other-version/sluiced")
    assert os.path.exists(other), "make other-version"
    m = Manager(t)
    d = Unit(t, t.redis(), m)
    ws, add = hold(t, d, N_WORKERS, PER)
    locks, first = Locks(t, d, N_WORKERS * PER), version(d)
    for binary in (other, None) * (N_RESTARTS // 2 + 1):
        d.binary = binary
        d.handover()
        assert (version(d) == first) == (binary is None)
        t.wait(lambda: not m.store, 10, "all were adopted")
        kept(t, d, ws, PER)
    unnoticed(ws)
    m.is_deaf = True
    ways = ((other, d.handover), (None, d.handover), (other, d.restart), (None, d.restart)) * (N_RESTARTS // 4 + 1)
    for n, (binary, again) in enumerate(ways, 2):
        d.binary = binary
        again()
        assert (version(d) == first) == (binary is None)
        for w in ws:
            w.wait("welcome", n, timeout=20)
        kept(t, d, ws, PER)
    locks.end()
    assert not locks.gone and locks.low_ms >= STOP_MARGIN_MS, (locks.gone, locks.low_ms)
    finish(t, d, ws, add)
