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
# A large network can teach a small one: the small one learns not only the labels but what the large one *says* about
# each image (**knowledge distillation**, KD). **TGD** (Jeon, Khurana, Pathak, Turaga, 2024) adds a second teacher that
# never sees the image itself, but its **persistence image** (PI): a picture of the image's topology. The student needs
# only the image. So whatever it gains from topology costs nothing on the device it runs on.
#
# This notebook follows one image all the way: *signal → persistence diagram → persistence image → what each teacher
# and each student says*. It uses networks that `03_distillation` has trained. Change `number` and `channel` below and run it again.

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
from tgd_lib.report import figures, tables
from tgd_lib.lab.lab import Lab
from tgd_lib.study.specs import specs_of

# All parameters above, checked; None means: as the profile says.
settings = config.resolve(**{name: globals()[name] for name in config.PARAMETERS})
lab = Lab(settings)
study = specs_of(lab)
print(settings.run_name, "|", settings.purpose)

# %%
number = 1500 % len(lab.data.test.labels)  # which test image
channel = 0  # 0 red, 1 green, 2 blue

# %% [markdown]
# ## From image to persistence image
#
# One colour channel is read row by row as a **signal** $s$ with values in $[0, 1]$. Now let the water rise: at level $t$ the
# **sublevel set** is $\{i : s_i \le t\}$. Components of it are *born* at local minima and *die* when they merge into an older one. Each
# gives a point (birth, death) of the **persistence diagram**. What lives long is structure, what dies at once is noise.
#
# The diagram is a set of points, and networks like pictures, so each point becomes a small Gaussian in (birth, persistence)
# coordinates, weighted by its persistence: the **persistence image**.

# %%
from tgd_lib import diagrams, topology

params = topology.PersistenceImageParams()
image, truth = lab.data.test.images[number], int(lab.data.test.labels[number])
signal = image[:, :, channel].reshape(-1) / 255  # (H * W,)
diagram = diagrams.sublevel_diagrams(signal[None])[0]
pi = topology.persistence_images(image[None], "row", params)[0, channel]
print(f"{len(diagram)} points, the most persistent lives for {(diagram[:, 1] - diagram[:, 0]).max():.2f}")

# %%
name = ("red", "green", "blue")[channel]
figure = figures.pipeline(image, signal, diagram, pi, channel=name, upto=params.high)
caption = "One channel as a signal, its diagram, its persistence image: points outside the shaded window show by their tails at most, points of little persistence not at all."
figures.save(figure, settings, "00_pipeline", caption=caption, source={"test image": number, "channel": channel})
figure

# %% [markdown]
# *What to see:* points near the diagonal are short-lived (noise and texture), points far above it are structure. The persistence image shows births and
# persistences from 0 to 0.3 only, the paper's window: points outside the shaded part enter it by the tails of their Gaussians alone. `01_persistence_images` counts them.
#
# ## What each network says about this image
#
# Teacher 1 saw images, teacher 2 saw persistence images only (of three channels, read by rows, by columns, or both). The
# students see the image: one has learned from labels alone, one was guided by both teachers, and one, the control at α = 1, by teacher 1 alone.

# %%
import torch

networks = {
    "image teacher": study.teacher("image"),
    "PI teacher": study.teacher("pi"),
    "scratch student": study.student("scratch", 0),
    "TGD at α = 1": study.student("tgd_alpha1", 0),
    "TGD student": study.student("tgd", 0),
}
said = {}
for name, spec in networks.items():
    with torch.no_grad():
        logits = lab.network(spec)(lab.pixels(spec.view, "test")[[number]])
    said[name] = logits[0].softmax(0).cpu().numpy()

# %%
figure = figures.opinions(image, said, lab.data.test.class_names, truth)
caption = "Class probabilities of two teachers and three students, one network each (seed 0), for one test image; the true class is black."
figures.save(figure, settings, "00_opinions", caption=caption, source={n: s.key for n, s in networks.items()})
figure

# %% [markdown]
# *What to see:* how sure each network is, and where its doubts lie. A teacher's doubts ("a bit like that other class") are
# what distillation passes on. One image proves nothing: the measured comparison, with its controls, is in `07_results`.
#
# ## The loss, in one line
#
# $$L = (1-\lambda)\,\mathrm{CE} + \lambda\,[\alpha\,\mathrm{KD}(T_1) + (1-\alpha)\,\mathrm{KD}(T_2)]
#   + \gamma \cdot \mathrm{mean}_{\text{stages}}\ \mathrm{MSE}(S_{\text{student}}, S_{\text{merged}})$$
#
# Labels, the two teachers' opinions, and *similarity maps*: for a batch, which images look alike to a network. `03_distillation` goes through it term by term.
