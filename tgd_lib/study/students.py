"""Trained students to give away: weights, a model card, and the check that they are worth what their card says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from tgd_lib import config, datasets, evaluation
from tgd_lib.compute import Compute, Pixels
from tgd_lib.evaluation import logits_of
from tgd_lib.config import InputError, Settings
from tgd_lib.lab.lab import Lab
from tgd_lib.networks import wide_resnet
from tgd_lib.lab.spec import Spec
from tgd_lib.files import read_json, sha256, write_json

TOLERANCE = 0.0002  # of an accuracy: two images in ten thousand, for another processor's rounding
FOLDER, INDEX = "students", "students.json"


# ---------------------------------------------------------------- giving away


def save(lab: Lab, specs: Sequence[Spec]) -> Path:
    """Write the students' weights, their index and a model card to `<run>/students/`; returns that folder.

    Their figures there are of float32 arithmetic, whatever they were trained in, so that they can be checked anywhere.
    """
    folder = config.run_dir(lab.settings) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    entries = [_entry(lab, spec, folder) for spec in specs]
    write_json(folder / INDEX, {"run": lab.settings.run_name, "students": entries})
    (folder / "README.md").write_text(_card(lab, entries), encoding="utf-8")
    return folder


def _entry(lab: Lab, spec: Spec, folder: Path) -> dict:
    trained, row = lab.trained(spec), lab.row(spec)
    file = folder / f"{spec.method}.safetensors"
    file.write_bytes((trained.path / "weights.safetensors").read_bytes())
    exact = lab.evaluation(spec, exact=True).record
    mean, std = lab.views.constants(spec.view)
    return {
        "method": spec.method,
        "label": row["label"],
        "seed": spec.seed,
        "file": file.name,
        "sha256": sha256(file),
        "network": list(spec.network),
        "mean": list(mean),
        "std": list(std),
        "classes": list(lab.data.train.class_names),
        "test": lab.data.test.fingerprint,
        "n": exact["n"],
        **{k: exact[k] for k in ("accuracy", "nll", "ece")},
        "as_trained": {k: row[k] for k in ("accuracy", "precision", "device", "commit", "selection", "epochs_in_all", "key")},
    }


def _card(lab: Lab, entries: Sequence[dict]) -> str:
    s, first = lab.settings, entries[0]
    depth, width, _ = first["network"]
    changed = "".join(f" -p {k} {v}" for k, v in s.overrides if k != "data_dir")
    changed += " --data DIR" if s.data_dir else ""
    lines = [
        f"# Students of `{s.run_name}`",
        "",
        f"WRN-{depth}-{width}, trained on {len(lab.data.train.labels)} images of `{s.dataset}` ({s.epochs} epochs, {s.precision}); seed {first['seed']}, fixed beforehand,",
        f"not the best of its kind. Selection `{s.selection}`. Made by `./run_all.sh --profile {s.profile}{changed}`.",
        "",
        "| student | file | accuracy % | NLL | ECE % | epochs in all | commit | sha256 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for e in entries:
        lines.append(
            f"| {e['label']} | {e['file']} | {100 * e['accuracy']:.2f} | {e['nll']:.3f} | {100 * e['ece']:.2f} "
            f"| {e['as_trained']['epochs_in_all']} | {(e['as_trained']['commit'] or 'none')[:10]} | `{e['sha256']}` |"
        )
    return "\n".join([*lines, "", *_use(first), ""])


def _use(entry: dict) -> list[str]:
    return [
        f"One network each (n=1), {entry['n']} test images, float32 arithmetic. The spread over seeds is in the table of the main README.",
        "",
        "**To check**: `./run_all.sh --verify` evaluates them on the data at hand. **To use**: `tgd_lib.study.students.load(folder, entry)` gives the network of an",
        f"entry of `{INDEX}` in eval mode; it takes RGB images / 255, minus the entry's `mean`, divided by its `std`, as float (N, 3, H, W), and gives logits (N, {len(entry['classes'])}).",
        "",
        f"**Limits**: classes {', '.join(entry['classes'])}; nothing was augmented; accuracy is that of so many images and epochs, not what the architecture can do.",
        "Overconfident as trained; see `05_robustness_and_calibration` for temperatures and for corrupted images. For research into distillation, not for decisions.",
    ]


# ---------------------------------------------------------------- checking


def recorded(figures: Path) -> list[str]:
    """Profiles with recorded students, the largest first."""
    return [p for p in config.BY_SIZE if (figures / p / FOLDER / INDEX).is_file()]


def verify(settings: Settings, figures: Path) -> int:
    """Evaluate the recorded students of a profile on the data at hand and print how that compares; 0 if all agree.

    Raises InputError where nothing is recorded, or a file is not what was recorded.
    """
    folder = figures / settings.profile / FOLDER
    if not (folder / INDEX).is_file():
        known = ", ".join(recorded(figures)) or "none"
        raise InputError(f"--verify: no students of profile {settings.profile!r} are recorded (recorded: {known})")
    entries = read_json(folder / INDEX)["students"]
    networks = [load(folder, e) for e in entries]  # checked before the data are read
    test = datasets.load_parts(settings).test
    compute = Compute.choose(settings.device, "fp32")
    if test.fingerprint != entries[0]["test"]:
        print("note: these are not the very test images of the record (another copy of the data, or other settings)")
    print(f"{settings.profile}: {len(test.labels)} test images, float32, {compute.name}\n{'student':<20} recorded %  found %  difference")
    wrong = 0
    for entry, network in zip(entries, networks, strict=True):
        found = _accuracy(network, entry, test, compute)
        off = found - entry["accuracy"]
        wrong += abs(off) > TOLERANCE + 1e-9
        said = "ok" if abs(off) <= TOLERANCE + 1e-9 else f"DIFFERS by more than {100 * TOLERANCE:.2f} points"
        print(f"{entry['label']:<20} {100 * entry['accuracy']:10.2f}  {100 * found:7.2f}  {100 * off:+10.2f}  {said}")
    return int(wrong > 0)


def load(folder: Path, entry: dict):
    """The network of an entry of the index, in eval mode; InputError if its file is not the recorded one."""
    file = folder / entry["file"]
    if not file.is_file() or sha256(file) != entry["sha256"]:
        raise InputError(f"{file}: not the recorded file; restore it (git checkout -- {file.name} in its folder)")
    depth, width, classes = entry["network"]
    network = wide_resnet(depth, width, 3, classes, seed=0)
    network.load_state_dict(load_file(file))
    return network.eval()


def _accuracy(network, entry: dict, test, compute: Compute) -> float:
    pixels = Pixels(test.images.transpose(0, 3, 1, 2), entry["mean"], entry["std"], compute)
    logits = logits_of(compute.place(network), pixels, exact=True)
    return evaluation.metrics(logits, torch.from_numpy(test.labels))["accuracy"]
