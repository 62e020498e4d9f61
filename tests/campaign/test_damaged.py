"""Every kind of file damaged in six ways: found, or made again to the same bytes."""

import os
import shutil
import signal
import time
import warnings
from pathlib import Path

import campaign_work as tools
import numpy as np
import pytest
from test_interrupted import Reference, reference  # noqa: F401  a fixture

from tgd_lib.lab.store import Store

HARMS = ("flip", "truncate", "nothing in it", "delete", "swap", "another type")


def hurt(path: Path, harm: str, dice, *, other: Path) -> None:
    """Damage a file; `other` is one that it might be mistaken for."""
    whole = path.read_bytes()
    path.unlink()
    if harm == "flip":
        changed = bytearray(whole)
        changed[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
        path.write_bytes(changed)
    elif harm == "truncate":
        path.write_bytes(whole[: dice.randrange(len(whole))])
    elif harm == "nothing in it":
        path.touch()
    elif harm == "swap":
        shutil.copyfile(other, path)
    elif harm == "another type":
        path.write_bytes(valid_but_other(path.suffix))


def valid_but_other(suffix: str) -> bytes:
    """A sound file of that kind that holds something else."""
    if suffix == ".json":
        return b"null"
    if suffix == ".npy":
        import io

        file = io.BytesIO()
        np.save(file, np.arange(3))
        return file.getvalue()
    import torch
    from safetensors.torch import save

    return save({"x": torch.zeros(2)})


@pytest.mark.parametrize("kind", tools.KINDS)
def test_a_damaged_artefact_is_never_taken(reference, tmp_path, tally, dice, kind):  # noqa: F811
    folder = next((reference.root / kind).iterdir())
    for path in sorted(folder.iterdir()):
        others = [p for p in reference.root.rglob(f"*{path.suffix}") if p.is_file() and p != path]
        others = [p for p in others if p.read_bytes() != path.read_bytes()]
        for harm in HARMS:
            root = tmp_path / "store"
            shutil.rmtree(root, ignore_errors=True)
            shutil.copytree(folder, root / kind / folder.name)
            hurt(root / kind / folder.name / path.name, harm, dice, other=dice.choice(others))
            what = f"{path.name}, {harm}"
            try:
                found, why = Store(root, newer_than=0, published=[])._look(kind, folder.name)
            except Exception as error:
                tally("artefacts damaged", "unclear", f"{what}: {error!r}")
                continue
            plain = found is None and "\n" not in why
            tally("artefacts damaged", "clear" if plain else "lost", f"{what}: {why}")


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_store_is_made_whole_again(reference, tmp_path, tally, dice, harm):  # noqa: F811
    """One file of every kind at once; nothing that was there is thrown away."""
    root = tmp_path / "store"
    shutil.copytree(reference.root, root)
    for kind in tools.KINDS:
        files = [p for p in sorted((root / kind).rglob("*")) if p.is_file()]
        path, other = dice.sample(files, 2)
        while other.read_bytes() == path.read_bytes():
            path, other = dice.sample(files, 2)
        hurt(path, harm, dice, other=other)
    ending = tools.run(tools.work, root, log=tmp_path / "log")
    tally("a store damaged", *tools.verdict(ending, root, reference.contents))
    aside = len(list((root / "set-aside").iterdir()))
    tally("a store damaged", "clear" if aside == len(tools.KINDS) else "lost", f"{aside} kept")


# ---------------------------------------------------------------- what is unfinished


def stopped(root: Path, name: str, log: Path) -> Path:
    """A store whose work was killed as soon as an unfinished artefact held a file `name`."""
    pid = tools.start(tools.work, root, log=log)
    until = time.monotonic() + 120
    while time.monotonic() < until:
        found = sorted(root.glob(f"*/*.partial/{name}"))
        if found and found[0].stat().st_size:
            os.kill(pid, signal.SIGSTOP)  # it may have gone on: look once more
            if found[0].exists():
                os.kill(pid, signal.SIGKILL)
                tools.ended(pid, log)
                return found[0]
            os.kill(pid, signal.SIGCONT)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    tools.ended(pid, log)
    pytest.fail(f"no {name} was seen")


@pytest.mark.parametrize("name", ["state.safetensors", "progress.json"])
def test_a_damaged_state_goes_on_or_begins_anew(reference, tmp_path, tally, dice, name):  # noqa: F811
    first = tmp_path / "stopped"
    state = stopped(first, name, tmp_path / "log")
    for harm in HARMS:
        root = tmp_path / "store"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(first, root)
        other = next(p for p in reference.root.rglob(f"*{state.suffix}") if p.is_file())
        hurt(root / state.relative_to(first), harm, dice, other=other)
        ending = tools.run(tools.work, root, log=tmp_path / "log")
        outcome, what = tools.verdict(ending, root, reference.contents)
        tally("states damaged", outcome, f"{name}, {harm}: {what}")


def test_no_warning_of_a_sound_store(reference, tmp_path, tally):  # noqa: F811
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in tools.KINDS:
            for folder in (reference.root / kind).iterdir():
                found, _ = Store(reference.root, newer_than=0, published=[])._look(
                    kind, folder.name
                )
                tally("sound artefacts", "clear" if found else "lost", str(folder))


__all__ = ["Reference", "reference"]
