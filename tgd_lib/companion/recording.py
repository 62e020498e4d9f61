"""What is left of a run of notebooks: its report, its timings, its record in the repository."""

from __future__ import annotations

import csv
import io
import os
import platform
import shutil
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from tgd_lib.companion import twins
from tgd_lib.companion.execution import Failure, Outcome, short_path
from tgd_lib.config import BEGUN, BY_SIZE, KEPT, PROFILES, ROOT, Settings, kept_results, run_dir
from tgd_lib.files import git, write_json, write_text

FIGURES = ROOT / "figures"
RESULTS = ROOT / "docs" / "results"

# What a record is: these of a run's folder, and nothing else that lies there.
DRAWN = ("figures", "records")
RESULTS_TABLE = "results.csv"  # written by notebook 07
RUN, TIMINGS = ABOUT = ("run.json", "timings.csv")
COPIED = (*DRAWN, RESULTS_TABLE, *ABOUT)
PAGED = ("04_ablations", "05_robustness_and_calibration")  # what the page of results is drawn from
PUBLISHES = "03_distillation"  # the notebook that publishes the networks of its run
NETWORKS = "networks"  # published ones (`study.published`): those there stay, a run adds its own
STAY = (NETWORKS, KEPT, BEGUN)  # so do results without weights, and what is half trained
TEXTS = (".json", ".csv", ".md", ".svg", ".txt")  # in which a path of this machine may stand
LIBRARIES = ("torch", "torchvision", "gudhi", "numpy", "scipy", "papermill", "jupytext")


# ---------------------------------------------------------------- on the screen


def report(outcomes: Sequence[Outcome], settings: Settings) -> None:
    """Prints every failure, the table of the notebooks, and where the results are."""
    for outcome in outcomes:
        if outcome.failure:
            print(_described(outcome.notebook, outcome.failure))
    width = max(len(o.notebook) for o in outcomes)
    print(f"{'notebook':<{width}}  seconds  peak MB  status")
    for o in outcomes:
        print(f"{o.notebook:<{width}}  {o.seconds:7.1f}  {o.peak_mb:7d}  {o.status}")
    print(f"{'all':<{width}}  {sum(o.seconds for o in outcomes):7.1f}")
    print(f"\n{_where(outcomes, settings)}", flush=True)


def _described(notebook: str, failure: Failure) -> str:
    """A failure: one line if it is no bug, else the cell and its traceback."""
    if failure.kind != "error":
        place = f", cell {failure.cell}" if failure.cell else ""
        return f"{failure.traceback} ({notebook}{place})\n"
    place = f"cell {failure.cell}" if failure.cell else "outside its cells"
    return f"--- {notebook} failed, {place} ---\n{failure.source}\n\n{failure.traceback}\n"


def _where(outcomes: Sequence[Outcome], settings: Settings) -> str:
    """Where to look: the table of results if this run made it, else the folder."""
    folder = run_dir(settings)
    results = folder / RESULTS_TABLE
    fresh = any(o.notebook.startswith("07") and o.status == "ok" for o in outcomes)
    if fresh and results.exists():
        return f"results: {short_path(results)}"
    return f"output: {short_path(folder)}"


# ---------------------------------------------------------------- in the folder of the run


def write_timings(outcomes: Sequence[Outcome], settings: Settings) -> None:
    """timings.csv, and run.json with all that a reader needs to place those figures."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("notebook", "seconds", "peak_mb", "status"))
    for o in outcomes:
        writer.writerow((o.notebook, f"{o.seconds:.1f}", o.peak_mb, o.status))
    write_text(run_dir(settings) / TIMINGS, table.getvalue())
    write_json(run_dir(settings) / RUN, _described_run(settings))


def _described_run(settings: Settings) -> dict:
    changed = (git("status", "--porcelain") or "").splitlines()
    return {
        "profile": settings.profile,
        "overrides": {k: v for k, v in settings.overrides if k != "data_dir"},
        "from_results": _from_results(settings.profile),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": git("rev-parse", "HEAD"),
        "changed_files": len(changed),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: metadata.version(name) for name in LIBRARIES},
    }


def _from_results(profile: str) -> bool:
    """Whether the run went on from results of other machines, and not just asked for them."""
    folder = kept_results(profile)
    return folder is not None and any(folder.glob("*.json"))


# ---------------------------------------------------------------- in the repository


def clear(names: Sequence[str], settings: Settings, *, whole: bool) -> None:
    """Takes away what earlier runs of these notebooks have drawn: they draw all of it anew.

    Else a figure that they no longer make would be recorded with them; of a `whole` run, also one
    that is no notebook's any more.
    """
    if whole:
        for name in DRAWN:
            shutil.rmtree(run_dir(settings) / name, ignore_errors=True)
    for path in _drawn_by(names, run_dir(settings)):
        path.unlink()


def record(names: Sequence[str], settings: Settings, *, whole: bool) -> None:
    """Brings a run to figures/<profile>/, docs/results/<profile>.md and the notebooks' twins.

    Of a run that is not `whole`, what its notebooks have drawn alone; all else stays. A twin shows
    the most telling run that is recorded: where it shows a better one, it stays as it is, unless a
    change of its source has left it without outputs.
    """
    target = FIGURES / settings.profile
    _replace(target, settings, names, whole=whole)
    if whole or set(PAGED) & set(names):
        _write_results(target, settings.profile)
    larger = BY_SIZE[: BY_SIZE.index(settings.profile)]
    better = [p for p in larger if (FIGURES / p / "records").is_dir()]
    stay = [name for name in names if _in_step(name) and _shown(name) in better]
    written = [name for name in names if name not in stay]
    _write_twins(written, settings)
    said = f"recorded: {short_path(target)}" + ("" if whole else f", of {', '.join(names)} alone")
    print(f"{said}; {len(written)} notebooks in {short_path(twins.NOTEBOOKS)}")
    for name in stay:
        print(f"{name} goes on showing {_shown(name)}")


def _drawn_by(names: Sequence[str], folder: Path) -> list[Path]:
    """The figures and records of notebooks in the folder of a run: their names begin with the
    notebook's number."""
    numbers = {name.partition("_")[0] for name in names}
    every = [path for part in DRAWN for path in (folder / part).glob("*") if path.is_file()]
    return [path for path in every if path.name.partition("_")[0] in numbers]


def _replace(target: Path, settings: Settings, names: Sequence[str], *, whole: bool) -> None:
    """Puts a run's record in the place of an older one: made whole beside it, then swapped."""
    fresh, old = (target.with_name(f".{target.name}.{end}") for end in ("new", "old"))
    _clear(target, fresh, old)
    fresh.mkdir(parents=True)
    source = run_dir(settings) if whole else target
    for name in COPIED:
        _copy(source / name, fresh / name)
    if not whole:
        _exchange(names, run_dir(settings), fresh)
    for path in sorted(fresh.rglob("*")):
        if path.suffix in TEXTS:
            write_text(path, twins.scrub_text(path.read_text(encoding="utf-8")))
    # After the scrub: networks come with sums of every file, their texts among them.
    for name in STAY:
        _copy(target / name, fresh / name)
    # Of a run without it, what lies there is an older one's.
    if settings.publishes and PUBLISHES in names and (run_dir(settings) / NETWORKS).is_dir():
        from tgd_lib.study import published  # with torch, and only here

        published.add(run_dir(settings) / NETWORKS, fresh / NETWORKS)
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(names: Sequence[str], run: Path, fresh: Path) -> None:
    """Puts what notebooks have drawn in a run in the place of what they had drawn before."""
    for path in _drawn_by(names, fresh):
        path.unlink()
    for path in _drawn_by(names, run):
        copy = fresh / path.relative_to(run)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copy)
    if any(name.startswith("07") for name in names):
        _copy(run / RESULTS_TABLE, fresh / RESULTS_TABLE)
    # The page of results names the versions of the run that it is drawn from; before there is one,
    # of the first.
    if set(PAGED) & set(names) or not (fresh / RUN).exists():
        _copy(run / RUN, fresh / RUN)
    _add_timings(run / TIMINGS, fresh / TIMINGS)


def _add_timings(run: Path, recorded: Path) -> None:
    """Puts the lines of a run's table in the place of those of the same notebooks."""
    lines: dict[str, str] = {}
    for path in (recorded, run):
        if path.exists():
            table = path.read_text(encoding="utf-8").splitlines(keepends=True)
            lines |= {line.partition(",")[0]: line for line in table}
    write_text(recorded, "".join(lines.values()))


def _clear(target: Path, fresh: Path, old: Path) -> None:
    """Takes away what a recording has left that was killed."""
    # Killed between the two renames: the older record is the only one that there is.
    if old.exists() and not target.exists():
        old.rename(target)
    for left in (fresh, old):
        shutil.rmtree(left, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    """A file or a folder, where there is one."""
    if source.is_dir():
        hidden = shutil.ignore_patterns(".*")
        shutil.copytree(source, target, ignore=hidden, dirs_exist_ok=True)
    elif source.exists():
        shutil.copyfile(source, target)


def _write_results(target: Path, profile: str) -> None:
    """The block of docs/results/<profile>.md, from what 04 and 05 leave; its prose stays."""
    records = target / "records"
    if not all((records / f"{name}.json").exists() for name in ("04_ablations", "05_robustness")):
        return
    from tgd_lib.report import summary  # with pandas, and only here

    RESULTS.mkdir(parents=True, exist_ok=True)
    page = RESULTS / f"{profile}.md"
    if not page.is_file():
        title = PROFILES[profile].purpose
        write_text(page, f"# {title[0].upper()}{title[1:]}\n\n{summary.marks(profile)}\n")
    summary.update(page, target, profile)


def _in_step(name: str) -> bool:
    """Whether a twin is as its source, and every cell has outputs."""
    twin = twins.NOTEBOOKS / f"{name}.ipynb"
    return twins.executed(twin) and not twins.check(twin.with_suffix(".py"), twin)


def _shown(name: str) -> str | None:
    """The profile whose outputs a twin has."""
    twin = twins.read(twins.NOTEBOOKS / f"{name}.ipynb")
    return twin.metadata.get("recorded", {}).get("profile")


def _write_twins(names: Sequence[str], settings: Settings) -> None:
    for name in names:
        executed = twins.read(run_dir(settings) / f"{name}.ipynb")
        scrubbed = twins.scrub(executed, settings.profile)
        twins.write(scrubbed, twins.NOTEBOOKS / f"{name}.ipynb")
