"""One training loop for every network: SGD, step schedule, complete state saved every epoch.

The order of the batches is a pure function of (seed, epoch) and nothing else is drawn at random
while training, so network, momentum and epoch are the whole state: a resumed run ends in the same
bits as an unbroken one (on CPU, with the same number of threads, which the state holds).
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from tgd_lib.compute import Pixels
from tgd_lib.config import InputError, Schedule

# objective(logits (B, C), features, labels (B,), index (B,)) -> (total, {name: weighted term})
Objective = Callable[[Tensor, list[Tensor], Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]


def batch_order(n: int, *, seed: int, epoch: int) -> Tensor:
    """The order int64 (n,) in which `epoch` visits the training images; the same for every method."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(n, generator=generator)


def label_objective(logits: Tensor, features, labels: Tensor, index: Tensor):
    """Cross-entropy with the labels: how teachers and scratch students train."""
    ce = F.cross_entropy(logits.float(), labels)
    return ce, {"ce": ce}


class Run:
    """A network under way through its schedule.

    `evaluate(network) -> float` (accuracy on the test set) is given only under selection="authors":
    then the best-on-test weights are kept beside the last ones.
    """

    def __init__(
        self,
        network: nn.Module,
        pixels: Pixels,
        labels: Tensor,
        schedule: Schedule,
        *,
        seed: int,
        objective: Objective = label_objective,
        evaluate: Callable[[nn.Module], float] | None = None,
    ):
        self.compute = pixels.compute
        self.network = self.compute.place(network)
        self.pixels, self.labels = pixels, labels.to(self.compute.device)
        self.schedule, self.seed = schedule, seed
        self.objective, self.evaluate = objective, evaluate
        self.optimiser = torch.optim.SGD(
            network.parameters(), lr=schedule.lr, momentum=schedule.momentum, weight_decay=schedule.weight_decay
        )
        self.history: list[dict] = []  # one entry an epoch
        self.best: dict[str, Tensor] | None = None

    @property
    def finished(self) -> bool:
        return len(self.history) >= self.schedule.epochs

    def step(self, index: Tensor) -> dict[str, Tensor]:
        """One step of SGD on the images `index` (B,). Returns the detached terms and the count of correct ones."""
        labels = self.labels[index]
        with self.compute.autocast():
            logits, features = self.network.stages(self.pixels[index])
        total, terms = self.objective(logits, features, labels, index)
        self.optimiser.zero_grad()
        total.backward()
        self.optimiser.step()
        with torch.no_grad():
            correct = (logits.argmax(1) == labels).sum()
        return {"loss": total.detach(), **{k: v.detach() for k, v in terms.items()}, "accuracy": correct}

    def epoch(self) -> dict:
        """Train one epoch and append its entry to the history: mean loss and terms, accuracy, seconds."""
        started, epoch, n = time.perf_counter(), len(self.history), len(self.pixels)
        for group in self.optimiser.param_groups:
            group["lr"] = self.schedule.rate(epoch)
        self.network.train()
        sums: dict[str, Tensor] = {}
        order = batch_order(n, seed=self.seed, epoch=epoch).to(self.compute.device)
        for index in order.split(self.schedule.batch_size):  # the short last batch is kept
            for name, value in self.step(index).items():
                weighted = value if name == "accuracy" else value * len(index)
                sums[name] = sums.get(name, 0) + weighted
        entry = {"epoch": epoch + 1} | {k: float(v) / n for k, v in sums.items()}
        if not entry["loss"] < float("inf"):  # also refuses nan
            raise InputError(f"training diverged in epoch {epoch + 1} (loss {entry['loss']}): lower gamma or raise n_train")
        if self.evaluate:
            entry["test_accuracy"] = self.evaluate(self.network)
            if entry["test_accuracy"] > max((h["test_accuracy"] for h in self.history), default=-1):
                self.best = {k: v.detach().cpu().clone() for k, v in self.network.state_dict().items()}
        entry["seconds"] = round(time.perf_counter() - started, 3)
        self.history.append(entry)
        return entry

    def selected(self) -> tuple[dict[str, Tensor], int]:
        """The weights that count and their epoch: the last, or with `evaluate` the best on the test set."""
        if self.best is None:
            return self.network.state_dict(), len(self.history)
        accuracies = [h["test_accuracy"] for h in self.history]
        return self.best, accuracies.index(max(accuracies)) + 1

    # ---- state on disk

    def save(self, path: Path) -> None:
        """Write the complete state to `path`, whole or not at all."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in (self.best or {}).items()}
        for i, p in enumerate(self.network.parameters()):
            tensors[f"momentum.{i}"] = self.optimiser.state[p]["momentum_buffer"]
        about = {"history": json.dumps(self.history), "threads": str(torch.get_num_threads())}
        save_tensors(path, tensors, about)

    def load(self, path: Path) -> None:
        """Go on from the state in `path`, with the number of threads it was made with."""
        with safe_open(path, "pt") as f:
            about, tensors = f.metadata(), {k: f.get_tensor(k) for k in f.keys()}
        self._restore_threads(int(about["threads"]))
        self.history = json.loads(about["history"])
        self.network.load_state_dict(_under("network.", tensors))
        self.best = _under("best.", tensors) or None
        for i, p in enumerate(self.network.parameters()):
            buffer = torch.empty_like(p.detach())  # in the layout of p
            self.optimiser.state[p]["momentum_buffer"] = buffer.copy_(tensors[f"momentum.{i}"])

    def _restore_threads(self, threads: int) -> None:
        if self.compute.device != "cpu" or threads == torch.get_num_threads():
            return
        if threads <= (os.cpu_count() or 1):
            torch.set_num_threads(threads)
        else:
            warnings.warn(f"begun with {threads} threads, which are not here: the last bits will differ", stacklevel=3)


def train(run: Run, state: Path, *, on_epoch: Callable[[dict], None] = lambda entry: None) -> None:
    """Bring `run` to the end of its schedule, from `state` if that file is there, saving it every epoch.

    The state is left in place; delete it when the result is safe.
    """
    if state.exists():
        run.load(state)
    while not run.finished:
        on_epoch(run.epoch())
        run.save(state)


def save_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors, whole or not at all (contiguous: safetensors refuses channels last)."""
    temporary = path.with_name(path.name + ".tmp")
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, about)
    with open(temporary, "rb") as f:
        os.fsync(f.fileno())
    os.replace(temporary, path)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
