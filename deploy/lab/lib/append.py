#!/usr/bin/env python3
"""Appends a line to a file every moment, each synced, and notes what happened: the classic test of a storage network.

append.py FILE LOG      until SIGTERM; a line of LOG for each append: number, seconds since start, seconds it took, error
append.py --check FILE LOG   compares: prints longest gap, errors, lost lines (acknowledged, but not in FILE)
"""

import os
import signal
import sys
import time

INTERVAL = 0.1


def append(path, log):
    going = True

    def stop(*_):
        nonlocal going
        going = False

    signal.signal(signal.SIGTERM, stop)
    start = time.monotonic()
    number = 0
    with open(log, "a", buffering=1) as notes:
        while going:
            number += 1
            begun = time.monotonic()
            error = "-"
            try:
                with open(path, "a") as file:
                    file.write("%d\n" % number)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as failed:
                error = failed.strerror.replace(" ", "_")
            now = time.monotonic()
            notes.write("%d %.3f %.3f %s\n" % (number, now - start, now - begun, error))
            time.sleep(max(0, INTERVAL - (now - begun)))


def check(path, log):
    notes = [line.split() for line in open(log) if line.endswith("\n")]
    done = [note for note in notes if note[3] == "-"]
    errors = len(notes) - len(done)
    times = [float(note[1]) for note in done]
    gap = max((after - before for before, after in zip(times, times[1:])), default=0.0)
    there = {line.strip() for line in open(path, errors="replace")}
    lost = sum(1 for note in done if note[0] not in there)
    print("%d %.1f %d %d" % (len(done), gap, errors, lost))


if sys.argv[1] == "--check":
    check(*sys.argv[2:])
else:
    append(*sys.argv[1:])
