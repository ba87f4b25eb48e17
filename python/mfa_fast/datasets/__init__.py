"""Real images of two classes, endless samples of a known distribution, and distributions that can be drawn.

Images come as a `sklearn.utils.Bunch` with the same entries whatever their source: see
`load_digits_pair`.
"""

from mfa_fast.datasets.celeba import load_celeba
from mfa_fast.datasets.cifar import load_cifar10_pair
from mfa_fast.datasets.digits import load_digits_pair
from mfa_fast.datasets.mnist import load_mnist_pair
from mfa_fast.datasets.stream import SampleStream
from mfa_fast.datasets.toys import DiscreteToy, discrete_toy, gaussian_toy, helix

__all__ = [
    "DiscreteToy",
    "SampleStream",
    "discrete_toy",
    "gaussian_toy",
    "helix",
    "load_celeba",
    "load_cifar10_pair",
    "load_digits_pair",
    "load_mnist_pair",
]
