"""How a bank's similarity maps are built: small ones in memory, large ones by tiles into files.

A raw map is the Gram matrix F F^T over all n images, F (n, d) the flattened features of a stage.
For n = 50,000 neither F (24 GB for the first stage of the PI teacher, in float32) nor the map
(10 GB) can be held. So the images are taken in blocks, and two blocks at a time make one *tile* of
the map. Of a pair of blocks one tile is made, since the map is symmetric; features are made again
for each tile that needs them, which costs a few passes of the teachers and no room on the disk.

Merged maps that are large are stored as float16, with a scale, in the file `maps.npy` of a folder.
A build that is cut off goes on after its last whole tile and ends in the same bytes; what it finds
on the disk is checked by its sums before it goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tgd_lib.bank import GLANCE, STAGES, Noted, Teacher, available, glances
from tgd_lib.compute import matmul
from tgd_lib.config import InputError
from tgd_lib.files import read_json, write_json

# The largest entry of a map in float16: below its 65,504, and far from its smallest numbers.
HALF_PEAK = 2.0**15
FEATURES = {"cpu": 8e9, "cuda": 16e9}  # bytes of the features that a build holds, at most
SLICE = 4096  # length of the scalar products that are rounded to bfloat16, see `product`
STRIPS = 8  # that a symmetric product is taken in
EVERY = 60.0  # seconds between two lines of progress
FILE = "maps.npy"  # float16 (3, n, n)
PROGRESS = "progress.json"  # of an unfinished build: its plan, its scales, sums of the tiles done

# What reading a file that is something else can raise.
STATE_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RecursionError,
)

Weighted = Sequence[tuple[Teacher | Noted, float]]  # the teachers of a map and their weights


# ---- the plan: which tiles, in which order


@dataclass(frozen=True)
class Plan:
    """n images in blocks of `block` (the last may be shorter), and the tiles of two blocks each."""

    n: int
    block: int

    @classmethod
    def within(cls, n: int, room: float, *, image: int, glance: int) -> Plan:
        """The fewest blocks of which two fit `room` bytes, where the features of one take `image`.

        A block is a multiple of `glance` images, so that a teacher sees every image in the same
        company, and rounds it in the same way, whatever the blocks are. It is one glance at least.
        """
        # Counted in glances; -(-a // b) is a / b rounded up.
        most = max(1, int(room / (2 * image)) // glance)
        whole = -(-n // glance)
        count = -(-whole // most)
        # As many blocks as that, but of one size.
        return cls(n, glance * -(-whole // count))

    @property
    def count(self) -> int:
        """Number of blocks."""
        return -(-self.n // self.block)

    def rows(self, number: int) -> slice:
        """The images of a block."""
        start = number * self.block
        return slice(start, min(start + self.block, self.n))

    @property
    def tiles(self) -> list[tuple[int, int]]:
        """The tiles (i, j), i <= j, row by row, every other row backwards.

        So the last block of a row is the first of the next one, and need not be made again.
        """
        found = []
        for i in range(self.count):
            columns = list(range(i, self.count))
            if i % 2:
                columns.reverse()
            found += [(i, j) for j in columns]
        return found

    def visits(self, done: int = 0) -> Iterator[tuple[int, tuple[int, int], set, set]]:
        """From tile number `done` on: its number, the tile, the blocks to let go, those to make.

        Never more than two blocks are held. One that a tile does not need stays until its room is
        needed: the tile after the next may want it.
        """
        held: set[int] = set()
        for number, tile in enumerate(self.tiles[done:], done):
            make = set(tile) - held
            drop = held - set(tile) if make else set()
            held = (held - drop) | make
            yield number, tile, drop, make

    @property
    def looks(self) -> int:
        """How many images a teacher looks at in all, counted again where they are made again."""
        total = 0
        for _, _, _, make in self.visits():
            for block in make:
                rows = self.rows(block)
                total += rows.stop - rows.start
        return total

    def held(self, image: int) -> int:
        """Bytes that a build holds at most, where the features of one image take `image`.

        Two blocks of features, and what stands between them and a stored tile: products, sums and
        copies, measured as less than eight float32 tiles (1.0 GB where a block has 6,250 images).
        """
        side = min(self.block, self.n)
        return 2 * side * image + 8 * 4 * side**2


def plan_of(teachers: Sequence[Teacher | Noted]) -> Plan:
    """The plan for these teachers and the memory that is free now."""
    pixels = teachers[0].pixels
    device = pixels.compute.device
    room = min(available(pixels.compute) / 3, FEATURES[device])
    return Plan.within(len(pixels), room, image=image_bytes(teachers), glance=GLANCE[device])


def image_bytes(teachers: Sequence[Teacher | Noted]) -> int:
    """Bytes of the features of one image, of all stages and teachers."""
    total = 0
    for teacher in teachers:
        _, features = teacher.look(slice(0, 1))
        total += sum(f.nbytes for f in features)
    return total


# ---- features and products


def _walk(teachers: Sequence[Teacher | Noted], plan: Plan, *, done: int = 0) -> Iterator:
    """Tile by tile from number `done`: its number, its blocks (i, j), and the features held.

    held[i] and held[j] are, for each teacher, three flat (block, d). Never are more than two held,
    if the caller keeps no name for them beyond its turn: hence a dictionary, emptied in place.
    """
    held: dict[int, list] = {}
    for number, tile, drop, make in plan.visits(done):
        # What goes, goes before the next block comes: this is what bounds the memory.
        for block in drop:
            del held[block]
        for block in make:
            held[block] = [features(t, plan.rows(block)) for t in teachers]
        yield number, tile, held


def features(teacher: Teacher | Noted, rows: slice) -> list[Tensor]:
    """Flattened features of the images `rows`, three (len, d) in the precision of the teacher."""
    flat: list[Tensor] = []
    for part in glances(teacher, rows):
        _, outputs = teacher.look(part)
        # Channels last is flattened without a copy; the order of F's columns changes no product.
        seen = [f.permute(0, 2, 3, 1).flatten(1) for f in outputs]
        # Filled in place: putting pieces together at the end would hold everything twice.
        if not flat:
            flat = [f.new_empty(rows.stop - rows.start, f.shape[1]) for f in seen]
        place = slice(part.start - rows.start, part.stop - rows.start)
        for whole, f in zip(flat, seen, strict=True):
            whole[place] = f
    return flat


def product(a: Tensor, b: Tensor, *, exact: bool) -> Tensor:
    """A B^T float32 (p, q) of A (p, d) and B (q, d), `exact` to float32.

    Otherwise bfloat16 features on a CPU are multiplied as they are, two to three times as fast.
    PyTorch rounds such a product to bfloat16, so it is taken in slices of d, which are added up in
    float32: the roundings cancel. What that does to the maps, and to a student's loss, is in
    benchmarks/recorded/map_rounding.md.
    """
    total = a.new_zeros(len(a), len(b), dtype=torch.float32)
    # A GPU is fast enough as it is: some 20 s in float32 for all of n = 50,000, not measured.
    fast = not exact and a.dtype == torch.bfloat16 and a.device.type == "cpu"
    for x, y in zip(a.split(SLICE, 1), b.split(SLICE, 1), strict=True):
        if fast:
            total += matmul(x, y.T)
        else:
            total.addmm_(x.float(), y.float().T)
    return total


def gram(a: Tensor, *, exact: bool) -> Tensor:
    """A A^T float32 (p, p) of A (p, d) without most of what lies below the diagonal, zero here.

    Taken in strips of rows, from the diagonal on: 56 % of the products. exact: see `product`.
    """
    n = len(a)
    total = a.new_zeros(n, n, dtype=torch.float32)
    step = -(-n // STRIPS)
    for i in range(0, n, step):
        total[i : i + step, i:] = product(a[i : i + step], a[i:], exact=exact)
    return total


def _tile(stage: int, weights: Sequence[float], a: Sequence, b: Sequence, *, exact: bool) -> Tensor:
    """The sum over teachers of weight A B^T of a stage, float32 (p, q)."""
    total = None
    for weight, one, other in zip(weights, a, b, strict=True):
        if a is b:
            part = gram(one[stage], exact=exact)
        else:
            part = product(one[stage], other[stage], exact=exact)
        part.mul_(weight)
        total = part if total is None else total.add_(part)
    if a is b:
        # On the diagonal, where an entry and its mirror image could be summed in different orders.
        total = total.triu() + total.triu(1).T
    return total


# ---- small maps, in memory


def raw_maps(teacher: Teacher | Noted, *, plan: Plan | None = None) -> list[Tensor]:
    """The three raw Gram matrices float32 (n, n) of a teacher over all its pixels."""
    n = len(teacher.pixels)
    plan = plan or plan_of([teacher])
    maps = [torch.empty(n, n, device=teacher.pixels.compute.device) for _ in range(STAGES)]
    for _, (i, j), held in _walk([teacher], plan):
        rows, columns = plan.rows(i), plan.rows(j)
        for stage, whole in enumerate(maps):
            tile = _tile(stage, [1.0], held[i], held[j], exact=True)
            whole[rows, columns] = tile
            whole[columns, rows] = tile.T
    return maps


# ---- large maps, in files


def build(
    folder: Path,
    weighted: Weighted,
    *,
    plan: Plan | None = None,
    say: Callable[[str], None] = print,
) -> dict:
    """Build the merged maps sum_t weight_t F_t F_t^T of all n images in `folder`, or go on with it.

    Writes `maps.npy`, float16 (3, n, n), and returns for the record {"n", "block", "scales"}: an
    entry times the scale of its stage is the entry of the raw map.
    While it is under way `PROGRESS` lies beside them, to be removed when the result is safe. What
    was begun goes on by its own plan, and on the CPU ends in the same bytes with as many threads.
    Raises InputError where the disk has no room.
    """
    teachers = [teacher for teacher, _ in weighted]
    weights = [weight for _, weight in weighted]
    state = _begin(folder, weighted, plan, say)
    plan = Plan(state["n"], state["block"])
    factors = [1 / scale for scale in state["scales"]]
    done = len(state["sums"])
    tell = _Progress(plan, done, say)
    for number, (i, j), held in _walk(teachers, plan, done=done):
        rows, columns = plan.rows(i), plan.rows(j)
        for stage, factor in enumerate(factors):
            tile = _tile(stage, weights, held[i], held[j], exact=False).mul_(factor)
            _write(folder / FILE, stage, tile.half().cpu().numpy(), rows, columns)
        # Only a tile that has reached the disk counts.
        state["sums"].append(_tile_sum(folder, plan, number))
        _write_state(folder, state)
        tell(number + 1)
    return {name: state[name] for name in ("n", "block", "scales")}


def _begin(folder: Path, weighted: Weighted, plan: Plan | None, say: Callable) -> dict:
    """The state of the build in `folder`; of a new one with room made for its maps."""
    n = len(weighted[0][0].pixels)
    state = _read_state(folder) if (folder / PROGRESS).exists() else None
    if state:
        # The number of threads decides how a sum is split.
        on_cpu = weighted[0][0].pixels.compute.device == "cpu"
        if on_cpu and state["threads"] != torch.get_num_threads():
            say(f"similarity maps: begun with {state['threads']} threads, so last bits will differ")
        return state
    (folder / FILE).unlink(missing_ok=True)  # of a start that was killed: its room is wanted again
    check_room(folder, n)
    plan = plan or plan_of([teacher for teacher, _ in weighted])
    say(f"similarity maps of {n:,} images: {len(plan.tiles)} tiles, {disk(n) / 1e9:.1f} GB")
    scales = _scales(weighted)
    _reserve(folder / FILE, n)
    state = {
        "of": folder.name,
        "n": n,
        "block": plan.block,
        "scales": scales,
        "threads": torch.get_num_threads(),
        "sums": [],
    }
    _write_state(folder, state)
    return state


def _write_state(folder: Path, state: dict) -> None:
    write_json(folder / PROGRESS, state | {"sum": _state_sum(state)})


def _state_sum(state: dict) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _read_state(folder: Path) -> dict | None:
    """The state that was written into this folder, with the sums of those tiles that are whole.

    None, with a warning, where it is another one or anything else: the maps are begun anew.
    """
    try:
        state = read_json(folder / PROGRESS)
        if state.pop("sum") != _state_sum(state) or state["of"] != folder.name:
            raise ValueError("its sum is wrong, or it is of another bank")
        plan = Plan(state["n"], state["block"])
        whole = 0
        for number, expected in enumerate(state["sums"]):
            if _tile_sum(folder, plan, number) != expected:
                warnings.warn(f"{folder.name}: tile {number} is damaged: made again", stacklevel=4)
                break
            whole = number + 1
    except STATE_ERRORS as error:
        reason = str(error).split("\n")[0][:80]
        warnings.warn(f"{folder.name}: maps are damaged ({reason}): begun anew", stacklevel=4)
        return None
    return state | {"sums": state["sums"][:whole]}


def _tile_sum(folder: Path, plan: Plan, number: int) -> int:
    """A sum over a tile and its mirror image, of all stages, as they are in the files.

    Raises ValueError or OSError where a file is not the map that was begun.
    """
    i, j = plan.tiles[number]
    rows, columns = plan.rows(i), plan.rows(j)
    whole = np.load(folder / FILE, mmap_mode="r", allow_pickle=False)
    if whole.shape != (STAGES, plan.n, plan.n) or whole.dtype != np.float16:
        raise ValueError(f"the maps are {whole.dtype} {whole.shape}")
    found = 0
    for part in (whole[:, rows, columns], whole[:, columns, rows]):
        found = zlib.crc32(np.ascontiguousarray(part), found)
    return found


def _scales(weighted: Weighted) -> list[float]:
    """For each stage what brings the largest entry of the merged map to HALF_PEAK.

    It lies on the diagonal (Cauchy-Schwarz): the largest weighted squared norm of an image.
    """
    teachers = [teacher for teacher, _ in weighted]
    n = len(teachers[0].pixels)
    largest = torch.zeros(STAGES)
    for rows in glances(teachers[0], slice(0, n)):
        norms = torch.zeros(STAGES, rows.stop - rows.start)  # of each image
        for teacher, weight in weighted:
            _, features = teacher.look(rows)
            for stage, f in enumerate(features):
                norms[stage] += weight * f.float().square().sum((1, 2, 3)).cpu()
        largest = torch.maximum(largest, norms.amax(1))
    # An all-zero map needs no scaling, and must not be divided by zero.
    return [x / HALF_PEAK if x else 1.0 for x in largest.tolist()]


def _reserve(path: Path, n: int) -> None:
    """A file for a float16 (3, n, n), with its room on the disk taken.

    Otherwise a disk that fills up later would end the process by a signal, without a word.
    """
    whole = np.lib.format.open_memmap(path, "w+", np.float16, (STAGES, n, n))
    whole.flush()
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _write(path: Path, stage: int, tile: np.ndarray, rows: slice, columns: slice) -> None:
    """Put a tile and its mirror image into the map of a stage, and wait until the disk has them.

    The file is mapped for one tile at a time, so its pages do not stay with this process.
    """
    whole = np.load(path, mmap_mode="r+")
    # A tile on the diagonal is its own mirror image, and is written twice.
    whole[stage, rows, columns] = tile
    whole[stage, columns, rows] = tile.T
    whole.flush()


class _Progress:
    """A line of progress every so often, and one at the end."""

    def __init__(self, plan: Plan, done: int, say: Callable[[str], None]):
        self.total, self.first, self.say = len(plan.tiles), done, say
        self.started = self.last = time.monotonic()
        if done:
            say(f"similarity maps: {done} of {self.total} tiles are there, going on")

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now - self.last < EVERY and done < self.total:
            return
        self.last = now
        # By the tiles of this sitting; what was there before took no time now.
        each = (now - self.started) / (done - self.first)
        left = each * (self.total - done) / 60
        self.say(f"similarity maps: {done} of {self.total} tiles, about {left:.0f} min left")


# ---- what has been built


def mapped(folder: Path, *, resident: bool = True) -> Tensor:
    """The maps in `folder`, float16 (3, n, n), mapped: only what is looked up is read.

    resident: read the file once now, in order, which is many times faster than a first epoch that
    reads it here and there. It then fills memory that other programs can have back at any time.
    The tensor must not be written to.
    """
    if resident:
        _read_through(folder / FILE)
    whole = np.load(folder / FILE, mmap_mode="r")
    with warnings.catch_warnings():
        # PyTorch has no read-only tensors and says so; a map that may be written to would count
        # as taken memory, and one larger than that could not be opened.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(whole)


def _read_through(path: Path, *, piece: int = 2**24) -> None:
    # What is read goes nowhere: the system keeps the pages, for whoever maps the file.
    buffer = bytearray(piece)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def disk(n: int) -> int:
    """Bytes on the disk of a bank of n images: three float16 (n, n).

    Every pair of teachers and alpha has a bank of its own; two banks where the teachers' maps stay
    apart (order "normalise").
    """
    return STAGES * 2 * n**2


def check_room(folder: Path, n: int) -> None:
    """InputError where the disk of `folder` has no room for a bank of n images."""
    free, needed = shutil.disk_usage(folder).free, disk(n)
    if needed > free:
        raise InputError(
            f"a teacher bank of {n:,} images takes {needed / 1e9:.1f} GB on the disk and"
            f" {free / 1e9:.1f} are free: make room, set TGD_ARTIFACTS to a larger disk,"
            " or use fewer images (-p n_train)"
        )
