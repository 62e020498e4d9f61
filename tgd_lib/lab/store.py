"""Content-addressed artefacts: the same question has the same key, and is answered once.

An artefact is a folder ``<root>/<kind>/<key>/`` with ``spec.json`` (the question), data files,
``record.json`` (results and provenance) and ``MANIFEST.json`` (sha256 of every other file). It is
written as ``<key>.partial/`` under a lock and renamed when whole. What fails its check on reading
is set aside with a warning, never deleted, and made again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime
from pathlib import Path

import filelock

from tgd_lib import config
from tgd_lib.config import BEGUN, InputError
from tgd_lib.files import no_room, provenance, read_json, sha256, sync, write_json

MANIFEST = "MANIFEST.json"
ASIDE = "set-aside"  # the folder of what is damaged
DROPPED = ".dropped"  # what an artefact is called on its way out
NO_RIGHT = (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST)


@dataclass(frozen=True)
class Artefact:
    """A finished artefact. `record` holds results, seconds, device, versions, commit."""

    kind: str
    key: str
    path: Path
    record: dict

    def array(self, name: str):
        """The array in `<name>.npy`, mapped into memory (copy on write)."""
        import numpy as np

        return np.load(self.path / f"{name}.npy", mmap_mode="c", allow_pickle=False)


@dataclass(frozen=True)
class Claim:
    """An artefact in the making: the folder to fill."""

    folder: Path
    spec: object
    started: float
    checked: set[Path]  # the store's

    def finish(self, result: dict, *, drop: Sequence[str] = ()) -> None:
        """Put the folder in its place, with spec, record and sums.

        Files named in `drop` go only once all else is safe.
        """
        key = self.folder.name.removesuffix(".partial")
        for leftover in self.folder.glob("*.tmp"):  # of a write that was cut off
            leftover.unlink()
        record = {"seconds": round(time.time() - self.started, 3), **result}
        record |= {**provenance(), "key": key}
        write_json(self.folder / "spec.json", json.loads(canonical(self.spec)))
        write_json(self.folder / "record.json", record)
        # The manifest comes last: without it an artefact is not whole.
        kept = [f for f in _files(self.folder) if f.name not in (*drop, MANIFEST)]
        write_json(self.folder / MANIFEST, {f.name: sha256(f) for f in kept})
        # All of it is on the disk before the state that could make it again goes.
        _flush(self.folder)
        for name in drop:
            (self.folder / name).unlink(missing_ok=True)
        path = self.folder.with_name(key)
        self.folder.rename(path)
        sync(path.parent)
        self.checked.add(path)


def canonical(spec) -> str:
    """Canonical JSON of a spec: dataclasses as objects, keys sorted, no blanks, no NaN."""

    def plain(x):
        if is_dataclass(x):
            return asdict(x)
        kind = type(x).__name__
        raise TypeError(f"a spec holds {kind}; only plain values and dataclasses have a key")

    return json.dumps(spec, default=plain, sort_keys=True, separators=(",", ":"), allow_nan=False)


def key_of(kind: str, spec, version: int = 1) -> str:
    """First 20 hex digits of sha256 over kind, the version of its format, and the canonical spec.

    Raise the version where a kind's files or their meaning change.
    """
    text = f"{kind}/{version}/{canonical(spec)}"
    return hashlib.sha256(text.encode()).hexdigest()[:20]


class Store:
    """The artefacts below `root`, and the published networks of the repository.

    Those made before `newer_than` (seconds since 1970) do not count. published: folders whose
    sub-folders are trained networks, named by their keys; None takes `figures/*/networks`.
    Beside each there may be a folder `begun`, with states of trainings that others can go on with.
    """

    def __init__(
        self,
        root: Path | None = None,
        *,
        newer_than: float | None = None,
        published: Sequence[Path] | None = None,
    ):
        self.root = Path(root or config.artifacts_dir())
        # Not of a hidden folder: that is a recording under way, or one that was killed.
        found = [f / "networks" for f in sorted(config.ROOT.glob("figures/[!.]*/"))]
        self.published = found if published is None else list(published)
        self.newer_than = config.forced_since() if newer_than is None else newer_than
        self._checked: set[Path] = set()

    def find(self, kind: str, spec, *, of_any_age: bool = False) -> Artefact | None:
        """The artefact that answers `spec`, checked against its manifest; None if none is whole.

        of_any_age: one that was made before `newer_than` counts, too.
        """
        return self._look(kind, key_of(kind, spec), of_any_age=of_any_age)[0]

    def _look(
        self, kind: str, key: str, *, of_any_age: bool = False
    ) -> tuple[Artefact | None, str]:
        """The artefact, or None and what is wrong with it."""
        path = self._place(kind, key)
        if not path.is_dir():
            return None, "is not there"
        # Sums are checked once a process: large artefacts are asked for again and again.
        problem = None if path in self._checked else damage(path)
        if problem:
            return None, f"is damaged ({problem})"
        try:
            record = read_json(path / "record.json")
        except (OSError, ValueError):  # just now set aside by another run
            return None, "is gone"
        # All sums are right in a folder that was put in another one's place, too.
        if record.get("key") != key:
            return None, f"is another one ({str(record.get('key'))[:20]})"
        if record["made_unix"] < self.newer_than and not of_any_age:
            return None, "is made again, as asked"
        self._checked.add(path)
        return Artefact(kind, key, path, record), ""

    def holds(self, kind: str, spec) -> bool:
        """Whether the folder of an artefact is here, whole or not: sums of 15 GB take a minute."""
        return (self.root / kind / key_of(kind, spec)).is_dir()

    def _place(self, kind: str, key: str) -> Path:
        """Where an artefact lies: in the store, or, for a network, among the published."""
        path = self.root / kind / key
        if kind != "network" or path.is_dir():
            return path
        return self.given(key) or path

    def given(self, key: str) -> Path | None:
        """The folder of a published network, whole or not; None if there is none of this key."""
        return next((f / key for f in self.published if (f / key).is_dir()), None)

    def under_way(self, kind: str, key: str) -> Path:
        """The folder of an artefact that is being made, whether or not there is one."""
        return self.root / kind / f"{key}.partial"

    def begun(self, key: str) -> Path | None:
        """The state of a training that another machine began, if one is published and counts."""
        states = [folder.parent / BEGUN / f"{key}.safetensors" for folder in self.published]
        return next(filter(self.counts, states), None)

    def counts(self, state: Path) -> bool:
        """Whether the state of a training is there, and not older than what counts."""
        return state.is_file() and state.stat().st_mtime >= self.newer_than

    def make(self, kind: str, spec, build: Callable[[Path], dict]) -> Artefact:
        """The artefact that answers `spec`: found, or made by `build` now.

        `build` gets an empty folder to write data files to and returns the results for the record.
        Raises InputError when the store cannot be written to (no right, no room).
        """
        # Without the lock first: a store that may only be read still answers.
        found = self.find(kind, spec)
        if found:
            return found
        with self.claim(kind, spec) as claim:
            if claim:
                claim.finish(build(claim.folder))
        return self.find(kind, spec)

    @contextmanager
    def claim(self, kind: str, spec, *, resumable: bool = False) -> Iterator[Claim | None]:
        """The right to make an artefact; None if another run has made it while this one waited.

        The block fills `claim.folder` and calls `claim.finish(results)`. If it does not, nothing is
        left; with `resumable`, the folder stays as it is, to go on with.
        """
        path = self.root / kind / key_of(kind, spec)
        with self._readable_errors(), self._lock(kind, path.name):
            partial = self.under_way(kind, path.name)
            if partial.is_dir() and not path.exists() and damage(partial) is None:
                partial.rename(path)  # it was whole when its maker was killed
            found, problem = self._look(kind, path.name)
            if not found and path.exists():
                self._set_aside(path, problem)
                found, problem = self._look(kind, path.name)  # a published one may be whole
            if found:
                yield None
                return
            if self._place(kind, path.name) != path:
                warnings.warn(f"published {kind} {path.name} {problem}", stacklevel=3)
            if not resumable or (partial.exists() and partial.stat().st_mtime < self.newer_than):
                shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True, exist_ok=True)
            try:
                yield Claim(partial, spec, time.time(), self._checked)
            finally:  # a finished one is no longer there
                if partial.exists() and not (resumable and any(partial.iterdir())):
                    shutil.rmtree(partial, ignore_errors=True)

    def drop(self, kind: str) -> int:
        """Remove all artefacts of a kind, finished or begun; the bytes that this frees.

        What another run is making just now stays. Who has an artefact's files mapped keeps them.
        """
        freed = 0
        for path in sorted((self.root / kind).glob("*")):
            if not path.exists():  # a leftover that went with its key
                continue
            key = path.name.partition(".")[0]
            lock = self._lock_of(kind, key)
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                continue
            try:
                freed += sum(f.stat().st_size for f in _files(path))
                # Renamed first: cut off halfway, it must not pass for a damaged artefact.
                gone = path.with_name(f"{key}{DROPPED}")
                if path != gone:
                    shutil.rmtree(gone, ignore_errors=True)
                    path.rename(gone)
                shutil.rmtree(gone)
            finally:
                _release(lock)
        return freed

    def _lock_of(self, kind: str, key: str) -> filelock.FileLock:
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(folder / f"{kind}-{key}.lock")

    @contextmanager
    def _lock(self, kind: str, key: str):
        lock = self._lock_of(kind, key)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            waiting = f"{kind} {key}: another run is making it; waiting for that"
            print(waiting, file=sys.stderr, flush=True)
            lock.acquire()
        try:
            yield
        finally:
            _release(lock)

    @contextmanager
    def _readable_errors(self):
        try:
            yield
        except OSError as e:
            if no_room(e):
                raise InputError(
                    f"{self.root}: no room left on the disk; make some and start again"
                ) from e
            if e.errno in NO_RIGHT:
                raise InputError(self._refused(e)) from e
            raise

    def _refused(self, error: OSError) -> str:
        """A line on a file, or on a folder above it, that there is no right to."""
        root = self.root.absolute()
        named = Path(error.filename).absolute() if isinstance(error.filename, str) else root
        if named.is_relative_to(root) or root.is_relative_to(named):
            return (
                f"{self.root}: cannot be written to ({error.strerror}); "
                "set TGD_ARTIFACTS to a folder that can"
            )
        return f"{named}: cannot be read ({error.strerror}); change its rights"

    def _set_aside(self, path: Path, why: str) -> None:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        aside = self.root / ASIDE / f"{path.parent.name}-{path.name}-{stamp}"
        aside.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.rename(aside)
        except FileNotFoundError:  # another run was quicker
            return
        warnings.warn(
            f"{path.parent.name} {path.name} {why}; kept in {aside.parent.name}/", stacklevel=3
        )


def _release(lock: filelock.FileLock) -> None:
    # Removed while it is still held. Who had opened it before then holds a file without a name:
    # filelock looks for that (no links left) as soon as it has the lock, and tries again. Removed
    # after the release, it might be the next holder's.
    with suppress(OSError):  # not on Windows, where it stays
        Path(lock.lock_file).unlink()
    lock.release()


def damage(path: Path) -> str | None:
    """What is wrong with the artefact in `path`, in a few words; None if all its sums are right."""
    try:
        manifest, record = read_json(path / MANIFEST), read_json(path / "record.json")
        names = {f.name for f in _files(path)} - {MANIFEST}
        if not isinstance(manifest, dict) or not isinstance(record, dict):
            return "not a manifest and a record"
        if names != set(manifest):
            return f"files {sorted(names ^ set(manifest))} missing or foreign"
        for name, expected in manifest.items():
            if sha256(path / name) != expected:
                return f"{name} has another sha256"
        if not isinstance(record.get("made_unix"), (int, float)):
            return "its record has no time"
        return None
    except (OSError, ValueError, RecursionError) as e:  # RecursionError: JSON nested very deep
        return f"unreadable: {type(e).__name__}"


def _files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.is_file())


def _flush(folder: Path) -> None:
    for path in [*_files(folder), folder]:
        sync(path)


# ---------------------------------------------------------------- published networks


def republish(source: Path, target: Path, about: dict) -> None:
    """Copy a finished artefact to `target`, `about` added to its record: whole or not at all."""
    fresh = target.with_name(f".{target.name}.tmp")  # hidden: no network, if left half-made
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(source, fresh)
    write_json(fresh / "record.json", read_json(fresh / "record.json") | about)
    kept = [f for f in _files(fresh) if f.name != MANIFEST]
    write_json(fresh / MANIFEST, {f.name: sha256(f) for f in kept})
    if target.exists():
        shutil.rmtree(target)
    fresh.rename(target)
