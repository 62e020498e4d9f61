"""Topological guidance for knowledge distillation: the library behind the notebooks.

Nothing happens at import, and nothing heavy is imported: ask for the room you need, for example
``from tgd_lib import topology``. The rooms of this folder are the method; read them in this order:

    diagrams, topology     from an image to its persistence diagrams and images (no torch)
    networks, losses       wide residual networks; the terms of the loss
    bank, tiles            the teachers' outputs for every training image, computed once
    training, evaluation   one training loop for every network; metrics
    embedding              topology of a batch's embedding, and losses that distil it
    baselines, ripsnet     losses from the literature; TopKD's network for persistence images
    datasets, compute, files, config

It stands on `images` (CIFAR-10, CINIC-10, folders, the sample, corruptions). Four subpackages are
built on it, each importing only those above it:

    lab         a spec -> a trained network: spec, store, results, views, trained, objectives, lab
    study       what is asked: methods, protocol, specs, questions, published networks, cost
    report      what is said: significance, tables, sentences, figures, charts, clouds, summary
    companion   how it is run: command, runner, execution, recording, twins, plan, workers
"""

__version__ = "0.1.0"


def load(name: str, *, seed: int = 0, selection: str = "last"):
    """A published network with its preprocessing, in eval mode: ``load("study/tgd")``.

    selection: "authors" for the epoch that is best on the test set, where that is published. Called
    with images uint8 (N, 32, 32, 3) it returns logits float32 (N, classes). InputError, with
    the names there are, for an unknown one.
    """
    from tgd_lib.study import published  # torch, and only here

    return published.load(name, seed=seed, selection=selection)
