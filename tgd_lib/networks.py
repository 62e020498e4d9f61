"""The networks: wide residual networks as the authors use them, and the authors' own checkpoints.

Source: Zagoruyko & Komodakis, "Wide Residual Networks" (2016), in the variant that the TGD code
uses: convolutions without bias, a 1x1 shortcut only where width or stride changes (applied to the
activated input), weights drawn from N(0, sqrt(2 / (k^2 * out))).
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tgd_lib.config import InputError


class Outputs(NamedTuple):
    """What a network says of a batch, of any floating dtype; what nobody needs may be missing."""

    logits: Tensor  # (B, classes)
    features: Sequence[Tensor]  # of three stages (B, c, h, w), before the last BN and ReLU
    embedding: Tensor | None = None  # (B, c): after them, pixels averaged; what the last layer sees


class Block(nn.Module):
    """Pre-activation residual block: (B, n_in, H, W) -> (B, n_out, H/stride, W/stride)."""

    def __init__(self, n_in: int, n_out: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(n_in)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        changes = n_in != n_out or stride != 1
        self.shortcut = nn.Conv2d(n_in, n_out, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        # The shortcut takes the activated input, the identity the raw one: the authors' variant.
        a = F.relu(self.bn1(x))
        skip = x if self.shortcut is None else self.shortcut(a)
        return skip + self.conv2(F.relu(self.bn2(self.conv1(a))))


def _stage(blocks: int, n_in: int, n_out: int, *, stride: int) -> nn.Sequential:
    """Blocks of which the first one changes the width and the size."""
    first = Block(n_in, n_out, stride)
    return nn.Sequential(first, *(Block(n_out, n_out, 1) for _ in range(blocks - 1)))


class WideResNet(nn.Module):
    """A WRN: three stages of (depth - 4) / 6 blocks with 16, 32 and 64 times `width` channels."""

    def __init__(self, depth: int, width: int, in_channels: int = 3, num_classes: int = 10):
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False)
        self.stage1 = _stage(blocks, 16, 16 * width, stride=1)
        self.stage2 = _stage(blocks, 16 * width, 32 * width, stride=2)
        self.stage3 = _stage(blocks, 32 * width, 64 * width, stride=2)
        self.bn = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, num_classes)

    def stages(self, x: Tensor) -> Outputs:
        """Logits (B, num_classes), the outputs of the three stages, and the embedding (B, 64w).

        x: (B, in_channels, H, W). The features are (B, 16w, H, W), (B, 32w, H/2, W/2) and
        (B, 64w, H/4, W/4), halves rounded up.
        """
        f1 = self.stage1(self.conv(x))
        f2 = self.stage2(f1)
        f3 = self.stage3(f2)
        embedding = F.relu(self.bn(f3)).mean((2, 3))  # (B, 64w)
        return Outputs(self.fc(embedding), [f1, f2, f3], embedding)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, num_classes) for x (B, in_channels, H, W)."""
        return self.stages(x).logits


@torch.inference_mode(False)  # so that it can be trained wherever it is made
def wide_resnet(
    depth: int, width: int, in_channels: int = 3, num_classes: int = 10, *, seed: int | None = None
) -> WideResNet:
    """A freshly initialised WRN-`depth`-`width`.

    Its forward takes float (B, in_channels, H, W) of any H, W >= 4 and gives logits
    (B, num_classes); `stages(x)` gives the features too. With a `seed` the initial weights
    depend on it alone and the global random state stays as it is.

    Raises InputError unless depth is 6k + 4 with k >= 1 and the other numbers are positive.
    """
    if depth < 10 or (depth - 4) % 6:
        raise InputError(f"WRN depth {depth}: must be 10, 16, 22, 28, ... (6k + 4)")
    if min(width, in_channels, num_classes) < 1:
        raise InputError("WRN width, in_channels and num_classes must be positive")
    if seed is None:
        return _initialise(WideResNet(depth, width, in_channels, num_classes))
    # Layers draw from the global random state; it is put back afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _initialise(WideResNet(depth, width, in_channels, num_classes))


def _initialise(network: WideResNet) -> WideResNet:
    for m in network.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.normal_(m.weight, std=math.sqrt(2 / (m.kernel_size[0] ** 2 * m.out_channels)))
    nn.init.zeros_(network.fc.bias)
    return network


def parameter_count(network: nn.Module) -> int:
    """Number of trainable numbers in the network."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


# What torch.load and load_state_dict raise for files of another kind.
CHECKPOINT_ERRORS = (
    RuntimeError,
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    EOFError,
    OSError,
    pickle.UnpicklingError,
)

# The authors' names for the parts of their WRN, and ours.
_AUTHORS_NAMES = (
    (r"^conv1\.", "conv."),
    (r"^block(\d)\.nblockLayer\.", r"stage\1."),
    (r"\.batch_norm(\d)\.", r".bn\1."),
    (r"\.conv_inp\.", ".shortcut."),
    (r"^batch_norm\.", "bn."),
)


def load_authors_checkpoint(path: str | Path) -> WideResNet:
    """A WRN-16-1 for CIFAR-10 in eval mode, from a file the TGD authors released (`*.pth.tar`).

    Only tensors are read (`weights_only=True`); images go in normalised by the authors'
    constants. Raises InputError when the file is missing, damaged or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; the authors' checkpoints are in their repository jeunsom/TGD"
        )
    try:
        # weights_only: a pickle from outside must not run code.
        state = torch.load(path, map_location="cpu", weights_only=True)["model_state_dict"]
        renamed = {_our_name(name): tensor for name, tensor in state.items()}
        network = wide_resnet(16, 1, seed=0)
        network.load_state_dict(renamed)
    except CHECKPOINT_ERRORS as e:
        lines = str(e).strip().splitlines() or [type(e).__name__]
        reason = lines[0][:120]
        raise InputError(
            f"{path}: not one of the authors' WRN-16-1 checkpoints ({reason})"
        ) from None
    return network.eval()


def _our_name(name: str) -> str:
    for theirs, ours in _AUTHORS_NAMES:
        name = re.sub(theirs, ours, name)
    return name
