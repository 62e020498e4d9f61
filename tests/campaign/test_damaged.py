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
def test_a_damaged_artefact_is_never_taken(reference, tmp_path, tally, dice, kind):
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
def test_a_damaged_store_is_made_whole_again(reference, tmp_path, tally, dice, harm):
    """One file of every artefact at once, so that each is needed; nothing is thrown away."""
    root = tmp_path / "store"
    shutil.copytree(reference.root, root)
    artefacts = [folder for kind in tools.KINDS for folder in sorted((root / kind).iterdir())]
    for folder in artefacts:
        path = dice.choice(sorted(folder.iterdir()))
        others = [p for p in sorted(reference.root.rglob(f"*{path.suffix}")) if p.is_file()]
        others = [p for p in others if p.read_bytes() != path.read_bytes()]
        hurt(path, harm, dice, other=dice.choice(others))
    ending = tools.run(tools.work, root)
    tally("a store damaged", *tools.verdict(ending, root, reference.contents))
    kept = len(list((root / "set-aside").iterdir()))
    tally("a store damaged", "clear" if kept == len(artefacts) else "lost", f"{kept} are kept")


# ---------------------------------------------------------------- what is unfinished


def stopped(root: Path, name: str) -> Path:
    """A file `name` of an unfinished artefact: the work was killed as soon as there was one."""
    process = tools.start(tools.work, root)
    until = time.monotonic() + 120
    try:
        while time.monotonic() < until:
            time.sleep(0.001)
            if not any(root.glob(f"*/*.partial/{name}")):
                continue
            os.kill(process.pid, signal.SIGSTOP)
            found = [p for p in root.glob(f"*/*.partial/{name}") if p.stat().st_size]
            if found:  # it has not gone on in between
                return found[0]
            os.kill(process.pid, signal.SIGCONT)
    finally:
        tools.kill(process)
    pytest.fail(f"no {name} was seen")


@pytest.mark.parametrize("name", ["state.safetensors", "progress.json", "stage2.npy"])
def test_a_damaged_state_goes_on_or_begins_anew(reference, tmp_path, tally, dice, name):
    first = tmp_path / "stopped"
    state = stopped(first, name)
    others = [p for p in sorted(reference.root.rglob(f"*{state.suffix}")) if p.is_file()]
    for harm in HARMS:
        root = tmp_path / "store"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(first, root)
        hurt(root / state.relative_to(first), harm, dice, other=dice.choice(others))
        ending = tools.run(tools.work, root)
        outcome, what = tools.verdict(ending, root, reference.contents)
        tally("states damaged", outcome, f"{name}, {harm}: {what}")


def test_no_warning_of_a_sound_store(reference, tmp_path, tally):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in tools.KINDS:
            for folder in (reference.root / kind).iterdir():
                found, _ = Store(reference.root, newer_than=0, published=[])._look(
                    kind, folder.name
                )
                tally("sound artefacts", "clear" if found else "lost", str(folder))
