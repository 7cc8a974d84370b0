"""A short run of the random driver of what Redis says (long: make chaos-replies), honest and lying."""
import os
import sys

from lib.case import limit, no_acl

issue = 9


def drive(t, *args):
    here = os.path.dirname(os.path.abspath(__file__))
    r = t.run([sys.executable, os.path.join(here, "chaos_replies.py"), "--seed", os.environ.get("SEED", "1"), "--seconds",
               os.environ.get("SLUICE_TEST_CHAOS", "8"), "--dir", t.path("chaos"), *args], timeout=230)
    print(r.stdout[-6000:], r.stderr[-3000:])
    assert r.returncode == 0


@limit(240)
@no_acl("errors that are made up name the user's rights, and a lie may cost it its connection")
def test_chaos_replies_short(t):
    drive(t)


@limit(240)
@no_acl("errors that are made up name the user's rights, and a lie may cost it its connection")
def test_chaos_lies_short(t):
    drive(t, "--lies")
