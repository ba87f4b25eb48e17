"""Loaders of digits: the formats that they read, and what they say about damaged files."""

import gzip
import os
import struct
import zipfile

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.utils import Bunch

from loader_checks import check_form, message
from mfa_fast.datasets import load_digits_pair, load_mnist_pair

RNG = np.random.default_rng(0)
NPZ_NAMES = ("x_train", "y_train", "x_test", "y_test")
# A small MNIST: every digit four times in the training part and twice in the test part.
SMALL = {
    "x_train": RNG.integers(0, 256, (40, 28, 28), dtype=np.uint8),
    "y_train": RNG.permutation(np.repeat(np.arange(10, dtype=np.uint8), 4)),
    "x_test": RNG.integers(0, 256, (20, 28, 28), dtype=np.uint8),
    "y_test": RNG.permutation(np.repeat(np.arange(10, dtype=np.uint8), 2)),
}


def check_equals(bunch, arrays, pair):
    """Compare with a selection by hand."""
    for part in ("train", "test"):
        images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        kept = (labels == pair[0]) | (labels == pair[1])
        expected = images[kept].reshape(-1, 784).astype(np.float32) / 255
        assert np.array_equal(bunch[f"X_{part}"], expected)
        assert np.array_equal(bunch[f"y_{part}"], labels[kept])


# scikit-learn's digits.


@pytest.mark.parametrize("pair", [(0, 6), (7, 2)])
def test_digits(pair):
    digits = load_digits_pair(*pair)
    check_form(digits, sorted(pair))
    assert digits.image_shape == (8, 8)
    assert digits.name == "digits {}-{}".format(*sorted(pair))
    assert digits.target_names == [str(digit) for digit in sorted(pair)]
    # The two parts together are the images of scikit-learn, each once.
    X = np.concatenate([digits.X_train, digits.X_test])
    source = load_digits()
    expected = source.data[np.isin(source.target, pair)] / 16
    assert np.array_equal(np.sort(X, axis=0), np.sort(expected.astype(np.float32), axis=0))
    for digit in pair:
        n_test = np.sum(digits.y_test == digit)
        n = n_test + np.sum(digits.y_train == digit)
        assert abs(n_test / n - 0.25) <= 0.01


def test_digits_are_split_the_same_way_every_time():
    first, again = load_digits_pair(0, 6), load_digits_pair(6, 0)
    other = load_digits_pair(0, 1)
    for name in ("X_train", "y_train", "X_test", "y_test"):
        assert np.array_equal(first[name], again[name])
    zeros = [bunch.X_test[bunch.y_test == 0] for bunch in (first, other)]
    assert np.array_equal(*zeros)


@pytest.mark.parametrize("load", [load_digits_pair, load_mnist_pair])
def test_pair_must_be_two_different_digits(load):
    assert message(ValueError, load, 3, 3) == ("a and b must be two different digits; got 3 twice")
    assert message(ValueError, load, 10, 3) == "a must be an integer from 0 to 9; got 10."
    assert message(ValueError, load, 3, -1) == "b must be an integer from 0 to 9; got -1."
    for strange in (1.0, "1", True, None, np.ones((9, 9))):
        text = message(TypeError, load, strange, 3)
        assert text.startswith("a must be an integer from 0 to 9; got ")
        assert text.endswith(f" of type {type(strange).__name__}.")


def test_pair_may_be_numpy_integers():
    assert load_digits_pair(np.uint8(0), np.int64(6)).name == "digits 0-6"


# MNIST.


def idx(array):
    """Return the bytes of an IDX file."""
    header = struct.pack(">HBB", 0, 0x08, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def idx_files(dot="-"):
    names = ("train-images", "train-labels", "t10k-images", "t10k-labels")
    return {
        f"{name}{dot}idx{SMALL[key].ndim}-ubyte": idx(SMALL[key]) for name, key in zip(names, NPZ_NAMES, strict=True)
    }


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def keras(folder, **changes):
    path = folder / "mnist.npz"
    np.savez_compressed(path, **{**SMALL, **changes})
    return path


def test_mnist_of_keras(tmp_path):
    path = keras(tmp_path)
    for data in (path, str(path), tmp_path):
        bunch = load_mnist_pair(6, 0, data=data)
        check_form(bunch, [0, 6])
        check_equals(bunch, SMALL, (0, 6))
        assert bunch.name == "MNIST 0-6"
        assert bunch.target_names == ["0", "6"]
        assert bunch.image_shape == (28, 28)


@pytest.mark.parametrize("subfolder", ["", "raw", "MNIST/raw"])
@pytest.mark.parametrize("dot", ["-", "."])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_mnist_of_idx_files(tmp_path, subfolder, dot, ending):
    pack = gzip.compress if ending else bytes
    files = {name + ending: pack(content) for name, content in idx_files(dot).items()}
    write(tmp_path / subfolder, files)
    bunch = load_mnist_pair(2, 7, data=tmp_path)
    check_form(bunch, [2, 7])
    check_equals(bunch, SMALL, (2, 7))


def test_mnist_of_idx_files_beside_folders_of_the_same_names(tmp_path):
    write(tmp_path, idx_files("."))
    for name, content in idx_files("-").items():
        write(tmp_path / name, {name: content})
    check_equals(load_mnist_pair(2, 7, data=tmp_path), SMALL, (2, 7))


def test_mnist_of_openml(monkeypatch):
    images = np.zeros((70_000, 784), np.uint8)
    labels = np.full(70_000, "9")
    images[:3], labels[:3] = 255, ["4", "5", "4"]
    images[60_000:60_002], labels[60_000:60_002] = 51, ["5", "4"]

    def fetch(name, *, version, as_frame, parser):
        assert (name, version, as_frame) == ("mnist_784", 1, False)
        return Bunch(data=images, target=labels)

    monkeypatch.setattr("mfa_fast.datasets.mnist.fetch_openml", fetch)
    bunch = load_mnist_pair(4, 5)
    check_form(bunch, [4, 5])
    assert np.array_equal(bunch.y_train, [4, 5, 4])
    assert np.array_equal(bunch.y_test, [5, 4])
    assert np.all(bunch.X_train == 1)
    assert np.all(bunch.X_test == np.float32(0.2))

    images = images[:100]
    text = message(ValueError, load_mnist_pair, 4, 5)
    assert "must give MNIST in shape (70000, 784); got (100, 784)" in text


def test_openml_out_of_reach(monkeypatch):
    def fetch(*args, **kwargs):
        raise OSError("no\nroute")

    monkeypatch.setattr("mfa_fast.datasets.mnist.fetch_openml", fetch)
    assert message(OSError, load_mnist_pair, 4, 5) == (
        "data=None fetches MNIST from OpenML, which failed (no route); check the network, or pass "
        "as data the path of Keras' mnist.npz or a folder of MNIST's IDX files"
    )


def test_mnist_real(mnist):
    bunch = load_mnist_pair(0, 6, data=os.environ["MFA_FAST_DATA"])
    check_form(bunch, [0, 6])
    check_equals(bunch, mnist, (0, 6))
    assert (len(bunch.X_train), len(bunch.X_test)) == (11841, 1938)
    assert bunch.X_train.max() == 1


def test_mnist_path(tmp_path):
    expected = "data must be the path of Keras' mnist.npz or a folder of MNIST's IDX files; got "
    absent = tmp_path / "absent.npz"
    assert message(FileNotFoundError, load_mnist_pair, 0, 1, data=absent) == (
        f"{expected}'{absent}', which does not exist"
    )
    stranger = "~no-such-user/mnist.npz"
    assert message(FileNotFoundError, load_mnist_pair, 0, 1, data=stranger) == (
        f"{expected}'{stranger}', which does not exist"
    )
    assert message(FileNotFoundError, load_mnist_pair, 0, 1, data=tmp_path) == (
        f"{expected}the folder '{tmp_path}' without train-images-idx3-ubyte[.gz]"
    )
    assert message(TypeError, load_mnist_pair, 0, 1, data=SMALL) == (f"{expected}an object of type dict")
    write(tmp_path, idx_files())
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    text = message(FileNotFoundError, load_mnist_pair, 0, 1, data=tmp_path)
    assert text.endswith("without t10k-labels-idx1-ubyte[.gz]")


def test_npz_that_is_none(tmp_path):
    for name, content in {"empty": b"", "text": b"x_train\n", "idx": idx(SMALL["x_test"])}.items():
        path = write(tmp_path, {name: content}) / name
        assert message(ValueError, load_mnist_pair, 0, 1, data=path) == (
            f"'{path}' must be a NumPy .npz archive with the arrays x_train, y_train, x_test, "
            "y_test; got a file that is no zip archive, or one cut short; "
            "download or copy the file again"
        )


def test_npz_with_missing_arrays(tmp_path):
    path = tmp_path / "mnist.npz"
    np.savez(path, x_train=SMALL["x_train"], x_test=SMALL["x_test"])
    assert "got only x_train, x_test;" in message(ValueError, load_mnist_pair, 0, 1, data=path)
    np.savez(path)
    assert "got only an empty archive;" in message(ValueError, load_mnist_pair, 0, 1, data=path)


@pytest.mark.parametrize("member", ["x_test", "x_test.npy"])
def test_npz_with_a_member_that_is_no_array(tmp_path, member):
    path = tmp_path / "mnist.npz"
    np.savez(path, **{name: array for name, array in SMALL.items() if name != "x_test"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(member, "text")
    text = message(ValueError, load_mnist_pair, 0, 1, data=path)
    assert str(path) in text and "got x_test that is no array;" in text


def test_npz_of_objects_is_never_unpickled(tmp_path):
    path = keras(tmp_path, x_train=np.array([{}, {}], dtype=object))
    assert "got a damaged one (Object arrays" in message(ValueError, load_mnist_pair, 0, 1, path)


def test_npz_damaged_anywhere(tmp_path):
    """Bytes cut off or changed give the right images or a ValueError of one line."""
    content = keras(tmp_path).read_bytes()
    damaged = tmp_path / "damaged.npz"
    for keep in RNG.integers(0, len(content), 30):
        damaged.write_bytes(content[:keep])
        message(ValueError, load_mnist_pair, 0, 1, data=damaged)
    for position in [*range(40), *RNG.integers(0, len(content), 100), *range(-400, 0)]:
        changed = bytearray(content)
        changed[position] ^= 0x55
        damaged.write_bytes(changed)
        try:
            bunch = load_mnist_pair(0, 1, data=damaged)
        except ValueError:
            assert str(damaged) in message(ValueError, load_mnist_pair, 0, 1, data=damaged)
        else:  # a byte that nobody reads, such as a date
            check_equals(bunch, SMALL, (0, 1))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_damaged(tmp_path, pack):
    files = idx_files()
    name = "train-images-idx3-ubyte"
    path = tmp_path / name
    content = files[name]

    def complaint(damaged):
        write(tmp_path, {**files, name: damaged})
        text = message(ValueError, load_mnist_pair, 0, 1, data=tmp_path)
        assert text.startswith(f"'{path}' must be an IDX file of unsigned bytes in 3 dimension(s)")
        assert text.endswith("; download or copy the file again")
        return text

    starts = "which starts with 00 00 08 03; got "
    assert f"{starts}00 00 0d 03 at the start" in complaint(pack(b"\0\0\x0d\3" + content[4:]))
    assert f"{starts}00 00 08 01 at the start" in complaint(pack(files["train-labels-idx1-ubyte"]))
    assert f"{starts}3c 68 74 6d at the start" in complaint(pack(b"<html>not found</html>"))
    assert f"{starts}nothing at the start" in complaint(pack(b""))
    assert "got a header cut short" in complaint(pack(content[:15]))
    after = "with 40 x 28 x 28 bytes after its header; got"
    assert f"{after} 31359 bytes" in complaint(pack(content[:-1]))
    assert f"{after} 31361 bytes" in complaint(pack(content + b"\0"))
    assert f"{after} 0 bytes" in complaint(pack(content[:16]))


def test_gzip_damaged(tmp_path):
    files = {f"{name}.gz": gzip.compress(content) for name, content in idx_files().items()}
    name = "t10k-images-idx3-ubyte.gz"
    content = files[name]
    flipped = content[:5000] + bytes([content[5000] ^ 0x55]) + content[5001:]
    for damaged in (content[:5], content[:5000], content[:-1], flipped, content + b"more"):
        write(tmp_path, {**files, name: damaged})
        text = message(ValueError, load_mnist_pair, 0, 1, data=tmp_path)
        assert text.startswith(f"'{tmp_path / name}' must be an IDX file")
        assert "got a damaged gzip file (" in text


def test_mnist_of_other_contents(tmp_path):
    path = keras(tmp_path, x_train=SMALL["x_train"] / 255)
    assert message(ValueError, load_mnist_pair, 0, 1, data=path) == (
        f"the training part of '{path}' must hold uint8 images (n, height, width) and integer "
        "labels (n,); got float64 (40, 28, 28) and uint8 (40,)"
    )
    path = keras(tmp_path, x_test=SMALL["x_test"].reshape(20, 784))
    assert "the test part of" in message(ValueError, load_mnist_pair, 0, 1, data=path)
    path = keras(tmp_path, x_test=SMALL["x_test"][:, :, :14])
    assert message(ValueError, load_mnist_pair, 0, 1, data=path) == (
        f"'{path}' must hold training and test images of one size; got 28 x 28 and 28 x 14; download or copy the "
        "files again"
    )
    path = keras(tmp_path, x_train=SMALL["x_train"][:, :0], x_test=SMALL["x_test"][:, :0])
    assert "got uint8 (40, 0, 28)" in message(ValueError, load_mnist_pair, 0, 1, data=path)
    path = keras(tmp_path, y_train=SMALL["y_train"][:-1])
    assert "uint8 (39,)" in message(ValueError, load_mnist_pair, 0, 1, data=path)
    path = keras(tmp_path, y_train=SMALL["y_train"] + 1)
    assert "labels from 0 to 9; got 10" in message(ValueError, load_mnist_pair, 0, 1, data=path)
    path = keras(tmp_path, y_train=np.where(SMALL["y_train"] == 1, 0, SMALL["y_train"]))
    assert message(ValueError, load_mnist_pair, 0, 1, data=path) == (
        "data for MNIST 0-1 must hold training images of both classes; got none of class '1'; "
        "check that the files are complete"
    )
