"""How a teacher looks at images fastest: how many in one go; and its raw maps, a triangle of them.

    python -m benchmarks.looks

A WRN-16-3 looks at 250 random images, and at 250 random persistence images, in pieces of 25 to 250
(`bank.GLANCE` says what is used); the raw map of random features is made by `tiles.gram`, and as a
plain product. All ways of a kind take turns in one process, and their results are compared.
--quick: WRN-10-1, two turns.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch

from benchmarks import _measure
from tgd_lib.bank import GLANCE, Teacher
from tgd_lib.compute import Compute, Pixels
from tgd_lib.networks import wide_resnet
from tgd_lib.study.cost import interleaved, summary
from tgd_lib.tiles import gram

IMAGES = 250
PIECES = (250, 125, 50, 25)
VIEWS = {"images": (3, 32), "persistence images": (6, 50)}  # channels, side
FEATURES = {  # of 2,000 images in the first stage of WRN-16-3
    "images": 48 * 32**2,
    "persistence images": 48 * 50**2,
}


def main() -> None:
    options = _options()
    depth, width = (10, 1) if options.quick else (16, 3)
    repeats = 2 if options.quick else options.repeats
    looks = [
        row for view in VIEWS for row in _looks(view, depth=depth, width=width, repeats=repeats)
    ]
    n = 80 if options.quick else 2000
    record = {
        "machine": _measure.machine("torch"),
        "quick": options.quick,
        "threads": torch.get_num_threads(),
        "network": f"WRN-{depth}-{width}",
        "used": GLANCE["cpu"],
        "looks": looks,
        "products": [_products(view, n, repeats=repeats) for view in VIEWS],
    }
    _measure.write(options.out, "looks", record, report(record))


def _options() -> argparse.Namespace:
    parser = _measure.parser(__doc__, quick=_measure.AGREEMENT)
    parser.add_argument("--repeats", type=_measure.count, default=7, help="turns of each way")
    return parser.parse_args()


def _looks(view: str, *, depth: int, width: int, repeats: int) -> list[dict]:
    """A row a size of the pieces; AssertionError where the logits differ by more than rounding."""
    channels, side = VIEWS[view]
    random = np.random.default_rng(0)
    array = random.integers(0, 256, (IMAGES, channels, side, side), dtype=np.uint8)
    compute = Compute.choose("cpu")
    network = compute.place(wide_resnet(depth, width, channels, seed=0)).eval()
    pixels = Pixels(array, (0.5,) * channels, (0.25,) * channels, compute)
    teacher = Teacher(network, pixels)
    ways = {str(piece): _by_pieces(teacher, piece) for piece in PIECES}
    whole = ways[str(PIECES[0])](0)
    for way in ways.values():
        torch.testing.assert_close(way(0), whole, rtol=1e-4, atol=1e-4)
    seconds = interleaved(ways, repeats)
    first = seconds[str(PIECES[0])]
    return [
        {"view": view, "piece": piece, "seconds": summary(values)}
        | {"times_as_fast": _measure.ratio(first, values)}
        for piece, values in seconds.items()
    ]


def _by_pieces(teacher: Teacher, piece: int) -> Callable[[int], torch.Tensor]:
    def look(_: int) -> torch.Tensor:
        starts = range(0, len(teacher.pixels), piece)
        return torch.cat([teacher.look(slice(i, i + piece))[0] for i in starts])

    return look


def _products(view: str, n: int, *, repeats: int) -> dict:
    """A raw map by `tiles.gram` and as a whole; AssertionError where their triangles differ."""
    features = torch.randn(n, FEATURES[view], generator=torch.Generator().manual_seed(0))
    ways = {
        "whole": lambda _: features @ features.T,
        "gram": lambda _: gram(features, exact=True),
    }
    whole, half = (way(0).triu() for way in ways.values())
    torch.testing.assert_close(half, whole, rtol=1e-3, atol=1e-2 * FEATURES[view] ** 0.5)
    seconds = interleaved(ways, repeats)
    return {
        "view": view,
        "n": n,
        "seconds": {way: summary(values) for way, values in seconds.items()},
        "times_as_fast": _measure.ratio(seconds["whole"], seconds["gram"]),
    }


def report(record: dict) -> str:
    """The tables, and what they are of."""
    looks = [
        {
            "looks at": row["view"],
            "images in one go": row["piece"],
            "images/s": f"{IMAGES / row['seconds']['median']:.0f}",
            "times as fast as 250": _spread(row["times_as_fast"]),
            "n": row["seconds"]["n"],
        }
        for row in record["looks"]
    ]
    products = [
        {
            "features of": f"{row['n']:,} {row['view']}",
            "whole, s": f"{row['seconds']['whole']['median']:.2f}",
            "by `tiles.gram`, s": f"{row['seconds']['gram']['median']:.2f}",
            "times as fast": _spread(row["times_as_fast"]),
            "n": row["seconds"]["gram"]["n"],
        }
        for row in record["products"]
    ]
    head = (
        f"A {record['network']} in eval mode, float32, {record['threads']} threads"
        f" ({record['used']} images in one go are used on a CPU); {record['machine']}"
    )
    tail = "The raw map of the first stage (median; in brackets quartiles over turns)"
    return "\n\n".join([head, _measure.table(looks), tail, _measure.table(products)])


def _spread(ratio: dict) -> str:
    low, high = ratio["quartiles"]
    return f"{ratio['median']:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    _measure.run(main)
