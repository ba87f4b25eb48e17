"""What the paper reports, each figure with its source.

Richardson & Weiss, "A Bayes-Optimal View on Adversarial Examples": JMLR 22(221), 2021 (CC BY 4.0;
bar heights read off its figures to +-0.005), and its first version of 2020 (ICLR submission).
"""

from dataclasses import dataclass

_JMLR = "JMLR 22(221) 2021, figure 7"
# Of asymmetric data: the faces of Male are in figure 4, all others in figure 7.
_ICLR_MALE, _ICLR_OTHERS = "ICLR 2020 submission, figure 4", "ICLR 2020 submission, figure 7"


@dataclass(frozen=True)
class PaperFigure:
    """A mean L2 distance of the paper and where it stands."""

    mean_l2: float
    source: str


# Model keys are those of main_job.MODELS.
_MNIST: dict[tuple[int, int], dict[str, float]] = {
    (0, 6): {"bayes_symmetric": 2.982, "cnn": 1.838, "linear_svm": 1.092, "rbf_svm": 2.690},
    (2, 7): {"bayes_symmetric": 2.913, "cnn": 1.585, "linear_svm": 0.650, "rbf_svm": 2.511},
    (4, 5): {"bayes_symmetric": 3.165, "cnn": 2.220, "linear_svm": 1.016, "rbf_svm": 2.827},
}
_MNIST_ASYMMETRIC = {(0, 6): 0.5}

# attribute: (Bayes-optimal, CNN, linear SVM, RBF SVM)
_CELEBA: dict[str, tuple[float, float, float, float]] = {
    "Bangs": (3.379, 0.753, 0.125, 2.961),
    "Black_Hair": (3.021, 0.819, 0.085, 2.554),
    "Brown_Hair": (2.760, 0.653, 0.048, 1.963),
    "Heavy_Makeup": (3.074, 0.832, 0.392, 2.070),
    "High_Cheekbones": (2.987, 0.962, 0.258, 2.056),
    "Male": (3.315, 0.820, 0.546, 2.455),
    "Mouth_Slightly_Open": (2.827, 0.622, 0.267, 1.842),
    "No_Beard": (3.189, 0.681, 0.308, 2.452),
    "Smiling": (3.142, 0.855, 0.582, 2.204),
    "Wearing_Earrings": (2.771, 0.743, 0.099, 1.857),
    "Wearing_Lipstick": (3.169, 0.671, 0.450, 2.320),
    "Eyeglasses": (3.887, 0.977, 0.504, 2.909),
}
_CELEBA_ASYMMETRIC = {"Male": 0.9, "Smiling": 0.8}


# Accuracy and, in brackets there, adversarial accuracy of the RBF SVM; of all others 98 to 100 % and 0 to 2 %.
_TABLE_1: dict[str, tuple[float, float]] = {
    "CelebA Bangs": (0.96, 0.18),
    "CelebA Black_Hair": (0.96, 0.26),
    "CelebA Brown_Hair": (0.86, 0.16),
    "CelebA Heavy_Makeup": (0.96, 0.14),
    "CelebA High_Cheekbones": (0.96, 0.10),
    "CelebA Male": (1.00, 0.08),
    "CelebA Mouth_Slightly_Open": (0.94, 0.08),
    "CelebA No_Beard": (0.94, 0.10),
    "CelebA Smiling": (0.96, 0.10),
    "CelebA Wearing_Earrings": (0.94, 0.16),
    "CelebA Wearing_Lipstick": (0.92, 0.18),
    "CelebA Eyeglasses": (1.00, 0.22),
    "MNIST 0-6": (1.00, 0.04),
    "MNIST 2-7": (1.00, 0.07),
    "MNIST 4-5": (1.00, 0.08),
}
# Accuracy and adversarial accuracy of CNNs where they differ from 100 % and 0.
_TABLE_1_CNN = {
    "CelebA Black_Hair": (0.98, 0.02),
    "CelebA Brown_Hair": (0.99, 0.01),
    "CelebA Wearing_Earrings": (0.99, 0.01),
}

# TRADES on a symmetric data set: beta to (mean L2, accuracy).
TRADES = {0.0: (0.710, 0.996), 2.0: (2.942, 0.911), 5.0: (3.608, 0.852), 10.0: (4.341, 0.813)}
TRADES_SOURCE = "JMLR 22(221) 2021, figure 10"

# The attributes of faces in figures 9 to 11 and in table 2 of the first version, and the names of their data sets.
ATTRIBUTES = ("Male", "Smiling", "Bangs", "Heavy_Makeup", "Eyeglasses")
FACES = tuple(f"CelebA {name}" for name in ATTRIBUTES)

# Accuracy on real test images of CNNs that learned from real, and from symmetric, images.
_TABLE_2 = {
    "CelebA Male": (0.923, 0.880),
    "CelebA Smiling": (0.895, 0.856),
    "CelebA Bangs": (0.943, 0.904),
    "CelebA Heavy_Makeup": (0.863, 0.799),
    "CelebA Eyeglasses": (0.984, 0.917),
}

# Real faces, attribute: (CNN, linear SVM, RBF SVM)
_REAL_CELEBA: dict[str, tuple[float, float, float]] = {
    "Male": (0.285, 0.171, 2.378),
    "Smiling": (0.133, 0.121, 2.286),
    "Bangs": (0.175, 0.107, 4.002),
    "Heavy_Makeup": (0.119, 0.107, 2.378),
    "Eyeglasses": (0.204, 0.316, 4.712),
}

_REAL_CELEBA_SOURCE = "JMLR 22(221) 2021, figure 11"

# Real images of CIFAR-10, pair: (CNN, linear SVM, RBF SVM)
_REAL_CIFAR: dict[str, tuple[float, float, float]] = {
    "airplane-automobile": (0.572, 0.076, 1.889),
    "automobile-bird": (0.702, 0.059, 2.472),
    "bird-cat": (0.236, 0.083, 1.179),
    "cat-deer": (0.290, 0.065, 1.468),
    "deer-dog": (0.302, 0.067, 1.966),
    "dog-frog": (0.359, 0.123, 1.411),
    "frog-horse": (0.469, 0.058, 1.613),
    "horse-ship": (0.509, 0.055, 2.395),
    "ship-truck": (0.379, 0.074, 1.724),
    "truck-airplane": (0.433, 0.074, 2.383),
}

CIFAR_SOURCE = "JMLR 22(221) 2021, figure 12"

# Real faces, CelebA Male, in the first version: (mean L2, accuracy, accuracy under attack).
FIGURE_12 = {"cnn": (0.59, 0.963, 0.037), "linear_svm": (0.15, 0.900, 0.100), "rbf_svm": (2.99, 0.893, 0.160)}
FIGURE_12_SOURCE = "ICLR 2020 submission, figure 12"

# Distance to the nearest subspace of the other class on CelebA Male (JMLR, read off a histogram).
SUBSPACE_MALE = 6.2


def mnist_figures(pair: tuple[int, int]) -> dict[str, PaperFigure]:
    """Return the paper's figures for a pair of MNIST digits, by model; empty where it has none."""
    key = (min(pair), max(pair))
    figures = {model: PaperFigure(value, _JMLR) for model, value in _MNIST.get(key, {}).items()}
    if key in _MNIST_ASYMMETRIC:
        figures["bayes_asymmetric"] = PaperFigure(_MNIST_ASYMMETRIC[key], _ICLR_OTHERS)
    return figures


def celeba_figures(attribute: str) -> dict[str, PaperFigure]:
    """Return the paper's figures for an attribute of CelebA, by model; empty where it has none."""
    if attribute not in _CELEBA:
        return {}
    keys = ("bayes_symmetric", "cnn", "linear_svm", "rbf_svm")
    figures = {model: PaperFigure(value, _JMLR) for model, value in zip(keys, _CELEBA[attribute], strict=True)}
    if attribute in _CELEBA_ASYMMETRIC:
        source = _ICLR_MALE if attribute == "Male" else _ICLR_OTHERS
        figures["bayes_asymmetric"] = PaperFigure(_CELEBA_ASYMMETRIC[attribute], source)
    return figures


def real_figures(name: str) -> dict[str, PaperFigure]:
    """Return the paper's figures for classifiers of real images, by model; empty where it has none."""
    data_set, _, what = name.partition(" ")
    sets = {"CelebA": (_REAL_CELEBA, _REAL_CELEBA_SOURCE), "CIFAR-10": (_REAL_CIFAR, CIFAR_SOURCE)}
    table, source = sets.get(data_set, ({}, ""))
    keys = ("cnn", "linear_svm", "rbf_svm")
    return {model: PaperFigure(value, source) for model, value in zip(keys, table.get(what, ()), strict=what in table)}


def clean_and_adversarial_accuracy(name: str, model: str) -> tuple[float, float] | None:
    """Return the two accuracies of table 1 (ICLR 2020) for a data set and a model; None where it has none."""
    if name not in _TABLE_1:
        return None
    if model == "rbf_svm":
        return _TABLE_1[name]
    return _TABLE_1_CNN.get(name, (1.0, 0.0)) if model == "cnn" else (1.0, 0.0)


def accuracy_on_real_images(name: str) -> tuple[float, float] | None:
    """Return table 2 (ICLR 2020): accuracies after training on real and on symmetric images; None where it has none."""
    return _TABLE_2.get(name)
