"""Where sanitizers of the programs under test write their reports, and which of them are there."""
import glob
import os
import re


def environment(dir):
    """For programs whose reports shall be in `dir`."""
    path = f"log_path={dir}/san"
    return {"ASAN_OPTIONS": f"{path}:abort_on_error=0:detect_leaks=1", "UBSAN_OPTIONS": f"{path}:print_stacktrace=1",
            "TSAN_OPTIONS": f"{path}:halt_on_error=0"}


def reports(dir):
    """Files of sanitizers, and those of valgrind that have more than its "--PID-- " notes (of system calls it does not know)."""
    def has_findings(path):
        with open(path, errors="replace") as f:
            return any(not re.match(r"--\d+-- ", line) for line in f)
    return [path for path in sorted(glob.glob(os.path.join(dir, "san.*"))) if has_findings(path)]
