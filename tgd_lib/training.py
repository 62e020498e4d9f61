"""One training loop for every network: SGD, step schedule, complete state saved every epoch.

The order of the batches is a pure function of (seed, epoch) and nothing else is drawn at random
while training, so network, momentum and epoch are the whole state: a resumed run ends in the same
bits as an unbroken one (on CPU, with the same number of threads, which the state holds).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from tgd_lib.compute import Pixels
from tgd_lib.config import Diverged, Schedule, cores
from tgd_lib.files import sync
from tgd_lib.networks import Outputs

STATE_ERRORS = (SafetensorError, OSError, ValueError)  # of a file that is no state, or not whole

# objective(outputs, labels (B,), index (B,), epoch from 0) -> (total, {name: weighted term})
Objective = Callable[[Outputs, Tensor, Tensor, int], tuple[Tensor, dict[str, Tensor]]]

# What to try when a training diverges, by the term of its loss that was the largest.
REMEDIES = {
    "ce": "look at the images and labels",
    "kd": "lower temperature or lam",
    "kd_t1": "lower temperature or lam",
    "kd_t2": "lower temperature or lam",
    "maps": "lower gamma or raise n_train",
    "baseline": "lower the weight of this baseline",
}


def batch_order(n: int, *, seed: int, epoch: int) -> Tensor:
    """The order int64 (n,) in which `epoch` visits the images; the same for every method."""
    # A prime beyond any number of epochs, so that no two (seed, epoch) share an order.
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(n, generator=generator)


def label_objective(outputs: Outputs, labels: Tensor, index: Tensor, epoch: int):
    """Cross-entropy with the labels: how teachers and scratch students train."""
    ce = F.cross_entropy(outputs.logits.float(), labels)
    return ce, {"ce": ce}


class Run:
    """A network under way through its schedule, and what its method trains beside it (`own`).

    `evaluate(network) -> float` (accuracy on the test set) is given only under selection="authors":
    then the best-on-test weights are kept beside the last ones. `of` names the training in its
    state, so that another's is not taken for it; `how` is said of each epoch in the history, since
    another machine may go on with it. Whatever gradient mode the caller is in, training
    has gradients.
    """

    @torch.inference_mode(False)
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
        of: str = "",
        how: str = "",
    ):
        self.compute = pixels.compute
        self.of, self.how = of, how
        self.network = self.compute.place(network)
        # An empty module where a method trains nothing beside: it has no weights and no state.
        self.own = self.compute.place(own or nn.Module()).train()
        self.pixels, self.labels = pixels, labels.to(self.compute.device)
        self.schedule, self.seed = schedule, seed
        self.objective, self.evaluate = objective, evaluate
        self.optimiser = torch.optim.SGD(
            self._parameters,
            lr=schedule.lr,
            momentum=schedule.momentum,
            weight_decay=schedule.weight_decay,
        )
        self.history: list[dict] = []  # one entry an epoch
        self.best: dict[str, Tensor] | None = None
        self._sums: dict[str, Tensor] = {}  # over the images of this epoch, on the device
        self._last: dict[str, Tensor] = {}  # terms of the last step whose loss was a number

    @property
    def _parameters(self) -> list[nn.Parameter]:
        everything = [*self.network.parameters(), *self.own.parameters()]
        return [p for p in everything if p.requires_grad]  # what is frozen has no momentum either

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
        # The order is made on the CPU, whose random numbers are the same everywhere.
        order = batch_order(n, seed=self.seed, epoch=epoch).to(self.compute.device)
        self._batches = order.split(self.schedule.batch_size)
        for group in self.optimiser.param_groups:
            group["lr"] = self.schedule.rate(epoch)
        for value in self._sums.values():
            value.zero_()
        self.network.train()

    def advance(self, number: int) -> None:
        """Take step `number` of the epoch, on the images of its batch."""
        self.step(self._batches[number])

    # It turns gradients on as well, in a caller's torch.no_grad() too.
    @torch.inference_mode(False)
    def step(self, index: Tensor) -> None:
        """One step of SGD on the images `index` (B,).

        Loss, terms and correct answers are added up on the device: nothing here waits for a GPU.
        """
        labels = self.labels[index]
        # Only the forward pass runs in the run's precision; losses are float32 in any.
        with self.compute.autocast():
            outputs = self.network.stages(self.pixels[index])
        total, terms = self.objective(outputs, labels, index, len(self.history))
        self.optimiser.zero_grad()
        total.backward()
        self.optimiser.step()
        # Weighted by the images of the batch: the last one of an epoch may be short.
        with torch.no_grad():
            self._add("loss", total.detach() * len(index))
            for name, value in terms.items():
                self._add(name, value.detach() * len(index))
                self._remember(name, value.detach(), total)
            self._add("accuracy", (outputs.logits.argmax(1) == labels).sum())

    def _add(self, name: str, value: Tensor) -> None:
        if name not in self._sums:
            self._sums[name] = torch.zeros((), device=value.device)
        self._sums[name] += value

    def _remember(self, name: str, value: Tensor, total: Tensor) -> None:
        # Once a weight is not a number, nothing is: only the steps before can tell what went wrong.
        before = self._last.get(name, value)
        self._last[name] = torch.where(total.isfinite(), value, before)

    def conclude(self) -> dict:
        """End the epoch: append to the history, and return, its mean loss, accuracy, seconds.

        Raises Diverged (one line, with what to try) when the loss is no longer a number.
        """
        epoch, n = len(self.history) + 1, len(self.pixels)
        entry = {"epoch": epoch}
        for name, value in self._sums.items():
            entry[name] = float(value) / n
        # Looked at once an epoch only: reading a number waits for the device.
        if not math.isfinite(entry["loss"]):
            state = f"training diverged in epoch {epoch} (loss {entry['loss']})"
            raise Diverged(state + self._why())
        # The last step may have broken what no loss has looked at since.
        if not _finite(self.network):
            state = f"training diverged in epoch {epoch} (weights that are no numbers)"
            raise Diverged(state + self._why())
        # The test set is looked at under the authors' rule only.
        if self.evaluate:
            entry["test_accuracy"] = self.evaluate(self.network)
            before = [h["test_accuracy"] for h in self.history]
            # Of equally good epochs the first counts.
            if entry["test_accuracy"] > max(before, default=-1):
                self.best = _copied(self.network.state_dict())
        entry["seconds"] = round(time.perf_counter() - self._started, 3)
        if self.how:
            entry["how"] = self.how
        self.history.append(entry)
        return entry

    def _why(self) -> str:
        """What is known of a divergence, for the end of its line."""
        terms = {name: float(value) for name, value in self._last.items()}
        broken = [name for name, value in terms.items() if not math.isfinite(value)]
        if broken:  # from the first step on: no weight had changed yet
            name, state = broken[0], "is no number from the first step on"
        elif terms:
            name = max(terms, key=lambda name: abs(terms[name]))
            state = f"was its largest term, {terms[name]:.3g}"
        else:
            return ""
        return f": {name} {state}; {REMEDIES.get(name, 'lower its weight')}"

    def selected(self, selection: str) -> tuple[dict[str, Tensor], int]:
        """The weights that count, and their epoch: the "last", or the "authors'" best on test.

        With `evaluate` one run has both.
        """
        if selection == "last":
            return self.network.state_dict(), len(self.history)
        accuracies = [h["test_accuracy"] for h in self.history]
        return self.best, accuracies.index(max(accuracies)) + 1

    # ---- state on disk

    def save(self, path: Path) -> None:
        """Write the complete state, with its sum, to `path`: whole or not at all."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"own.{k}": v for k, v in self.own.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in (self.best or {}).items()}
        # Momentum is all that SGD remembers.
        for i, p in enumerate(self._parameters):
            tensors[f"momentum.{i}"] = self.optimiser.state[p]["momentum_buffer"]
        about = {
            "of": self.of,
            "history": json.dumps(self.history),
            "threads": str(torch.get_num_threads()),
        }
        save_tensors(path, tensors, about | {"sum": state_sum(tensors, about)})

    @torch.inference_mode(False)
    def resume(self, path: Path) -> None:
        """Go on from the state in `path`, if there is one, with the threads it was made with.

        A state that is not whole, to the last bit, is worth a warning, and training begins anew.
        """
        if not path.exists():
            return
        try:
            tensors, history, threads = read_state(path, of=self.of)
        except STATE_ERRORS as error:
            warnings.warn(f"{_damaged(path, error)}: training begins anew", stacklevel=3)
            return
        self._restore_threads(threads)
        # The epoch, and with it the order of batches and the rate, is the length of the history.
        self.history = history
        self.network.load_state_dict(_under("network.", tensors))
        self.own.load_state_dict(_under("own.", tensors))
        self.best = _under("best.", tensors) or None
        for i, p in enumerate(self._parameters):
            buffer = torch.empty_like(p.detach())  # in the layout of p
            buffer.copy_(tensors[f"momentum.{i}"])
            self.optimiser.state[p]["momentum_buffer"] = buffer

    def _restore_threads(self, threads: int) -> None:
        # The last bits of a sum depend on into how many parts it is cut.
        if self.compute.device != "cpu" or threads == torch.get_num_threads():
            return
        if threads <= cores():
            torch.set_num_threads(threads)
            return
        warnings.warn(
            f"begun with {threads} threads, which are not here: the last bits will differ",
            stacklevel=4,
        )


@torch.inference_mode(False)
def train(
    runs: Sequence[tuple[Run, Path]],
    *,
    on_epoch: Callable[[Run, dict], None] = lambda run, entry: None,
    on_end: Callable[[Run], None] = lambda run: None,
) -> None:
    """Bring runs to the end of their schedules, each from its state file, saved every epoch.

    The runs must be over equally many images. They take their steps in turn, which changes no
    result. One that diverges does not hold the others up; its error is raised at the end. State
    files are left in place: `on_end` is where a result is made safe.
    """
    threads = torch.get_num_threads()
    try:
        for run, state in runs:
            run.resume(state)  # which may change the threads
        failed = _epochs(list(runs), on_epoch, on_end)
    finally:  # Ctrl-C in a notebook, too
        torch.set_num_threads(threads)
    if failed:
        raise failed[0]


def _epochs(waiting: list[tuple[Run, Path]], on_epoch: Callable, on_end: Callable) -> list:
    """Epoch by epoch until all are finished; returns the errors of those that diverged."""
    failed = []
    while waiting:
        for run, _ in waiting:
            if run.finished:
                on_end(run)
        # Looked at before an epoch, not after: a resumed run may have been finished already.
        waiting = [(run, state) for run, state in waiting if not run.finished]
        _epoch([run for run, _ in waiting])
        for run, state in list(waiting):
            try:
                on_epoch(run, run.conclude())
                run.save(state)
            except Diverged as error:
                failed.append(error)
                waiting.remove((run, state))
    return failed


def _epoch(runs: Sequence[Run]) -> None:
    """One epoch of every run, a step of each in turn."""
    for run in runs:
        run.begin()
    for number in range(runs[0].steps if runs else 0):
        for run in runs:
            run.advance(number)


# ---------------------------------------------------------------- files of tensors


def save_tensors(
    path: Path, tensors: dict[str, Tensor], about: dict[str, str] | None = None
) -> None:
    """Write tensors as safetensors, with `about` in its header: whole or not at all.

    Raises OSError where it cannot be written, a full disk for one.
    """
    # Contiguous, because safetensors refuses channels last. Through memory, because its own writer
    # has no OSError for a full disk.
    data = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, about)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    sync(temporary)
    os.replace(temporary, path)


def read_state(path: Path, *, of: str) -> tuple[dict[str, Tensor], list[dict], int]:
    """Tensors, history and threads of the state of the training `of` in `path`.

    Raises one of STATE_ERRORS when it is anything but what `Run.save` wrote of that training.
    """
    with safe_open(path, "pt") as file:
        about = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    if set(about) != {"of", "history", "threads", "sum"}:
        raise ValueError("its header is not a training's")
    # A flipped bit in a weight would train on without a word, to other weights.
    if about.pop("sum") != state_sum(tensors, about):
        raise ValueError("its sum is wrong")
    if about["of"] != of:
        raise ValueError(f"it is of {about['of'][:30]}")
    return tensors, json.loads(about["history"]), int(about["threads"])


def epochs_in(path: Path, *, of: str) -> int:
    """How many epochs the state of the training `of` in `path` has behind it; 0 without one.

    One that is not whole, or another's, counts as none, with a warning.
    """
    if not path.exists():
        return 0
    try:
        return len(read_state(path, of=of)[1])
    except STATE_ERRORS as error:
        warnings.warn(f"{_damaged(path, error)}: left out", stacklevel=2)
        return 0


def _damaged(path: Path, error: Exception) -> str:
    return f"state {path.parent.name}/{path.name} is damaged ({str(error).splitlines()[0][:80]})"


def state_sum(tensors: dict[str, Tensor], about: dict[str, str]) -> str:
    """Hex sha256 over names, dtypes, shapes and bytes of tensors, and what is said about them."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        # As bytes, whatever it holds; a scalar has no last axis to view otherwise.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _finite(network: nn.Module) -> bool:
    """Whether all weights, and what batch norms remember, are numbers."""
    values = [v for v in network.state_dict().values() if v.is_floating_point()]
    return bool(torch.stack([v.isfinite().all() for v in values]).all())


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().cpu().clone() for k, v in tensors.items()}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
