"""Faces: a small CelebA in its exact format, and one with something wrong."""

import sys

import numpy as np
import pytest

from loader_checks import check_form, message
from mfa_fast.datasets import load_celeba

Image = pytest.importorskip("PIL.Image")

RNG = np.random.default_rng(1)
NAMES = ["5_o_Clock_Shadow", "Heavy_Makeup", "Male", "Smiling", "Wearing_Lipstick"]
# Three images for training, one for validation, two for tests.
PARTS = [0, 0, 0, 1, 2, 2]
LABELS = np.array([[-1, 1, -1, 1, 1, -1]]).T * np.array([[1, -1, 1, 1, -1]])
FILES = [f"{i:06d}.jpg" for i in range(1, 7)]


def attribute_lines():
    rows = zip(FILES, LABELS, strict=True)
    return [
        "6",
        " ".join(NAMES) + " ",
        *(name + "".join(f" {value:2d}" for value in row) for name, row in rows),
    ]


def partition_lines():
    return [f"{name} {part}" for name, part in zip(FILES, PARTS, strict=True)]


def write_lists(folder, attributes=None, partition=None):
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in (
        ("list_attr_celeba.txt", attributes or attribute_lines()),
        ("list_eval_partition.txt", partition or partition_lines()),
    ):
        (folder / name).write_text("".join(f"{line}\n" for line in lines))


def write_images(folder, height=218, width=178):
    folder = folder / "img_align_celeba"
    folder.mkdir(parents=True)
    for name in FILES:
        low = RNG.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(low).resize((width, height)).save(folder / name, quality=95)


@pytest.fixture
def celeba(tmp_path):
    write_lists(tmp_path)
    write_images(tmp_path)
    return tmp_path


def pixels(folder, name):
    with Image.open(folder / "img_align_celeba" / name) as image:
        return np.asarray(image)


def test_crop_without_resizing(celeba):
    bunch = load_celeba(celeba, "Smiling", size=178)
    check_form(bunch, [0, 1])
    assert bunch.image_shape == (178, 178, 3)
    assert bunch.name == "CelebA Smiling"
    assert bunch.target_names == ["not Smiling", "Smiling"]
    assert np.array_equal(bunch.y_train, [0, 1, 0])
    assert np.array_equal(bunch.y_test, [1, 0])
    for X, names in ((bunch.X_train, FILES[:3]), (bunch.X_test, FILES[4:])):
        for x, name in zip(X, names, strict=True):
            expected = pixels(celeba, name)[20:198].astype(np.float32) / 255
            assert np.array_equal(x.reshape(bunch.image_shape), expected)


def test_every_attribute_has_its_column(celeba):
    for column, attribute in enumerate(NAMES):
        bunch = load_celeba(celeba, attribute, size=2)
        assert np.array_equal(bunch.y_train, LABELS[:3, column] == 1)
        assert np.array_equal(bunch.y_test, LABELS[4:, column] == 1)


def test_resizing_averages(celeba):
    """Antialiased: each of 2 x 2 pixels is a weighted mean of its part of the square."""
    bunch = load_celeba(celeba, "Male", size=2)
    assert bunch.X_train.shape == (3, 12)
    # Bilinear weights of the 178 pixels of a side on the first of two pixels, 89 wide each.
    weights = np.maximum(0, 1 - np.abs(np.arange(178) + 0.5 - 44.5) / 89)
    weights = np.stack([weights, weights[::-1]]) / weights.sum()
    for x, name in zip(bunch.X_train, FILES, strict=False):
        square = pixels(celeba, name)[20:198] / 255
        expected = np.einsum("ah,bw,hwc->abc", weights, weights, square)
        assert np.max(np.abs(x.reshape(2, 2, 3) - expected)) <= 1.5 / 255


def test_default_size(celeba):
    assert load_celeba(celeba, "Male").image_shape == (64, 64, 3)


@pytest.mark.parametrize("height, width, rows, columns", [(6, 9, (0, 6), (1, 7)), (8, 8, (0, 8), (0, 8))])
def test_largest_square_in_the_middle(tmp_path, height, width, rows, columns):
    write_lists(tmp_path)
    write_images(tmp_path, height, width)
    x = load_celeba(tmp_path, "Male", size=min(height, width)).X_train[0]
    expected = pixels(tmp_path, FILES[0])[slice(*rows), slice(*columns)] / np.float32(255)
    assert np.array_equal(x, expected.ravel())


def test_grey_images_become_three_channels(celeba):
    path = celeba / "img_align_celeba" / FILES[0]
    Image.fromarray(np.full((218, 178), 51, np.uint8)).save(path)
    assert np.allclose(load_celeba(celeba, "Male", size=4).X_train[0], 0.2, atol=1 / 255)


def test_layouts(tmp_path):
    torchvision, authors = tmp_path / "torchvision", tmp_path / "authors"
    write_lists(torchvision / "celeba")
    write_images(torchvision / "celeba")
    write_images(authors / "Img")
    write_lists(authors)
    for name, folder in (("list_attr_celeba.txt", "Anno"), ("list_eval_partition.txt", "Eval")):
        (authors / folder).mkdir()
        (authors / name).rename(authors / folder / name)
    images = torchvision / "celeba" / "img_align_celeba"
    for data in (torchvision, torchvision / "celeba", images, str(images), authors):
        check_form(load_celeba(data, "Male", size=3), [0, 1])


def test_unknown_attribute(celeba):
    expected = "attribute must be one of the 5 names in list_attr_celeba.txt; got "
    for name, close in (
        ("Smilling", "Smiling"),
        ("heavy makeup", "Heavy_Makeup"),
        ("LIPSTICK", "Wearing_Lipstick"),
    ):
        text = message(ValueError, load_celeba, celeba, name)
        assert text == f"{expected}{name!r}; close matches: {close}"
    text = message(ValueError, load_celeba, celeba, "?")
    assert text == f"{expected}'?'; the names: {', '.join(NAMES)}"
    text = message(TypeError, load_celeba, celeba, 3)
    assert text == "attribute must be a string; got an object of type int"


def test_size(celeba):
    text = message(ValueError, load_celeba, celeba, "Male", size=0)
    assert text == "size must be an integer of at least 1; got 0."
    text = message(TypeError, load_celeba, celeba, "Male", size=64.0)
    assert text == "size must be an integer of at least 1; got 64.0 of type float."


def test_path(celeba):
    expected = (
        "data must be the path of a folder with img_align_celeba, list_attr_celeba.txt and "
        "list_eval_partition.txt, from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html; got "
    )
    text = message(FileNotFoundError, load_celeba, celeba / "absent", "Male")
    assert text == f"{expected}'{celeba / 'absent'}', which does not exist"
    text = message(TypeError, load_celeba, None, "Male")
    assert text == f"{expected}an object of type NoneType"
    for name in ("list_eval_partition.txt", "list_attr_celeba.txt"):
        (celeba / name).unlink()
        text = message(FileNotFoundError, load_celeba, celeba, "Male")
        assert text == f"{expected}'{celeba}' without {name}"


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda lines: lines[1:], "which starts with the number of images; got '5_o_Clock_Shadow"),
        (lambda lines: lines[:1], "which starts with the number of images; got '6'"),
        (lambda lines: lines[:-1], "of 6 images as line 1 says; got 5;"),
        (lambda lines: [*lines[:-1], lines[-1][:13]], "got '000006.jpg -1' in line 8"),
        (
            lambda lines: [line.replace("-1", " 0") for line in lines],
            "got '000001.jpg 0 1 0 0 1' in line 3",
        ),
    ],
)
def test_damaged_attributes(celeba, change, words):
    write_lists(celeba, attributes=change(attribute_lines()))
    text = message(ValueError, load_celeba, celeba, "Male")
    assert text.startswith(f"'{celeba / 'list_attr_celeba.txt'}' must be the list of attributes")
    assert words in text
    assert text.endswith("; download or copy the file again")


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda lines: lines[:-2], "got none for 2 of them, the first 000005.jpg;"),
        (lambda lines: [*lines[:-1], "000006.jpg"], "got '000006.jpg' in line 6;"),
        (lambda lines: ["000001.jpg 3", *lines[1:]], "got '000001.jpg 3' in line 1;"),
    ],
)
def test_damaged_partition(celeba, change, words):
    write_lists(celeba, partition=change(partition_lines()))
    text = message(ValueError, load_celeba, celeba, "Male")
    assert text.startswith(f"'{celeba / 'list_eval_partition.txt'}' must be the list of parts")
    assert words in text


def test_list_that_is_no_text(celeba):
    (celeba / "list_attr_celeba.txt").write_bytes(b"\xff\xd8\xff\xe0 JFIF")
    text = message(ValueError, load_celeba, celeba, "Male")
    assert "must be a text file; got bytes that are no text" in text


def test_missing_images(celeba):
    images = celeba / "img_align_celeba"
    (images / FILES[3]).unlink()  # of the validation part, which is not read
    check_form(load_celeba(celeba, "Male", size=2), [0, 1])
    (images / FILES[1]).unlink()
    (images / FILES[5]).unlink()
    text = message(FileNotFoundError, load_celeba, celeba, "Male")
    assert text == (
        f"'{images}' must hold the 5 images of the training and test parts; got a folder without "
        "2 of them, the first 000002.jpg; unpack img_align_celeba.zip again"
    )


@pytest.mark.parametrize("keep", [0, 2, 100, -200])
def test_damaged_image(celeba, keep):
    path = celeba / "img_align_celeba" / FILES[4]
    path.write_bytes(path.read_bytes()[:keep])
    text = message(ValueError, load_celeba, celeba, "Male")
    assert text.startswith(f"'{path}' must be a readable image; got a damaged one (")


def test_image_of_16_bits_is_refused(celeba):
    path = celeba / "img_align_celeba" / FILES[4]
    Image.fromarray(np.full((218, 178), 10_000, np.uint16)).save(path, format="PNG")
    text = message(ValueError, load_celeba, celeba, "Male")
    assert text.startswith(f"'{path}' must be an image of 8 bits per colour; got one of Pillow's mode I")


def test_image_of_absurd_size(celeba, monkeypatch):
    """A damaged header, which Pillow takes for an attack."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    text = message(ValueError, load_celeba, celeba, "Male")
    assert FILES[0] in text and "pixels" in text


def test_without_pillow(celeba, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert message(ImportError, load_celeba, celeba, "Male") == (
        "load_celeba needs Pillow to read JPEG files; install it with: pip install pillow"
    )
