"""The digits that come with scikit-learn."""

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.utils import Bunch

from mfa_fast.datasets._bunch import digit_pair_bunch
from mfa_fast.datasets._checks import check_digit_pair

BRIGHTEST = 16  # pixels count the dark points of a block of 4 x 4
TEST_FRACTION = 0.25


def load_digits_pair(a: int, b: int) -> Bunch:
    """Load two digits of scikit-learn's bundled data set, which needs no files and no network.

    A quarter of each class is the test part, always the same one.

    Parameters
    ----------
    a, b : int
        Two different digits from 0 to 9, in any order.

    Returns
    -------
    sklearn.utils.Bunch
        X_train : ndarray of shape (n_train, 64), float32
            Training images, one per row, from 0 (background) to 1.
        y_train : ndarray of shape (n_train,), int64
            The digits themselves, so that a classifier's ``classes_`` are the two digits.
        X_test, y_test
            The same for the test part.
        image_shape : tuple of int
            ``(8, 8)``: ``X_train[i].reshape(image_shape)`` is an image.
        target_names : list of str
            Names of the classes, the smaller digit first.
        name : str
            Such as "digits 0-6".
        DESCR : str
            Where the images come from, and how many there are.

    Raises
    ------
    TypeError, ValueError
        If `a` and `b` are not two different integers from 0 to 9.

    References
    ----------
    E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
    Repository, 1998.

    Examples
    --------
    >>> from mfa_fast.datasets import load_digits_pair
    >>> digits = load_digits_pair(0, 6)
    >>> digits.name, digits.X_train.shape, digits.X_test.shape
    ('digits 0-6', (269, 64), (90, 64))
    """
    pair = check_digit_pair(a, b)
    digits = load_digits()
    # All ten digits are split, so that a digit has the same test images in every pair.
    images, test_images, labels, test_labels = train_test_split(
        digits.images,
        digits.target,
        test_size=TEST_FRACTION,
        stratify=digits.target,
        random_state=0,
    )
    return digit_pair_bunch(
        "digits",
        "Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, 1998), from scikit-learn.",
        pair,
        train=(images, labels),
        test=(test_images, test_labels),
        maximum=BRIGHTEST,
    )
