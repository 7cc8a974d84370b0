"""How a daemon is while it is disturbed: do its descriptors, its memory and its log stay within bounds, is a session stuck."""
import collections
import os
import re
import threading
import time

from lib.maintenance import n_fds, rss_kib

Sample = collections.namedtuple("Sample", "s descriptors rss_kib log_bytes")
Limits = collections.namedtuple("Limits", "descriptors rss_kib log_per_s", defaults=(150, 300_000, 20_000))


def sample(d):
    return Sample(time.monotonic(), n_fds(d), rss_kib(d), os.path.getsize(d.log_path))


def beyond(name, samples, limits):
    """What passed its limit, each once. The log is looked at over spans of 5 s at least."""
    bad = []
    for what, most in (("descriptors", limits.descriptors), ("rss_kib", limits.rss_kib)):
        top = max((getattr(x, what) for x in samples), default=0)
        if top > most:
            bad.append(f"{name}: {what} {top}, at most {most}")
    at = 0
    for i, x in enumerate(samples):
        if x.log_bytes < samples[at].log_bytes:
            at = i
        elif x.s - samples[at].s >= 5:
            per_s = (x.log_bytes - samples[at].log_bytes) / (x.s - samples[at].s)
            if per_s > limits.log_per_s:
                return bad + [f"{name}: log grows by {per_s:.0f} bytes a second, at most {limits.log_per_s}"]
            at = i
    return bad


class Vitals(threading.Thread):
    """Looks at the daemons every half second."""

    def __init__(self, daemons, limits=Limits()):
        super().__init__(daemon=True)
        self.daemons, self.limits = daemons, limits
        self.samples, self.is_stopping = {d.name: [] for d in daemons}, threading.Event()
        self.start()

    def run(self):
        while not self.is_stopping.wait(0.5):
            for d in self.daemons:
                try:
                    self.samples[d.name].append(sample(d))
                except (OSError, TypeError):  # it has just ended: of one that does, memory is the first that goes
                    pass

    def findings(self):
        return [x for name, samples in self.samples.items() for x in beyond(name, list(samples), self.limits)]

    def most(self):
        return {name: Sample(0, *(max(getattr(x, f) for x in xs) for f in Sample._fields[1:])) for name, xs in self.samples.items() if xs}

    def stop(self):
        self.is_stopping.set()
        self.join(5)


def faults_in_log(text):
    """What no log may hold."""
    found = re.findall(r"^.*(?:AddressSanitizer|LeakSanitizer|runtime error:|Assertion|must not happen).*$", text, re.M)
    return [x[:300] for x in found[:3]]


def stuck(rows):
    """`rows` of `sluicectl --json workers` once all work is done: sessions that hold something, or are not with us."""
    return [f"session of {r['name']}: {r['state']}, {r['in_use']} in use" for r in rows if r["state"] != "active" or r["in_use"]]
