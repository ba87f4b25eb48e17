"""
Robustness of a classifier
==========================

The classifier that is best for given data, and support vector machines that learned from the same data: all of them
are right nearly always. How far does an image have to be changed until they are wrong?
"""

# %%
# Data whose best classifier is known
# -----------------------------------
# One mixture is fitted to the images of each class. Then new images are drawn from these mixtures: for them, Bayes'
# rule over the mixtures is the best classifier there is. ``symmetric`` gives every component the same, small noise.

import os

import matplotlib.pyplot as plt
import numpy as np
from sklearn.svm import SVC, LinearSVC

from mfa_fast import MFAClassifier, attacks
from mfa_fast.datasets import load_digits_pair, load_mnist_pair

data = os.environ.get("MFA_FAST_DATA")
digits = load_mnist_pair(0, 6, data) if data else load_digits_pair(0, 6)
fitted = MFAClassifier(n_components=5, n_factors=4, random_state=0).fit(digits.X_train, digits.y_train)
bayes = fitted.symmetric(noise_std=0.001)
X_train, y_train = bayes.sample(4000, random_state=0)
X, y = bayes.sample(500, random_state=1)

# %%
# Machines that learn from samples
# --------------------------------

classifiers = {
    "Bayes-optimal": bayes,
    "RBF SVM": SVC(C=100).fit(X_train, y_train),
    "linear SVM": LinearSVC(C=1, random_state=0).fit(X_train, y_train),
}
for name, classifier in classifiers.items():
    print(f"{name:<14} accuracy {classifier.score(X, y):.3f}")

# %%
# Attacks
# -------
# :func:`~mfa_fast.attacks.ld_grad` goes to the other side of the decision boundary in closed form, in a few steps.
# :func:`~mfa_fast.attacks.nearest` finds the nearest point there, and proves that none is nearer. For the linear
# machine LD-Grad is exact as well; for the RBF kernel it is an upper bound: there may be something nearer.

results = {name: attacks.ld_grad(classifier, X, y, steps=50) for name, classifier in classifiers.items()}
exact = attacks.nearest(bayes, X, y)
for name, result in results.items():
    print(f"{name:<14} mean L2 {result.summary()['mean_l2']:.2f}")
print(f"{'exact minimum':<14} mean L2 {exact.summary()['mean_l2']:.2f}, proved for {exact.certified.mean():.0%}")

# %%
# Security curves: what is left of the accuracy when every image may be moved by so much. LD-Grad on the Bayes-optimal
# classifier is a few per cent off what is proved. The linear machine, as accurate, gives in to smaller changes; how
# near the Gaussian kernel comes to the best classifier depends on its width and on the data.

radii = np.linspace(0, 1.1 * exact.l2.max(), 200)
fig, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
for name, result in results.items():
    axes.plot(radii, result.security_curve(radii), label=f"{name}, LD-Grad")
axes.plot(radii, exact.certified_curve(radii), color="black", linestyle=":", label="Bayes-optimal, proved")
axes.set(xlabel="L2 radius", ylabel="accuracy under attack", ylim=(-0.02, 1.05))
_ = axes.legend()

# %%
# What the images look like
# -------------------------
# Above each image, how far it was moved. What fools the Bayes-optimal classifier is half way to the other digit; the
# linear machine is fooled by less.

shown = np.concatenate([np.flatnonzero(y == label)[:4] for label in bayes.classes_])
rows = {"original": X} | {name: result.X_adv for name, result in results.items()}

fig, grid = plt.subplots(len(rows), len(shown), figsize=(7.5, 4.4), layout="constrained")
for row, (name, images) in zip(grid, rows.items(), strict=True):
    row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for axes, i in zip(row, shown, strict=True):
        axes.imshow(images[i].reshape(digits.image_shape), cmap="gray_r", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        if name in results:
            axes.set_title(f"{results[name].l2[i]:.2f}", fontsize=8)
