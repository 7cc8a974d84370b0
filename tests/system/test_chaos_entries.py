"""A short run of the random driver of entries mode (long: make chaos), and its judge."""
import os
import sys

from chaos_entries import SAME_RUN, UNEXPLAINED, judge
from lib.case import limit

issue = 16
IDS = ["1-0", "2-0", "3-0"]


def lines(*work):
    """"w1 7 2-0": worker w1 worked on 2-0 in the run with token 7; "w1 7 2-0 nack": it failed there."""
    for x in work:
        who, token, id, *what = x.split()
        yield who, "k", token, what[0] if what else "did", id


def judged(*work, lost_leases=frozenset()):
    return judge({"k": IDS}, lines(*work), lost_leases)


def test_judge_in_order_and_repeats_explained(t):
    bad, why, lost = judged("a 1 1-0", "a 1 2-0", "b 2 2-0", "a 1 2-0", "b 2 3-0 nack", "b 2 2-0", "c 2 3-0", "c 2 9-0")
    assert not bad and lost == 1, bad
    assert why == {"a new owner, from the position": 1, "an owner that did not know yet that it is none": 1,
                   "the entry or one before it in its batch failed": 1}, why
    assert judged("a 1 1-0", "b 1 1-0", "b 1 2-0", "b 1 3-0")[1] == {SAME_RUN: 1}


def test_judge_sees_what_is_wrong(t):
    assert "worked on 2 of 3; at number 1: ['3-0'] but ['2-0', '3-0']" in judged("a 1 1-0", "a 1 3-0")[0][0]
    assert "at number 2: [] but ['3-0']" in judged("a 1 1-0", "a 1 2-0")[0][0]
    assert "at number 1: ['3-0', '2-0']" in judged("a 1 1-0", "a 1 3-0", "a 1 2-0")[0][0]
    bad, why, _ = judged("a 1 1-0", "a 1 2-0", "a 1 2-0", "a 1 3-0")
    assert len(bad) == 1 and why == {UNEXPLAINED: 1}
    for lost, n in (("a", "k"), 0), (("a", "other"), 1), (("b", "k"), 1):
        bad, _, _ = judged("a.7 1 1-0", "a.7 1 2-0", "a.7 1 2-0", "a.7 1 3-0", lost_leases={lost})
        assert len(bad) == n, (lost, bad)


@limit(240)
def test_chaos_entries_short(t):
    here = os.path.dirname(os.path.abspath(__file__))
    seconds = os.environ.get("SLUICE_TEST_CHAOS", "5")
    r = t.run([sys.executable, os.path.join(here, "chaos_entries.py"), "--topology", "standalone", "--T", "3", "--keys", "100",
               "--entries", "10", "--seed", os.environ.get("SEED", "1"), "--seconds", seconds, "--dir", t.path("chaos")],
              timeout=200 + float(seconds))
    print(r.stdout[-6000:], r.stderr[-3000:])
    assert r.returncode == 0
