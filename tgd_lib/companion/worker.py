"""What a worker of a cluster does: one task of `graph`, with the store, as its process would alone.

It is of use only with our sources and packages (`difference`), so that its results are ours. Where
the store's folder is not shared, artefacts come and go as bytes, their sums checked (`Parcel`).
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import re
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from tgd_lib import config, files
from tgd_lib.companion.schedule import Task
from tgd_lib.config import Diverged, InputError, Settings
from tgd_lib.files import no_room
from tgd_lib.lab.lab import Lab
from tgd_lib.lab.store import ASIDE, MANIFEST, Artefact, Store, damage

SENT = ("network", "evaluation", "robustness")  # kinds of artefacts that are handed over


# ---------------------------------------------------------------- the code, the same everywhere


@dataclass(frozen=True)
class Source:
    """What a result depends on beside its spec: sources of tgd_lib, commit, packages."""

    code: str
    commit: str | None
    versions: tuple[tuple[str, str | None], ...]


@functools.cache  # asked for every task
def source() -> Source:
    """That of this process."""
    digest = hashlib.sha256()
    for path in sorted((config.ROOT / "tgd_lib").rglob("*.py")):
        digest.update(f"{path.relative_to(config.ROOT).as_posix()} {files.sha256(path)}\n".encode())
    made = files.provenance()
    versions = {k: v for k, v in made["versions"].items() if k != "platform"}
    # The last number of Python's version changes no result.
    versions["python"] = ".".join(sys.version.split()[0].split(".")[:2])
    versions["distributed"] = metadata.version("distributed")
    return Source(digest.hexdigest()[:12], made["commit"], tuple(sorted(versions.items())))


def difference(here: Source, there: Source) -> str | None:
    """How the source of a worker differs from ours, in a few words; None if it does not.

    A commit counts where both are known: a copy without git is told by its sources alone.
    """
    if here.code != there.code:
        return f"another version of tgd_lib (sources {there.code}, here {here.code})"
    if here.commit and there.commit and here.commit != there.commit:
        return f"another commit ({there.commit[:8]}, here {here.commit[:8]})"
    theirs = dict(there.versions)
    for package, version in here.versions:
        if theirs.get(package) != version:
            return f"{package} {theirs.get(package)}, here {version}"
    return None


# ---------------------------------------------------------------- artefacts, handed over


class Parcel(NamedTuple):
    """A finished artefact as bytes, its manifest among the files."""

    kind: str
    key: str
    files: dict[str, bytes]


def pack(artefact: Artefact) -> Parcel:
    """A finished artefact, to be sent."""
    contents = {f.name: f.read_bytes() for f in sorted(artefact.path.iterdir()) if f.is_file()}
    return Parcel(artefact.kind, artefact.key, contents)


def unpack(parcel: Parcel, root: Path) -> bool:
    """Put what has arrived into the store below `root`, if it is not there yet; whether it took
    another one's place.

    A network that is there with other bits, trained here and then again elsewhere, makes room, and
    all that stands on it: what is measured must be of the network that the run has.
    Raises InputError when a sum is not what its manifest says.
    """
    names = (parcel.kind, parcel.key, *parcel.files)
    if any("/" in name or name.startswith(".") for name in names):
        raise InputError(f"{parcel.kind} {parcel.key[:20]}: arrived with a name that is no file's")
    place = root / parcel.kind / parcel.key
    replaced = place.is_dir()
    if replaced:
        if damage(place) is not None:
            _set_aside(place, root)
        elif parcel.kind != "network" or _same_weights(place, parcel):
            return False
        else:
            for path in [place, *_standing_on(parcel.key, root)]:
                _set_aside(path, root)
    # Beside its place and then renamed, so that nobody finds half of it.
    arriving = place.with_name(f"{parcel.key}.{uuid.uuid4().hex[:8]}.arriving")
    arriving.mkdir(parents=True)
    for name, data in parcel.files.items():
        files.write_bytes(arriving / name, data)
    problem = damage(arriving)
    if problem:
        raise InputError(
            f"{parcel.kind} {parcel.key}: arrived damaged ({problem}); see {arriving.name}"
        )
    try:
        arriving.rename(place)
    except OSError:  # another was quicker; an artefact's folder is never empty
        for path in arriving.iterdir():
            path.unlink()
        arriving.rmdir()
    return replaced


def _same_weights(network: Path, parcel: Parcel) -> bool:
    """Whether the manifests of a network and of one that arrives name the same weights."""
    from tgd_lib.lab.trained import WEIGHTS  # with torch, and only here

    try:
        arriving = json.loads(parcel.files[MANIFEST])
    except ValueError as error:
        raise InputError(f"{parcel.kind} {parcel.key}: arrived damaged ({MANIFEST})") from error
    return files.read_json(network / MANIFEST).get(WEIGHTS) == arriving.get(WEIGHTS)


def _standing_on(key: str, root: Path) -> list[Path]:
    """The artefacts whose specs name this key, and what stands on those in turn."""
    every = [path for path in root.glob("*/*/spec.json") if ASIDE not in path.parts]
    specs = {path.parent: path.read_text(encoding="utf-8") for path in every}
    found, waiting = [], [key]
    while waiting:
        name = waiting.pop()
        new = [p for p, text in specs.items() if name in text and p not in found]
        found += new
        waiting += [path.name for path in new]
    return found


def _set_aside(path: Path, root: Path) -> None:
    """Out of the way, where the store puts what is damaged; nothing is deleted."""
    aside = root / ASIDE / f"{path.parent.name}-{path.name}-{uuid.uuid4().hex[:8]}"
    aside.parent.mkdir(parents=True, exist_ok=True)
    path.rename(aside)


class NotedStore(Store):
    """A store that notes what is found in it, or made and then found."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.noted: dict[tuple[str, str], Artefact] = {}

    def find(self, kind: str, *arguments, **options) -> Artefact | None:
        found = super().find(kind, *arguments, **options)
        if found:
            self.noted[kind, found.key] = found
        return found


# ---------------------------------------------------------------- on a worker


@dataclass(frozen=True)
class Job:
    """What all tasks of a run have in common.

    root: the store's folder, which all see; None where each machine has its own (its
    TGD_ARTIFACTS). threads: of PyTorch; None leaves that to the worker.
    """

    settings: Settings
    source: Source
    root: str | None
    newer_than: float
    threads: int | None = None


class Outcome(NamedTuple):
    """How a task ended.

    status: done, diverged, no room, refused, failed or skipped; line: what to say of it.
    worker: its number; address: for Dask. parcels: what it made, where nothing is shared.
    """

    status: str
    line: str = ""
    seconds: float = 0.0
    worker: int | None = None
    address: str = ""
    parcels: tuple[Parcel, ...] = ()


_labs: dict[Job, Lab] = {}  # one: a process does many tasks, and loads its images and banks once


def work(task: Task, job: Job, inputs: Sequence[Parcel] = (), data=None) -> Outcome:
    """Do `task`: this is what Dask runs on a worker. Only a bug gets out as an exception.

    inputs: what it stands on; data: the images; both only where nothing is shared.
    """
    from distributed import get_worker

    # Greeted were those of the beginning; others come later, a job of SLURM that waited for one.
    here = get_worker()
    about = {"worker": number(here.name), "address": here.address}
    problem = difference(job.source, source())
    if problem:
        return Outcome("refused", problem, **about)
    start = time.monotonic()
    try:
        lab = _lab(job, data, about["worker"])
        # A list: all of them, whatever the first is.
        if any([unpack(parcel, lab.store.root) for parcel in inputs]):
            _labs.clear()  # it may hold what another took the place of
            lab = _lab(job, data, about["worker"])
        lab.store.noted.clear()
        line, status = do(lab, task), "done"
    except Diverged as error:
        line, status = str(error), "diverged"
    except Exception as error:
        # Dask would give up on what raises; these are for whoever gave the task to decide.
        if not (isinstance(error, InputError | OSError) or no_room(error)):
            raise
        line = str(error).split("\n")[0]
        status = "no room" if no_room(error) else "failed"
    seconds = time.monotonic() - start
    parcels = () if job.root or status != "done" else _made(lab, inputs)
    return Outcome(status, line, seconds, parcels=parcels, **about)


def _lab(job: Job, data, worker: int | None) -> Lab:
    """The lab of this process."""
    import torch

    # In this thread, where Dask runs all tasks of this process: PyTorch has a number a thread.
    if job.threads and torch.get_num_threads() != job.threads:
        torch.set_num_threads(job.threads)
    if job not in _labs:
        _labs.clear()
        root = Path(job.root) if job.root else config.artifacts_dir()
        store = NotedStore(root, newer_than=job.newer_than)
        say = logging.getLogger("tgd_lib.cluster").info
        _labs[job] = Lab(job.settings, store=store, data=data, say=say, place={"worker": worker})
    return _labs[job]


def do(lab: Lab, task: Task) -> str:
    """Do what `task` asks, its needs in the store; what there is to say of it, or nothing."""
    from tgd_lib.study import questions

    if task.kind == "bank":
        lab.objectives.source(task.specs[0])
    elif task.kind == "network":
        for spec in task.specs:
            lab.trained(spec)  # looked for once it is there, so that the store notes it
    elif task.kind == "corruption":
        # The same data and store, asked for one corruption: what it is called does not enter a key.
        asked = replace(lab.settings, corruptions=(task.corruption,))
        one = Lab(asked, store=lab.store, data=lab.data, say=lab.say, place=lab.place)
        questions.robustness(one, task.specs)
    else:
        return evaluated(lab, task.specs[0])
    return ""


def evaluated(lab: Lab, spec) -> str:
    """Evaluate a trained network; its accuracy in a line."""
    row = lab.row(spec)
    if lab.settings.holdout:
        lab.evaluation(spec, "holdout")
    return f"{spec.label}: {100 * row['accuracy']:.2f} % of {row['n']} test images"


def _made(lab: Lab, inputs: Sequence[Parcel]) -> tuple[Parcel, ...]:
    """What was made, or found, by the last task, but for what came with it."""
    came = {(p.kind, p.key) for p in inputs}
    noted = lab.store.noted.items()
    return tuple(pack(a) for key, a in noted if a.kind in SENT and key not in came)


def number(name: object) -> int | None:
    """The number at the end of a worker's name (4, "4", "SLURMCluster-4"); None of an address.

    Names of machines stay out of records.
    """
    found = re.fullmatch(r"(?:[A-Za-z_-]*-)?(\d+)", str(name))
    return int(found[1]) if found else None


def introduce(root: str | None, token: str) -> tuple[Source, bool]:
    """What a worker says of itself: its source, and whether it sees the store's folder."""
    return source(), root is None or (Path(root) / token).exists()
