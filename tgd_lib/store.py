"""Content-addressed artefacts: the same question has the same key, and is answered once.

An artefact is a folder ``<root>/<kind>/<key>/`` with ``spec.json`` (the question), data files,
``record.json`` (results and provenance) and ``MANIFEST.json`` (sha256 of every other file). It is
written as ``<key>.partial/`` under a lock and renamed when whole. What fails its check on reading is
set aside with a warning, never deleted, and made again.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import filelock

from tgd_lib import config
from tgd_lib.config import InputError

# Format version of each kind. Raise one when its files or their meaning change.
FORMATS = {"persistence_images": 1, "network": 1, "teacher_logits": 1, "teacher_maps": 1, "evaluation": 1, "cost": 1}
PACKAGES = ("torch", "torchvision", "numpy", "gudhi", "scipy", "scikit-image", "torchmetrics")


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


@dataclass
class Claim:
    """An artefact in the making: its folder, and the results for its record, set by who makes it."""

    folder: Path | None
    started: float
    result: dict | None = None


def canonical(spec) -> str:
    """Canonical JSON of a spec: dataclasses as objects, keys sorted, no blanks, no NaN."""

    def plain(x):
        if is_dataclass(x):
            return asdict(x)
        raise TypeError(f"a spec holds {type(x).__name__}; only plain values and dataclasses have a key")

    return json.dumps(spec, default=plain, sort_keys=True, separators=(",", ":"), allow_nan=False)


def key_of(kind: str, spec) -> str:
    """First 20 hex digits of sha256 over kind, its format version and the canonical spec."""
    text = f"{kind}/{FORMATS[kind]}/{canonical(spec)}"
    return hashlib.sha256(text.encode()).hexdigest()[:20]


class Store:
    """The artefacts below `root`. Those made before `newer_than` (seconds since 1970) do not count."""

    def __init__(self, root: Path | None = None, *, newer_than: float | None = None):
        self.root = Path(root or config.artifacts_dir())
        self.newer_than = config.forced_since() if newer_than is None else newer_than
        self._checked: set[Path] = set()

    def find(self, kind: str, spec) -> Artefact | None:
        """The artefact that answers `spec`, checked against its manifest; None if there is none."""
        key = key_of(kind, spec)
        path = self.root / kind / key
        if not path.is_dir():
            return None
        if path not in self._checked:
            problem = damage(path)
            if problem:
                self._set_aside(path, f"is damaged ({problem})")
                return None
        record = read_json(path / "record.json")
        if record["made_unix"] < self.newer_than:
            self._set_aside(path, "is made again, as asked")
            return None
        self._checked.add(path)
        return Artefact(kind, key, path, record)

    def make(self, kind: str, spec, build: Callable[[Path], dict], *, resumable: bool = False) -> Artefact:
        """The artefact that answers `spec`: found, or made by `build` now.

        `build` gets the empty folder to write data files to and returns the results for the record.
        With `resumable` the folder still holds what an interrupted `build` left in it.

        Raises InputError when the store cannot be written to (no right, no room).
        """
        found = self.find(kind, spec)
        if found:
            return found
        with self.claim(kind, spec, resumable=resumable) as claim:
            if claim.folder:
                claim.result = build(claim.folder)
        return self.find(kind, spec)

    @contextmanager
    def claim(self, kind: str, spec, *, resumable: bool = False) -> Iterator[Claim]:
        """The right to make an artefact: a `Claim` whose folder is to be filled and whose result is to be set.

        Its folder is None if another run made the artefact while this one waited for the right.
        It is finished when the block ends; if that raises, or sets no result, nothing is.
        """
        path = self.root / kind / key_of(kind, spec)
        with self._readable_errors(), self._lock(kind, path.name):
            claim = Claim(None if self.find(kind, spec) else self._partial(path, resumable), time.time())
            try:
                yield claim
                if claim.folder and claim.result is not None:
                    self._finish(path, spec, claim)
            finally:  # a finished one is no longer there
                if claim.folder and claim.folder.exists() and not (resumable and any(claim.folder.iterdir())):
                    shutil.rmtree(claim.folder, ignore_errors=True)

    def _partial(self, path: Path, resumable: bool) -> Path:
        partial = path.with_name(path.name + ".partial")
        if not resumable or (partial.exists() and partial.stat().st_mtime < self.newer_than):
            shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True, exist_ok=True)
        return partial

    def _finish(self, path: Path, spec, claim: Claim) -> None:
        partial = claim.folder
        for leftover in partial.glob("*.tmp"):  # of a write that was cut off
            leftover.unlink()
        seconds = round(time.time() - claim.started, 3)
        record = {"seconds": seconds} | claim.result | provenance() | {"key": path.name}
        write_json(partial / "spec.json", json.loads(canonical(spec)))
        write_json(partial / "record.json", record)
        write_json(partial / "MANIFEST.json", {f.name: sha256(f) for f in _files(partial)})
        _flush(partial)
        partial.rename(path)
        self._checked.add(path)

    @contextmanager
    def _lock(self, kind: str, key: str):
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / f"{kind}-{key}.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            print(f"{kind} {key}: another run is making it; waiting for that", flush=True)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _readable_errors(self):
        try:
            yield
        except OSError as e:
            if e.errno in (errno.ENOSPC, errno.EDQUOT):
                raise InputError(f"{self.root}: no room left on the disk; make some and start again") from e
            if e.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST):
                raise InputError(
                    f"{self.root}: cannot be written to ({e.strerror}); set TGD_ARTIFACTS to a folder that can"
                ) from e
            raise

    def _set_aside(self, path: Path, why: str) -> None:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        aside = self.root / "set-aside" / f"{path.parent.name}-{path.name}-{stamp}"
        aside.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.rename(aside)
        except FileNotFoundError:  # another run was quicker
            return
        warnings.warn(f"{path.parent.name} {path.name} {why}; kept in {aside.parent.name}/", stacklevel=3)


def damage(path: Path) -> str | None:
    """What is wrong with the artefact in `path`, in a few words; None if all its sums are right."""
    try:
        manifest = read_json(path / "MANIFEST.json")
        names = {f.name for f in _files(path)} - {"MANIFEST.json"}
        if names != set(manifest):
            return f"files {sorted(names ^ set(manifest))} missing or foreign"
        wrong = [name for name, sum_ in manifest.items() if sha256(path / name) != sum_]
        return f"{wrong[0]} has another sha256" if wrong else None
    except (OSError, ValueError) as e:
        return f"unreadable: {type(e).__name__}"


def sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def read_json(path: Path) -> dict:
    """The object in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value) -> None:
    """Write `value` as JSON, whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def provenance() -> dict:
    """When, with which versions and from which commit something was made. No names of machines or paths."""
    now = time.time()
    return {
        "made": datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds"),
        "made_unix": now,
        **_surroundings(),
    }


@functools.cache
def _surroundings() -> dict:
    versions = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {"versions": versions, "commit": _git("rev-parse", "HEAD"), "modified": bool(_git("status", "--short"))}


def _git(*arguments: str) -> str | None:
    try:
        command = ["git", "-C", str(config.ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None


def _files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.is_file())


def _flush(folder: Path) -> None:
    for path in [*_files(folder), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
