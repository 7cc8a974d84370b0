"""A worker whose handler does nothing, for the bench beside this."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../etc/clients/python"))
from sluice import Worker  # noqa: E402

MODE, ENTRIES = os.environ["BENCH_MODE"], os.environ.get("BENCH_ENTRIES")


def work(_job, *_entries):
    pass


async def work_async(_job, *_entries):
    pass

Worker(None, work_async if MODE == "async" else work, int(os.environ["BENCH_CREDITS"]), entries=ENTRIES, threads=MODE == "threads").run()
