"""Building similarity maps by tiles: the plain product, whatever the tiles, even if cut off."""

import json
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tgd_lib import bank, losses, tiles
from tgd_lib.compute import Compute, Pixels
from tgd_lib.config import InputError
from tgd_lib.networks import Outputs, wide_resnet
from tgd_lib.tiles import Plan

N = 23
GLANCE = 4


class Channels(torch.nn.Module):
    """A teacher whose features are its pixels, scaled: what it says is known by hand."""

    def stages(self, x):
        return Outputs(x.mean((2, 3)), [x, 2 * x[:, :, ::2], 300 * x[:, :1]])


def teacher(seed, precision="fp32", n=N, side=4):
    array = np.random.default_rng(seed).integers(0, 256, (n, 3, side, side)).astype(np.uint8)
    pixels = Pixels(array, (0.5,) * 3, (0.25,) * 3, Compute("cpu", precision))
    return bank.Teacher(Channels(), pixels)


def direct(weighted):
    """The merged maps of whole products, in float64."""
    maps = []
    for stage in range(bank.STAGES):
        total = 0
        for t, weight in weighted:
            features = t.look(slice(0, N))[1][stage].flatten(1).double()
            total = total + weight * features @ features.T
        maps.append(total)
    return maps


@pytest.fixture(autouse=True)
def small_glances(monkeypatch):
    monkeypatch.setitem(bank.GLANCE, "cpu", GLANCE)


@pytest.fixture
def weighted():
    return [(teacher(1), 0.7), (teacher(2), 0.3)]


def built(folder, weighted, block, say=lambda line: None):
    folder.mkdir(exist_ok=True)
    return tiles.build(folder, weighted, plan=Plan(N, block), say=say)


def contents(folder):
    return (folder / tiles.FILE).read_bytes()


# ---- the plan


@given(st.integers(1, 3000), st.integers(1, 500))
@settings(deadline=None, max_examples=60)
def test_the_tiles_cover_every_pair_of_images_once(n, block):
    plan = Plan(n, max(block, n // 12 + 1))
    seen = np.zeros((n, n), np.int8)
    for i, j in plan.tiles:
        seen[plan.rows(i), plan.rows(j)] += 1
        if i != j:
            seen[plan.rows(j), plan.rows(i)] += 1
    assert (seen == 1).all()


@given(st.integers(1, 10**6), st.floats(1, 1e12), st.integers(1, 10**7), st.integers(1, 1000))
def test_two_blocks_fit_the_room_and_are_whole_glances(n, room, image, glance):
    plan = Plan.within(n, room, image=image, glance=glance)
    assert plan.block % glance == 0 and plan.block < n + glance
    assert 2 * plan.block * image <= room or plan.block == glance


def test_rows_go_to_and_fro():
    assert Plan(50, 20).tiles == [(0, 0), (0, 1), (0, 2), (1, 2), (1, 1), (2, 2)]


def test_the_paper_s_setting_is_built_in_nine_gigabytes():
    """Features of two WRN-16-3 in bfloat16: on 32 x 32 images and on 50 x 50 persistence images."""
    image = 2 * (86_016 + 212_448)
    plan = Plan.within(50_000, tiles.FEATURES["cpu"], image=image, glance=125)
    assert plan == Plan(50_000, 6250)
    assert len(plan.tiles) == 36
    assert plan.held(image) < 9e9
    # 3.6 times each, where all at once would take 15 GB more than a machine of 24 GB has.
    assert plan.looks == 29 * 6250


# ---- the maps


@pytest.mark.parametrize("block", [4, 8, 12, 20, 24])
def test_tiles_are_the_direct_product(weighted, tmp_path, block):
    about = built(tmp_path, weighted, block)
    assert about["n"] == N and about["block"] == block
    maps = tiles.mapped(tmp_path)
    for found, scale, wanted in zip(maps, about["scales"], direct(weighted), strict=True):
        assert found.dtype == torch.float16 and torch.equal(found, found.T)
        # To the ten bits of float16.
        torch.testing.assert_close(found.double() * scale, wanted, rtol=2**-10, atol=0.1 * scale)


@pytest.mark.parametrize("block", [4, 12, 24])
def test_raw_maps_are_the_direct_product(block):
    alone = teacher(3)
    for found, wanted in zip(
        tiles.raw_maps(alone, plan=Plan(N, block)), direct([(alone, 1.0)]), strict=True
    ):
        assert torch.equal(found, found.T)
        torch.testing.assert_close(
            found.double(), wanted, rtol=1e-5, atol=1e-4 * float(wanted.max())
        )


def test_of_a_real_network_too():
    pixels = teacher(4, side=12).pixels
    network = pixels.compute.place(wide_resnet(10, 1, 3, 5, seed=0)).eval()
    real = bank.Teacher(network, pixels)
    with torch.no_grad():
        features = network.stages(pixels[:]).features
    for found, f in zip(tiles.raw_maps(real, plan=Plan(N, 8)), features, strict=True):
        torch.testing.assert_close(found, losses.similarity_map(f), rtol=1e-4, atol=1e-2)


def test_a_product_of_bfloat16_in_slices():
    """Against the exact one: rounded by less than a product that is rounded once."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(40, 6 * tiles.SLICE, generator=generator).abs().bfloat16()
    wanted = a.double() @ a.double().T
    exact = tiles.product(a, a, exact=True)
    fast = tiles.product(a, a, exact=False)
    once = a @ a.T
    assert exact.dtype == fast.dtype == torch.float32
    off = [float((x.double() / wanted - 1).square().mean().sqrt()) for x in (exact, fast, once)]
    assert off[0] < 1e-6 < off[1] < 0.7 * off[2]


def test_bfloat16_teachers_give_the_maps_of_their_own_features(tmp_path):
    weighted = [(teacher(1, "bf16"), 1.0)]
    about = built(tmp_path, weighted, 8)
    for found, scale, wanted in zip(
        tiles.mapped(tmp_path), about["scales"], direct(weighted), strict=True
    ):
        torch.testing.assert_close(
            found.double() * scale, wanted, rtol=2**-8, atol=float(wanted.max()) / 500
        )


def test_float16_neither_overflows_nor_underflows(tmp_path):
    """The diagonal is brought to 2^15 from 10^8; one a thousand times fainter keeps its digits."""

    class Loud(torch.nn.Module):
        def stages(self, x):
            strength = torch.full((len(x), 1, 1, 1), 1e4)
            strength[0] = 10.0
            return Outputs(x[:, :, 0, 0], [strength] * 3)

    loud = bank.Teacher(Loud(), teacher(1, n=GLANCE).pixels)
    about = tiles.build(tmp_path, [(loud, 1.0)], plan=Plan(GLANCE, GLANCE), say=lambda line: None)
    assert about["scales"] == [1e8 / 2**15] * 3
    found = tiles.mapped(tmp_path)[0].float() * about["scales"][0]
    assert found[1, 1] == 1e8
    assert float(found[0, 1]) == pytest.approx(1e5, rel=1e-3)
    assert float(found[0, 0]) == pytest.approx(100, rel=0.03)


def test_maps_of_nothing_are_zero(tmp_path):
    class Silent(torch.nn.Module):
        def stages(self, x):
            return Outputs(x[:, :, 0, 0], [0 * x] * 3)

    silent = bank.Teacher(Silent(), teacher(1).pixels)
    assert built(tmp_path, [(silent, 1.0)], 8)["scales"] == [1.0] * 3
    assert not tiles.mapped(tmp_path)[2].any()


# ---- cut off and gone on with


class Killed(Exception):
    pass


@given(st.integers(0, 5), st.integers(0, 2))
@settings(deadline=None, max_examples=18)
def test_cut_off_after_any_tile_it_goes_on_to_the_same_bytes(tmp_path_factory, whole, stages):
    """Killed after `whole` tiles and `stages` stages of the next; then other blocks."""
    weighted = [(teacher(1, "bf16"), 0.7), (teacher(2, "bf16"), 0.3)]
    unbroken, broken = (tmp_path_factory.mktemp(name) for name in ("unbroken", "broken"))
    built(unbroken, weighted, 8)
    left, write = [3 * whole + stages], tiles._write

    def interrupted(*arguments):
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        write(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "_write", interrupted)
        with pytest.raises(Killed):
            built(broken, weighted, 8)
    assert (
        json.loads((broken / tiles.PROGRESS).read_text())["sums"]
        == json.loads((unbroken / tiles.PROGRESS).read_text())["sums"][:whole]
    )
    said = []
    built(broken, weighted, 20, said.append)
    assert contents(broken) == contents(unbroken)
    if whole:
        assert said[0] == f"similarity maps: {whole} of 6 tiles are there, going on"


def test_a_finished_one_is_not_begun_again(weighted, tmp_path, monkeypatch):
    """Killed between its last tile and its place in the store."""
    first = built(tmp_path, weighted, 8)
    monkeypatch.setattr(tiles, "_write", None)
    assert built(tmp_path, weighted, 8) == first


def test_a_flipped_bit_in_a_tile_is_found_and_the_tile_made_again(weighted, tmp_path):
    wanted = built(tmp_path, weighted, 8), contents(tmp_path)
    whole = bytearray((tmp_path / tiles.FILE).read_bytes())
    whole[-2] ^= 1  # in the last tile
    (tmp_path / tiles.FILE).write_bytes(whole)
    with pytest.warns(UserWarning, match="tile 5 is damaged"):
        found = built(tmp_path, weighted, 8)
    assert (found, contents(tmp_path)) == wanted


@pytest.mark.parametrize("text", ["null", "[]", "{", "", '{"sum": 1}', "scale", "another folder"])
def test_a_damaged_state_begins_anew(weighted, tmp_path, text):
    wanted = built(tmp_path, weighted, 8), contents(tmp_path)
    state = json.loads((tmp_path / tiles.PROGRESS).read_text())
    changed = {"scale": state | {"scales": [1, 1, 1]}, "another folder": state | {"of": "x"}}
    text = json.dumps(changed[text]) if text in changed else text
    (tmp_path / tiles.PROGRESS).write_text(text)
    with pytest.warns(UserWarning, match="begun anew"):
        found = built(tmp_path, weighted, 8)
    assert (found, contents(tmp_path)) == wanted


@pytest.mark.parametrize("harm", ["gone", "nothing", "short", "another type"])
def test_a_damaged_map_is_begun_anew(weighted, tmp_path, harm):
    wanted = built(tmp_path, weighted, 8), contents(tmp_path)
    path = tmp_path / tiles.FILE
    whole = path.read_bytes()
    path.unlink()
    if harm == "another type":
        np.save(path, np.zeros((N, N)))
    elif harm != "gone":
        path.write_bytes(whole[:-2] if harm == "short" else b"")
    with pytest.warns(UserWarning, match="begun anew"):
        found = built(tmp_path, weighted, 8)
    assert (found, contents(tmp_path)) == wanted


def test_another_number_of_threads_is_said(weighted, tmp_path, monkeypatch):
    built(tmp_path, weighted, 8)
    said = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    built(tmp_path, weighted, 8, said.append)
    assert "last bits will differ" in said[0]


def test_progress_is_said_every_so_often(weighted, tmp_path, monkeypatch):
    said = []
    built(tmp_path / "a", weighted, 8, said.append)
    assert len(said) == 2 and "6 tiles, 0.0 GB" in said[0]
    assert said[1].startswith("similarity maps: 6 of 6 tiles")
    monkeypatch.setattr(tiles, "EVERY", 0.0)
    built(tmp_path / "b", weighted, 8, said.append)
    assert sum(" of 6 tiles, about" in line for line in said) == 1 + 6


# ---- what it takes


@pytest.mark.parametrize("block", [4, 8, 12])
def test_never_more_than_two_blocks_of_features_are_held(weighted, tmp_path, monkeypatch, block):
    alive, make = weakref.WeakSet(), tiles.features
    most, blocks, made = [0], [0], [0]

    class Block(list):
        __hash__ = object.__hash__

    def counted(teacher, rows):
        blocks[0] += 1
        made[0] += rows.stop - rows.start
        block = Block(make(teacher, rows))
        alive.add(block)
        most[0] = max(most[0], len(alive))
        return block

    monkeypatch.setattr(tiles, "features", counted)
    built(tmp_path, weighted, block)
    assert most[0] <= 2 * len(weighted)
    assert made[0] == len(weighted) * Plan(N, block).looks
    # Going to and fro, a row finds one of its blocks already there.
    count = Plan(N, block).count
    assert blocks[0] == len(weighted) * (count * (count - 1) // 2 + 1)


def test_what_a_bank_takes_on_the_disk():
    assert tiles.disk(50_000) == 15_000_000_000


def test_the_file_is_as_large_as_said(weighted, tmp_path):
    built(tmp_path, weighted, 8)
    header = 128
    assert len(contents(tmp_path)) == tiles.disk(N) + header


def test_a_full_disk_is_said_before_anything_is_computed(weighted, tmp_path, monkeypatch):
    monkeypatch.setattr(tiles.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    with pytest.raises(InputError, match="make room, set TGD_ARTIFACTS .* fewer images"):
        built(tmp_path, weighted, 8)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_start_reserved_is_not_asked_for_twice(weighted, tmp_path, monkeypatch):
    (tmp_path / tiles.FILE).write_bytes(b"reserved, and no state beside it")
    there = []
    monkeypatch.setattr(
        tiles, "check_room", lambda folder, n: there.append((folder / tiles.FILE).exists())
    )
    built(tmp_path, weighted, 8)
    assert there == [False]


def test_mapped_maps_are_looked_up_as_held_ones(weighted, tmp_path):
    about = built(tmp_path, weighted, 8)
    index = torch.tensor([5, 22, 0, 7])
    logits = (torch.arange(N).float()[:, None], None)
    held = torch.from_numpy(np.load(tmp_path / tiles.FILE))
    for resident in (True, False):
        mapped = tiles.mapped(tmp_path, resident=resident)
        _, a = bank.Bank(logits, mapped, about["scales"]).batch(index)
        _, b = bank.Bank(logits, held, about["scales"]).batch(index)
        for x, y in zip(a, b, strict=True):
            assert torch.equal(x, y) and x.dtype == torch.float32 and x.shape == (4, 4)
    for stage, scale in enumerate(about["scales"]):
        assert float(a[stage][0, 3]) == pytest.approx(float(held[stage, 5, 7]) * scale, rel=1e-6)
