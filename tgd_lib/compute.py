"""Where and how networks compute: the device, the precision, and arrays that stay on it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tgd_lib.config import InputError


@dataclass(frozen=True)
class Compute:
    """A device ("cpu" or "cuda") and a precision ("fp32" or "bf16", the latter by autocast)."""

    device: str = "cpu"
    precision: str = "fp32"

    @classmethod
    def choose(cls, device: str = "auto", precision: str = "fp32") -> Compute:
        """`device` may be auto: CUDA if there is one. InputError if CUDA is asked for in vain."""
        if device == "cuda" and not torch.cuda.is_available():
            raise InputError(
                "device 'cuda': PyTorch finds no CUDA device here; use device 'cpu' or 'auto'"
            )
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(device, precision)

    def autocast(self):
        """Context in which a forward pass runs in this precision."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        if self.bf16_by_rounding:
            return _rounding()
        return torch.autocast(self.device, torch.bfloat16)

    @property
    def bf16_by_rounding(self) -> bool:
        """Whether bf16 is computed here as float32 products of rounded numbers (`_Rounding`)."""
        return self.precision == "bf16" and self.device == "cpu" and not multiplies_bf16()

    @torch.inference_mode(False)  # what is made in a caller's inference mode cannot be trained
    def place(self, network: nn.Module) -> nn.Module:
        """The network on the device, channels last (measured: 1.2 to 1.4 times as fast on CPU)."""
        return network.to(self.device, memory_format=torch.channels_last)

    @property
    def name(self) -> str:
        """The device in words, for records: "cpu" or the GPU's name."""
        return torch.cuda.get_device_name() if self.device == "cuda" else "cpu"


# ---------------------------------------------------------------- bf16 without instructions for it


def multiplies_bf16() -> bool:
    """Whether PyTorch has fast kernels for bf16 on this CPU: those of oneDNN need AVX-512."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """A B, (p, q) of A (p, d) and B (d, q), in the dtype of both; bf16 by rounding where the CPU
    does not multiply it.
    """
    if a.dtype != torch.bfloat16 or a.device.type != "cpu" or multiplies_bf16():
        return a @ b
    return (a.float() @ b.float()).bfloat16()


@contextlib.contextmanager
def _rounding():
    """bf16 autocast on a CPU that does not multiply bf16."""
    with torch.autocast("cpu", torch.bfloat16), _Rounding():
        yield


class _Rounding(TorchFunctionMode):
    """Convolutions and linear layers in float32, of and to numbers that bf16 holds.

    Products of two bf16 numbers are exact in float32, and bf16 kernels add them up in float32 as
    well; so only the order of summation differs, as between two CPUs. Training on two cores with
    AVX2 alone it is some ten times as fast as PyTorch's own bf16, and about as fast as float32
    (n = 2, benchmarks/recorded/training_rounding.md).
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function not in (torch.conv2d, nn.functional.linear):
            return function(*args, **kwargs)
        # Autograd passes through the casts, so gradients are rounded where autocast rounds them.
        args = [_rounded(a) for a in args]
        kwargs = {name: _rounded(a) for name, a in kwargs.items()}
        with torch.autocast("cpu", enabled=False):
            return function(*args, **kwargs).bfloat16()


def _rounded(argument):
    """A tensor as float32 that bf16 holds; anything else as it is."""
    return argument.bfloat16().float() if isinstance(argument, Tensor) else argument


# ---------------------------------------------------------------- pixels


class Pixels:
    """8-bit images that live on the device and are normalised a batch at a time.

    array: uint8 (N, C, H, W) of any strides, may be memory-mapped; mean, std: C numbers on the
    [0, 1] scale. `pixels[index]` is float32 (B, C, H, W), channels last, for an int64 index (B,).
    """

    def __init__(self, array: np.ndarray, mean, std, compute: Compute):
        self.array = torch.from_numpy(array).to(compute.device)
        self.compute = compute
        # (x / 255 - mean) / std as one product and one difference: x * scale - shift.
        mean = torch.tensor(mean, dtype=torch.float64)
        std = torch.tensor(std, dtype=torch.float64)
        self._scale = self._a_channel(1 / (255 * std))
        self._shift = self._a_channel(mean / std)

    def _a_channel(self, values: Tensor) -> Tensor:
        """float32 (1, C, 1, 1) on the device, of float64 (C,)."""
        return values.float().view(1, -1, 1, 1).to(self.compute.device)

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        # 8 bits wait on the device and become floats a batch at a time: a quarter of the memory.
        x = self.array[index].to(torch.float32, memory_format=torch.channels_last)
        return x.mul_(self._scale).sub_(self._shift)
