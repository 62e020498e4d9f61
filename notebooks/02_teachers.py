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
# # 02 · Two teachers
#
# Both are wide residual networks. Teacher 1 sees images (3 channels), teacher 2 sees only persistence images (6 channels of 50 × 50, or 3 for
# one direction). Stochastic gradient descent, momentum 0.9, weight decay $10^{-4}$, learning rate 0.1 times 0.2 at 20, 40, 60 and 80 % of the epochs,
# no augmentation: whatever a teacher says about a training image is then a *constant*, and can be stored.
#
# One pair of teachers (seed 0) serves all students. With `selection="last"`, the default, the last epoch counts and nothing is chosen on the test set; `authors` takes
# the epoch that is best on the test set, as the authors did.

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
from tgd_lib.report import charts, figures, tables
from tgd_lib.lab.lab import Lab
from tgd_lib.study.specs import specs_of

# All parameters above, checked; None means: as the profile says.
settings = config.resolve(**{name: globals()[name] for name in config.PARAMETERS})
lab = Lab(settings)
study = specs_of(lab)
print(settings.run_name, "|", settings.purpose)

# %% [markdown]
# ## Train them, or take them from the store
#
# One line an epoch goes to the log. If this is interrupted, the next run goes on after the last whole epoch, and ends in the same bits.

# %%
specs = {kind: study.teacher(kind) for kind in ("image", "pi")}
rows = [lab.row(spec) for spec in specs.values()]

# %%
import pandas as pd

from tgd_lib.networks import parameter_count

columns = ["label", "network", "accuracy", "nll", "ece", "selection", "selected_epoch", "training_seconds"]
table = pd.DataFrame(rows)[columns].assign(parameters=[parameter_count(lab.network(s)) for s in specs.values()])
table["n (seeds)"] = 1
table

# %% [markdown]
# *What to see:* how far the PI teacher is above chance (one over the number of classes), and how far below the image teacher. The question of this whole
# study is whether the weak teacher knows something that the strong one does not.

# %%
figure = charts.curves(rows, "training_accuracy", "training accuracy")
caption = "Training accuracy of the two teachers over their epochs, one network each."
figures.save(figure, settings, "02_teachers", caption=caption, source=[r["key"] for r in rows])
figure

# %% [markdown]
# ## Class by class
#
# Accuracy on the test images of each class. Is the PI teacher good at classes that the image teacher is bad at?

# %%
names = lab.data.test.class_names
by_class = pd.DataFrame({f"{r['label']} (n=1)": r["per_class"] for r in rows}, index=names).round(3)
tables.save_records(rows, settings, "02_teachers")
by_class
