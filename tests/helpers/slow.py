"""List the slow tests: `python tests/helpers/slow.py TIMES` writes `tests/slow.txt`.

TIMES is what `python -m pytest -n 2 --measure TIMES` wrote: the processor time of each test, with
its fixtures and child processes. Unlike wall-clock time, it hardly depends on what else the machine
does.
"""

import os
import sys
from collections import defaultdict
from pathlib import Path

LIMIT = 1.0  # seconds of processor time that the slowest case of a test function may take
LIST = Path(__file__).parent.parent / "slow.txt"
HEAD = (
    "# Tests that took more than {} s of processor time. Written by tests/helpers/slow.py, by measurement.\n"
)


def processor_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def function_of(nodeid: str) -> str:
    return nodeid.partition("[")[0]


def slow_functions(lines: list[str]) -> list[str]:
    """Return the functions with a case above the limit, from lines `nodeid <tab> seconds`."""
    longest: dict[str, float] = defaultdict(float)
    for line in lines:
        nodeid, _, seconds = line.rstrip("\n").rpartition("\t")
        name = function_of(nodeid)
        longest[name] = max(longest[name], float(seconds))
    return sorted(name for name, seconds in longest.items() if seconds > LIMIT)


def read_list() -> set[str]:
    """Return the functions and files in the list. A file means all of its tests."""
    return {line for line in LIST.read_text().splitlines() if line and not line.startswith("#")}


if __name__ == "__main__":
    slow = slow_functions(Path(sys.argv[1]).read_text().splitlines())
    LIST.write_text(HEAD.format(LIMIT) + "".join(f"{name}\n" for name in slow))
    print(f"{len(slow)} slow test functions in {LIST}")
