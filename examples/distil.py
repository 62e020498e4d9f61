"""TGD on one screen, from arrays to a distilled student: the method alone, no lab, no store.

    python examples/distil.py

Six epochs on 2,000 images, 1,500 test images, one seed (n = 1), 2 CPU cores: image teacher 37.9,
PI teacher 26.7, scratch 36.7, TGD 36.5 %. It shows the way; notebooks 03 to 07 measure.
"""

import numpy as np
import torch

from tgd_lib import bank, datasets, evaluation, tiles, topology
from tgd_lib.compute import Compute, Pixels
from tgd_lib.config import Schedule
from tgd_lib.losses import tgd_loss
from tgd_lib.networks import wide_resnet
from tgd_lib.training import Run, label_objective

WEIGHTS = dict(  # the paper's, but gamma (3000 is too much for so few steps) and the textbook's KL
    alpha=0.99, lam=0.9, temperature=4.0, gamma=300.0, kl_reduction="batchmean"
)


def seen(array: np.ndarray, train: np.ndarray) -> Pixels:
    """uint8 (N, C, H, W) as networks see it: normalised per channel as the training images are."""
    mean, std = train.mean((0, 2, 3)) / 255, train.std((0, 2, 3)) / 255
    return Pixels(array, mean, std, Compute("cpu"))


def fit(network, pixels, labels, schedule, objective=label_objective):
    """The network, trained by SGD: an epoch is begun, stepped through and concluded."""
    run = Run(network, pixels, labels, schedule, seed=0, objective=objective)
    for _ in range(schedule.epochs):
        run.begin()
        for step in range(run.steps):
            run.advance(step)
        print(run.conclude())  # mean loss, its weighted terms, training accuracy
    return run.network.eval()


def distil(train, test, *, epochs=6, teacher=(10, 2), student=(10, 1)) -> dict[str, float]:
    """Test accuracy of each network. train, test: images uint8 (N, H, W, 3), labels, names."""
    labels, classes = torch.from_numpy(train.labels), len(train.class_names)
    schedule = Schedule(epochs, epochs, batch_size=64)

    # What the networks see: images (N, 3, H, W), and their persistence images (N, 6, 50, 50).
    images = [part.images.transpose(0, 3, 1, 2) for part in (train, test)]
    pis = [topology.persistence_images(part.images) for part in (train, test)]
    images = [seen(array, images[0]) for array in images]
    pis = [seen(array, pis[0]) for array in pis]

    # Two teachers, and a student that has learned from labels alone.
    one = fit(wide_resnet(*teacher, 3, classes, seed=1), images[0], labels, schedule)
    two = fit(wide_resnet(*teacher, 6, classes, seed=1), pis[0], labels, schedule)
    scratch = fit(wide_resnet(*student, 3, classes, seed=0), images[0], labels, schedule)

    # Nothing is augmented, so what teachers say of a training image is constant: looked up.
    teachers = bank.Teacher(one, images[0]), bank.Teacher(two, pis[0])
    logits = tuple(bank.teacher_logits(t) for t in teachers)  # (N, classes) each
    maps = [tiles.raw_maps(t) for t in teachers]  # three (N, N) each, one a stage
    lookup = bank.Bank(logits, bank.merged(*maps, alpha=WEIGHTS["alpha"]))

    def objective(outputs, labels, index, epoch):
        return tgd_loss(outputs.logits, labels, outputs.features, *lookup.batch(index), **WEIGHTS)

    # The distilled student starts as the scratch one ("annealing"), and sees images only.
    distilled = wide_resnet(*student, 3, classes, seed=0)
    distilled.load_state_dict(scratch.state_dict())
    distilled = fit(distilled, images[0], labels, schedule, objective)

    accuracy = {"image teacher": one, "PI teacher": two, "scratch": scratch, "TGD": distilled}
    for name, network in accuracy.items():  # each gives way to its accuracy
        pixels = pis[1] if network is two else images[1]  # what it sees of the test images
        outputs = evaluation.logits_of(network, pixels)
        accuracy[name] = evaluation.metrics(outputs, torch.from_numpy(test.labels))["accuracy"]
    return accuracy


if __name__ == "__main__":
    print(distil(datasets.load("sample", "train"), datasets.load("sample", "test")))
