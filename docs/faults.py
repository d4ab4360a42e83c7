#!/usr/bin/env python3
"""Reads the faults of a run, as `--jsonl FILE` writes them, and sums them up or plots them.

    cargo run -- run --jsonl faults.jsonl cow          # or: cargo run -- trace run.fltrace --jsonl faults.jsonl
    python3 docs/faults.py faults.jsonl                # a table: how long each kind of fault took
    python3 docs/faults.py faults.jsonl faults.png     # a plot, where matplotlib is installed

In a notebook: `from faults import read, by_kind`; then `by_kind(read("faults.jsonl"))["cow-copy"]` is a list of faults.
"""

import collections
import json
import statistics
import sys


def read(path):
    """The faults of a file, in the order in which they began: dictionaries."""
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def by_kind(faults):
    """The faults of each kind, the most frequent kind first."""
    kinds = collections.defaultdict(list)
    for fault in faults:
        kinds[fault["kind"]].append(fault)
    return dict(sorted(kinds.items(), key=lambda kind: -len(kind[1])))


def table(kinds):
    """Count and microseconds of each kind: the median service, the longest, and the median wait for the CPU."""
    print(f"{'kind':14}{'count':>9}{'median µs':>12}{'longest µs':>12}{'then CPU µs':>13}")
    for kind, faults in kinds.items():
        service = [fault["service_us"] for fault in faults]
        wait = statistics.median(fault["cpu_wait_us"] for fault in faults)
        print(f"{kind:14}{len(faults):9,}{statistics.median(service):12,.2f}{max(service):12,.2f}{wait:13,.2f}")


def plot(kinds, path):
    """When each fault began and how long its service took, a colour for each kind."""
    from matplotlib import pyplot
    for kind, faults in kinds.items():
        starts = [fault["start_us"] / 1000 for fault in faults]
        pyplot.scatter(starts, [fault["service_us"] for fault in faults], s=4, label=kind)
    pyplot.yscale("log")
    pyplot.xlabel("began, ms")
    pyplot.ylabel("service, µs")
    pyplot.legend()
    pyplot.savefig(path, dpi=150)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    found = by_kind(read(sys.argv[1]))
    table(found)
    if len(sys.argv) == 3:
        plot(found, sys.argv[2])
