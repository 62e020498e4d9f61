"""Shared by the benchmarks: what they were made on, and the files they end in."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import threading
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np

from tgd_lib.config import InputError, artifacts_dir, cores
from tgd_lib.files import provenance, write_json, write_text

AGREEMENT = "tiny; asserts agreement, not times"
OR_SAMPLE = "a folder with CIFAR-10 (default: the sample)"


def peak_mib() -> float:
    """Peak memory of this process so far, in MiB.

    On Linux from VmHWM: unlike ru_maxrss, it does not start at the size of the process that started
    this one.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        import resource  # not on Windows; bytes on macOS, KiB elsewhere

        unit = 2**20 if platform.system() == "Darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


class Anonymous:
    """The most memory that this process takes within the context beyond what it took before.

    Pages of files do not count: the system takes them back whenever it needs them. Looked at ten
    times a second, on Linux alone; elsewhere `mib` stays None.
    """

    def __init__(self):
        self.mib: float | None = None
        self._before, self._ended = _anonymous_mib(), threading.Event()

    def __enter__(self) -> Anonymous:
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *error) -> None:
        self._ended.set()
        self._watcher.join()

    def _watch(self) -> None:
        if self._before is None:
            return
        self.mib = 0.0
        while not self._ended.wait(0.1):
            self.mib = max(self.mib, _anonymous_mib() - self._before)


def _anonymous_mib() -> float | None:
    """Resident memory of this process that is no file's, in MiB; None where it cannot be had."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024
    except (OSError, StopIteration):
        return None


def machine(*packages: str) -> dict:
    """Processor, cores, load and versions; no name of the machine, no paths."""
    return {
        "processor": _processor(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "load_1min_at_start": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "commit": _commit(),
        **{package: metadata.version(package) for package in packages},
    }


def _commit() -> str | None:
    """Where the code stands, "+" if it was changed since."""
    found = provenance()
    return f"{found['commit'][:10]}{'+' if found['modified'] else ''}" if found["commit"] else None


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


def ratio(values, of) -> dict:
    """Median and quartiles of the ratios of steps taken one after the other."""
    low, middle, high = np.quantile(np.divide(values, of), (0.25, 0.5, 0.75))
    return {"median": float(middle), "quartiles": [float(low), float(high)]}


def write(folder: Path, name: str, record: dict, text: str) -> None:
    """`name`.json and `name`.md in the folder; the text goes to the screen too."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", record)
    write_text(folder / f"{name}.md", text + "\n")
    print(text)


# ---------------------------------------------------------------- the command line


def parser(about: str, *, quick: str, folder: str = "") -> argparse.ArgumentParser:
    """With --quick, which means `quick`, and --out, `folder` of artifacts/benchmarks/."""
    made = argparse.ArgumentParser(description=about.split("\n")[0])
    made.add_argument("--quick", action="store_true", help=quick)
    out = artifacts_dir() / "benchmarks" / folder
    where = f"default: artifacts/benchmarks/{folder}"
    made.add_argument("--out", metavar="DIR", type=Path, default=out, help=where)
    return made


def count(text: str) -> int:
    """A whole number from 1 on, as an argument."""
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number from 1 on is needed")
    return int(text)


def run(main: Callable[[], None]) -> None:
    """`main`, for which what a person has to mend is a line and exit status 2, no traceback."""
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
