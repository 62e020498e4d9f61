"""Shared by the benchmarks: what they were made on, and the files they end in."""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata
from pathlib import Path

from tgd_lib.config import cores
from tgd_lib.files import provenance


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


def write(folder: Path, name: str, record: dict, text: str) -> None:
    """`name`.json and `name`.md in the folder; the text goes to the screen too."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
    (folder / f"{name}.md").write_text(text + "\n")
    print(text)
