"""Real images of two classes, and endless samples of a known distribution.

Images come as a `sklearn.utils.Bunch` with the same entries whatever their source: see
`load_digits_pair`.
"""

from mfa_fast.datasets.celeba import load_celeba
from mfa_fast.datasets.digits import load_digits_pair
from mfa_fast.datasets.mnist import load_mnist_pair
from mfa_fast.datasets.stream import SampleStream

__all__ = ["SampleStream", "load_celeba", "load_digits_pair", "load_mnist_pair"]
