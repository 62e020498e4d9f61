"""Files: whole or not at all; where a result came from."""

import errno
import os
import platform

import pytest

from tgd_lib import config, files
from tgd_lib.config import InputError


def test_what_is_written_is_read_and_has_its_sum(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": [1, None, "é"]})
    assert files.read_json(path) == {"a": [1, None, "é"]}
    files.write_bytes(path, b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.sha256(path) == known
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_nothing_half_made_is_left(tmp_path, monkeypatch):
    path = tmp_path / "a"
    files.write_text(path, "old")

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        files.write_text(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a"]


def test_no_nan_in_json(tmp_path):
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "a", {"a": float("nan")})
    assert not list(tmp_path.iterdir())


def test_provenance_names_no_machine():
    found = files.provenance()
    assert {"made", "made_unix", "versions", "commit", "modified"} == set(found)
    assert str(config.ROOT) not in repr(found)
    assert found["versions"]["platform"] == f"{platform.system()} {platform.machine()}"


def test_the_environment_is_read_with_care(monkeypatch):
    monkeypatch.setenv("TGD_ARTIFACTS", "~/somewhere")
    assert "~" not in str(config.artifacts_dir())
    monkeypatch.setenv("TGD_FORCE_SINCE", "abc")
    with pytest.raises(InputError, match="TGD_FORCE_SINCE"):
        config.forced_since()


def test_a_full_disk_is_known_whoever_says_it():
    full = OSError(errno.ENOSPC, "No space left on device")
    wrapped = InputError("the store")
    wrapped.__cause__ = full
    safetensors = RuntimeError("I/O error: File too large (os error 27)")
    numpy = OSError("1000 requested and 0 written")  # without a number
    assert all(map(files.no_room, (full, wrapped, safetensors, numpy)))
    assert not any(map(files.no_room, (OSError(errno.EACCES, "no"), InputError("bad"), None)))
