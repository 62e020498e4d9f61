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
# $$L = (1-\lambda)\,\mathrm{CE}
#   + \lambda\,[\alpha\,\mathrm{KD}(T_1) + (1-\alpha)\,\mathrm{KD}(T_2)]
#   + \gamma \cdot \mathrm{mean}_{\text{stages}}\
#     \mathrm{MSE}(S_{\text{student}}, S_{\text{merged}})$$
#
# $T_1$ is the image teacher, $T_2$ the PI teacher, α the weight of $T_1$, λ that of the logits
# against the labels, γ that of the maps, τ the temperature, $z$ logits. Their values stand below
# the parameters. Terms: [glossary](../docs/glossary.md).
#
# * **CE**: cross-entropy with the labels.
# * **KD(T)**
#   $= \tau^2\,\mathrm{KL}\big(\mathrm{softmax}(z_T/\tau)\,\|\,\mathrm{softmax}(z_S/\tau)\big)$: say
#   what the teacher says, doubts included. The authors' code averages over batch *and* classes
#   (`mean`), ten times weaker than the textbook (`batchmean`).
# * **Similarity maps**: $G = FF^\top$ over the batch, $F$ the flattened output of a residual stage:
#   which images look alike to a network. The teachers' maps are merged,
#   $\alpha G_1 + (1-\alpha) G_2$, *then* each row is divided by its norm, which gives
#   $S_{\text{merged}}$; the same with the student's.
# * **Annealing**: the student starts from the scratch student of the same seed and runs the whole
#   schedule again.
#
# | method | labels | image teacher | PI teacher | maps | starts from | why |
# |---|---|---|---|---|---|---|
# | Scratch | ✓ | | | | random | no teacher |
# | KD | ✓ | ✓ | | | random | the usual distillation, averaged by the run's `kl_reduction` |
# | KD, batchmean | ✓ | ✓ | | | random | the textbook's reduction, where the run's is `mean` |
# | KD, annealing | ✓ | ✓ | | | scratch | **control**: as many epochs as TGD |
# | KD, batchmean, annealing | ✓ | ✓ | | | scratch | **control**: both, where the run's is `mean` |
# | TGD without the PI teacher (α = 1) | ✓ | ✓ | | ✓ | scratch | **control**: no topology |
# | TGD | ✓ | ✓ | ✓ | ✓ | scratch | the paper's method |
#
# So *TGD − KD* mixes three things; TGD minus its α = 1 is what the PI teacher adds. (Whether that
# is *topology*, or would be any second teacher, takes one more control: a second image teacher, in
# [04](04_ablations.ipynb).)

# %% tags=["parameters"]
profile: str = "quick"
overrides: dict = {}  # e.g. {"alpha": 0.9}; all names: ./run_all.sh --list

# %%
from IPython.display import Markdown

from tgd_lib import config
from tgd_lib.lab.lab import Lab
from tgd_lib.report import charts, figures, sentences, tables
from tgd_lib.study import methods, questions
from tgd_lib.study.specs import specs_of

settings = config.resolve(profile, **overrides)
lab = Lab(settings)
study = specs_of(lab)
Markdown(sentences.settings(settings))

# %% [markdown]
# ## One step by hand
#
# All of TGD on one batch: the teachers look, their maps are merged, the student looks, the loss is
# the sum of four named terms, and its gradient goes back. First the batch, the first one of the
# first epoch.

# %%
import torch

from tgd_lib.losses import merge_maps, similarity_map, tgd_loss
from tgd_lib.training import batch_order

tgd = study.student("tgd", 0)
order = batch_order(len(lab.data.train.labels), seed=0, epoch=0)
index = order[: settings.batch_size].to(lab.compute.device)  # (B,)
labels = torch.from_numpy(lab.data.train.labels).to(lab.compute.device)[index]

# %% [markdown]
# The teachers look: teacher 1 at the images, teacher 2 at their persistence images. Their
# similarity maps, one for each residual stage, are merged.

# %%
image_teacher, pi_teacher = lab.teacher(study.teacher("image")), lab.teacher(study.teacher("pi"))
image_logits, image_features = image_teacher.look(index)  # (B, classes), three (B, C, H, W)
pi_logits, pi_features = pi_teacher.look(index)
image_maps = [similarity_map(features) for features in image_features]  # three (B, B)
pi_maps = [similarity_map(features) for features in pi_features]
merged = merge_maps(image_maps, pi_maps, alpha=settings.alpha)
print([tuple(g.shape) for g in merged])

# %% [markdown]
# The student looks at the images; it starts as the trained scratch student (annealing). The loss,
# term by term:

# %%
network = lab.network(tgd.start).train()
with lab.compute.autocast():
    outputs = network.stages(lab.pixels(tgd.view, "train")[index])
logits, features, _ = outputs
weights = {
    k: getattr(settings, k) for k in ("alpha", "lam", "temperature", "gamma", "kl_reduction")
}
loss, terms = tgd_loss(logits, labels, features, (image_logits, pi_logits), merged, **weights)
print(f"loss {loss:.4f} =", " + ".join(f"{value:.4f} ({name})" for name, value in terms.items()))

# %% [markdown]
# In training, the teachers do not look at every batch. Nothing is augmented, so what they say of a
# training image is a constant: logits and maps of the whole training set are computed once (the
# **teacher bank**), and a batch takes its part of them. It must come to the same:

# %%
objective = lab.run(tgd).objective  # what the training of this student minimises
from_the_bank, _ = objective(outputs, labels, index, 0)  # in the first epoch
tolerance = 1e-3 if settings.precision == "fp32" else 2e-2  # bf16 has three digits
torch.testing.assert_close(from_the_bank, loss, rtol=tolerance, atol=0)
print(f"by hand {loss:.5f}, from the bank {from_the_bank:.5f}")

# %%
loss.backward()
norm = sum(p.grad.square().sum() for p in network.parameters()).sqrt()
print(f"norm of the gradient: {norm:.4f}; SGD now takes a step against it")

# %% [markdown]
# ## Train the students
#
# Per seed, all methods share the order of batches; those that start at random share their initial
# weights, annealed ones the trained scratch student.

# %%
specs = study.students(methods.TABLE)
lab.train(specs)
rows = [lab.row(spec) for spec in specs]

# %%
tables.readable(rows)

# %% [markdown]
# *What to see:* mean ± standard deviation over seeds on the test set, by the selection rule named.
# Total epochs count those of the start: compare methods that have had as many. Whether methods
# *differ* is not to be read from these spreads, but from differences by seed. What this run shows:

# %%
Markdown(sentences.topology(rows))

# %%
tables.against(rows, "tgd_alpha1")

# %% [markdown]
# And whom do students follow where the teachers disagree? (Seed 0, one network each. *Scratch* has
# no teacher: what it comes to is what to compare with.)

# %%
answers = {}
for name, spec in {"image": study.teacher("image"), "pi": study.teacher("pi")}.items():
    answers[name] = lab.evaluation(spec).array("logits").argmax(1)
students = {}
for method in sentences.labels_of(rows):
    spec = study.student(method, 0)
    students[spec.name] = lab.evaluation(spec).array("logits").argmax(1)
Markdown(sentences.follows(answers["image"], answers["pi"], students))

# %% [markdown]
# ## How they learn

# %%
figure = charts.curves(rows, "training_accuracy", "training accuracy, %")
caption = (
    "Training accuracy in each epoch, as it was while weights changed, mean over seeds. Annealed "
    "students start from a trained scratch student."
)
figures.save(figure, settings, "03_training", caption=caption, source=[r["key"] for r in rows])

# %%
Markdown(sentences.training(rows))

# %% [markdown]
# TGD's loss is a sum of four terms. How large they are, weights included, says what the student is
# driven by, and whether γ suits the length of the training:

# %%
tgd_terms = questions.terms(lab, study.students(["tgd"]))
n = len({r["seed"] for r in tgd_terms})
figure = charts.terms(tgd_terms)
caption = (
    "The four terms of TGD's loss with their weights, means over the images of each epoch and over "
    f"seeds (n = {n})."
)
figures.save(figure, settings, "03_terms", caption=caption, source=[r["key"] for r in tgd_terms])

# %%
Markdown(sentences.terms(tgd_terms))

# %% [markdown]
# ## What the student learns of similarity
#
# The same 64 training images (all, if there are fewer), sorted by class, as the deepest stage of
# each network sees them.

# %%
import numpy as np

by_class = np.argsort(lab.data.train.labels, kind="stable")
evenly = np.linspace(0, len(by_class) - 1, min(64, len(by_class))).astype(int)
index = torch.from_numpy(by_class[evenly])
networks = {"image teacher": study.teacher("image"), "PI teacher": study.teacher("pi")}
students = {spec.name: spec for spec in (tgd.start, study.student("tgd_alpha1", 0), tgd)}
maps = {}
for name, spec in (networks | students).items():
    with torch.no_grad():
        features = lab.network(spec).stages(lab.pixels(spec.view, "train")[index]).features
    maps[name] = similarity_map(features[2])  # (64, 64)

# %%
teachers = [maps["image teacher"]], [maps["PI teacher"]]
merged = merge_maps(*teachers, alpha=settings.alpha)[0]
maps["merged"] = merged
shown = {name: maps[name].cpu().numpy() for name in (*networks, "merged", *students)}
figure = figures.similarity_maps(
    shown, lab.data.train.labels[index.numpy()], lab.data.train.class_names
)
caption = (
    "Similarity maps of the last stage, rows normalised, 64 training images sorted by class; "
    f"merged at alpha = {settings.alpha:g}; one network each, seed 0. Colours end where one entry "
    "in a hundred of the brightest map lies above."
)
keys = {name: spec.key for name, spec in (networks | students).items()}
figures.save(figure, settings, "03_similarity_maps", caption=caption, source=keys)

# %% [markdown]
# *What to see:* bright blocks on the diagonal, where images of one class look alike, and how much
# of the PI teacher's map is left after merging (its share is measured in [04](04_ablations.ipynb)).
# What this run shows, of the last stage and seed 0 alone (the student at α = 1 was trained towards
# the image teacher's map, not the merged one):

# %%
from tgd_lib.losses import maps_loss

distances = {name: float(maps_loss([maps[name]], [merged])) for name in students}
Markdown(sentences.maps(distances))

# %% [markdown]
# ## What the last layer sees
#
# The input of the last layer for 500 test images (all, if there are fewer), laid out in the plane
# by t-SNE. Distances between far groups mean nothing; whether a class hangs together does.

# %%
drawn = ("scratch", "kd", "kd_batchmean_annealed", "tgd_alpha1", "tgd")
examples = [study.student(method, 0) for method in drawn]
places = questions.embedding(lab, examples)
figure = charts.embeddings(places, lab.data.test.class_names)
caption = (
    "t-SNE of the students' last features, test images, seed 0. Each class has a marker of its own."
)
figures.save(figure, settings, "03_tsne", caption=caption, source=places)

# %% [markdown]
# The students of seed 0 (fixed beforehand, not the best) are put into the run's folder, with a
# model card, for use elsewhere.

# %%
from tgd_lib.study import published

published.publish(lab, [spec for spec in specs if spec.seed == 0])
tables.save_records(rows, settings, "03_distillation")
tables.save_records(tgd_terms, settings, "03_terms")
