"""RipsNet: a network that guesses the persistence image of a cloud of points, for TopKD.

TopKD (Kim, You, Lee, Kim, Jung, "Do Topological Characteristics Help in Knowledge Distillation?",
ICML 2024) compares embeddings by the persistence images of their Rips diagrams, in dimension 0,
and lets a network stand in for them, since it is differentiable and quick. It is trained before
the student, on batches of the teacher's embedding and their exact images.

    images    of diagrams, as the authors make them
    RipsNet   cloud (B, c) -> image (400,)
    fit       clouds of a teacher's embedding -> a trained RipsNet

Sources: the paper's authors' public repository for every number here; de Surrel et al., "RipsNet"
(2022), for the network. All births are 0, so the images, made as the authors make them, have 20
equal columns: what they hold is a profile of 20 numbers. They are kept as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tgd_lib.config import InputError
from tgd_lib.embedding import deaths

RESOLUTION = (20, 20)
CLOUDS = 2048  # what a RipsNet is trained and stopped on (the authors: some 200,000)
FOR_TRAINING = 0.75  # of the clouds; the others say when to stop
STEP = 16  # clouds a step (the authors: 64; steps are what it needs, and these cost a quarter)
RATE = 5e-4  # of Adamax
PATIENCE = 50  # epochs without a better loss on the other clouds
EPOCHS = 400  # at most (the authors: 25,000, and stopped after 512 of 2,343 steps)


class RipsNet(nn.Module):
    """Cloud (B, c), or clouds (n, B, c), -> persistence image (400,) or (n, 400), from 0 to 1.

    A network for each point (c, c / 2, c / 2), the mean over the points, a network for the whole
    (50, 100, 200, 400): the order of the points does not matter, nor, much, how many there are.
    """

    def __init__(self, width: int):
        super().__init__()
        half = max(1, width // 2)
        points = [nn.Linear(width, width), nn.Linear(width, half), nn.Linear(half, half)]
        sizes = (half, 50, 100, 200)
        whole = [nn.Linear(a, b, bias=False) for a, b in zip(sizes, sizes[1:], strict=False)]
        self.points = nn.ModuleList(points)
        self.whole = nn.ModuleList(whole)
        self.image = nn.Linear(sizes[-1], RESOLUTION[0] * RESOLUTION[1], bias=False)

    def forward(self, cloud: Tensor) -> Tensor:
        # Every point by itself, then all of them as one: so their order cannot matter.
        x = cloud.float()
        for layer in self.points:
            x = F.relu(layer(x))  # (..., B, c / 2) in the end
        x = x.mean(-2)  # (..., c / 2)
        for layer in self.whole:
            x = F.relu(layer(x))
        return torch.sigmoid(self.image(x))


def fresh(width: int, *, seed: int) -> RipsNet:
    """A RipsNet on the CPU whose weights depend on the seed alone; the global state stays."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RipsNet(width)


# ---------------------------------------------------------------- what it learns


def clouds(embedding: Tensor, size: int, *, count: int = CLOUDS, seed: int = 0) -> Tensor:
    """`count` clouds (count, B, c): batches of B images, pass after pass over all of them.

    embedding: float (n, c), a teacher's of its n training images. B is `size`, or n where there
    are fewer. Every pass has an order of its own; what does not fill a batch is left out.
    Raises InputError for less than two images or clouds.
    """
    # A training set smaller than a batch is one cloud, in every pass the same.
    size = min(size, len(embedding))
    if size < 2 or count < 2:
        raise InputError(f"{count} clouds of {size} points: must be two or more of each")
    generator = torch.Generator().manual_seed(seed)
    drawn: list[Tensor] = []
    while len(drawn) < count:
        order = torch.randperm(len(embedding), generator=generator)
        # As in their loader, no short batch: a RipsNet's clouds are all of one size.
        full = len(order) // size * size
        drawn += order[:full].split(size)
    index = torch.stack(drawn[:count])  # (count, B)
    return embedding[index.to(embedding.device)].float()


def images(diagrams: Sequence[np.ndarray]) -> np.ndarray:
    """The persistence images float64 (n, 400) of H0 diagrams, over the largest pixel of all.

    diagrams: n arrays of deaths (B - 1,), births being 0. A point weighs 10 tanh(death); the
    Gaussian's sigma is the 0.2 quantile of the distances between the first 200 points, pixels are
    samples from the least to the greatest death, all as TopKD's authors have it. Where all deaths
    are one (a cloud of copies, a square) sigma is 1, and images of nothing are 0.
    """
    from gudhi.representations import PersistenceImage
    from scipy.spatial.distance import pdist

    # One sigma and one window for all images, or they could not be compared pixel by pixel.
    died = np.concatenate(diagrams)
    apart = pdist(died[:200, None])
    apart = apart[apart > 1e-5]
    picture = PersistenceImage(
        bandwidth=np.quantile(apart, 0.2) if len(apart) else 1.0,
        weight=lambda point: 10 * np.tanh(point[1]),  # and 10 log(100 birth + 1), which is 0 here
        resolution=list(RESOLUTION),
        im_range=[0.0, 0.0, died.min(), died.max()],
    )
    # gudhi wants pairs of birth and death.
    pairs = [np.stack([np.zeros_like(d), d], axis=1) for d in diagrams]
    made = picture.fit_transform(pairs)
    return made / max(made.max(), np.finfo(np.float64).tiny)


def fit(
    embedding: Tensor, size: int, *, count: int = CLOUDS, epochs: int = EPOCHS, seed: int = 0
) -> tuple[RipsNet, dict]:
    """A RipsNet trained on `clouds` of an embedding (n, c) and their `images`, and how it went.

    The weights are those of the epoch with the least loss on the clouds kept aside. Returns the
    network, frozen and on the CPU, and {clouds, points, epochs, loss, loss_of_mean}: mean squared
    errors a pixel on the clouds kept aside, of the network and of always saying the mean image.
    """
    x = clouds(embedding.cpu(), size, count=count, seed=seed)
    y = torch.from_numpy(images([deaths(cloud).numpy() for cloud in x])).float()
    learnt = int(FOR_TRAINING * len(x))
    network, seen = _trained(x, y, learnt, epochs, seed)
    # A network that has learnt nothing of a cloud would do as well as this.
    mean = y[:learnt].mean(0).expand_as(y[learnt:])
    trivial = float(F.mse_loss(mean, y[learnt:]))
    about = {"clouds": len(x), "points": x.shape[1], "epochs": len(seen), "loss": min(seen)}
    return network.requires_grad_(False), about | {"loss_of_mean": trivial}


def _trained(
    x: Tensor, y: Tensor, learnt: int, epochs: int, seed: int
) -> tuple[RipsNet, list[float]]:
    """The best network, and the loss on the clouds from `learnt` on after each epoch."""
    network = fresh(x.shape[2], seed=seed)
    optimiser = torch.optim.Adamax(network.parameters(), lr=RATE)
    generator = torch.Generator().manual_seed(seed)
    seen: list[float] = []
    for _ in range(epochs):
        for batch in torch.randperm(learnt, generator=generator).split(STEP):
            loss = F.mse_loss(network(x[batch]), y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            seen.append(float(F.mse_loss(network(x[learnt:]), y[learnt:])))
        # Kept are the weights that do best on what was not learnt from, as by the authors.
        if seen[-1] == min(seen):
            best = {k: v.clone() for k, v in network.state_dict().items()}
        if len(seen) - seen.index(min(seen)) > PATIENCE:
            break
    network.load_state_dict(best)
    return network, seen
