"""Mean L2 distances that the paper reports, each with its source.

Richardson & Weiss, "A Bayes-Optimal View on Adversarial Examples": JMLR 22(221), 2021 (CC BY 4.0;
bar heights read off figure 7 to +-0.005), and its first version of 2020 (ICLR submission, figure 4,
rounded there to one decimal).
"""

from dataclasses import dataclass

_JMLR = "JMLR 22(221) 2021, figure 7"
_ICLR = "ICLR 2020 submission, figure 4"


@dataclass(frozen=True)
class PaperFigure:
    """A mean L2 distance of the paper and where it stands."""

    mean_l2: float
    source: str


# Model keys are those of main_job.MODELS.
_MNIST: dict[tuple[int, int], dict[str, float]] = {
    (0, 6): {"bayes_symmetric": 2.982, "linear_svm": 1.092, "rbf_svm": 2.690},
    (2, 7): {"bayes_symmetric": 2.913, "linear_svm": 0.650, "rbf_svm": 2.511},
    (4, 5): {"bayes_symmetric": 3.165, "linear_svm": 1.016, "rbf_svm": 2.827},
}
_MNIST_ASYMMETRIC = {(0, 6): 0.5}

# attribute: (Bayes-optimal, linear SVM, RBF SVM)
_CELEBA: dict[str, tuple[float, float, float]] = {
    "Bangs": (3.379, 0.125, 2.961),
    "Black_Hair": (3.021, 0.085, 2.554),
    "Brown_Hair": (2.760, 0.048, 1.963),
    "Heavy_Makeup": (3.074, 0.392, 2.070),
    "High_Cheekbones": (2.987, 0.258, 2.056),
    "Male": (3.315, 0.546, 2.455),
    "Mouth_Slightly_Open": (2.827, 0.267, 1.842),
    "No_Beard": (3.189, 0.308, 2.452),
    "Smiling": (3.142, 0.582, 2.204),
    "Wearing_Earrings": (2.771, 0.099, 1.857),
    "Wearing_Lipstick": (3.169, 0.450, 2.320),
    "Eyeglasses": (3.887, 0.504, 2.909),
}
_CELEBA_ASYMMETRIC = {"Male": 0.9, "Smiling": 0.8}


def mnist_figures(pair: tuple[int, int]) -> dict[str, PaperFigure]:
    """Return the paper's figures for a pair of MNIST digits, by model; empty where it has none."""
    key = (min(pair), max(pair))
    figures = {model: PaperFigure(value, _JMLR) for model, value in _MNIST.get(key, {}).items()}
    if key in _MNIST_ASYMMETRIC:
        figures["bayes_asymmetric"] = PaperFigure(_MNIST_ASYMMETRIC[key], _ICLR)
    return figures


def celeba_figures(attribute: str) -> dict[str, PaperFigure]:
    """Return the paper's figures for an attribute of CelebA, by model; empty where it has none."""
    if attribute not in _CELEBA:
        return {}
    keys = ("bayes_symmetric", "linear_svm", "rbf_svm")
    figures = {model: PaperFigure(value, _JMLR) for model, value in zip(keys, _CELEBA[attribute], strict=True)}
    if attribute in _CELEBA_ASYMMETRIC:
        figures["bayes_asymmetric"] = PaperFigure(_CELEBA_ASYMMETRIC[attribute], _ICLR)
    return figures
