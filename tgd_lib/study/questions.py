"""What trained networks are asked beyond test accuracy.

Corruptions, calibration, choices, transfer, features, and the second teacher's share.
Each function takes a lab and specs, trains what is missing, and returns rows of plain values for
records.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tgd_lib import config, datasets, evaluation
from tgd_lib.bank import Teacher, teacher_embedding
from tgd_lib.config import InputError
from tgd_lib.datasets import Dataset
from tgd_lib.embedding import distances, tree_edges
from tgd_lib.evaluation import logits_of
from tgd_lib.files import sha256
from tgd_lib.images import cifar, corruptions
from tgd_lib.lab.lab import Lab
from tgd_lib.lab.spec import Asked, Spec
from tgd_lib.losses import merge_maps, similarity_map
from tgd_lib.study import methods
from tgd_lib.training import batch_order

CLEAN = "none"  # stands for the uncorrupted images
OFFICIAL = "CIFAR-10-C"  # in the data folder: arrays used instead of our own corruptions
SAMPLE = "cinic10_2000.npz"  # in the data folder: images for the transfer metrics
TERMS = ("ce", "kd_t1", "kd_t2", "maps")  # of TGD's loss
METRICS = ("accuracy", "nll", "ece", "brier")
# Methods that differ in gamma alone, and the same at alpha = 1.
GAMMA_TABLE = (
    "tgd",
    "tgd_alpha1",
    *(f"tgd_gamma{gamma:g}" for gamma in methods.GAMMAS),
    *(f"tgd_alpha1_gamma{gamma:g}" for gamma in methods.GAMMAS),
)


def about(spec: Spec) -> dict:
    """What a row says of the network it is about."""
    return {
        "method": spec.method,
        "label": spec.name,
        "seed": spec.seed,
        "key": spec.key,
        "selection": spec.selection,
    }


def of_common_seeds(specs: Sequence[Spec]) -> list[Spec]:
    """Those whose seed every method among `specs` has: what a choice by means may look at."""
    seeds: dict[str, set[int]] = {}
    for spec in specs:
        seeds.setdefault(spec.method, set()).add(spec.seed)
    common = set.intersection(*seeds.values()) if seeds else set()
    return [spec for spec in specs if spec.seed in common]


def terms(lab: Lab, specs: Sequence[Spec]) -> list[dict]:
    """The weighted terms of the loss, {name: one an epoch}: means over the images of each epoch."""
    rows = []
    for spec in specs:
        history = lab.record(spec)["history"]
        named = [name for name in TERMS if name in history[0]]
        values = {name: [round(h[name], 6) for h in history] for name in named}
        rows.append(about(spec) | {"terms": values})
    return rows


def _chosen(metrics: dict) -> dict:
    """The metrics that rows keep."""
    return {name: metrics[name] for name in METRICS}


# ---------------------------------------------------------------- corruptions


def robustness(lab: Lab, specs: Sequence[Spec]) -> list[dict]:
    """A row a network: metrics on clean and corrupted test images.

    {method, label, seed, key, selection, n, source, clean: {accuracy, nll, ece, brier}, corrupted:
    {name: five of those, severities 1 to 5}}. The images are as many test images as `n_corrupted`
    asks for, of all classes; the corruptions ours, or CIFAR-10-C's arrays where the data folder
    has them (source "official").
    """
    images, places = _subset(lab)
    source = _source(lab)
    lab.train(specs)
    rows = []
    for spec in specs:
        asked = {"n": len(images.labels), "source": source.kind}
        rows.append(about(spec) | asked | {"corrupted": {}})
    for name in (CLEAN, *source.names):
        found = _under(lab, specs, images, places, name, source)
        for row, metrics in zip(rows, found, strict=True):
            if name == CLEAN:
                row["clean"] = metrics[0]
            else:
                row["corrupted"][name] = metrics
    return rows


def _under(
    lab: Lab,
    specs: Sequence[Spec],
    images: Dataset,
    places: np.ndarray,
    name: str,
    source: corruptions.Source,
) -> list[list[dict]]:
    """For each network its metrics under one corruption, one a severity: from the store, or now."""
    question = {"images": images.fingerprint, "name": name, "seed": corruptions.SEED}
    question["source"] = source.fingerprint(name)
    asked = {spec.key: question | {"network": spec.key} for spec in specs}
    missing = [s for s in specs if lab.known(s, "robustness", asked[s.key]) is None]
    corrupted = []
    if missing:
        lab.say(f"corruption {name}: {len(missing)} networks, {len(images.labels)} images")
        corrupted = _corrupted(images, places, name, source)
    found = []
    for spec in specs:
        # Into the store network by network: little is lost when killed. "figures" is what the store
        # calls metrics; another word would lose what is recorded.
        made = lab.answer(
            spec,
            "robustness",
            asked[spec.key],
            lambda spec=spec: {"figures": _measured(lab, spec, corrupted, images.labels)},
        )
        found.append(made["figures"])
    return found


def _subset(lab: Lab) -> tuple[Dataset, np.ndarray]:
    """The test images that are corrupted, and their places among the test images."""
    test, n = lab.data.test, lab.settings.n_corrupted
    if n is None:
        n = len(test.labels)
    places = _some(test.labels, n, seed=lab.settings.data_seed)
    return datasets.take(test, places), places


def _some(labels: np.ndarray, n: int, *, seed: int) -> np.ndarray:
    """Places of n images (all, if there are fewer).

    Classes are as even as in the whole; any images, where one class is too rare for that.
    """
    if n >= len(labels):
        return np.arange(len(labels))
    try:
        return datasets.stratified(labels, n, seed=seed)
    except InputError:
        return datasets.stratified(np.zeros_like(labels), n, seed=seed)


def _source(lab: Lab) -> corruptions.Source:
    """Official arrays are of CIFAR-10's whole test set; all other images are corrupted here."""
    settings, test = lab.settings, lab.data.test
    whole = settings.dataset == "cifar10" and settings.n_test is None
    folder = None
    if whole and test.images.shape[1:3] == (32, 32):
        folder = config.data_path(settings) / OFFICIAL
    return corruptions.source(folder, test.labels, settings.corruptions)


def corrupted_images(lab: Lab) -> Iterator[tuple[str, np.ndarray, list[np.ndarray]]]:
    """What `robustness` asks about: the corruption (`CLEAN` first), labels, images a severity."""
    images, places = _subset(lab)
    source = _source(lab)
    for name in (CLEAN, *source.names):
        yield name, images.labels, _corrupted(images, places, name, source)


def corruption_names(lab: Lab) -> tuple[str, ...]:
    """Names of the corruptions that `robustness` asks about, in its order."""
    return _source(lab).names


def official_corruptions(lab: Lab) -> bool:
    """Whether corrupted images are read from the published arrays."""
    return _source(lab).kind == "official"


def _corrupted(
    images: Dataset, places: np.ndarray, name: str, source: corruptions.Source
) -> list[np.ndarray]:
    """Images uint8 (n, H, W, 3) under one corruption, one array a severity: for all networks."""
    if name == CLEAN:
        return [images.images]
    return [source.images(images.images, places, name, s) for s in corruptions.SEVERITIES]


def _measured(
    lab: Lab, spec: Spec, corrupted: Sequence[np.ndarray], labels: np.ndarray
) -> list[dict]:
    """Metrics of a network, one a severity."""
    network, expected = lab.network(spec), torch.from_numpy(labels)
    found = []
    for pictures in corrupted:
        logits = logits_of(network, lab.shown(spec, pictures))
        metrics = _chosen(evaluation.metrics(logits, expected))
        found.append({k: round(value, 6) for k, value in metrics.items()})
    return found


def examine(lab: Lab, specs: Sequence[Spec]) -> None:
    """All that is asked of `Specs.examined` beyond accuracy, into the store."""
    robustness(lab, specs)
    if lab.settings.holdout:
        calibration(lab, specs)
    transfer_sample(lab, specs)


# ---------------------------------------------------------------- one image


def probabilities(lab: Lab, networks: dict[str, Spec], image: np.ndarray) -> dict[str, np.ndarray]:
    """What each network says of one image uint8 (H, W, 3): probabilities (classes,) by its name."""
    found = {}
    for name, spec in networks.items():
        logits = logits_of(lab.network(spec), lab.shown(spec, image[None]))
        found[name] = logits[0].softmax(0).cpu().numpy()
    return found


# ---------------------------------------------------------------- calibration


def calibration(lab: Lab, specs: Sequence[Spec]) -> list[dict]:
    """A row a network: test metrics before and after temperature scaling.

    {..., temperature, before: {accuracy, nll, ece, brier, reliability}, after: the same, n}. The
    temperature is fitted on held-out images; raises InputError in a profile that has none.
    """
    lab.train(specs)  # outside the locks of the answers
    rows = []
    for spec in specs:
        question = {"network": spec.key, "test": lab.data.test.fingerprint}
        question["holdout"] = lab.part("holdout").fingerprint
        row = lab.answer(spec, "calibration", question, partial(_scaled, lab, spec))
        kept = ("temperature", "n", "before", "after")
        rows.append(about(spec) | {name: row[name] for name in kept})
    return rows


def _scaled(lab: Lab, spec: Spec) -> dict:
    """What a row says of one network's temperature, and before and after it."""
    # Fitted on held-out images, never on the test images, on which it is measured.
    fitted = torch.from_numpy(lab.evaluation(spec, "holdout").array("logits"))
    temperature = evaluation.fit_temperature(fitted, torch.from_numpy(lab.data.holdout.labels))
    logits = torch.from_numpy(lab.evaluation(spec).array("logits"))
    labels = torch.from_numpy(lab.data.test.labels)
    row = {"temperature": temperature, "n": len(labels)}
    row["before"] = _calibrated(logits, labels)
    row["after"] = _calibrated(logits / temperature, labels)
    return row


def _calibrated(logits: Tensor, labels: Tensor) -> dict:
    """The metrics and the reliability diagram of logits (N, classes)."""
    metrics = _chosen(evaluation.metrics(logits, labels))
    return metrics | {"reliability": evaluation.reliability(logits.double().softmax(1), labels)}


# ---------------------------------------------------------------- choices, transfer, features


def metrics_on(lab: Lab, specs: Sequence[Spec], part: str, *, exact: bool = False) -> list[dict]:
    """A row a network: its metrics on "holdout", for choices, or "test".

    With alpha and gamma, where its loss has them. exact: in float32, as `Lab.evaluation` does.
    """
    rows = []
    for spec in specs:
        record = lab.evaluation(spec, part, exact=True).record if exact else lab.metrics(spec, part)
        # Weights of the loss go along, for tables by alpha and gamma.
        row = about(spec) | _chosen(record) | {"n": record["n"]}
        if spec.guidance:
            row |= {"alpha": spec.guidance.alpha, "gamma": spec.guidance.gamma}
        rows.append(row)
    return rows


def transfer_sample(lab: Lab, specs: Sequence[Spec]) -> list[dict]:
    """A row a network: accuracy on the CINIC-10 sample in the data folder.

    `transfer` is of images that CIFAR-10 has not, `seen` of those it has. Empty where there is no
    such file, or the networks were not trained on CIFAR-10.
    """
    path = config.data_path(lab.settings) / SAMPLE
    if lab.settings.dataset != "cifar10" or lab.settings.resize or not path.is_file():
        return []
    images, labels, seen = cifar.transfer_sample(path)
    # CINIC-10 holds all of CIFAR-10: images that were trained on are counted apart.
    counts = {"n": int((~seen).sum()), "n_seen": int(seen.sum())}

    def accuracies(spec: Spec) -> dict:
        logits = logits_of(lab.network(spec), lab.shown(spec, images))
        right = logits.argmax(1).numpy() == labels
        return {"transfer": float(right[~seen].mean()), "seen": float(right[seen].mean())}

    rows = []
    for spec in specs:
        question = {"network": spec.key, "sample": sha256(path)}
        found = lab.answer(spec, "transfer", question, partial(accuracies, spec))
        rows.append(about(spec) | {name: found[name] for name in ("transfer", "seen")} | counts)
    return rows


def embedding(lab: Lab, specs: Sequence[Spec], *, n: int = 500) -> list[dict]:
    """A row a network: t-SNE of what its last layer sees of n test images.

    {..., places: two numbers an image, labels}. Perplexity 30 (less for few images), started from
    the principal components, seed 0.
    """
    from sklearn.manifold import TSNE

    labels = lab.data.test.labels
    where = _some(labels, n, seed=lab.settings.data_seed)
    rows = []
    for spec in specs:
        features = _penultimate(lab, spec, where)
        tsne = TSNE(
            perplexity=min(30, len(where) / 4), init="pca", random_state=0, method="barnes_hut"
        )
        places = tsne.fit_transform(features).round(2)
        rows.append(about(spec) | {"places": places.tolist(), "labels": labels[where].tolist()})
    return rows


def spanning_trees(lab: Lab, specs: Sequence[Spec], *, n: int = 64) -> list[dict]:
    """A row a network: the cloud that its last layer sees of n test images, and its H0.

    {..., places: two principal components an image, edges: pairs of images, the minimum spanning
    tree's, shortest first, across: whether they are of two classes, deaths: the edges' lengths over
    the mean distance, labels: of the images}.
    """
    labels = lab.data.test.labels
    where = _some(labels, n, seed=lab.settings.data_seed)
    upper = np.transpose(np.triu_indices(len(where), 1))  # (P, 2), in the condensed order
    rows = []
    for spec in specs:
        cloud = torch.from_numpy(_penultimate(lab, spec, where))  # (n, c)
        lengths = distances(cloud).numpy()
        tree = tree_edges(lengths)
        centred = (cloud - cloud.mean(0)).double()
        places = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T  # (n, 2)
        found = {"places": places.numpy().round(3).tolist(), "edges": upper[tree].tolist()}
        ends = labels[where][upper[tree]]  # (n - 1, 2): the classes that an edge joins
        found |= {"across": (ends[:, 0] != ends[:, 1]).tolist()}
        found |= {"deaths": lengths[tree].round(5).tolist(), "labels": labels[where].tolist()}
        rows.append(about(spec) | found)
    return rows


def _penultimate(lab: Lab, spec: Spec, where: np.ndarray) -> np.ndarray:
    """float32 (n, c): what the last layer of the network sees of test images."""
    pixels = lab.shown(spec, lab.data.test.images[where])
    return teacher_embedding(Teacher(lab.network(spec), pixels)).cpu().numpy()


# ---------------------------------------------------------------- the second teacher's share


def shares(lab: Lab, specs: Sequence[Spec], *, batches: int = 20) -> list[dict]:
    """A row a method with two teachers: the second one's real share of the merged map.

    {..., alpha, order, question, shares: `batches` lists of three stages}. Methods with the same
    teachers and weights have the same `question`. Left out are students without a second teacher or
    without maps; a method's seeds all have the same share. See `share`.
    """
    # The teachers are the same for all seeds of a method, and so is the share.
    first_seeds: dict[str, Spec] = {}
    for spec in specs:
        if all(spec.teachers) and spec.guidance.gamma:
            first_seeds.setdefault(spec.method, spec)
    rows = []
    looked: dict[str, list[list[Tensor]]] = {}  # a teacher looks once, whatever its weight
    for spec in first_seeds.values():
        asked = {"alpha": spec.guidance.alpha, "order": spec.guidance.order}
        question = asked | {"teachers": [teacher.key for teacher in spec.teachers]}
        if spec.guidance.shown:
            question["shown"] = spec.guidance.shown
        question |= {"batches": batches, "size": lab.settings.batch_size}
        if any(teacher.data != spec.data for teacher in spec.teachers):
            question["images"] = spec.data  # published teachers, asked about this run's images
        lab.train(spec.teachers)  # outside the lock of the share
        made = lab.store.make(
            "shares", question, lambda _, spec=spec: {"shares": _shares(lab, spec, batches, looked)}
        )
        found = {"question": made.key, "shares": made.record["shares"]}
        rows.append(about(spec) | asked | found)
    return rows


def _shares(lab: Lab, spec: Spec, batches: int, looked: dict) -> list[list[float]]:
    """A list a batch: the share in each stage. looked: maps by `Asked.name`, added to."""
    for asked in spec.asked:
        if asked.name not in looked:
            looked[asked.name] = _maps(lab, asked, batches)
    first, second = (looked[asked.name] for asked in spec.asked)
    weights = {"alpha": spec.guidance.alpha, "order": spec.guidance.order}
    found = []
    for one, two in zip(first, second, strict=True):
        found.append([share(g, h, **weights) for g, h in zip(one, two, strict=True)])
    return found


def _maps(lab: Lab, asked: Asked, batches: int) -> list[list[Tensor]]:
    """Three raw maps (B, B) of a teacher a batch, the first batch of each of the first epochs."""
    teacher = lab.teacher(asked.spec, shown=asked.shown)
    found = []
    for epoch in range(batches):
        # Batches as training draws them: a share depends on who is in a batch.
        order = batch_order(len(lab.data.train.labels), seed=0, epoch=epoch)
        index = order[: lab.settings.batch_size].to(lab.compute.device)
        found.append([similarity_map(f) for f in teacher.look(index)[1]])
    return found


def share(first: Tensor, second: Tensor, *, alpha: float, order: str | None) -> float:
    """The second raw map's share of the merged one; maps (B, B), `order` as in `losses.merge_maps`.

    Of a row r = alpha r1 + (1 - alpha) r2 it is the part along r that comes from r2, (1 - alpha) r2
    . r / |r|^2, averaged over rows: 1 - alpha only where both rows are alike in scale and
    direction.
    """
    if order:
        first, second = F.normalize(first, dim=1), F.normalize(second, dim=1)
    part = (1 - alpha) * second
    merged = merge_maps([first], [second], alpha=alpha)[0]
    along = (part * merged).sum(1) / merged.square().sum(1)  # (B,)
    return float(along.mean())
