"""A short run of the random driver of operators (long: make chaos-verbs)."""
import os
import sys

from lib.case import limit, no_acl

issue = 9


@limit(240)
@no_acl("the driver's own clients, CLIENT KILL among their commands, are not that user")
def test_chaos_verbs_short(t):
    here = os.path.dirname(os.path.abspath(__file__))
    r = t.run([sys.executable, os.path.join(here, "chaos_verbs.py"), "--seed", os.environ.get("SEED", "1"), "--seconds",
               os.environ.get("SLUICE_TEST_CHAOS", "10"), "--dir", t.path("chaos")], timeout=230)
    print(r.stdout[-6000:], r.stderr[-3000:])
    assert r.returncode == 0
