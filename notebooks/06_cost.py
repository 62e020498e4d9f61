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
# The paper's argument for distilling topology away: at test time, a network that reads persistence
# images must first *compute* them. The student does not. Here both are measured on this machine,
# and with them the price of training: what a step of distillation costs when the teachers' answers
# are looked up (the **teacher bank**) rather than computed.
#
# Timings are taken in turn in one process and are to be read as ratios. They are kept in the store:
# the second time this notebook only reads them. Terms: [glossary](../docs/glossary.md).

# %% tags=["parameters"]
profile: str = "quick"
overrides: dict = {}  # e.g. {"alpha": 0.9}; all names: ./run_all.sh --list

# %%
from IPython.display import Markdown

from tgd_lib import config
from tgd_lib.lab.lab import Lab
from tgd_lib.report import charts, figures, sentences, tables
from tgd_lib.study import cost

settings = config.resolve(profile, **overrides)
lab = Lab(settings)
Markdown(sentences.settings(settings))

# %%
record = cost.measure(lab)
repetitions = record["topology"]["batch_1"]["n"]
where = f"{record['device']}, {record['threads']} threads, {settings.precision}"
print(f"{where}; {repetitions} repetitions each")

# %%
tables.costs(record)

# %% [markdown]
# *What to see:* median and range. With one image (batch 1) the fixed cost of a layer weighs more,
# so networks differ less in time than in multiply-adds; with a batch of 128 times come closer to
# them.
#
# ## Topology and training

# %%
figure = charts.costs(record)
caption = (
    "Left: milliseconds per image (logarithmic). Right: milliseconds per training step. A dot and "
    f"its number are the median of n = {repetitions} repetitions; the line runs from the smallest "
    "to the largest."
)
source = {name: record[name] for name in ("networks", "topology", "steps")}
figures.save(figure, settings, "06_cost", caption=caption, source=source)

# %% [markdown]
# *What to see:* left, persistence images beside the student's forward pass, and the PI teacher's
# forward pass that would have to follow them: the student is spared both, and with this code the
# second is the larger one (persistence images are made hundreds of times faster than by the
# authors' code, [deviations](../DEVIATIONS.md)). Right, a *plain* step (labels alone), one with the
# teachers' answers from the *bank*, and one with the teachers running in it (*online*), of the
# run's batch size; building the bank comes on top, once for all students of these teachers. What
# this run shows:

# %%
Markdown(sentences.costs(record))

# %%
tables.save_records([record], settings, "06_cost")
