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
# # 06 · What it costs
#
# The paper's argument for distilling topology away: at test time, a network that reads persistence images must first *compute* them. The student does not. Here both
# are measured on this machine, and with them the price of training: what a step of distillation costs when the teachers' answers are looked up (the **teacher bank**) rather than computed.
#
# Timings are taken in turn in one process and are to be read as ratios. They are kept in the store: the second time this notebook only reads them.

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

# All parameters above, checked; None means: as the profile says.
settings = config.resolve(**{name: globals()[name] for name in config.PARAMETERS})
lab = Lab(settings)
print(settings.run_name, "|", settings.purpose)

# %%
from tgd_lib.study import cost

record = cost.measure(lab)
print(f"{record['device']}, {record['threads']} threads, {record['topology']['batch_1']['n']} repetitions each")

# %%
tables.costs(record)

# %% [markdown]
# *What to see:* median and range. A lone image (batch 1) is dominated by the number of layers, a batch of 128 by the multiply-adds.
#
# ## Topology against the whole student

# %%
student, topology = record["networks"]["student"], record["topology"]
for batch in (1, 128):
    ratio = topology[f"batch_{batch}"]["median"] / student[f"batch_{batch}"]["median"]
    print(f"persistence images take {ratio:.2f} times the student's forward pass (both on {batch} images at once)")

# %%
figure = charts.costs(record)
caption = "Left: milliseconds an image (logarithmic). Right: milliseconds a training step. Medians; the line runs from the smallest to the largest."
figures.save(figure, settings, "06_cost", caption=caption, source={k: record[k] for k in ("networks", "topology", "steps")})
figure

# %% [markdown]
# *What to see:* left, persistence images beside the student's forward pass, and the PI teacher's forward pass that would have to follow them: both are what the student is spared. Right, how little
# a step from the bank adds to a plain one, against running the teachers in every step.

# %%
plain = record["steps"]["plain step"]["median"]
print({name: f"{s['median'] / plain:.2f} times a plain step" for name, s in record["steps"].items()})
tables.save_records([record], settings, "06_cost")
