"""
The density of digits
=====================

How many components, and how many factors, do images of digits need? The likelihood of images that were held out says
so. A mixture of factor analyzers is a density: it can be asked how probable an image is, and asked for new ones.
"""

# %%
# The images are those that come with scikit-learn, or MNIST's where ``MFA_FAST_DATA`` names a folder that holds it.
# Five pairs are all ten digits; their labels are not used.

import os

import matplotlib.pyplot as plt
import numpy as np
from sklearn.mixture import GaussianMixture

from mfa_fast import MFA
from mfa_fast.datasets import load_digits_pair, load_mnist_pair

data = os.environ.get("MFA_FAST_DATA")
pairs = [load_mnist_pair(a, a + 1, data) if data else load_digits_pair(a, a + 1) for a in range(0, 10, 2)]
X_train = np.concatenate([pair.X_train for pair in pairs])
X_test = np.concatenate([pair.X_test for pair in pairs])
X_train = X_train[:: 1 + len(X_train) // 10_000]  # of MNIST every seventh: some thirty mixtures are to be fitted
image_shape = pairs[0].image_shape
print(f"{len(X_train)} images to fit, {len(X_test)} held out, {X_train.shape[1]} pixels each")

# %%
# Mixtures of all sizes
# ---------------------
# A component without factors takes pixels to be independent. Each factor is a direction in which the images of a
# component vary: slant, width, thickness of the stroke. For comparison, Gaussians with full covariance matrices.
#
# With more components and factors the fit gets better, and from some size on worse for images that were held out. A few
# factors do what full covariances do, with a fraction of the parameters.

settings = {"noise_type": "diag", "min_noise_variance": 1e-3, "tol": 1e-2, "max_iter": 200, "random_state": 0}
components = [1, 2, 5, 10, 20, 40]
factors = [0, 2, 4, 8, 16]
models = {(K, L): MFA(K, L, **settings).fit(X_train) for K in components for L in factors}
scores = {size: model.score(X_test) for size, model in models.items()}

fig, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
for L in factors:
    axes.plot(components, [scores[K, L] for K in components], "o-", label=f"{L} factors")
if data is None:  # with MNIST's 784 pixels they take minutes
    full = [GaussianMixture(K, reg_covar=1e-3, random_state=0).fit(X_train) for K in components]
    axes.plot(components, [model.score(X_test) for model in full], "s--", color="gray", label="full covariances")
axes.set_xscale("log")
axes.set_xticks(components, components)
axes.minorticks_off()
axes.set(xlabel="components", ylabel="mean log-likelihood\nof held-out images, nats")
_ = axes.legend()

# %%
# The best of them, asked for images
# ----------------------------------
# The means of its heaviest components; a new sample of each, without the noise; and the held-out image that is most
# probable in it.

K, L = max(scores, key=scores.get)
model = models[K, L]
print(f"{K} components of {L} factors, {model.n_parameters():,} parameters: {scores[K, L]:.1f} nats per image")

samples, components_of_samples = model.sample(5000, noise=False, random_state=0)
log_prob = model.weighted_log_prob(X_test)
shown = np.argsort(-model.weights_)[:10]
rows = {
    "means": model.means_[shown],
    "samples": [samples[components_of_samples == k][0] for k in shown],
    "held out": X_test[np.argmax(log_prob[:, shown], axis=0)],
}

fig, grid = plt.subplots(len(rows), len(shown), figsize=(8, 2.6), layout="constrained")
for row, (name, images) in zip(grid, rows.items(), strict=True):
    row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for axes, image in zip(row, images, strict=True):
        axes.imshow(image.reshape(image_shape), cmap="gray_r", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])

# %%
# What the factors of a component do
# ----------------------------------
# The mean of the heaviest component, moved by -2 to 2 standard deviations along the four factors that change most.

k = shown[0]
# Factors are determined up to a rotation; this one sorts them.
_, lengths, directions = np.linalg.svd(model.loadings_[k], full_matrices=False)
steps = np.linspace(-2, 2, 9)

fig, grid = plt.subplots(4, len(steps), figsize=(7, 3.4), layout="constrained")
for row, length, direction in zip(grid, lengths, directions, strict=False):
    for axes, step in zip(row, steps, strict=True):
        image = model.means_[k] + step * length * direction
        axes.imshow(image.reshape(image_shape), cmap="gray_r", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
for axes, step in zip(grid[0], steps, strict=True):
    axes.set_title(f"{step:+g}" if step else "mean", fontsize=9)
