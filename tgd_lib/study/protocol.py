"""The search for a topology that helps, as docs/protocol-topology.md lays it down: constants.

CANDIDATES  each with its matched control: something else in the topology's place
CHOSEN      of each part, on held-out images (None: not chosen yet)
family      the comparisons that are tested together on the test images
"""

from __future__ import annotations

from dataclasses import dataclass

from tgd_lib.study.methods import METHODS, SHARES, share_name

# Part A: topology of the embedding, on top of KD. Part B: topology of the image, a real share.
CANDIDATES: dict[str, tuple[str, ...]] = {
    "embedding": ("kd_signature", "kd_diagram"),
    "image": tuple(share_name(second, a) for second in ("cubical", "image_map") for a in SHARES),
}
# All but the guidance: what each part's candidates stand on.
WITHOUT = {"embedding": "kd_batchmean_annealed", "image": "tgd_alpha1"}
# Short pairs with the same loss and weight: is it topology, or locality?
LOCALITY = {
    "kd_signature": ("kd_nearest", "kd_shortest"),
    "kd_diagram": ("kd_diagram_nearest", "kd_diagram_shortest"),
}
# Method and control, described by the first seeds and not tested: distances as such, whose topology
# it is, the candidate that was not chosen; a second teacher on PIs of noisy copies of the images.
DESCRIBED: dict[str, tuple[tuple[str, str], ...]] = {
    "embedding": (
        ("kd_signature", "kd_all_pairs"),
        ("kd_signature", "kd_permuted"),
        ("kd_diagram", WITHOUT["embedding"]),
        ("kd_diagram", "kd_diagram_random"),
    ),
    "image": (
        (share_name("pi_noisy", 0.9), WITHOUT["image"]),
        (share_name("pi_noisy", 0.9), share_name("image_2", 0.9)),
        (share_name("pi_noisy", 0.9), share_name("pi", 0.9)),
    ),
}
PILOT_SEEDS = 3  # 0 to 2: the pilot has read test images with them
CHOSEN: dict[str, str | None] = {
    "embedding": "kd_signature",
    "image": share_name("image_map", 0.9),
}


@dataclass(frozen=True)
class Comparison:
    """A difference that is tested: of two methods, and what it asks."""

    method: str
    control: str
    asks: str


def comparisons(part: str, name: str) -> list[Comparison]:
    """What a candidate of a part is compared with, in the order of the protocol."""
    matched = METHODS[name].control
    found = [
        Comparison(name, WITHOUT[part], "does it help at all?"),
        Comparison(name, matched, "is it topology, or anything in its place?"),
    ]
    for control in LOCALITY.get(name, ()):
        found.append(Comparison(name, control, "is it topology, or locality?"))
    return found


def family() -> list[Comparison]:
    """All comparisons of the chosen candidates; none before something is chosen."""
    found = []
    for part, name in CHOSEN.items():
        if name:
            found += comparisons(part, name)
    return found


def members() -> tuple[str, ...]:
    """The methods that the family compares: trained with fresh seeds as well."""
    names = [name for c in family() for name in (c.method, c.control)]
    return tuple(dict.fromkeys(names))
