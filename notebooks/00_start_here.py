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
# # 00 · Start here: what topological guidance is, on one image
#
# A large network can teach a small one: the small one learns not only the labels but what the large
# one *says* about each image (**knowledge distillation**, KD). **TGD** (Jeon, Khurana, Pathak,
# Turaga, 2024) adds a second teacher that never sees the image itself, but its **persistence
# image** (PI): a picture of the image's topology. The student needs only the image, so at test time
# topology costs nothing.
#
# This notebook follows one image all the way: *signal → persistence diagram → persistence image →
# what each teacher and each student says*. It uses the networks of [03](03_distillation.ipynb).
# Change `number` and `channel` below and run it again. Terms: [glossary](../docs/glossary.md).

# %% tags=["parameters"]
profile: str = "quick"
overrides: dict = {}  # e.g. {"alpha": 0.9}; all names: ./run_all.sh --list

# %%
from IPython.display import Markdown

from tgd_lib import config
from tgd_lib.lab.lab import Lab
from tgd_lib.report import figures, sentences
from tgd_lib.study import methods, questions
from tgd_lib.study.specs import specs_of

settings = config.resolve(profile, **overrides)
lab = Lab(settings)
study = specs_of(lab)
Markdown(sentences.settings(settings))

# %%
number = 3 % len(lab.data.test.labels)  # which test image
channel = 0  # 0 red, 1 green, 2 blue

# %% [markdown]
# ## From image to persistence image
#
# One colour channel is read row by row as a **signal** $s$ with values in $[0, 1]$. Now let the
# water rise: at level $t$ the **sublevel set** is $\{i : s_i \le t\}$. Components of it are *born*
# at local minima and *die* when they merge into an older one (the oldest never dies, and is left
# out). Each is a bar of the **barcode**, from birth to death, and a point (birth, death) of the
# **persistence diagram**. What lives long is structure, what dies at once is noise.
#
# The diagram is a set of points, and networks like pictures, so each point becomes a small Gaussian
# in (birth, persistence) coordinates, weighted by its persistence: the **persistence image**.

# %%
from tgd_lib import diagrams, topology

params = topology.PersistenceImageParams()
image, truth = lab.data.test.images[number], int(lab.data.test.labels[number])
signal = image[:, :, channel].reshape(-1) / 255  # (H * W,)
diagram = diagrams.sublevel_diagrams(signal[None])[0]  # (points, 2)
pi = topology.persistence_images(image[None], "row", params)[0, channel]  # uint8 (50, 50)
births, persistences = diagram[:, 0], diagram[:, 1] - diagram[:, 0]

# %%
name = ("red", "green", "blue")[channel]
figure = figures.pipeline(image, signal, diagram, pi, channel=name, upto=params.high)
caption = (
    f"Test image {number}, its {name} channel as a signal, the signal's barcode, its persistence "
    "diagram, and its "
    "persistence image. Points outside the window show by the tails of their Gaussians at most; "
    "points of little "
    "persistence not at all."
)
source = {"test image": number, "channel": channel}
figures.save(figure, settings, "00_pipeline", caption=caption, source=source)

# %% [markdown]
# *What to see:* points near the diagonal, short bars, are noise and texture; points far above it
# are structure. The persistence image shows births and persistences from 0 to 0.3 only, the paper's
# window. What this image shows:

# %%
kept = persistences > params.threshold
Markdown(sentences.window(births[kept], persistences[kept], upto=params.high, channels=1))

# %% [markdown]
# [01](01_persistence_images.ipynb) counts over many images.
#
# ## What each network says about this image
#
# Teacher 1 saw images, teacher 2 saw persistence images only (of three channels, read by rows, by
# columns, or both). The students see the image: *Scratch* has learned from labels alone, *KD* from
# teacher 1 too, *TGD* from both teachers; *TGD without the PI teacher (α = 1)* is the control.
# *Annealing*: started from the trained scratch student, as TGD is. *Batchmean*: the teacher's
# probabilities weigh as much as in the textbook, ten times what they weigh in the authors' code.

# %%
from functools import partial

networks = {"image teacher": study.teacher("image"), "PI teacher": study.teacher("pi")}
for spec in study.students(methods.TABLE):
    if spec.seed == 0:
        networks[spec.name] = spec
lab.train(networks.values())  # what is not there already: published ones are
answers = partial(questions.probabilities, lab, networks)  # from an image to (classes,) by network
opinions = answers(image)

# %%
figure = figures.opinions(image, opinions, lab.data.test.class_names, truth)
caption = (
    "Class probabilities in per cent that teachers and students, one network each (seed 0), give "
    f"test image {number}; "
    "the true class is framed."
)
keys = {name: spec.key for name, spec in networks.items()}
figures.save(figure, settings, "00_opinions", caption=caption, source=keys)

# %% [markdown]
# *What to see:* how sure each network is, and where its doubts lie. A teacher's doubts ("a bit like
# that other class") are what distillation passes on, and its errors, too. What this image shows:

# %%
Markdown(sentences.opinions(opinions, lab.data.test.class_names, truth))

# %% [markdown]
# Another image: choose one.

# %%
from tgd_lib.companion import play

test = lab.data.test
another = (number + 1) % len(test.labels)
play.opinions(test.images, test.labels, answers, test.class_names, number=another)

# %% [markdown]
# One image proves nothing: the measured comparison, with its controls, is in
# [07](07_results.ipynb).
#
# ## The loss, in one line
#
# $$L = (1-\lambda)\,\mathrm{CE}
#   + \lambda\,[\alpha\,\mathrm{KD}(T_1) + (1-\alpha)\,\mathrm{KD}(T_2)]
#   + \gamma \cdot \mathrm{mean}_{\text{stages}}\
#     \mathrm{MSE}(S_{\text{student}}, S_{\text{merged}})$$
#
# Labels (cross-entropy CE), the logits of the two teachers $T_1$ (images) and $T_2$ (persistence
# images), and *similarity maps* $S$: for a batch, which images look alike to a network. λ, α and γ
# are weights. [03](03_distillation.ipynb) goes through it term by term.
