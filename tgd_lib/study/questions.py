"""What trained networks are asked beyond test accuracy: corruptions, calibration, transfer, features, shares.

Each function takes a lab and specs, trains what is missing, and returns rows of plain values for records.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from torch.nn import functional as F

from tgd_lib import config, datasets, evaluation
from tgd_lib.images import corruptions, transfer
from tgd_lib.evaluation import logits_of
from tgd_lib.config import InputError
from tgd_lib.lab.lab import Lab
from tgd_lib.losses import similarity_map
from tgd_lib.lab.spec import Spec
from tgd_lib.files import sha256
from tgd_lib.training import batch_order

SEVERITIES = (1, 2, 3, 4, 5)
SEED = 0  # of the corruptions' noise
OFFICIAL = "CIFAR-10-C"  # a folder of this name in the data folder is used instead of our own corruptions
SAMPLE = "cinic10_2000.npz"  # in the data folder: images for the transfer figure
KEPT = ("accuracy", "nll", "ece", "brier")


def _about(spec: Spec) -> dict:
    return {"method": spec.method, "label": spec.name, "seed": spec.seed, "key": spec.key, "selection": spec.selection}


# ---------------------------------------------------------------- corruptions


def robustness(lab: Lab, specs: Sequence[Spec]) -> list[dict]:
    """A row a network: figures of merit on clean and corrupted test images.

    {method, label, seed, key, selection, n, source, clean: {accuracy, nll, ece, brier}, corrupted: {name: five
    of those, severities 1 to 5}}. The images are as many test images as `n_corrupted` asks for, of all classes;
    the corruptions ours, or CIFAR-10-C's own arrays where the data folder has them (source "official").
    Each corruption is put into the store once all networks have seen it, so that little is lost when killed.
    """
    images, where = _subset(lab)
    source, names = _source(lab)
    lab.train(specs)
    found: dict[str, dict] = {s.key: {} for s in specs}
    for name in ("none", *names):
        question = {"images": images.fingerprint, "name": name, "seed": SEED, "source": _fingerprint(lab, source, name)}
        missing = [s for s in specs if not lab.store.find("robustness", question | {"network": s.key})]
        results = _measured(lab, missing, images, where, name, source) if missing else {}
        for spec in specs:
            made = lab.store.make("robustness", question | {"network": spec.key}, lambda _, k=spec.key: results[k])
            found[spec.key][name] = made.record["figures"]
    rows = []
    for spec in specs:
        corrupted = {name: found[spec.key][name] for name in names}
        base = {"n": len(images.labels), "source": source, "clean": found[spec.key]["none"][0]}
        rows.append(_about(spec) | base | {"corrupted": corrupted})
    return rows


def _subset(lab: Lab):
    """The test images that are corrupted, and their places among the test images."""
    test, n = lab.data.test, lab.settings.n_corrupted
    where = _some(test.labels, len(test.labels) if n is None else n, seed=lab.settings.data_seed)
    return datasets.take(test, where), where


def _some(labels: np.ndarray, n: int, *, seed: int) -> np.ndarray:
    """Places of n images (all, if there are fewer): classes as even as in the whole; any, where one is too rare for that."""
    if n >= len(labels):
        return np.arange(len(labels))
    try:
        return datasets.stratified(labels, n, seed=seed)
    except InputError:
        return datasets.stratified(np.zeros_like(labels), n, seed=seed)


def _source(lab: Lab) -> tuple[str, tuple[str, ...]]:
    """("official" or "own", names of the corruptions): official where CIFAR-10-C's arrays lie in the data folder."""
    s, test = lab.settings, lab.data.test
    folder = config.data_path(s) / OFFICIAL
    whole = s.dataset == "cifar10" and s.n_test is None and test.images.shape[1:3] == (32, 32)
    if whole and folder.is_dir():
        if not np.array_equal(corruptions.official_labels(folder), test.labels):
            raise InputError(f"{folder}: its labels are not those of these test images; remove it, or the other copy of CIFAR-10")
        names = [n for n in corruptions.OFFICIAL_NAMES if (folder / f"{n}.npy").is_file()]
        return "official", tuple(n for n in names if s.corruptions is None or n in s.corruptions)
    return "own", s.corruptions or corruptions.NAMES


def corruption_names(lab: Lab) -> tuple[str, ...]:
    """Names of the corruptions that `robustness` asks about, in its order."""
    return _source(lab)[1]


def _fingerprint(lab: Lab, source: str, name: str) -> str:
    """What the corrupted images are made of: our own code, or the bytes of an official array."""
    if source == "own" or name == "none":
        return "own"
    return sha256(config.data_path(lab.settings) / OFFICIAL / f"{name}.npy")


def _measured(lab: Lab, specs, images, where, name: str, source: str) -> dict[str, dict]:
    """{key: {figures: one a severity}}; each set of corrupted images is made once, for all networks."""
    labels, networks = torch.from_numpy(images.labels), {s.key: lab.network(s) for s in specs}
    lab.say(f"corruption {name}: {len(networks)} networks, {len(labels)} images")
    figures: dict[str, list[dict]] = {key: [] for key in networks}
    for severity in SEVERITIES if name != "none" else (0,):
        pictures = _corrupted(lab, images, where, name, severity, source)
        for spec in specs:
            logits = logits_of(networks[spec.key], lab.shown(spec.view, pictures))
            worth = {k: round(v, 6) for k, v in evaluation.metrics(logits, labels).items() if k in KEPT}
            figures[spec.key].append(worth)
    return {key: {"figures": values} for key, values in figures.items()}


def _corrupted(lab: Lab, images, where, name: str, severity: int, source: str) -> np.ndarray:
    if not severity:
        return images.images
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
    if lab.settings.dataset != "cifar10" or lab.settings.resize or not path.is_file():
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
    where = _some(labels, n, seed=lab.settings.data_seed)
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


def shares(lab: Lab, specs: Sequence[Spec], *, batches: int = 20) -> list[dict]:
    """A row a method with two teachers: the second one's real share of the merged map, a number a stage in each batch.

    Of a row r = alpha r1 + (1 - alpha) r2 it is the part along r that comes from r2, (1 - alpha) r2 . r / |r|^2,
    averaged over rows: 1 - alpha only where both rows are alike in scale and direction. Left out are students
    without a second teacher or without maps; a method's seeds all have the same share.
    """
    rows = []
    for spec in {s.method: s for s in reversed(specs)}.values():
        if not (all(spec.teachers) and spec.guidance.gamma):
            continue
        g = spec.guidance
        asked = {"alpha": g.alpha, "order": g.order}
        question = asked | {"teachers": [t.key for t in spec.teachers], "batches": batches, "size": lab.settings.batch_size}
        found = lab.store.make("shares", question, lambda _, spec=spec: {"shares": _shares(lab, spec, batches)}, version=2)
        rows.append(_about(spec) | asked | {"shares": found.record["shares"]})
    return rows[::-1]


def _shares(lab: Lab, spec: Spec, batches: int) -> list[list[float]]:
    """A list a batch: the share in each stage."""
    teachers, g = [lab.teacher(t) for t in spec.teachers], spec.guidance
    found = []
    for epoch in range(batches):
        index = batch_order(len(lab.data.train.labels), seed=0, epoch=epoch)[: lab.settings.batch_size]
        looks = [t.look(index.to(lab.compute.device))[1] for t in teachers]
        pairs = ([similarity_map(f.detach()) for f in stage] for stage in zip(*looks, strict=True))
        found.append([_share(*pair, alpha=g.alpha, order=g.order) for pair in pairs])
    return found


def _share(first: torch.Tensor, second: torch.Tensor, *, alpha: float, order: str | None) -> float:
    """The second map's share of the merged one; maps (B, B)."""
    if order:
        first, second = F.normalize(first, dim=1), F.normalize(second, dim=1)
    part = (1 - alpha) * second
    merged = alpha * first + part
    return float(((part * merged).sum(1) / merged.square().sum(1)).mean())
