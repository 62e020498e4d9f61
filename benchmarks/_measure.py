"""Shared by the benchmarks: repeated timings, what they were made on, and the files they end in."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from statistics import median


def interleaved(
    rivals: dict[str, Callable[[int], object]], repeats: int, *, clock=time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each rival, `repeats` times in turn: a busy minute of the machine falls on all alike.

    A rival is called with the number of the repetition; a first call of each is not counted.
    """
    for rival in rivals.values():
        rival(0)
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for repetition in range(repeats):
        for name, rival in rivals.items():
            start = clock()
            rival(repetition)
            seconds[name].append(clock() - start)
    return seconds


def summary(values: list[float]) -> dict:
    """n, median, and the spread as smallest and largest value."""
    return {"n": len(values), "median": median(values), "min": min(values), "max": max(values)}


def peak_mib() -> float:
    """Peak memory of this process so far, in MiB.

    On Linux from VmHWM: unlike ru_maxrss, it does not start at the size of the process that started this one.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        import resource  # not on Windows; bytes on macOS, KiB elsewhere

        unit = 2**20 if platform.system() == "Darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def machine(*packages: str) -> dict:
    """Processor, cores, load and versions; no name of the machine, no paths."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "cores": usable,
        "system": f"{platform.system()} {platform.machine()}",
        "load_1min_at_start": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in packages},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def table(rows: list[dict]) -> str:
    """Rows with the same keys as a markdown table."""
    columns = list(rows[0])
    cells = [columns, ["---"] * len(columns), *([str(row[c]) for c in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def write(folder: Path, name: str, record: dict, text: str) -> None:
    """`name`.json and `name`.md in the folder; the text goes to the screen too."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
    (folder / f"{name}.md").write_text(text + "\n")
    print(text)
