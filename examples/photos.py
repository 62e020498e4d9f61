"""Class folders to try your own images with: tiles of photographs that come with scikit-image.

    .venv/bin/python examples/photos.py photos
    ./run_all.sh -p dataset folder --data photos -p resize 32

Eight photographs are eight classes; their tiles, 48 pixels wide and apart from each other, are
dealt out to photos/train, photos/valid and photos/test. Real images and few of them: enough to see
every step run, too few to conclude anything.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

PHOTOGRAPHS = (  # of those in the package itself, without a download
    "astronaut", "cat", "coffee", "hubble_deep_field", "immunohistochemistry", "retina", "rocket",
    "stereo_motorcycle",
)  # fmt: skip
SIDE, TILES = 48, 90  # pixels of a tile, tiles of a class at most
PARTS = ("train", "train", "train", "valid", "test")  # dealt out in turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="made, with train/, valid/ and test/ in it")
    folder = parser.parse_args().folder
    for name in PHOTOGRAPHS:
        for number, tile in enumerate(tiles(photograph(name))):
            part = PARTS[number % len(PARTS)]
            place = folder / part / name
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(tile).save(place / f"{number:03d}.png")
    for part in dict.fromkeys(PARTS):
        print(f"{folder / part}: {len(list((folder / part).glob('*/*.png')))} images")


def photograph(name: str) -> np.ndarray:
    """One of scikit-image's photographs, uint8 (H, W, 3)."""
    found = getattr(data, name)()
    return found[0] if isinstance(found, tuple) else found  # the left one of a pair


def tiles(image: np.ndarray) -> list[np.ndarray]:
    """Tiles uint8 (SIDE, SIDE, 3) spread over the whole image, none touching another's pixels."""
    height, width = image.shape[:2]
    corners = [
        (y, x) for y in range(0, height - SIDE + 1, SIDE) for x in range(0, width - SIDE + 1, SIDE)
    ]
    chosen = np.linspace(0, len(corners) - 1, min(TILES, len(corners))).astype(int)
    return [image[y : y + SIDE, x : x + SIDE] for y, x in (corners[i] for i in chosen)]


if __name__ == "__main__":
    main()
