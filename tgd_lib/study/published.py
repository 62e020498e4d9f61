"""Trained networks to give away: teachers and students with their spec, record, sums and a model
card.

They lie in `figures/<profile>/networks/<key>/`, each a whole artefact, so that the store finds them
by key.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tgd_lib import config, evaluation, training
from tgd_lib.config import InputError, Settings, unknown
from tgd_lib.diagrams import checked_images
from tgd_lib.files import read_json, write_bytes, write_text
from tgd_lib.lab.lab import STATE, Lab
from tgd_lib.lab.spec import Architecture, Spec, View
from tgd_lib.lab.store import damage, republish
from tgd_lib.lab.trained import WEIGHTS, seen
from tgd_lib.networks import wide_resnet
from tgd_lib.study import methods
from tgd_lib.topology import PersistenceImageParams

FIGURES = config.ROOT / "figures"
FOLDER = "networks"
TOLERANCE = 0.0002  # of an accuracy: two images in ten thousand, for another processor's rounding


# ---------------------------------------------------------------- giving away


def publish(lab: Lab, specs: Sequence[Spec], folder: Path | None = None) -> Path:
    """Put trained networks into a folder, with a model card; returns it.

    folder: None takes `<run>/networks/`. Their metrics there are of float32 arithmetic, whatever
    they were trained in, so that they can be checked anywhere.
    """
    folder = folder or config.run_dir(lab.settings) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for spec in specs:
        exact = lab.evaluation(spec, exact=True).record
        measured = {name: exact[name] for name in ("accuracy", "nll", "ece", "n")}
        about = {
            "profile": lab.settings.profile,
            "class_names": list(lab.data.train.class_names),
            "constants": lab.view(spec).constants,
            "test": lab.data.test.fingerprint,
            "exact": measured,
        }
        # A key may first have been trained under another method's name.
        name = {"method": spec.method, "label": spec.label, "seed": spec.seed}
        republish(lab.trained(spec).path, folder / spec.key, name | {"published": about})
    _drop_outdated(folder, {(s.method, s.seed, s.selection): s.key for s in specs})
    write_text(folder / "README.md", card(folder))
    return folder


def add(made: Path, folder: Path) -> None:
    """Bring what has just been published in `made` to the networks in `folder`; those there stay,
    as students may stand on their very bits.

    But one of the same name as a new one (`Entry.name`), which answers an older question, goes.
    """
    new = entries(made)
    folder.mkdir(parents=True, exist_ok=True)
    for e in new:
        if damage(folder / e.folder.name):  # is not there, or not whole
            republish(e.folder, folder / e.folder.name, {})
    _drop_outdated(folder, {e.name: e.folder.name for e in new})
    write_text(folder / "README.md", card(folder))


def hand_on(lab: Lab, specs: Sequence[Spec], folder: Path) -> list[tuple[Spec, int]]:
    """Copy the states of trainings under way to `folder`, so that another machine goes on with
    them, where they have come further than those there; each with its number of epochs.

    States of finished trainings, and of those that are no longer asked for, go.
    """
    handed = []
    left = {f"{spec.key}.safetensors": spec for spec in specs if not lab.find(spec)}
    for outdated in folder.glob("*.safetensors"):
        if outdated.name not in left:
            outdated.unlink()
    for name, spec in left.items():
        state, of = lab.store.under_way("network", spec.key) / STATE, lab.training_of(spec)
        epochs = training.epochs_in(state, of=of)
        if epochs > training.epochs_in(folder / name, of=of):
            folder.mkdir(parents=True, exist_ok=True)
            write_bytes(folder / name, state.read_bytes())
            handed.append((spec, epochs))
    return handed


def _drop_outdated(folder: Path, keys: dict[tuple[str, int, str], str]) -> None:
    """Remove what has the name of one in `keys`, and another key."""
    for e in entries(folder):
        if keys.get(e.name, e.folder.name) != e.folder.name:
            shutil.rmtree(e.folder)


@dataclass(frozen=True)
class Entry:
    """One published network: where it lies, its spec as JSON has it, its record."""

    folder: Path
    spec: dict
    record: dict

    @property
    def title(self) -> str:
        """Method (or teacher) and seed, by the name that the method has now."""
        name, seed, selection = self.name
        known = name in methods.METHODS
        title = f"{methods.METHODS[name].label}, seed {seed}" if known else self.record["label"]
        return title if selection == "last" else f"{title}, selection {selection}"

    @property
    def name(self) -> tuple[str, int, str]:
        """Method (or teacher), seed and selection: two epochs of one training are two networks."""
        return self.record["method"], self.record["seed"], self.spec["selection"]

    @property
    def about(self) -> dict:
        return self.record["published"]

    @property
    def weights(self) -> str:
        """SHA-256 of the file of weights."""
        return read_json(self.folder / "MANIFEST.json")[WEIGHTS]

    @property
    def view(self) -> View:
        view = self.spec["view"]
        params = view["params"] and PersistenceImageParams(**view["params"])
        constants = tuple(map(tuple, self.about["constants"]))
        return View(view["kind"], view["channels"], constants, view["orientation"], params)

    @property
    def network(self) -> Architecture:
        return Architecture(*self.spec["network"])


def entries(folder: Path) -> list[Entry]:
    """The networks in a folder, teachers first; InputError where a file is not as
    it was published."""
    found = []
    for path in sorted(p for p in folder.glob("[!.]*") if p.is_dir()):
        problem = damage(path)
        if problem:
            raise InputError(
                f"{path}: {problem}; restore it (git checkout -- {path.name} in its folder)"
            )
        found.append(Entry(path, read_json(path / "spec.json"), read_json(path / "record.json")))
    return sorted(found, key=lambda e: (not e.record["method"].startswith("teacher_"), e.title))


def card(folder: Path) -> str:
    """The model card of the networks in a folder, as markdown."""
    found = entries(folder)
    first = found[0]
    # Older records do not say how many images there were; another of the same images may.
    counts = {e.spec["data"]: e.record["n_train"] for e in found if "n_train" in e.record}
    rows = []
    for e in found:
        exact = e.about["exact"]
        epochs, n = e.record["epochs_in_all"], counts.get(e.spec["data"], "see spec")
        metrics = f"{100 * exact['accuracy']:.2f} | {exact['nll']:.3f} | {100 * exact['ece']:.2f}"
        rows.append(
            f"| {e.title} | `{e.folder.name}` | {e.network.name} | {e.view.kind} | {n} | {epochs}"
            f" | {metrics} | `{e.weights[:16]}` |"
        )
    classes = first.about["class_names"]
    return "\n".join(
        [
            f"# Networks of `{first.about['profile']}`",
            "",
            "The seed was fixed in advance: these are not the best of several runs.",
            "",
            "| network | folder | architecture | sees | training images | total epochs"
            " | accuracy % | NLL | ECE % | sha256 |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
            f"One network each (n = 1), {first.about['exact']['n']} test images, float32"
            " arithmetic. The spread over seeds: docs/results, and docs/protocol-topology.md.",
            "",
            f"**To use**: `{_call(found)}` gives the"
            " network of seed 0 with its preprocessing, in eval mode (`seed=3`: of another);"
            f" called with uint8 images (N, H, W, 3) it returns logits (N, {len(classes)}).",
            "**To check**: `./run_all.sh --verify` evaluates all of them again.",
            "",
            f"**Limits**: classes {', '.join(classes)}; trained without augmentation;"
            " calibration: column ECE, before temperature scaling."
            " Intended for research on distillation only.",
            "",
        ]
    )


def _call(found: Sequence[Entry]) -> str:
    """What loads one of these networks: of the last epoch and seed 0, where there is one."""
    # The last in the card's order, with topology rather than without.
    best = max(reversed(found), key=lambda e: (e.name[2] == "last", e.name[1] == 0))
    method, seed, selection = best.name
    chosen = f", seed={seed}" * (seed != 0) + f', selection="{selection}"' * (selection != "last")
    return f'tgd_lib.load("{best.about["profile"]}/{method}"{chosen})'


# ---------------------------------------------------------------- use


class Ready(nn.Module):
    """A published network with its preprocessing.

    Called with images uint8 (N, H, W, 3) of the size of training it returns logits float32 (N,
    classes); InputError for other arrays. A teacher that sees persistence images computes them
    first.
    """

    def __init__(self, network: nn.Module, view: View, class_names: Sequence[str]):
        super().__init__()
        self.network, self.view = network, view
        self.class_names = tuple(class_names)
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in view.constants)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images: Tensor | np.ndarray) -> Tensor:
        if self.view.kind == "image":  # of a tensor, too, so that it can be exported
            images = torch.as_tensor(images)
            if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
                checked_images(images.cpu())  # says so
            pixels = images.permute(0, 3, 1, 2)  # (N, 3, H, W)
        else:
            array = images.cpu() if isinstance(images, Tensor) else images
            pixels = torch.from_numpy(seen(self.view, checked_images(array)))  # (N, C, H, W)
        return self.network((pixels.to(self.mean.device) / 255 - self.mean) / self.std)


def load(name: str, *, seed: int = 0, selection: str = "last", figures: Path = FIGURES) -> Ready:
    """The published network `profile/method` (or `profile/teacher_image`), in eval mode, on the
    CPU.

    selection: "last", or "authors" for the epoch that is best on the test set, where that is
    published. With `figures=Path("artifacts/runs")` it is a network of one's own: `run/method`.
    Raises InputError, with the names there are, for an unknown one, and where a file is not as
    published.
    """
    profile, _, method = name.partition("/")
    if not (figures / profile / FOLDER).is_dir():
        there = sorted(path.parent.name for path in figures.glob(f"*/{FOLDER}"))
        raise unknown("profile or run with networks", profile, there)
    found = {
        e.record["method"]: e
        for e in entries(figures / profile / FOLDER)
        if e.name[1:] == (seed, selection)
    }
    if method not in found:
        what = f"network of {profile} with seed {seed}"
        if selection != "last":
            what += f", selection {selection!r}"
        raise unknown(what, method, found)
    return _ready(found[method])


def _ready(entry: Entry) -> Ready:
    depth, width, classes = entry.network
    network = wide_resnet(depth, width, entry.view.channels, classes, seed=0)
    network.load_state_dict(load_file(entry.folder / WEIGHTS))
    return Ready(network, entry.view, entry.about["class_names"]).eval()


def published_profiles(figures: Path = FIGURES) -> list[str]:
    """Profiles with published networks, the most telling first."""
    return [p for p in config.BY_SIZE if (figures / p / FOLDER).is_dir()]


# ---------------------------------------------------------------- checking


def verify(settings: Settings, figures: Path = FIGURES) -> int:
    """Evaluate the published networks of a profile on the data at hand and print how that compares;
    0 if all agree.

    Raises InputError where nothing is published, or a file is not what was published.
    """
    folder = figures / settings.profile / FOLDER
    if not folder.is_dir():
        known = ", ".join(published_profiles(figures)) or "none"
        raise InputError(
            f"--verify: no networks of profile {settings.profile!r} are published"
            f" (published: {known})"
        )
    found = entries(folder)  # checked before the data are read
    lab = Lab(settings, say=lambda line: None)
    test = lab.data.test
    if test.fingerprint != found[0].about["test"]:
        print(
            "note: not the very test images of the record"
            " (another copy of the data, or other settings)"
        )
    print(f"{settings.profile}: {len(test.labels)} test images, float32, {lab.compute.name}")
    width = max(len(entry.title) for entry in found)
    print(f"{'network':<{width}}  published %  found %  difference")
    known, wrong = {}, 0  # the epochs of two rules may be the same one: known by its weights' sum
    for entry in found:
        if entry.weights not in known:
            known[entry.weights] = _accuracy(entry, lab)
        wrong += _compare(entry, known[entry.weights], width=width)
    return int(wrong > 0)


def _accuracy(entry: Entry, lab: Lab) -> float:
    """The accuracy of a published network on the test images at hand, in [0, 1]."""
    network = lab.compute.place(_ready(entry).network)
    logits = evaluation.logits_of(network, lab.pixels(entry.view, "test"), exact=True)
    return evaluation.metrics(logits, torch.from_numpy(lab.data.test.labels))["accuracy"]


def _compare(entry: Entry, accuracy: float, *, width: int) -> bool:
    """Print a line; whether the accuracy is another than the published one."""
    published = entry.about["exact"]["accuracy"]
    off = accuracy - published
    differs = abs(off) > TOLERANCE + 1e-9
    said = f"DIFFERS by more than {100 * TOLERANCE:.2f} points" if differs else "ok"
    print(
        f"{entry.title:<{width}}  {100 * published:11.2f}  {100 * accuracy:7.2f}"
        f"  {100 * off:+10.2f}  {said}"
    )
    return differs
