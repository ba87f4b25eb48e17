"""CIFAR-10: batches in the format of its python version, and with something wrong."""

import pickle

import numpy as np
import pytest

from loader_checks import check_form, message
from mfa_fast.datasets import load_cifar10_pair

TRAIN, TEST = [f"data_batch_{i}" for i in range(1, 6)], "test_batch"
CAT, DOG = 3, 5


def batch(seed, n=40):
    rng = np.random.default_rng(seed)
    return {
        b"batch_label": b"training batch",
        b"labels": [int(i) for i in rng.permutation(np.arange(n) % 10)],
        b"data": rng.integers(0, 256, (n, 3072), dtype=np.uint8),
        b"filenames": [b"x.png"] * n,
    }


class _NumPy1Pickler(pickle._Pickler):
    """Writes arrays under the names that NumPy had when the official files were made, by Python 2."""

    def save_global(self, obj, name=None):
        module = getattr(obj, "__module__", None)
        if module == "numpy._core.multiarray":
            self.write(b"cnumpy.core.multiarray\n" + obj.__name__.encode() + b"\n")
            self.memoize(obj)
        else:
            super().save_global(obj, name)

    dispatch = pickle._Pickler.dispatch.copy()
    dispatch[type(len)] = save_global


def write(folder, batches=None):
    folder.mkdir(parents=True, exist_ok=True)
    batches = batches or {name: batch(seed) for seed, name in enumerate([*TRAIN, TEST])}
    for name, content in batches.items():
        with (folder / name).open("wb") as file:
            _NumPy1Pickler(file, protocol=2).dump(content)
    (folder / "batches.meta").write_bytes(b"not looked at")
    return batches


@pytest.fixture
def cifar(tmp_path):
    return tmp_path, write(tmp_path / "cifar-10-batches-py")


def test_official_layout(cifar):
    folder, batches = cifar
    assert b"numpy.core.multiarray" in (folder / "cifar-10-batches-py" / TEST).read_bytes()
    for path in (folder, folder / "cifar-10-batches-py", str(folder)):
        pair = load_cifar10_pair("cat", "dog", path)
        check_form(pair, [0, 1])
        assert pair.name == "CIFAR-10 cat-dog"
        assert pair.target_names == ["cat", "dog"]
        assert pair.image_shape == (32, 32, 3)
        assert len(pair.y_train) == 40 and len(pair.y_test) == 8
    first = np.flatnonzero(np.isin(batches[TEST][b"labels"], (CAT, DOG)))[0]
    stored = batches[TEST][b"data"][first].reshape(3, 32, 32)
    image = pair.X_test[0].reshape(pair.image_shape)
    for colour in range(3):
        np.testing.assert_allclose(image[:, :, colour], stored[colour] / 255, rtol=1e-6)
    labels = [label for label in batches[TEST][b"labels"] if label in (CAT, DOG)]
    np.testing.assert_array_equal(pair.y_test, np.array(labels) == DOG)


def test_order_of_the_classes_is_that_of_the_arguments(cifar):
    cats, dogs = (load_cifar10_pair(*names, cifar[0]) for names in (("cat", "dog"), ("dog", "cat")))
    np.testing.assert_array_equal(cats.y_train, 1 - dogs.y_train)
    np.testing.assert_array_equal(cats.X_train, dogs.X_train)


@pytest.mark.parametrize(
    ("names", "error", "words"),
    [
        (("cat", "cat"), ValueError, "different"),
        (("cat", "cow"), ValueError, "airplane"),
        ((3, "cat"), TypeError, "string"),
    ],
)
def test_wrong_classes(names, error, words, cifar):
    assert words in message(error, load_cifar10_pair, *names, cifar[0])


def test_missing_files_are_named(tmp_path):
    assert "nowhere" in message(FileNotFoundError, load_cifar10_pair, "cat", "dog", tmp_path / "nowhere")
    assert "data_batch_1" in message(FileNotFoundError, load_cifar10_pair, "cat", "dog", tmp_path)
    assert "path" in message(TypeError, load_cifar10_pair, "cat", "dog", None)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no pickle", "damaged"),
        (pickle.dumps(batch(0))[:-2000], "damaged"),
        (pickle.dumps([1, 2]), "without"),
        (pickle.dumps({b"data": np.zeros((3, 5), np.uint8), b"labels": [1, 2, 3]}), "(3, 5)"),
        (pickle.dumps({b"data": np.zeros((3, 3072), np.float32), b"labels": [1, 2, 3]}), "float32"),
        (pickle.dumps({b"data": np.zeros((3, 3072), np.uint8), b"labels": [1, 2]}), "labels"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 12]}), "0 to 9"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, [2, 3]]}), "lists"),
    ],
)
def test_damaged_files_are_named(content, words, cifar):
    path = cifar[0] / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(content)
    text = message(ValueError, load_cifar10_pair, "cat", "dog", cifar[0])
    assert "data_batch_2" in text and words in text


class _Spell:
    def __reduce__(self):
        return (exec, ("raise SystemExit('ran')",))


def test_a_pickle_cannot_run_anything(cifar):
    (cifar[0] / "cifar-10-batches-py" / TEST).write_bytes(pickle.dumps({b"data": _Spell(), b"labels": []}))
    text = message(ValueError, load_cifar10_pair, "cat", "dog", cifar[0])
    assert "exec" in text
