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
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from tgd_lib.compute import Pixels
from tgd_lib.config import Diverged, Schedule

# objective(logits (B, C), features, labels (B,), index (B,)) -> (total, {name: weighted term})
Objective = Callable[[Tensor, list[Tensor], Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]

WARM_UP = 3  # eager steps before a step is captured on CUDA


def batch_order(n: int, *, seed: int, epoch: int) -> Tensor:
    """The order int64 (n,) in which `epoch` visits the training images; the same for every method."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(n, generator=generator)


def label_objective(logits: Tensor, features, labels: Tensor, index: Tensor):
    """Cross-entropy with the labels: how teachers and scratch students train."""
    ce = F.cross_entropy(logits.float(), labels)
    return ce, {"ce": ce}


class Run:
    """A network under way through its schedule, and what its method trains beside it (`own`, if anything).

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
        own: nn.Module | None = None,
        evaluate: Callable[[nn.Module], float] | None = None,
    ):
        self.compute = pixels.compute
        self.network = self.compute.place(network)
        self.own = self.compute.place(own or nn.Module()).train()
        self.pixels, self.labels = pixels, labels.to(self.compute.device)
        self.schedule, self.seed = schedule, seed
        self.objective, self.evaluate = objective, evaluate
        self.optimiser = torch.optim.SGD(
            self._parameters, lr=schedule.lr, momentum=schedule.momentum, weight_decay=schedule.weight_decay
        )
        self.history: list[dict] = []  # one entry an epoch
        self.best: dict[str, Tensor] | None = None
        self._sums: dict[str, Tensor] = {}  # over the images of this epoch, on the device
        self._stream = torch.cuda.Stream() if self.compute.device == "cuda" else None
        self._replay: Callable[[Tensor], None] | None = None
        self._warm = 0

    @property
    def _parameters(self) -> list[nn.Parameter]:
        return [*self.network.parameters(), *self.own.parameters()]

    @property
    def finished(self) -> bool:
        return len(self.history) >= self.schedule.epochs

    @property
    def steps(self) -> int:
        """Steps of an epoch; the last may be of a short batch."""
        return -(-len(self.pixels) // self.schedule.batch_size)

    # ---- an epoch: begin, advance through its steps, conclude

    def begin(self) -> None:
        """Draw the order of the next epoch and set its learning rate."""
        epoch, n = len(self.history), len(self.pixels)
        self._started = time.perf_counter()
        self._batches = batch_order(n, seed=self.seed, epoch=epoch).to(self.compute.device)
        self._batches = self._batches.split(self.schedule.batch_size)
        rate = self.schedule.rate(epoch)
        if rate != self.optimiser.param_groups[0]["lr"]:
            self._replay = None  # a captured step has its rate built in
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        for value in self._sums.values():
            value.zero_()
        self.network.train()
        if self._stream:  # what it is about to read is in place
            self._stream.wait_stream(torch.cuda.current_stream())

    def advance(self, number: int) -> None:
        """Do step `number` of the epoch. On CUDA full batches replay a captured step, on a stream of this run."""
        index = self._batches[number]
        if self.compute.device == "cpu":
            self.step(index)
            return
        with torch.cuda.stream(self._stream):
            if len(index) < self.schedule.batch_size:
                self.step(index)
            elif self._replay:
                self._replay(index)
            else:
                self.step(index)  # as a warm-up: it makes the momentum buffers and picks the kernels
                self._warm += 1
                if self._warm >= WARM_UP:
                    self._replay = self._captured(index)

    def step(self, index: Tensor) -> None:
        """One step of SGD on the images `index` (B,); adds loss, terms and correct answers to the epoch's sums."""
        labels = self.labels[index]
        with self.compute.autocast():
            logits, features = self.network.stages(self.pixels[index])
        total, terms = self.objective(logits, features, labels, index)
        self.optimiser.zero_grad()
        total.backward()
        self.optimiser.step()
        with torch.no_grad():
            for name, value in {"loss": total, **terms}.items():
                self._add(name, value.detach() * len(index))
            self._add("accuracy", (logits.argmax(1) == labels).sum())

    def _add(self, name: str, value: Tensor) -> None:
        if name not in self._sums:
            self._sums[name] = torch.zeros((), device=value.device)
        self._sums[name] += value

    def _captured(self, index: Tensor) -> Callable[[Tensor], None]:
        """`step` for a full batch as a CUDA graph: one launch instead of some hundred."""
        held, graph = index.clone(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            self.step(held)

        def replay(index: Tensor) -> None:
            held.copy_(index)
            graph.replay()

        return replay

    def conclude(self) -> dict:
        """End the epoch: append to the history, and return, its mean loss and terms, accuracy, seconds."""
        if self._stream:
            torch.cuda.current_stream().wait_stream(self._stream)
        epoch, n = len(self.history) + 1, len(self.pixels)
        entry = {"epoch": epoch} | {k: float(v) / n for k, v in self._sums.items()}
        if not entry["loss"] < float("inf"):  # also refuses nan
            raise Diverged(f"training diverged in epoch {epoch} (loss {entry['loss']}): lower gamma or raise n_train")
        if self.evaluate:
            entry["test_accuracy"] = self.evaluate(self.network)
            if entry["test_accuracy"] > max((h["test_accuracy"] for h in self.history), default=-1):
                self.best = {k: v.detach().cpu().clone() for k, v in self.network.state_dict().items()}
        entry["seconds"] = round(time.perf_counter() - self._started, 3)
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
        tensors |= {f"own.{k}": v for k, v in self.own.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in (self.best or {}).items()}
        for i, p in enumerate(self._parameters):
            tensors[f"momentum.{i}"] = self.optimiser.state[p]["momentum_buffer"]
        about = {"history": json.dumps(self.history), "threads": str(torch.get_num_threads())}
        save_tensors(path, tensors, about)

    def resume(self, path: Path) -> None:
        """Go on from the state in `path`, if there is one, with the number of threads it was made with."""
        if not path.exists():
            return
        try:
            with safe_open(path, "pt") as f:
                about, tensors = f.metadata(), {k: f.get_tensor(k) for k in f.keys()}
        except SafetensorError:
            warnings.warn(f"state {path.parent.name} is damaged: training begins anew", stacklevel=3)
            return
        self._restore_threads(int(about["threads"]))
        self.history = json.loads(about["history"])
        self.network.load_state_dict(_under("network.", tensors))
        self.own.load_state_dict(_under("own.", tensors))
        self.best = _under("best.", tensors) or None
        for i, p in enumerate(self._parameters):
            buffer = torch.empty_like(p.detach())  # in the layout of p
            self.optimiser.state[p]["momentum_buffer"] = buffer.copy_(tensors[f"momentum.{i}"])

    def _restore_threads(self, threads: int) -> None:
        if self.compute.device != "cpu" or threads == torch.get_num_threads():
            return
        if threads <= (os.cpu_count() or 1):
            torch.set_num_threads(threads)
        else:
            warnings.warn(f"begun with {threads} threads, which are not here: the last bits will differ", stacklevel=3)


def train(
    runs: Sequence[tuple[Run, Path]],
    *,
    on_epoch: Callable[[Run, dict], None] = lambda run, entry: None,
    on_end: Callable[[Run], None] = lambda run: None,
) -> None:
    """Bring runs to the end of their schedules, each from its state file if there is one, saved every epoch.

    The runs must be over equally many images. They take their steps in turn, which changes no result: on
    CUDA each has a stream of its own, so that small networks fill the device together. One that diverges
    does not hold the others up; its error is raised at the end. State files are left in place:
    `on_end` is where a result is made safe.
    """
    threads, failed = torch.get_num_threads(), []
    for run, state in runs:
        run.resume(state)
    waiting = list(runs)
    while waiting:
        for run, _ in waiting:
            if run.finished:
                on_end(run)
        waiting = [(run, state) for run, state in waiting if not run.finished]
        for run, _ in waiting:
            run.begin()
        for number in range(waiting[0][0].steps if waiting else 0):
            for run, _ in waiting:
                run.advance(number)
        for run, state in list(waiting):
            try:
                on_epoch(run, run.conclude())
                run.save(state)
            except Diverged as error:
                failed.append(error)
                waiting.remove((run, state))
    torch.set_num_threads(threads)
    if failed:
        raise failed[0]


def save_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors, whole or not at all (contiguous: safetensors refuses channels last)."""
    temporary = path.with_name(path.name + ".tmp")
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, about)
    with open(temporary, "rb") as f:
        os.fsync(f.fileno())
    os.replace(temporary, path)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
