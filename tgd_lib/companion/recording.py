"""What is left of a run of notebooks: a report on the screen, its timings, and the record in the repository."""

from __future__ import annotations

import csv
import json
import os
import platform
import shutil
import subprocess
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from tgd_lib.companion import twins
from tgd_lib.config import BY_SIZE, ROOT, Settings, run_dir
from tgd_lib.companion.execution import Outcome, short_path

NOTEBOOKS = ROOT / "notebooks"
FIGURES = ROOT / "figures"


def report(outcomes: list[Outcome], settings: Settings) -> None:
    """Prints every failure, the table of the notebooks, and where the results are."""
    for o in (o for o in outcomes if o.failure):
        place = f"cell {o.failure.cell}" if o.failure.cell else "outside its cells"
        print(f"--- {o.notebook} failed, {place} ---\n{o.failure.source}\n\n{o.failure.traceback}\n")
    width = max(len(o.notebook) for o in outcomes)
    print(f"{'notebook':<{width}}  seconds  peak MB  status")
    for o in outcomes:
        print(f"{o.notebook:<{width}}  {o.seconds:7.1f}  {o.peak_mb:7d}  {o.status}")
    print(f"{'all':<{width}}  {sum(o.seconds for o in outcomes):7.1f}")
    folder, results = run_dir(settings), run_dir(settings) / "results.csv"
    fresh = any(o.notebook.startswith("07") and o.status == "ok" for o in outcomes)
    where = f"results: {short_path(results)}" if fresh and results.exists() else f"output: {short_path(folder)}"
    print(f"\n{where}", flush=True)


def write_timings(outcomes: list[Outcome], settings: Settings) -> None:
    """timings.csv, and run.json with all that a reader needs to place those figures."""
    rows = [(o.notebook, f"{o.seconds:.1f}", o.peak_mb, o.status) for o in outcomes]
    with open(run_dir(settings) / "timings.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("notebook", "seconds", "peak_mb", "status"), *rows])
    libraries = ("torch", "torchvision", "gudhi", "numpy", "scipy", "papermill", "jupytext")
    run = {
        "profile": settings.profile,
        "overrides": {k: v for k, v in settings.overrides if k != "data_dir"},
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _git("rev-parse", "HEAD"),
        "changed_files": len((_git("status", "--porcelain") or "").splitlines()),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: metadata.version(name) for name in libraries},
    }
    (run_dir(settings) / "run.json").write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")


def _git(*arguments: str) -> str | None:
    """git's answer about this repository, or None if it has none."""
    with suppress(OSError):
        done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None


def record(names, settings: Settings, *, notebooks: Path = NOTEBOOKS, figures: Path = FIGURES) -> None:
    """Copies a run's figures, tables and records to figures/<profile>/, its notebooks to the twins.

    The twins show the most telling run that is recorded: where a better one is, they stay as they are.
    """
    target = figures / settings.profile
    fresh, old = (figures / f".{settings.profile}.{os.getpid()}.{state}" for state in ("new", "old"))
    left_out = ["*.ipynb", ".*"]
    if not settings.publishes:
        left_out.append("networks")
    shutil.copytree(run_dir(settings), fresh, ignore=shutil.ignore_patterns(*left_out))
    for path in fresh.rglob("*"):
        if path.suffix in (".json", ".csv", ".md", ".svg", ".txt"):
            path.write_text(twins.scrub_text(path.read_text(encoding="utf-8")), encoding="utf-8")
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    better = [p for p in BY_SIZE[: BY_SIZE.index(settings.profile)] if (figures / p).is_dir()]
    names = [] if better else names
    for name in names:
        executed = twins.read(run_dir(settings) / f"{name}.ipynb")
        twins.write(twins.scrub(executed, settings.profile), notebooks / f"{name}.ipynb")
    if (target / "records" / "05_robustness.json").exists() and figures == FIGURES:
        from tgd_lib.report import summary  # with pandas, and only here

        if not summary.update(ROOT / "README.md", target, settings.profile):
            print(f"README.md has no place for it: put <!-- results:{settings.profile} --> and <!-- /results --> there")
    shown = f"{len(names)} notebooks in {short_path(notebooks)}" if names else f"the notebooks go on showing {better[0]}"
    print(f"recorded: {short_path(target)}; {shown}")
