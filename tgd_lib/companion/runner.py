"""Run the notebooks: each after what it needs, alone in its folder, every failure collected.

Each notebook's source is executed by papermill in a kernel of this very Python, into the folder of
the run; no tracked file is touched unless --record asks for it.
"""

from __future__ import annotations

import os
import platform
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from tgd_lib.companion import execution, recording, twins
from tgd_lib.companion.execution import Kernels, Outcome, short_path
from tgd_lib.config import InputError, Settings, run_dir
from tgd_lib.files import read_json, write_json

NEEDS: dict[str, tuple[str, ...]] = {  # what must have been done before a notebook
    "00_start_here": ("03_distillation",),
    "01_persistence_images": (),
    "02_teachers": (),
    "03_distillation": ("02_teachers",),
    "04_ablations": ("03_distillation",),
    "05_robustness_and_calibration": ("03_distillation",),
    "06_cost": ("03_distillation",),
    "08_topology_that_helps": ("04_ablations",),
    "07_results": (
        "03_distillation",
        "04_ablations",
        "05_robustness_and_calibration",
        "06_cost",
    ),
}
LOCK, HOLDER = ".lock", ".holder.json"  # in the folder of a run: whose it is at the moment


# ---------------------------------------------------------------- which notebooks, in which order


def select(text: str | None, names: Sequence[str]) -> list[str]:
    """The notebooks that ``--only`` names: ``03``, ``01-03``, ``01,03``, or all if it is None."""
    if text is None:
        return list(names)
    chosen = []
    for part in text.split(","):
        numbers = re.fullmatch(r"(\d+)(?:_\w*)?(?:-(\d+)(?:_\w*)?)?", part.strip())
        first, last = (int(numbers[1]), int(numbers[2] or numbers[1])) if numbers else (1, 0)
        found = [n for n in names if first <= int(n[:2]) <= last]
        if not found:
            raise InputError(f"--only {part}: no such notebook; there are {', '.join(names)}")
        chosen += [n for n in found if n not in chosen]
    return chosen


def in_order(names: Sequence[str], needs: Mapping[str, Sequence[str]]) -> list[str]:
    """`names` by number, but each after those of them that it needs."""
    waiting, order = sorted(names), []
    while waiting:
        ready = next(n for n in waiting if not set(needs[n]) & set(waiting))
        waiting.remove(ready)
        order.append(ready)
    return order


# ---------------------------------------------------------------- one run


def run(
    only: str | None,
    settings: Settings,
    *,
    force: bool = False,
    record: bool = False,
    wait: bool = True,
) -> int:
    """Executes, reports and records; the exit status (0, 1 or 2, as `status_of`).

    wait: another run of the same is waited for; else InputError if there is one.
    """
    names = select(only, list(NEEDS))
    whole = set(names) == set(NEEDS)
    execution.check_loopback()
    with alone(run_dir(settings), wait=wait):
        print(f"{settings.run_name}: {settings.purpose} ({settings.budget})\n", flush=True)
        if record:
            recording.clear(names, settings, whole=whole)
        outcomes = execute(names, settings, force=force)
        status = status_of(outcomes)
        recording.report(outcomes, settings)  # first: it needs no room on the disk
        try:
            recording.write_timings(outcomes, settings)
        except OSError:
            if status != 2:  # else the report has said that the disk is full
                raise
        if record and status:
            print("not recorded: only a run without failures is")
        elif record:
            recording.record(names, settings, whole=whole)
    return status


def execute(names: Sequence[str], settings: Settings, *, force: bool = False) -> list[Outcome]:
    """Executes the notebooks called `names` and returns their outcomes, in the order of execution.

    All are checked before any runs. One that fails stops those that need it, and no others; a full
    disk stops all.
    """
    order = in_order(names, NEEDS)
    prepared = {name: execution.prepare(twins.NOTEBOOKS / f"{name}.py") for name in order}
    parameters = {"profile": settings.profile, "overrides": dict(settings.overrides)}
    folder = run_dir(settings).resolve()
    done: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        environment = execution.kernel_environment(scratch, force)
        kernels = Kernels(environment, twins.NOTEBOOKS)
        for number, name in enumerate(order, 1):
            print(f"[{number}/{len(order)}] {name}", flush=True)
            reason = _stopped_by(name, done)
            if reason:
                done[name] = Outcome(name, f"skipped: {reason}")
            else:
                output = folder / f"{name}.ipynb"
                done[name] = execution.execute_one(
                    name, prepared[name], output, parameters, kernels
                )
            print(f"      {_line(done[name])}\n", flush=True)
    return list(done.values())


def _stopped_by(name: str, done: Mapping[str, Outcome]) -> str:
    """Why a notebook cannot run after those `done`; "" if it can."""
    if any(o.failure and o.failure.kind == "full" for o in done.values()):
        return "no room left on the disk"
    lacking = [n for n in NEEDS[name] if n in done and done[n].status != "ok"]
    return f"needs {', '.join(lacking)}" if lacking else ""


def _line(outcome: Outcome) -> str:
    if outcome.status.startswith("skipped"):
        return outcome.status
    return f"{outcome.status}, {outcome.seconds:.1f} s, peak {outcome.peak_mb} MB"


def status_of(outcomes: Sequence[Outcome]) -> int:
    """0: all is well. 2: the disk is full, or what was given cannot be used. 1: another failure."""
    kinds = {o.failure.kind for o in outcomes if o.failure}
    if not kinds:
        return 0
    return 1 if "error" in kinds and "full" not in kinds else 2


# ---------------------------------------------------------------- one at a time


@contextmanager
def alone(folder: Path, *, wait: bool) -> Iterator[None]:
    """Holds the folder of a run, once nobody else does.

    With `wait`, a line says for whom; else InputError if it is held. InputError, too, if it cannot
    be written.
    """
    lock = _acquire(folder, wait=wait)
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / HOLDER).unlink()
        lock.release()


def _acquire(folder: Path, *, wait: bool):
    import filelock

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            _refuse_or_say(folder, wait=wait)
            lock.acquire()
        # Beside the lock and not in it: whoever tries the lock empties its file.
        write_json(folder / HOLDER, _me())
        return lock
    except OSError as error:
        raise InputError(
            f"{short_path(folder)}: cannot be written ({error.strerror}); "
            "make room, or set TGD_ARTIFACTS"
        ) from None


def _refuse_or_say(folder: Path, *, wait: bool) -> None:
    holder = _holder(folder)
    if not wait:
        raise InputError(
            f"{short_path(folder)}: {holder} is writing there; leave out --no-wait to wait for it"
        )
    print(f"{short_path(folder)}: waiting for {holder}", flush=True)


def _me() -> dict:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return {"pid": os.getpid(), "host": platform.node(), "since": now}


def _holder(folder: Path) -> str:
    """Who holds the folder of a run, for people; "another run" where that is not (yet) written."""
    try:
        who = read_json(folder / HOLDER)
        return f"process {who['pid']} on {who['host']}, since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another run"
