"""The price of a distillation step, against a plain one and against the step as the authors do it.

    python -m benchmarks.distillation [--quick] [--data DIR] [--out DIR] [--device cpu|cuda]
                                      [--n N] [--curve N ...] [--steps N ...]

One student (WRN-16-1), two teachers (WRN-16-3 on images and on 6x50x50 persistence images), batch
128. Four measurements in one run, the last three in bf16:

1. All ways of asking the teachers, in turn, at n images (--n), in fp32 and bf16: not at all
   (plain), from the bank (logits only; maps merged once, in memory as float32 or mapped from a file
   as float16; both teachers' maps merged in every step), online without gradients, and as the
   authors do it: online, gradients flowing into the teachers, all of it contiguous in memory.
   Online steps take ten to forty times as long, so they are fewer, and taken in turn with plain
   ones. The loss by bank and online is compared.
2. Steps from a mapped file against plain ones, by n (--steps). The maps are random numbers, since
   what a look-up costs depends on their size alone, and batches are drawn from all n. The file of
   n = 50,000 takes 15 GB of the disk for as long, and as much of the memory that is free.
3. The building of the bank by tiles, by n (--curve), and the memory that it holds for as long,
   files apart.
4. From these, for all n: the n from which online is cheaper, building included. Building is taken
   to cost something a look of the teachers at an image and something an entry of the maps, fitted
   to the curve, so that features which are made again at a large n count. What lies beyond the
   curve is an extrapolation.

--quick: tiny networks, agreement asserted, no time asserted.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import nnls

from benchmarks import _measure
from benchmarks.training import contiguous
from tgd_lib import bank, datasets, losses, tiles, topology, training
from tgd_lib.bank import Bank, Online, Pair, Teacher
from tgd_lib.compute import Compute, Pixels
from tgd_lib.config import Schedule
from tgd_lib.networks import wide_resnet
from tgd_lib.report import figures
from tgd_lib.study.cost import interleaved, summary
from tgd_lib.training import Run, label_objective

PACKAGES = ("torch", "numpy")
BATCH = 128
ALPHA = 0.99
WEIGHTS = {
    "alpha": ALPHA,
    "lam": 0.9,
    "temperature": 4.0,
    "gamma": 3000.0,
    "kl_reduction": "mean",
}
BARS = (
    "bars: bank step <= 1.20 times plain in fp32, <= 1.35 in bf16, <= 1.25 by n = 50,000;"
    " the authors' step >= 25 times the bank step in fp32"
)
PLAIN, ONLINE, AUTHORS = "plain", "online, no gradients", "online as the authors"
MEMORY, FILES = "bank, fp32 maps in memory", "bank, fp16 maps in files"
LOGITS, EVERY_STEP = "bank, logits only (KD)", "bank, maps merged every step"
EPOCHS = (30, 42, 200)  # for which it is said where the bank pays


def main() -> None:
    options = _options()
    folder = options.out
    folder.mkdir(parents=True, exist_ok=True)
    width, repeats, slow = (1, 2, 1) if options.quick else (3, 30, 3)
    train, pis = _data(options)
    largest = len(train.labels)
    n = min(options.n, largest)
    chosen = np.random.default_rng(0).permutation(largest)[:n]
    part, part_pis = datasets.take(train, chosen), pis[chosen]
    record = {
        "machine": _measure.machine(*PACKAGES),
        "device": Compute.choose(options.device).name,
        "quick": options.quick,
        "n": n,
    }
    for precision in ("fp32", "bf16"):
        case = Case(part, part_pis, Compute.choose(options.device, precision), width, folder)
        record[precision] = case.measure(repeats, slow, authors=precision == "fp32")
    record["steps_by_n"] = [case.step_at(count, repeats) for count in options.steps]
    whole = Case(train, pis, case.compute, width, folder)
    counts = sorted({min(count, largest) for count in options.curve})
    record["image_bytes"] = tiles.image_bytes(whole.teachers)
    record["curve"] = []
    for count in counts:
        record["curve"].append(whole.build_at(count))
        record["peak_mib"] = _measure.peak_mib()
        # The largest take hours: what is measured so far is kept.
        _measure.write(folder, "distillation", record, report(record))
    plot(record, folder)


def _options() -> argparse.Namespace:
    parser = _measure.parser(__doc__, quick=_measure.AGREEMENT, folder="distillation")
    add = parser.add_argument
    add("--data", metavar="DIR", help=_measure.OR_SAMPLE)
    add("--device", default="cpu", choices=("cpu", "cuda"))
    add("--n", type=_measure.count, default=5000, help="training images of the bank")
    counts = {"type": _measure.count, "nargs": "+", "metavar": "N"}
    add("--curve", default=[1000, 2000, 5000, 10_000], help="images to build a bank of", **counts)
    add("--steps", default=[5000, 20_000, 50_000], help="images whose maps a step reads", **counts)
    options = parser.parse_args()
    if options.quick:
        options.n, options.curve, options.steps = 256, [64, 128, 192], [256, 512]
    return options


def _data(options: argparse.Namespace) -> tuple[datasets.Dataset, np.ndarray]:
    """As many images as are needed, if there are as many, and their persistence images."""
    source = "cifar10" if options.data else "sample"
    train = datasets.load(source, "train", options.data, download=False)
    count = min(max(options.n, *options.curve), len(train.labels))
    train = datasets.take(train, datasets.stratified(train.labels, count, seed=0))
    return train, topology.persistence_images(train.images, n_jobs=None)


class Case:
    """One data set, two untrained teachers and a student in one precision.

    Their speed is that of trained ones. folder: where the files of banks may lie for a while.
    """

    def __init__(
        self,
        train: datasets.Dataset,
        pis: np.ndarray,
        compute: Compute,
        width: int,
        folder: Path,
    ):
        self.compute, self.folder = compute, folder
        self.labels = torch.from_numpy(train.labels)
        images = train.images.transpose(0, 3, 1, 2)
        self.images = Pixels(images, (0.5,) * 3, (0.25,) * 3, compute)
        self.pis = Pixels(pis, (0.05,) * 6, (0.13,) * 6, compute)
        first = wide_resnet(16, width, 3, seed=3)
        second = wide_resnet(16, width, 6, seed=6)
        self.teachers = (
            Teacher(compute.place(first).eval(), self.images),
            Teacher(compute.place(second).eval(), self.pis),
        )

    # ---- 1. all ways of asking the teachers

    def measure(self, repeats: int, slow: int, *, authors: bool) -> dict:
        """Seconds of each kind of step, of raw maps and of an epoch; how far losses differ."""
        # Both teachers look at every image here: what has to be done once, whatever comes after.
        started = self.now()
        logits = tuple(bank.teacher_logits(t) for t in self.teachers)
        raw = [tiles.raw_maps(t) for t in self.teachers]
        build = self.now() - started
        merged = bank.merged(*raw, alpha=ALPHA, device=self.compute.device)
        with tempfile.TemporaryDirectory(dir=self.folder) as files:
            half = Bank(logits, *self._halved(merged, Path(files)))
            apart = []
            for said, maps in zip(logits, raw, strict=True):
                apart.append(Bank((said, None), torch.stack(maps)))
            sources = {MEMORY: Bank(logits, merged), FILES: half, EVERY_STEP: Pair(*apart)}
            result = self._steps(logits, sources, repeats, slow, authors=authors)
            result["epoch_s"] = self.epoch(_objective(sources[MEMORY]))
            result["disagreement"] = self.disagreement(sources)
        result["raw_maps_s"] = build
        return result

    def _steps(
        self, logits: tuple, sources: dict, repeats: int, slow: int, *, authors: bool
    ) -> dict:
        steps = {PLAIN: self.stepper(label_objective)}
        steps[LOGITS] = self.stepper(_objective(Bank(logits, None), gamma=0.0))
        for name, source in sources.items():
            steps[name] = self.stepper(_objective(source))
        seconds = interleaved(steps, repeats, clock=self.now)
        ratios = {name: _measure.ratio(values, seconds[PLAIN]) for name, values in seconds.items()}
        # Online steps are slow, so they are fewer, with a plain one between to compare with.
        online = {PLAIN: steps[PLAIN], ONLINE: self.stepper(_objective(Online(self.teachers)))}
        if authors:
            online[AUTHORS] = self.authors_stepper()
        slower = interleaved(online, slow, clock=self.now)
        plain = slower.pop(PLAIN)
        for name, values in slower.items():
            seconds[name], ratios[name] = values, _measure.ratio(values, plain)
        summaries = {name: summary(values) for name, values in seconds.items()}
        return {"step_s": summaries, "times_plain": ratios}

    def _halved(self, merged: torch.Tensor, folder: Path) -> tuple[torch.Tensor, list[float]]:
        """Maps as `tiles` stores them, without building them a second time, and scales."""
        largest = merged.flatten(1).amax(1)
        scales = (largest / tiles.HALF_PEAK).view(-1, 1, 1)
        np.save(folder / tiles.FILE, (merged / scales).half().cpu().numpy())
        return self._mapped(folder), scales.flatten().tolist()

    def _mapped(self, folder: Path) -> torch.Tensor:
        """The maps in a folder; on a GPU they are held there, as in training."""
        return tiles.mapped(folder).to(self.compute.device)

    def now(self) -> float:
        if self.compute.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def index(self, number: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(number)
        order = torch.randperm(len(self.labels), generator=generator)
        return order[:BATCH].to(self.compute.device)

    def run(self, objective, images: Pixels | None = None) -> Run:
        student = wide_resnet(16, 1, seed=0)
        schedule = Schedule(1, 1)
        pixels = images or self.images
        run = Run(student, pixels, self.labels, schedule, seed=0, objective=objective)
        run.network.train()
        return run

    def stepper(self, objective) -> Callable[[int], None]:
        """Steps as training takes them, of full batches."""
        return self._steps_of(self.run(objective))

    def _steps_of(self, run: Run) -> Callable[[int], None]:
        run.begin()
        full = len(self.labels) // run.schedule.batch_size
        # The first ones pick kernels and make the momentum.
        for number in range(4):
            run.advance(number % full)
        return lambda number: run.advance(number % full)

    def authors_stepper(self) -> Callable[[int], None]:
        """The authors' loop: both teachers in the graph, all of it contiguous."""
        plain = torch.contiguous_format
        teachers = [copy.deepcopy(t.network).to(memory_format=plain) for t in self.teachers]
        views = [contiguous(t.pixels) for t in self.teachers]

        def objective(student, labels, index, epoch):
            said, maps = [], []
            for teacher, view in zip(teachers, views, strict=True):
                outputs = teacher.stages(view[index])
                said.append(outputs.logits)
                maps.append([losses.similarity_map(f) for f in outputs.features])
            pairs = tuple(said), tuple(maps)
            return losses.tgd_loss(student.logits, labels, student.features, *pairs, **WEIGHTS)

        run = self.run(objective, views[0])
        run.network.to(memory_format=plain)
        return self._steps_of(run)

    def epoch(self, objective) -> float:
        """Seconds of an epoch of training, all its ends included (short batch, sums, saving)."""
        ends: list[float] = []
        student, schedule = wide_resnet(16, 1, seed=0), Schedule(3, 30)
        run = Run(student, self.images, self.labels, schedule, seed=0, objective=objective)
        with tempfile.TemporaryDirectory() as folder:
            state = Path(folder) / "state"
            training.train([(run, state)], on_epoch=lambda run, entry: ends.append(self.now()))
        return ends[2] - ends[1]

    def disagreement(self, sources: dict) -> dict:
        """Largest relative difference of the total loss to the online one, over five batches."""
        network = self.run(label_objective).network
        # Elsewhere than here a teacher rounds anew for each size of batch.
        exact = self.compute == Compute("cpu", "fp32")
        found = dict.fromkeys(sources, 0.0)
        for number in range(5):
            index = self.index(number)
            with torch.no_grad(), self.compute.autocast():
                logits, features, _ = network.stages(self.images[index])
            labels = self.labels.to(index.device)[index]

            def total(source, logits=logits, labels=labels, features=features, index=index):
                outputs = source.batch(index)
                return float(losses.tgd_loss(logits, labels, features, *outputs, **WEIGHTS)[0])

            wanted = total(Online(self.teachers))
            for name, source in sources.items():
                found[name] = max(found[name], abs(total(source) / wanted - 1))
        for name, value in found.items():
            limit = 1e-2 if not exact else 1e-3 if name == FILES else 1e-5
            assert value <= limit, f"{name} is off by {value}"
        return found

    # ---- 2. steps from files, by n

    def step_at(self, n: int, repeats: int) -> dict:
        """A step from mapped maps of n images, random numbers, in turn with a plain one."""
        with tempfile.TemporaryDirectory(dir=self.folder) as files:
            tiles.check_room(Path(files), n)
            _random_maps(Path(files), n)
            logits = tuple(torch.zeros(len(self.labels), 10).to(self.compute.device) for _ in "12")
            source = Elsewhere(logits, Bank((None, None), self._mapped(Path(files))), n)
            steps = {PLAIN: self.stepper(label_objective)}
            steps[FILES] = self.stepper(_objective(source))
            seconds = interleaved(steps, repeats, clock=self.now)
        ratio = _measure.ratio(seconds[FILES], seconds[PLAIN])
        return {
            "n": n,
            "bytes": tiles.disk(n),
            "step_s": summary(seconds[FILES]),
            "plain_s": summary(seconds[PLAIN]),
            "times_plain": ratio,
        }

    # ---- 3. building, by n

    def build_at(self, n: int) -> dict:
        """Seconds to build the merged maps of the first n images by tiles into files."""
        weighted = []
        for teacher, weight in zip(self.teachers, (ALPHA, 1 - ALPHA), strict=True):
            part = copy.copy(teacher.pixels)
            part.array = part.array[:n]
            weighted.append((Teacher(teacher.network, part), weight))
        plan = tiles.plan_of([teacher for teacher, _ in weighted])
        started = self.now()
        with tempfile.TemporaryDirectory(dir=self.folder) as files, _measure.Anonymous() as held:
            tiles.build(Path(files), weighted, plan=plan, say=lambda line: None)
        seconds = self.now() - started
        # Besides making features, the teachers look at every image once for the scales.
        looks = plan.looks + n
        return {
            "n": n,
            "block": plan.block,
            "looks": looks,
            "build_s": seconds,
            "held_mib": held.mib,
            "planned_mib": plan.held(tiles.image_bytes(self.teachers)) / 2**20,
        }


class Elsewhere:
    """Logits of the images that are trained on, maps of batches drawn from n others, each once."""

    def __init__(self, logits: tuple, maps: Bank, n: int):
        self.logits, self.maps = logits, maps
        order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
        full = order[: n // BATCH * BATCH].to(maps.maps.device)
        self._batches = itertools.cycle(full.split(BATCH))

    def batch(self, index: torch.Tensor):
        logits = tuple(said[index] for said in self.logits)
        _, maps = self.maps.batch(next(self._batches))
        return logits, maps


def _random_maps(folder: Path, n: int) -> None:
    rng, rows = np.random.default_rng(0), 500
    some = (rng.random((rows, n)) * tiles.HALF_PEAK).astype(np.float16)
    shape = (bank.STAGES, n, n)
    whole = np.lib.format.open_memmap(folder / tiles.FILE, "w+", np.float16, shape)
    for i in range(0, n, rows):
        whole[:, i : i + rows] = some[: n - i]
    whole.flush()


def _objective(source, *, gamma: float = WEIGHTS["gamma"]):
    weights = WEIGHTS | {"gamma": gamma}

    def objective(outputs, labels, index, epoch):
        return losses.tgd_loss(
            outputs.logits, labels, outputs.features, *source.batch(index), **weights
        )

    return objective


# ---- 4. where the bank pays


class Prices:
    """Seconds in bf16 for any n, from a record: of building, of a step by bank, of one online."""

    def __init__(self, record: dict):
        curve = record["curve"]
        costs = np.array([[point["looks"], point["n"] ** 2] for point in curve], float)
        seconds = np.array([point["build_s"] for point in curve])
        # Neither price can be negative, whatever the noise. Points weigh by their relative error,
        # or the largest would decide alone.
        (self.look, self.entry), _ = nnls(costs / seconds[:, None], np.ones(len(seconds)))
        self.image_bytes = record["image_bytes"]
        self.device = "cpu" if record["device"] == "cpu" else "cuda"
        steps = record["bf16"]["step_s"]
        self.plain, self.online = steps[PLAIN]["median"], steps[ONLINE]["median"]
        self._counts = [point["n"] for point in record["steps_by_n"]]
        self._ratios = [point["times_plain"]["median"] for point in record["steps_by_n"]]

    def build(self, n: int) -> float:
        room, glance = tiles.FEATURES[self.device], bank.GLANCE[self.device]
        plan = tiles.Plan.within(n, room, image=self.image_bytes, glance=glance)
        return self.look * (plan.looks + n) + self.entry * n**2

    def by_bank(self, n: int, epochs: int) -> float:
        """Seconds of a student's training by a bank of its own.

        Beyond the last n whose step was measured, a step costs as many plain ones as there.
        """
        ratio = np.interp(np.log(n), np.log(self._counts), self._ratios)
        return self.build(n) + epochs * n / BATCH * self.plain * float(ratio)

    def by_online(self, n: int, epochs: int) -> float:
        return epochs * n / BATCH * self.online

    def pays_up_to(self, epochs: int) -> int | None:
        """The first n, of a fine grid, from which online is cheaper; None if it never is there."""
        for n in np.geomspace(500, 10**6, 200).astype(int):
            if self.by_bank(int(n), epochs) > self.by_online(int(n), epochs):
                return int(n)
        return None


# ---- what is written


def report(record: dict) -> str:
    lines = [f"device {record['device']}, n = {record['n']}, batch {BATCH}; {record['machine']}"]
    lines.append(BARS)
    for precision in ("fp32", "bf16"):
        lines += _precision_lines(precision, record[precision], record["n"])
    lines += ["", "A step from maps in files (bf16; random numbers), by n:", ""]
    lines.append(_measure.table([_step_row(point) for point in record["steps_by_n"]]))
    lines += ["", "Building the bank of both teachers by tiles into files (bf16):", ""]
    lines.append(_measure.table([_build_row(point) for point in record["curve"]]))
    lines += ["", *_price_lines(record)]
    return "\n".join([*lines, f"peak memory of it all: {record['peak_mib']:,.0f} MiB"])


def _precision_lines(precision: str, found: dict, n: int) -> list[str]:
    worst = {name: f"{value:.1e}" for name, value in found["disagreement"].items()}
    head = f"{precision}: float32 maps of both teachers in {found['raw_maps_s']:.1f} s"
    rows = [_row(name, found) for name in found["step_s"]]
    return [
        "",
        f"{head}; loss against online: {worst}",
        "",
        _measure.table(rows),
        "",
        f"a whole TGD epoch of {n:,} images: {found['epoch_s']:.2f} s",
    ]


def _row(name: str, found: dict) -> dict:
    steps = found["step_s"]
    step = steps[name]
    median = step["median"]
    return {
        "step": name,
        "median ms": f"{1e3 * median:.1f}",
        "min-max ms": f"{1e3 * step['min']:.1f}-{1e3 * step['max']:.1f}",
        "n": step["n"],
        "times plain": f"{median / steps[PLAIN]['median']:.2f}",
        "step by step (quartiles)": _ratio_text(found["times_plain"][name]),
        "times bank": f"{median / steps[MEMORY]['median']:.2f}",
    }


def _step_row(point: dict) -> dict:
    return {
        "training images": f"{point['n']:,}",
        "GB": f"{point['bytes'] / 1e9:.2f}",
        "plain ms": f"{1e3 * point['plain_s']['median']:.1f}",
        "bank ms": f"{1e3 * point['step_s']['median']:.1f}",
        "step by step (quartiles)": _ratio_text(point["times_plain"]),
    }


def _build_row(point: dict) -> dict:
    return {
        "training images": f"{point['n']:,}",
        "a block": f"{point['block']:,}",
        "looks of each teacher": f"{point['looks']:,}",
        "seconds": f"{point['build_s']:.1f}",
        "GB held (as planned)": f"{_gb(point['held_mib'])} ({_gb(point['planned_mib'])})",
    }


def _gb(mib: float | None) -> str:
    return "-" if mib is None else f"{mib * 2**20 / 1e9:.1f}"


def _price_lines(record: dict) -> list[str]:
    prices, largest = Prices(record), record["curve"][-1]["n"]
    minutes = prices.build(50_000) / 60
    lines = [
        f"fitted: {1e3 * prices.look:.2f} ms a look of both teachers,"
        f" {1e9 * prices.entry:.1f} ns an entry of the maps;"
        f" for n = 50,000 that is {minutes:.0f} min (extrapolated from {largest:,})",
        "Against online in bf16, building included, for one student (several share a bank):",
    ]
    for epochs in EPOCHS:
        limit = prices.pays_up_to(epochs)
        until = f"up to n = {limit:,}" if limit else "at every n up to a million"
        lines.append(f"over {epochs} epochs the bank pays {until}")
    return lines


def _ratio_text(ratio: dict) -> str:
    low, high = ratio["quartiles"]
    return f"{ratio['median']:.2f} ({low:.2f}-{high:.2f})"


def plot(record: dict, folder: Path) -> None:
    """Three panels against n, SVG and PNG: building the bank, its step, a student's whole price."""
    from matplotlib.figure import Figure

    prices, largest = Prices(record), record["curve"][-1]["n"]
    wide = np.geomspace(record["curve"][0]["n"], 100_000, 60).astype(int)
    figure = Figure(figsize=(11, 3), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    middle.margins(x=0.12)
    left.loglog(*_points(record["curve"], "build_s"), "o", label="measured")
    left.loglog(wide, [prices.build(int(n)) for n in wide], color="0.6", label="fitted")
    left.set(ylabel="seconds to build the maps (bf16)")
    left.axvspan(largest, wide[-1], color="0.93", linewidth=0)  # extrapolated
    counts, ratios = _points(record["steps_by_n"], "times_plain")
    medians = [ratio["median"] for ratio in ratios]
    middle.semilogx(counts, medians, "o-", label="bank, from files")
    middle.set(ylabel="a step, times a plain one", ylim=(0.9, max(1.3, *medians) + 0.05))
    middle.set_xticks(counts, [f"{n:,}" for n in counts])
    middle.minorticks_off()
    epochs = 42
    bank_hours = [prices.by_bank(int(n), epochs) / 3600 for n in wide]
    online_hours = [prices.by_online(int(n), epochs) / 3600 for n in wide]
    right.loglog(wide, bank_hours, "-", label="bank, building included")
    right.loglog(wide, online_hours, "--", label="online")
    right.set(ylabel=f"hours for {epochs} epochs (bf16)")
    for axis in (left, middle, right):
        axis.set(xlabel="training images")
        axis.legend(frameon=False, fontsize=8)
    figures.draw(figure, folder / "distillation")


def _points(points: Sequence[dict], key: str) -> tuple[list, list]:
    return [point["n"] for point in points], [point[key] for point in points]


if __name__ == "__main__":
    _measure.run(main)
