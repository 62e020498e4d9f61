"""TGD on one screen, from arrays to a distilled student: the method alone, no lab, no store.

    python examples/distil.py

RESULT_PLACEHOLDER
"""

import numpy as np
import torch

from tgd_lib import bank, datasets, evaluation, tiles, topology
from tgd_lib.compute import Compute, Pixels
from tgd_lib.config import Schedule
from tgd_lib.losses import tgd_loss
from tgd_lib.networks import wide_resnet
from tgd_lib.training import Run, label_objective

# The paper's weights but for gamma, whose 3000 is too much for so few steps, and the textbook's KL.
WEIGHTS = dict(alpha=0.99, lam=0.9, temperature=4.0, gamma=300.0, kl_reduction="batchmean")


def seen(array: np.ndarray, train: np.ndarray, compute: Compute) -> Pixels:
    """uint8 (N, C, H, W) as a network sees it: normalised per channel as its training images are."""
    mean, std = train.mean((0, 2, 3)) / 255, train.std((0, 2, 3)) / 255
    return Pixels(array, mean, std, compute)


def fit(
    network, pixels: Pixels, labels: torch.Tensor, schedule: Schedule, objective=label_objective
):
    """The network, trained: SGD over the schedule's epochs, the same batches for every network."""
    run = Run(network, pixels, labels, schedule, seed=0, objective=objective)
    for _ in range(schedule.epochs):
        run.begin()
        for step in range(run.steps):
            run.advance(step)
        print({name: round(value, 3) for name, value in run.conclude().items()})
    return run.network.eval()


def distil(train, test, *, epochs=8, teacher=(16, 2), student=(16, 1), compute=Compute()) -> dict:
    """Test accuracy of each network. train, test: images uint8 (N, H, W, 3), labels, class_names."""
    labels, classes = torch.from_numpy(train.labels), len(train.class_names)
    schedule = Schedule(epochs, epochs, batch_size=64)

    # What the networks see: images (N, 3, H, W), and their persistence images (N, 6, 50, 50).
    images, pis = [], []
    for part in (train, test):
        images.append(part.images.transpose(0, 3, 1, 2))
        pis.append(topology.persistence_images(part.images, n_jobs=None))
    images = [seen(array, images[0], compute) for array in images]
    pis = [seen(array, pis[0], compute) for array in pis]

    # Two teachers, and a student that has learned from labels alone.
    t1 = fit(wide_resnet(*teacher, 3, classes, seed=1), images[0], labels, schedule)
    t2 = fit(wide_resnet(*teacher, 6, classes, seed=1), pis[0], labels, schedule)
    scratch = fit(wide_resnet(*student, 3, classes, seed=0), images[0], labels, schedule)

    # Nothing is augmented, so what teachers say of the training images is constant: looked up.
    teachers = [bank.Teacher(t1, images[0]), bank.Teacher(t2, pis[0])]
    maps = [tiles.raw_maps(t) for t in teachers]  # three (N, N) each
    merged = bank.merged(*maps, alpha=WEIGHTS["alpha"])
    answers = bank.Bank(tuple(bank.teacher_logits(t) for t in teachers), merged)

    def objective(logits, features, labels, index):
        return tgd_loss(logits, labels, features, *answers.batch(index), **WEIGHTS)

    # The distilled student starts from the scratch one ("annealing") and sees images only.
    distilled = wide_resnet(*student, 3, classes, seed=0)
    distilled.load_state_dict(scratch.state_dict())
    distilled = fit(distilled, images[0], labels, schedule, objective)

    networks = {"image teacher": (t1, images[1]), "PI teacher": (t2, pis[1])}
    networks |= {"scratch": (scratch, images[1]), "TGD": (distilled, images[1])}
    logits = {name: evaluation.logits_of(*pair) for name, pair in networks.items()}
    truth = torch.from_numpy(test.labels)
    return {name: evaluation.metrics(said, truth)["accuracy"] for name, said in logits.items()}


if __name__ == "__main__":
    print(distil(datasets.load("sample", "train"), datasets.load("sample", "test")))
