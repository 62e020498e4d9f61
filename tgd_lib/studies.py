"""What trained networks are asked beyond test accuracy: corruptions, calibration, transfer, features, shares.

Each function takes a lab and specs, trains what is missing, and returns rows of plain values for records.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from tgd_lib import config, corruptions, datasets, evaluation, methods, transfer
from tgd_lib.compute import logits_of
from tgd_lib.config import InputError
from tgd_lib.experiment import Lab
from tgd_lib.specs import Spec

SEVERITIES = (1, 2, 3, 4, 5)
SEED = 0  # of the corruptions' noise
OFFICIAL = "CIFAR-10-C"  # a folder of this name in the data folder is used instead of our own corruptions
SAMPLE = "cinic10_2000.npz"  # in the data folder: images for the transfer figure
KEPT = ("accuracy", "nll", "ece", "brier")


def _about(spec: Spec) -> dict:
    return {"method": spec.method, "label": spec.label.rsplit(", seed", 1)[0], "seed": spec.seed, "key": spec.key, "selection": spec.selection}


# ---------------------------------------------------------------- corruptions


def robustness(lab: Lab, specs: Sequence[Spec]) -> list[dict]:
    """A row a network: figures of merit on clean and corrupted test images.

    {method, label, seed, key, selection, n, source, clean: {accuracy, nll, ece, brier}, corrupted: {name: five
    of those, severities 1 to 5}}. The images are the first test images that `n_corrupted` asks for, stratified;
    the corruptions ours, or CIFAR-10-C's own arrays where the data folder has them (source "official").
    """
    images, where = _subset(lab)
    source, names = _source(lab)
    question = {"images": images.fingerprint, "source": source, "names": list(names), "seed": SEED}
    missing = [s for s in specs if not lab.store.find("robustness", question | {"network": s.key})]
    lab.train(missing)
    results = _measured(lab, missing, images, where, names, source) if missing else {}
    rows = []
    for spec in specs:
        found = lab.store.make("robustness", question | {"network": spec.key}, lambda _, k=spec.key: results[k])
        record = {k: found.record[k] for k in ("n", "source", "clean", "corrupted")}
        rows.append(_about(spec) | record)
    return rows


def _subset(lab: Lab):
    """The test images that are corrupted, and their places among the test images."""
    test, n = lab.data.test, lab.settings.n_corrupted
    count = len(test.labels)
    where = np.arange(count) if n is None or n >= count else datasets.stratified(test.labels, n, seed=lab.settings.data_seed)
    return datasets.take(test, where), where


def _source(lab: Lab) -> tuple[str, tuple[str, ...]]:
    """("official" or "own", names of the corruptions): official where CIFAR-10-C's arrays lie in the data folder."""
    s = lab.settings
    folder = config.data_path(s) / OFFICIAL
    if s.dataset == "cifar10" and s.n_test is None and folder.is_dir():
        if not np.array_equal(corruptions.official_labels(folder), lab.data.test.labels):
            raise InputError(f"{folder}: its labels are not those of these test images; remove it, or the other copy of CIFAR-10")
        names = [n for n in corruptions.OFFICIAL_NAMES if (folder / f"{n}.npy").is_file()]
        return "official", tuple(n for n in names if s.corruptions is None or n in s.corruptions)
    return "own", s.corruptions or corruptions.NAMES


def _measured(lab: Lab, specs, images, where, names, source: str) -> dict[str, dict]:
    """The results of all specs by key; each set of corrupted images is made once, for all of them."""
    networks = {s.key: (s.view, lab.network(s)) for s in specs}
    labels = torch.from_numpy(images.labels)

    def worth(pictures: np.ndarray) -> dict[str, dict]:
        found = {}
        for key, (view, network) in networks.items():
            logits = logits_of(network, lab.shown(view, pictures))
            found[key] = {k: round(v, 6) for k, v in evaluation.metrics(logits, labels).items() if k in KEPT}
        return found

    clean = worth(images.images)
    corrupted: dict[str, dict[str, list]] = {key: {name: [] for name in names} for key in networks}
    for name in names:
        lab.say(f"corruption {name}: {len(networks)} networks, {len(labels)} images, 5 severities")
        for severity in SEVERITIES:
            for key, figures in worth(_corrupted(lab, images, where, name, severity, source)).items():
                corrupted[key][name].append(figures)
    base = {"n": len(labels), "source": source}
    return {key: base | {"clean": clean[key], "corrupted": corrupted[key]} for key in networks}


def _corrupted(lab: Lab, images, where, name: str, severity: int, source: str) -> np.ndarray:
    if source == "own":
        return corruptions.corrupt(images.images, name, severity, seed=SEED)
    arrays = corruptions.read_official(config.data_path(lab.settings) / OFFICIAL, name)
    return np.ascontiguousarray(arrays[severity - 1][where])


# ---------------------------------------------------------------- calibration


def calibration(lab: Lab, specs: Sequence[Spec]) -> list[dict]:
    """A row a network: test figures as it is and with its logits divided by a temperature fitted on held-out images.

    {..., temperature, before: {accuracy, nll, ece, brier, reliability}, after: the same, n}.
    Raises InputError in a profile that holds no images out.
    """
    rows = []
    for spec in specs:
        fitted = torch.from_numpy(lab.evaluation(spec, "holdout").array("logits"))
        temperature = evaluation.fit_temperature(fitted, torch.from_numpy(lab.data.holdout.labels))
        logits = torch.from_numpy(lab.evaluation(spec).array("logits"))
        labels = torch.from_numpy(lab.data.test.labels)
        before, after = (_calibrated(logits / t, labels) for t in (1.0, temperature))
        rows.append(_about(spec) | {"temperature": temperature, "before": before, "after": after, "n": len(labels)})
    return rows


def _calibrated(logits, labels) -> dict:
    figures = {k: v for k, v in evaluation.metrics(logits, labels).items() if k in KEPT}
    return figures | {"reliability": evaluation.reliability(logits.double().softmax(1), labels)}


# ---------------------------------------------------------------- choices, transfer, features, shares


def held_out(lab: Lab, specs: Sequence[Spec]) -> list[dict]:
    """A row a network: its figures on the held-out images, on which choices are made."""
    return [
        _about(s) | {k: v for k, v in lab.evaluation(s, "holdout").record.items() if k in (*KEPT, "n")} for s in specs
    ]


def transfer_sample(lab: Lab, specs: Sequence[Spec]) -> list[dict]:
    """A row a network: accuracy on the CINIC-10 sample in the data folder, `transfer` (unseen) and `seen` apart.

    Empty where there is no such file, or the networks were not trained on CIFAR-10.
    """
    path = config.data_path(lab.settings) / SAMPLE
    if lab.settings.dataset != "cifar10" or not path.is_file():
        return []
    images, labels, seen = transfer.load_transfer_sample(path)
    rows = []
    for spec in specs:
        right = logits_of(lab.network(spec), lab.shown(spec.view, images)).argmax(1).numpy() == labels
        figures = {"transfer": float(right[~seen].mean()), "seen": float(right[seen].mean())}
        rows.append(_about(spec) | figures | {"n": int((~seen).sum()), "n_seen": int(seen.sum())})
    return rows


def embedding(lab: Lab, specs: Sequence[Spec], *, n: int = 500) -> list[dict]:
    """A row a network: t-SNE (two numbers an image) of what its last layer sees of n test images, and their labels.

    Perplexity 30 (less for few images), started from the principal components, seed 0.
    """
    from sklearn.manifold import TSNE

    labels = lab.data.test.labels
    where = datasets.stratified(labels, min(n, len(labels)), seed=lab.settings.data_seed)
    rows = []
    for spec in specs:
        features = _penultimate(lab, spec, where)
        tsne = TSNE(perplexity=min(30, len(where) / 4), init="pca", random_state=0, method="barnes_hut")
        places = tsne.fit_transform(features).round(2).tolist()
        rows.append(_about(spec) | {"places": places, "labels": labels[where].tolist()})
    return rows


def _penultimate(lab: Lab, spec: Spec, where: np.ndarray) -> np.ndarray:
    """float32 (n, c): what the last layer of the network sees of test images."""
    network, seen = lab.network(spec), []
    hook = network.fc.register_forward_pre_hook(lambda _, x: seen.append(x[0].float().cpu()))
    logits_of(network, lab.shown(spec.view, lab.data.test.images[where]))
    hook.remove()
    return torch.cat(seen).numpy()


def shares(lab: Lab, names: Sequence[str], *, batches: int = 20) -> list[dict]:
    """A row a TGD method: its second teacher's real share of the merged map, mean over batches, a number a stage.

    Of a row r = alpha r1 + (1 - alpha) r2 it is the part along r that comes from r2, (1 - alpha) r2 . r / |r|^2,
    averaged over rows: 1 - alpha only where both rows are alike in scale and direction.
    """
    rows = []
    for name in names:
        spec = lab.specs.student(methods.method(name), 0)
        teachers = [lab.teacher(t) for t in spec.teachers]
        found = np.mean([_shares(spec, teachers, index) for index in _batches(lab, batches)], axis=0)
        rows.append(_about(spec) | {"alpha": spec.guidance.alpha, "order": spec.guidance.order, "shares": found.tolist()})
    return rows


def _batches(lab: Lab, count: int) -> list[torch.Tensor]:
    from tgd_lib.training import batch_order

    size, n = lab.settings.batch_size, len(lab.data.train.labels)
    return [batch_order(n, seed=0, epoch=e)[:size] for e in range(count)]


def _shares(spec: Spec, teachers, index) -> list[float]:
    from torch.nn import functional as F

    from tgd_lib.losses import similarity_map

    found = []
    looks = [t.look(index)[1] for t in teachers]
    for pair in zip(*looks, strict=True):
        first, second = (similarity_map(f.detach()) for f in pair)
        if spec.guidance.order:
            first, second = F.normalize(first, dim=1), F.normalize(second, dim=1)
        part = (1 - spec.guidance.alpha) * second
        merged = spec.guidance.alpha * first + part
        found.append(float(((part * merged).sum(1) / merged.square().sum(1)).mean()))
    return found
