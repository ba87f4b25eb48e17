"""
Inpainting: half of the image is missing
========================================

What is the lower half of a digit whose upper half is seen? A mixture of factor analyzers knows the distribution of the
missing pixels given the others, in closed form: their mean, how sure it is of them, and draws from it.
"""

# %%
# The model is fitted to whole images: those that come with scikit-learn, or MNIST's where ``MFA_FAST_DATA`` names a
# folder that holds it. Five pairs are all ten digits; their labels are not used.

import os

import matplotlib.pyplot as plt
import numpy as np
from sklearn.impute import KNNImputer, SimpleImputer

from mfa_fast import MFA
from mfa_fast.datasets import load_digits_pair, load_mnist_pair

data = os.environ.get("MFA_FAST_DATA")
pairs = [load_mnist_pair(a, a + 1, data) if data else load_digits_pair(a, a + 1) for a in range(0, 10, 2)]
X_train = np.concatenate([pair.X_train for pair in pairs])
X_test = np.concatenate([pair.X_test for pair in pairs])
X_train = X_train[:: 1 + len(X_train) // 10_000]  # of MNIST every seventh
X_test = X_test[:: 1 + len(X_test) // 500]
height, width = pairs[0].image_shape
settings = {"noise_type": "diag", "min_noise_variance": 1e-3, "tol": 1e-2, "max_iter": 200, "random_state": 0}
model = MFA(n_components=10, n_factors=16, **settings).fit(X_train)

# %%
# Fill in what is missing
# -----------------------
# Missing is what is NaN. :meth:`~mfa_fast.MFA.impute` puts the conditional mean in its place: under the model, no guess
# has a smaller mean squared error. :meth:`~mfa_fast.MFA.conditional` tells more. Where the upper half leaves open which
# digit it is, the mean is a blend of several, its standard deviation is large (dark), and draws differ.

lower_half = np.arange(X_test.shape[1]) >= height // 2 * width
hidden = np.where(lower_half, np.nan, X_test)
conditional = model.conditional(hidden)
draws = conditional.sample(3, random_state=0)
rows = [
    ("original", X_test),
    ("seen", hidden),
    ("mean", model.impute(hidden)),
    ("standard\ndeviation", 3 * np.sqrt(conditional.variance)),  # three times, to be seen
    ("draws", draws[0]),
    ("", draws[1]),
    ("", draws[2]),
]

shown = np.arange(10) * (len(X_test) // 10)
gray = plt.get_cmap("gray_r").with_extremes(bad="lightsteelblue")
fig, grid = plt.subplots(len(rows), len(shown), figsize=(8, 5.4), layout="constrained")
for row, (name, images) in zip(grid, rows, strict=True):
    row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for axes, image in zip(row, images[shown], strict=True):
        axes.imshow(image.reshape(height, width), cmap=gray, vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])

error = (conditional.mean - X_test)[:, lower_half]
spread = np.sqrt(conditional.variance[:, lower_half])
print(f"{np.mean(np.abs(error) < 2 * spread):.0%} of the missing pixels are within two standard deviations of the mean")

# %%
# How good is it?
# ---------------
# The root-mean-square error over the missing pixels, when ever more rows of pixels are missing from below. For
# comparison: the pixels' means, and the mean of the five nearest training images. Where a good part of the image is
# seen, the mixture is far better than the former and about as good as the latter, and it needs none of the training
# images any more.

rest = range(1, height, max(1, height // 8))
imputers = {
    "mean of the pixel": SimpleImputer().fit(X_train).transform,
    "five nearest images": KNNImputer().fit(X_train).transform,
    "mixture of factor analyzers": model.impute,
}
errors = {name: [] for name in imputers}
for n_rows in rest:
    missing = np.arange(X_test.shape[1]) >= (height - n_rows) * width
    incomplete = np.where(missing, np.nan, X_test)
    for name, impute in imputers.items():
        difference = impute(incomplete)[:, missing] - X_test[:, missing]
        errors[name].append(np.sqrt(np.mean(difference**2)))

fig, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
for name, values in errors.items():
    axes.plot(np.array(rest) / height, values, "o-", label=name)
axes.set(xlabel="part of the image that is missing", ylabel="root-mean-square error\nof the missing pixels")
axes.set_ylim(bottom=0)
_ = axes.legend(loc="lower right")
