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
# # 03 · Distillation
#
# $$L = (1-\lambda)\,\mathrm{CE} + \lambda\,[\alpha\,\mathrm{KD}(T_1) + (1-\alpha)\,\mathrm{KD}(T_2)]
#   + \gamma \cdot \mathrm{mean}_{\text{stages}}\ \mathrm{MSE}(S_{\text{student}}, S_{\text{merged}})$$
#
# * **CE**: cross-entropy with the labels.
# * **KD(T)** $= \tau^2\,\mathrm{KL}\big(\mathrm{softmax}(z_T/\tau)\,\|\,\mathrm{softmax}(z_S/\tau)\big)$: say what the teacher says, doubts included. The authors' code averages
#   over batch *and* classes (`mean`), ten times weaker than the textbook (`batchmean`).
# * **Similarity maps**: $G = FF^\top$ over the batch, $F$ the flattened output of a residual stage: which images look alike to a network. The teachers' maps are merged,
#   $\alpha G_1 + (1-\alpha) G_2$, *then* each row is normalised; so is the student's.
# * **Annealing**: the student starts from the scratch student of the same seed and runs the whole schedule again.
#
# | method | labels | image teacher | PI teacher | maps | starts from | why |
# |---|---|---|---|---|---|---|
# | Scratch | ✓ | | | | random | the floor |
# | KD | ✓ | ✓ | | | random | the usual distillation, with the authors' `mean` |
# | KD, batchmean | ✓ | ✓ | | | random | the same with the textbook's reduction |
# | KD, annealing | ✓ | ✓ | | | scratch | **control**: as many epochs as TGD |
# | TGD at α = 1 | ✓ | ✓ | | ✓ | scratch | **control**: all of TGD but topology |
# | TGD | ✓ | ✓ | ✓ | ✓ | scratch | the paper's method |
#
# So *TGD − KD* mixes three things; *TGD − TGD at α = 1* is what the PI teacher adds. (Whether that is *topology*, or would be any second teacher, takes one more control: a second image teacher.)

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
from tgd_lib.study import methods
from tgd_lib.lab.lab import Lab
from tgd_lib.study.specs import specs_of

# All parameters above, checked; None means: as the profile says.
settings = config.resolve(**{name: globals()[name] for name in config.PARAMETERS})
lab = Lab(settings)
study = specs_of(lab)
print(settings.run_name, "|", settings.purpose)

# %% [markdown]
# ## Train the students
#
# Per seed, all methods share initial weights and the order of batches. The teachers' logits and similarity maps over the whole training set are computed once
# (the **teacher bank**): a distillation step then costs hardly more than a plain one.

# %%
specs = study.students(methods.TABLE)
lab.train(specs)
rows = [lab.row(spec) for spec in specs]

# %%
tables.readable(rows)

# %% [markdown]
# *What to see:* mean ± standard deviation over seeds on the test set, by the selection rule named. "Epochs in all" counts those of the start: compare methods that have had the same.
#
# ## How they learn

# %%
figure = charts.curves(rows, "training_accuracy", "training accuracy")
caption = "Training accuracy over the epochs, mean over seeds. Annealed students start from a trained scratch student."
figures.save(figure, settings, "03_training", caption=caption, source=[r["key"] for r in rows])
figure

# %% [markdown]
# ## What the student learns of similarity
#
# The same 64 training images (all, if there are fewer), sorted by class, as the deepest stage of each network sees them. Bright blocks on the diagonal: images of one class look alike.

# %%
import numpy as np
import torch

from tgd_lib.losses import merge_maps, similarity_map

by_class = np.argsort(lab.data.train.labels, kind="stable")
evenly = np.linspace(0, len(by_class) - 1, min(64, len(by_class))).astype(int)
index = torch.from_numpy(by_class[evenly])
tgd = study.student("tgd", 0)
shown = {"image teacher": study.teacher("image"), "PI teacher": study.teacher("pi")}
shown |= {"scratch student": tgd.start, "TGD at α = 1": study.student("tgd_alpha1", 0), "TGD student": tgd}

# %%
maps = {}
for name, spec in shown.items():
    with torch.no_grad():
        features = lab.network(spec).stages(lab.pixels(spec.view, "train")[index])[1]
    maps[name] = similarity_map(features[2])
first, second = maps["image teacher"], maps["PI teacher"]
merged = merge_maps([first], [second], alpha=settings.alpha)[0]
maps = {"image teacher": first, "PI teacher": second, "merged": merged} | maps

# %%
labels = lab.data.train.labels[index.numpy()]
boundaries = np.flatnonzero(np.diff(labels)) + 1
figure = figures.similarity_maps({k: m.cpu().numpy() for k, m in maps.items()}, boundaries)
caption = f"Similarity maps of the last stage, rows normalised, 64 training images sorted by class; merged at alpha = {settings.alpha}; one network each, seed 0."
figures.save(figure, settings, "03_similarity_maps", caption=caption, source={k: s.key for k, s in shown.items()})
figure

# %% [markdown]
# *What to see:* how much of the PI teacher's map is left after merging. Its share depends on α *and* on how large its features are, since the raw maps are added.

# %%
share = float((1 - settings.alpha) * second.norm() / (settings.alpha * first + (1 - settings.alpha) * second).norm())
print(f"the PI teacher's share of the merged map's norm in this batch: {100 * share:.2f} %")

# %% [markdown]
# ## What the last layer sees
#
# The input of the last layer for 500 test images (all, if there are fewer), laid out in the plane by t-SNE. Distances between far groups mean nothing; whether a class
# hangs together does.

# %%
from tgd_lib.study import questions

places = questions.embedding(lab, [study.student(m, 0) for m in ("scratch", "kd", "tgd_alpha1", "tgd")])
figure = charts.embeddings(places, lab.data.test.class_names)
caption = "t-SNE of the students' last features, test images, seed 0. A class has a marker of its own, full or hollow."
figures.save(figure, settings, "03_tsne", caption=caption, source=places)
figure

# %% [markdown]
# The students of seed 0 (fixed beforehand, not the best) are put into the run's folder, with a model card, for use elsewhere.

# %%
from tgd_lib.study import published

published.publish(lab, [study.student(m, 0) for m in ("scratch", "kd", "tgd_alpha1", "tgd")])
tables.save_records(rows, settings, "03_distillation")
