# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 07 · Results
#
# Drawn from the records that the notebooks before wrote, nothing else: no network is touched here. Every figure is mean ± standard deviation over seeds (n),
# test set, under the selection rule named beside it. `last`: nothing is chosen, the last epoch counts. `authors`: best epoch on the test set, as the authors chose
# theirs; only for comparison with their checkpoints.

# %% tags=["parameters"]
profile: str = "quick"  # the named set of all the values below
dataset: str = None  # what to learn: sample | cifar10 | cinic10 | folder
data_dir: str = None  # folder the data set lies in, or is downloaded to
resize: int = None  # side in pixels that images are resized to
device: str = None  # where to compute: auto | cpu | cuda
precision: str = None  # arithmetic of the networks: fp32 | bf16
n_train: int = None  # training images
n_test: int = None  # test images
holdout: int = None  # images held out for choices
epochs: int = None  # epochs of a student
teacher_epochs: int = None  # epochs of a teacher
seeds: int = None  # students of each main method
alpha: float = None  # weight of the image teacher against the PI teacher
lam: float = None  # weight of the teachers' logits against the labels
temperature: float = None  # softening of the logits
gamma: float = None  # weight of the similarity maps
kl_reduction: str = None  # how the divergence is averaged: mean | batchmean
orientation: str = None  # how pixels are strung to a signal: row | column | both | authors_literal
selection: str = None  # which epoch counts: last | authors

# %%
from tgd_lib import config
from tgd_lib.report import charts, figures, significance, tables
from tgd_lib.study import methods

# All parameters above, checked; None means: as the profile says.
settings = config.resolve(**{name: globals()[name] for name in config.PARAMETERS})
print(settings.run_name, "|", settings.purpose)

# %%
rows = tables.load_records(settings, "04_ablations")
robust = tables.under_corruption(tables.load_records(settings, "05_robustness"))
path = tables.write_results(rows, settings)
main = [r for r in rows if r["method"] in methods.TABLE]
tables.readable(main)

# %% [markdown]
# "95 % CI, test set": Wilson's interval for the true accuracy of a network that has the mean on so many test images; the spread over seeds is another matter.
#
# ## The question of this study
#
# **What does the topological teacher add?** TGD minus its own α = 1, paired by seed: named beforehand, and the first line whichever way it falls. NLL and ECE: *below* zero is better.
# (Whether that is topology or would be any second teacher: `04_ablations`.)

# %%
import pandas as pd

columns = [(main, c) for c in ("accuracy", "nll", "ece")] + [(robust, "accuracy"), (robust, "nll"), (robust, "ece")]
pairs = [significance.paired(r, "tgd", "tgd_alpha1", c) for r, c in columns]
shown = pd.DataFrame(pairs).drop(columns=["differences", "method", "control"])
shown.insert(0, "images", ["clean"] * 3 + ["corrupted"] * 3)
shown.round(4)

# %% [markdown]
# ## Accuracy

# %%
anchored = settings.dataset == "cifar10" and settings.selection == "authors"
figure = charts.accuracies(main, tables.ANCHORS if anchored else None, "tgd_alpha1")
caption = "Test accuracy: a pale dot a seed; beside them the mean with its 95 % interval for a test set of this size. The line: TGD at alpha = 1. Crosses, if any: the authors' checkpoints."
figures.save(figure, settings, "07_accuracy", caption=caption, source=[r["key"] for r in main])
figure

# %% [markdown]
# *What to see:* whether the methods' clouds of seeds overlap. Then look at the next figure, which removes what the seeds have in common.
#
# ## What adds what
#
# Differences between two methods *of the same seed* (same initial weights, same batches), with an exact sign-flip test and Student's 95 % interval. With n seeds, p cannot be smaller than
# $2/2^n$: 0.5 for two seeds, 0.031 for six. All but the first line are descriptive, and their p are not corrected for being many. All seeds share one pair of teachers, so p speaks of students of this pair.

# %%
contrasts = {
    ("tgd", "tgd_alpha1"): "the PI teacher",
    ("tgd", "kd_annealed"): "maps and PI teacher",
    ("tgd", "kd_batchmean_annealed"): "all of TGD against the textbook's KD, at equal epochs",
    ("tgd", "scratch_twice"): "all of TGD against more training, at equal epochs",
    ("tgd", "kd"): "maps, PI teacher, a trained start and its epochs",
    ("tgd", "scratch"): "all of TGD, and its epochs",
    ("kd_annealed", "kd"): "a trained start and its epochs",
}
pairs = [significance.paired(rows, *c) for c in contrasts if {*c} <= {r["method"] for r in rows}]
shown = pd.DataFrame(pairs).drop(columns=["differences", "column"])
shown["what it tells"] = [contrasts[p["method"], p["control"]] for p in pairs]
shown.round(4)

# %%
labels = {r["method"]: r["label"] for r in rows}
figure = charts.differences(pairs, labels)
caption = "Paired differences in test accuracy: a pale dot a seed, mean and standard deviation beside them."
figures.save(figure, settings, "07_differences", caption=caption, source=pairs)
figure

# %% [markdown]
# *What to see:* the first line is what the PI teacher adds to this student on this data. If its dots lie on both sides of zero, nothing has been shown.
#
# ## What accuracy costs

# %%
networks = tables.load_records(settings, "06_cost")[0]["networks"]
roles = {"teacher_image": "image teacher", "teacher_pi": "PI teacher"}
teachers = [r | {"role": roles[r["method"]]} for r in tables.load_records(settings, "02_teachers")]
figure = charts.cost_and_accuracy(networks, [r | {"role": "student"} for r in main] + teachers)
caption = "Mean test accuracy against multiply-adds of a forward pass; vertical lines are ranges over seeds. The students cost the same and are drawn side by side."
figures.save(figure, settings, "07_cost_accuracy", caption=caption, source=[r["key"] for r in (*teachers, *main)])
figure

# %% [markdown]
# *What to see:* all students stand at one price. How much of the way up to the image teacher does each method go? (The PI teacher's price is without computing persistence images, see `06_cost`.)

# %%
print(f"results table: {path.relative_to(config.artifacts_dir())} in artifacts/")
