"""A short run of the random driver (long: make chaos)."""
import os
import sys

from lib.case import limit

issue = 3


@limit(240)
def test_chaos_short(t):
    here = os.path.dirname(os.path.abspath(__file__))
    seconds = os.environ.get("SLUICE_TEST_CHAOS", "20")
    r = t.run([sys.executable, os.path.join(here, "chaos.py"), os.environ.get("SEED", "1"), seconds, "--dir", t.path("chaos")],
              timeout=200 + float(seconds))
    print(r.stdout[-6000:], r.stderr[-3000:])
    assert r.returncode == 0
