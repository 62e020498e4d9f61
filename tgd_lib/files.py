"""Files: written whole or not at all, their sums, and where a result came from."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import platform
import re
import subprocess
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from tgd_lib.config import ROOT

PACKAGES = ("torch", "torchvision", "numpy", "gudhi", "scipy", "scikit-image", "torchmetrics")

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # EFBIG: a limit of this process
# Words by which a full disk is known. Libraries pass on the system's own (safetensors does, in an
# error of its own); NumPy counts instead: "1000 requested and 0 written".
_NO_ROOM_SAID = re.compile(
    "|".join([
        *(re.escape(os.strerror(number)) for number in NO_ROOM),
        r"\d+ requested and \d+ written",
        "no room left",
    ])
)  # fmt: skip


def sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------- reading and writing


def read_json(path: Path):
    """The value in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value) -> None:
    """Write plain values as JSON, whole or not at all; ValueError for NaN and infinities."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes, whole or not at all: to a file beside `path`, which then takes its name."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except BaseException:  # a full disk: nothing half-made is left
        temporary.unlink(missing_ok=True)
        raise


def no_room(problem: BaseException | str | None) -> bool:
    """Whether an error, what it comes from, or a message says that the disk is full, or a file
    larger than allowed.
    """
    if isinstance(problem, str):
        return _NO_ROOM_SAID.search(problem) is not None
    while problem is not None:
        if getattr(problem, "errno", None) in NO_ROOM or no_room(str(problem)):
            return True
        problem = problem.__cause__
    return False


def sync(path: Path) -> None:
    """Wait until a file or folder has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------- where a result came from


def provenance() -> dict:
    """When, with which versions and from which commit something is made; no name of a machine or a
    path.
    """
    now = time.time()
    made = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    return {"made": made, "made_unix": now, **_surroundings()}


@functools.cache  # asked for every artefact, and git is slow
def _surroundings() -> dict:
    versions = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    modified = bool(git("status", "--short"))
    return {"versions": versions, "commit": git("rev-parse", "HEAD"), "modified": modified}


def git(*arguments: str) -> str | None:
    """What git says of this repository; None where there is no git, or it has nothing to say."""
    # Without its optional locks: killed, or on a full disk, it would leave one in the repository.
    command = ["git", "--no-optional-locks", "-C", str(ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip() or None
