"""Training: the loop, its order, resuming to the same bits, the rule of selection."""

import errno
from pathlib import Path

import numpy as np
import pytest
import torch

from tgd_lib import training
from tgd_lib.compute import Compute, Pixels
from tgd_lib.config import InputError, Schedule
from tgd_lib.evaluation import logits_of
from tgd_lib.networks import wide_resnet

CLASSES = 4


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 70)
    images = rng.integers(0, 100, (70, 16, 16, 3)).astype(np.uint8)
    images[..., 0] += (40 * labels[:, None, None]).astype(np.uint8)  # something to learn
    return images, torch.from_numpy(labels)


def run(data, *, epochs=3, precision="fp32", seed=0, **options):
    images, labels = data
    pixels = Pixels(images.transpose(0, 3, 1, 2), (0.3,) * 3, (0.2,) * 3, Compute("cpu", precision))
    network = wide_resnet(10, 1, 3, CLASSES, seed=seed)
    options = {"of": f"seed {seed}"} | options
    return training.Run(network, pixels, labels, Schedule(epochs, epochs, 16), seed=seed, **options)


def one_epoch(r):
    r.begin()
    for number in range(r.steps):
        r.advance(number)
    return r.conclude()


def weights(r):
    return {k: v.clone() for k, v in r.network.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


def test_pixels_are_normalised(data):
    images, _ = data
    pixels = Pixels(images.transpose(0, 3, 1, 2), (0.1, 0.2, 0.3), (0.5, 0.25, 0.2), Compute())
    found = pixels[torch.tensor([3, 1])]
    expected = (images[[3, 1]] / 255 - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 0.25, 0.2])
    np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy(), expected, atol=1e-6)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_every_epoch_visits_every_image_once_in_an_order_of_its_own():
    orders = [training.batch_order(50, seed=s, epoch=e) for s, e in ((0, 0), (0, 1), (1, 0))]
    assert all(o.sort().values.tolist() == list(range(50)) for o in orders)
    assert len({tuple(o.tolist()) for o in orders}) == 3
    assert torch.equal(orders[0], training.batch_order(50, seed=0, epoch=0))


def test_it_is_plain_sgd(data):
    """Five epochs against PyTorch's own pieces, written out: each has its order and its rate."""
    _, labels = data
    ours = run(data, epochs=5)
    entries = [one_epoch(ours) for _ in range(5)]
    network = wide_resnet(10, 1, 3, CLASSES, seed=0).to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    for epoch, rate in enumerate([0.1, 0.02, 0.004, 0.0008, 0.00016]):
        optimiser.param_groups[0]["lr"] = rate
        total = 0.0
        for index in training.batch_order(70, seed=0, epoch=epoch).split(16):
            loss = torch.nn.functional.cross_entropy(network(ours.pixels[index]), labels[index])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += float(loss.detach()) * len(index)
        # Of all images, those of the last, shorter batch like others.
        assert entries[epoch]["loss"] == pytest.approx(total / 70, rel=1e-5)
    for a, b in zip(ours.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_it_learns(data):
    r = run(data, epochs=12)
    while not r.finished:
        one_epoch(r)
    assert r.history[-1]["accuracy"] > 0.8 > r.history[0]["accuracy"]
    accuracy = (logits_of(r.network, r.pixels).argmax(1) == data[1]).float().mean()
    assert accuracy > 0.8


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_seed_gives_the_same_bits(data, precision):
    a, b, c = (
        run(data, precision=precision),
        run(data, precision=precision),
        run(data, precision=precision, seed=1),
    )
    for r in (a, b, c):
        one_epoch(r)
    assert same(weights(a), weights(b)) and not same(weights(a), weights(c))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_ends_in_the_same_bits(data, precision, tmp_path):
    unbroken = run(data, epochs=4, precision=precision)
    training.train([(unbroken, tmp_path / "a")])
    broken = run(data, epochs=4, precision=precision)

    def stop(_, entry):
        if entry["epoch"] == 3:  # before its state is saved
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.train([(broken, tmp_path / "b")], on_epoch=stop)
    resumed, seen = run(data, epochs=4, precision=precision), []
    training.train([(resumed, tmp_path / "b")], on_epoch=lambda _, e: seen.append(e["epoch"]))
    assert seen == [3, 4]
    assert same(weights(unbroken), weights(resumed))
    assert [h["loss"] for h in unbroken.history] == [h["loss"] for h in resumed.history]


def test_runs_that_train_together_end_as_if_alone(data, tmp_path):
    alone = [run(data, seed=s) for s in (0, 1)]
    for r in alone:
        training.train([(r, tmp_path / f"alone{r.seed}")])
    together = [run(data, seed=s) for s in (0, 1)]
    training.train([(r, tmp_path / f"together{r.seed}") for r in together])
    assert all(same(weights(a), weights(b)) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_does_not_depend_on_the_caller_s_gradient_mode(data, tmp_path, mode):
    """Notebooks ask for networks inside torch.no_grad(), and some are trained only then."""
    plain = run(data, epochs=2)
    training.train([(plain, tmp_path / "plain")])
    with mode():
        inside = run(data, epochs=1)  # made there, too
        training.train([(inside, tmp_path / "inside")])
        resumed = run(data, epochs=2)
        training.train([(resumed, tmp_path / "inside")])
        assert torch.is_grad_enabled() is False
    assert same(weights(plain), weights(resumed))


def test_last_chooses_nothing(data):
    r = run(data)
    while not r.finished:
        one_epoch(r)
    chosen, at = r.selected("last")
    assert at == 3 and same(chosen, weights(r))
    assert all("test_accuracy" not in h for h in r.history)  # the test set was not looked at


def test_authors_take_the_first_best_epoch_on_the_test_set(data, tmp_path):
    figures, snapshots = iter([0.3, 0.6, 0.6, 0.5]), []

    def evaluate(network):
        snapshots.append({k: v.clone() for k, v in network.state_dict().items()})
        return next(figures)

    r = run(data, epochs=4, evaluate=evaluate)
    training.train([(r, tmp_path / "state")])
    chosen, at = r.selected("authors")
    assert at == 2 and same(chosen, snapshots[1])
    chosen, at = r.selected("last")
    assert at == 4 and same(chosen, snapshots[3])
    resumed = run(data, epochs=4, evaluate=evaluate)
    resumed.resume(tmp_path / "state")
    chosen, at = resumed.selected("authors")
    assert at == 2 and same(chosen, snapshots[1])


def exploding(term, factor):
    """An objective whose `term` is the labels' loss `factor` times over."""

    def objective(outputs, labels, index, epoch):
        ce = torch.nn.functional.cross_entropy(outputs.logits, labels)
        return ce + factor * ce, {"ce": ce, term: factor * ce}

    return objective


@pytest.mark.parametrize(
    "term, factor, words",
    [
        ("maps", 1e30, ["maps was its largest term", "lower gamma"]),
        ("kd_t1", 1e30, ["kd_t1 was its largest term", "lower temperature or lam"]),
        ("baseline", float("inf"), ["baseline is no number from the first step", "this baseline"]),
        ("kd", float("nan"), ["kd is no number from the first step", "lower temperature"]),
    ],
)
def test_divergence_is_said_in_one_line_that_fits_its_cause(data, term, factor, words):
    with pytest.raises(InputError, match="diverged in epoch 1") as e:
        one_epoch(run(data, objective=exploding(term, factor)))
    assert "\n" not in str(e.value)
    assert all(word in str(e.value) for word in words), str(e.value)


def test_divergence_without_terms_is_said_as_well(data):
    def explode(outputs, labels, index, epoch):
        return outputs.logits.sum() * float("nan"), {}

    with pytest.raises(InputError, match="diverged in epoch 1"):
        one_epoch(run(data, objective=explode))


def test_weights_that_the_last_step_broke_are_no_network(data):
    """No loss has looked at them: without this they would be stored, and evaluate to NaN."""
    last = 2 * run(data).steps - 1
    step = iter(range(last + 1))

    def explode(outputs, labels, index, epoch):
        if next(step) == last:  # a gradient that overflows, of a loss that is a number
            outputs.logits.register_hook(lambda gradient: gradient * float("inf"))
        return torch.nn.functional.cross_entropy(outputs.logits, labels), {}

    r = run(data, epochs=2, objective=explode)
    one_epoch(r)
    with pytest.raises(InputError, match="diverged in epoch 2 .weights that are no numbers"):
        one_epoch(r)


def test_one_that_diverges_does_not_hold_up_the_others(data, tmp_path):
    def explode(outputs, labels, index, epoch):
        return outputs.logits.sum() * float("nan"), {}

    runs, ended = [run(data, objective=explode), run(data, seed=1)], []
    with pytest.raises(InputError, match="diverged"):
        training.train([(r, tmp_path / str(i)) for i, r in enumerate(runs)], on_end=ended.append)
    assert ended == [runs[1]] and runs[1].finished


def half_trained(data, folder, *, seed=0):
    """A folder with the state of a training of three epochs after its first."""
    folder.mkdir()
    r = run(data, epochs=3, seed=seed)
    one_epoch(r)
    r.save(folder / "state")
    return folder / "state"


def flip(path, at):
    whole = bytearray(path.read_bytes())
    whole[at] ^= 1
    path.write_bytes(whole)


def write_state(path, **changed):
    """The state in `path` once more, with another header."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, "pt") as f:
        about = f.metadata()
        tensors = {k: f.get_tensor(k) for k in f.keys()}
    about = {k: v for k, v in (about | changed).items() if v is not None}
    save_file(tensors, path, about or None)


HARMS = {
    "text": lambda path: path.write_bytes(b"not a state"),
    "nothing": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "a bit of a weight": lambda path: flip(path, -5),
    "a bit of the header": lambda path: flip(path, 40),
    "no metadata": lambda path: write_state(path, of=None, history=None, threads=None, sum=None),
    "threads": lambda path: write_state(path, threads="x"),
    "history": lambda path: write_state(path, history="[]"),
    "no sum": lambda path: write_state(path, sum=None),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_state_is_said_and_training_begins_anew(data, tmp_path, harm):
    state = half_trained(data, tmp_path / "a")
    HARMS[harm](state)
    r, unbroken = run(data, epochs=3), run(data, epochs=3)
    with pytest.warns(UserWarning, match="damaged.*begins anew") as caught:
        training.train([(r, state)])
    assert "\n" not in str(caught[0].message)
    training.train([(unbroken, tmp_path / "unbroken")])
    assert same(weights(r), weights(unbroken))


def test_another_training_s_state_is_not_taken_for_one_s_own(data, tmp_path):
    mine, others = (half_trained(data, tmp_path / name, seed=s) for s, name in enumerate("ab"))
    mine.write_bytes(others.read_bytes())
    r = run(data, epochs=3)
    with pytest.warns(UserWarning, match="it is of seed 1"):
        r.resume(mine)
    assert r.history == []


def test_epochs_of_a_state_are_counted_where_it_is_whole(data, tmp_path):
    state = half_trained(data, tmp_path / "a")
    assert training.epochs_in(state, of="seed 0") == 1
    assert training.epochs_in(tmp_path / "none", of="seed 0") == 0
    with pytest.warns(UserWarning, match="a/state is damaged .it is of seed 0.: left out"):
        assert training.epochs_in(state, of="seed 1") == 0
    flip(state, -5)
    with pytest.warns(UserWarning, match="its sum is wrong"):
        assert training.epochs_in(state, of="seed 0") == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_an_os_error_and_leaves_the_old_state(tmp_path):
    (tmp_path / "state").write_text("old")
    (tmp_path / "state.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError) as e:
        training.save_tensors(tmp_path / "state", {"a": torch.zeros(3)})
    assert e.value.errno == errno.ENOSPC and (tmp_path / "state").read_text() == "old"


def test_a_resumed_run_takes_up_its_threads_and_gives_them_back(data, tmp_path):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        r = run(data, epochs=2)
        with pytest.raises(KeyboardInterrupt):
            training.train(
                [(r, tmp_path / "state")], on_epoch=lambda r, e: stop_after_first(r, e, tmp_path)
            )
        torch.set_num_threads(2)
        seen = []
        training.train(
            [(run(data, epochs=2), tmp_path / "state")],
            on_epoch=lambda *_: seen.append(torch.get_num_threads()),
        )
        assert seen == [1] and torch.get_num_threads() == 2
        with pytest.raises(KeyboardInterrupt):  # in a notebook, where the next training goes on
            training.train(
                [(run(data, epochs=3), tmp_path / "state")],
                on_epoch=lambda r, e: stop_after_first(r, e, tmp_path),
            )
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def stop_after_first(r, entry, folder):
    r.save(folder / "state")
    raise KeyboardInterrupt


def test_cuda_asked_for_where_there_is_none():
    if torch.cuda.is_available():
        assert Compute.choose("cuda").device == "cuda"
    else:
        assert Compute.choose("auto").device == "cpu"
        with pytest.raises(InputError, match="cuda"):
            Compute.choose("cuda")
