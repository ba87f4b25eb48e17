"""Which images an experiment is about: pairs of digits, attributes of faces, pairs of CIFAR-10's classes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mfa_fast import datasets
from mfa_fast.datasets.celeba import ATTRIBUTES
from mfa_fast.datasets.celeba import FOLDERS as CELEBA_FOLDERS
from mfa_fast.datasets.cifar import find_cifar10
from mfa_fast.experiments import paper
from mfa_fast.experiments.config import FACE_SIZE
from mfa_fast.experiments.main_job import load_images
from mfa_fast.experiments.reproduce.cells import NOT_IN_KEY
from mfa_fast.experiments.reproduce.settings import Settings

IMAGE_FILES = (".jpg", ".jpeg", ".png")
LARGEST_READ = 2**28  # bytes of a file beyond which its size stands for its content
CHUNK = 2**20


@dataclass(frozen=True)
class ImageSet:
    """Two classes of real images: what they are, what is in the files, and where these lie now.

    `kind` is "digits", "mnist", "celeba" or "cifar"; `classes` are two, or an attribute of CelebA.
    """

    kind: str
    classes: tuple[str, ...]
    size: int | None
    fingerprint: str
    path: Path | None = field(default=None, compare=False, metadata=NOT_IN_KEY)

    @property
    def name(self) -> str:
        """Such as "MNIST 0-6"."""
        collection = {"digits": "digits", "mnist": "MNIST", "celeba": "CelebA", "cifar": "CIFAR-10"}[self.kind]
        return f"{collection} {'-'.join(self.classes)}"

    @property
    def slug(self) -> str:
        """The name as part of a file's."""
        return self.name.lower().replace(" ", "-").replace("_", "-")

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of an image, without loading any."""
        if self.size is not None:
            return (self.size, self.size, 3)
        return {"digits": (8, 8), "mnist": (28, 28), "cifar": (32, 32, 3)}[self.kind]

    @property
    def pair(self) -> tuple[int, int]:
        """The two digits."""
        first, second = (int(name) for name in self.classes)
        return first, second

    @property
    def attribute(self) -> str | None:
        """The attribute, of CelebA."""
        return self.classes[0] if self.kind == "celeba" else None

    def load(self) -> Any:
        """Return the images as the loaders of `mfa_fast.datasets` do."""
        return _load(self)


@lru_cache(maxsize=2)
def _load(images: ImageSet) -> Any:
    if images.kind == "cifar" and images.path is not None:
        a, b = images.classes
        return datasets.load_cifar10_pair(a, b, images.path)
    pair = images.pair if images.kind in ("digits", "mnist") else (0, 1)
    return load_images(images.path, pair, images.attribute, images.size or FACE_SIZE)


@dataclass(frozen=True)
class ImageSets:
    """The image sets that were given, or the bundled digits."""

    digits: tuple[ImageSet, ...]
    faces: tuple[ImageSet, ...]
    objects: tuple[ImageSet, ...]

    @property
    def modelled(self) -> tuple[ImageSet, ...]:
        """Those of which the paper makes symmetric data sets."""
        return self.faces + self.digits

    @property
    def swept(self) -> tuple[ImageSet, ...]:
        """Those of figures 9 to 11: five attributes or, without faces, MNIST's 4 and 5 (or the last pair)."""
        return self.wanted(*paper.ATTRIBUTES) or self.wanted("4-5") or self.modelled[-1:]

    def wanted(self, *names: str) -> tuple[ImageSet, ...]:
        """Return the sets of these names (without their collection's) that there are."""
        known = {images.name.partition(" ")[2]: images for images in self.modelled}
        return tuple(known[name] for name in names if name in known)

    def wanted_or(self, *names: str, stand_in: int) -> tuple[ImageSet, ...]:
        """Return the same or, if there is none, one of the pairs of digits in their place."""
        found = self.wanted(*names)
        pool = self.digits or self.modelled
        return found or (pool[stand_in % len(pool)],)

    def instead_of(self, *names: str) -> tuple[str, ...]:
        """Return the sentence that says what the paper shows, where none of it was given, and no sentence otherwise."""
        there = {images.name for images in self.modelled}
        if there.intersection(names):
            return ()
        shown = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
        return (f"The paper shows {shown}, which {'was' if len(names) == 1 else 'were'} not given (see --data).",)


def find_image_sets(settings: Settings, data: Sequence[Path]) -> ImageSets:
    """Return the image sets of the data given.

    Parameters
    ----------
    settings : Settings
        Which pairs and attributes.
    data : sequence of Path
        Of any of: MNIST (``mnist.npz`` or a folder of IDX files), CelebA's folder, CIFAR-10's folder. Empty: the
        bundled digits.

    Raises
    ------
    FileNotFoundError
        If one does not exist.
    ValueError
        If two are of the same kind.
    """
    by_kind: dict[str, Path] = {}
    for path in data:
        if not path.exists():
            msg = f"data must name files or folders that exist; got '{path}', which does not"
            raise FileNotFoundError(msg)
        kind = _kind(path)
        if kind in by_kind:
            msg = f"data must name each data set once; got '{by_kind[kind]}' and '{path}', both taken for {kind}"
            raise ValueError(msg)
        by_kind[kind] = path
    pairs = tuple((str(a), str(b)) for a, b in settings.pairs)

    def sets(kind: str, classes: Sequence[tuple[str, ...]], size: int | None = None) -> tuple[ImageSet, ...]:
        if kind not in by_kind:
            return ()
        fingerprint = _fingerprint(by_kind[kind])
        return tuple(ImageSet(kind, names, size, fingerprint, by_kind[kind]) for names in classes)

    digits = sets("mnist", pairs)
    faces = sets("celeba", [(name,) for name in settings.attributes], settings.size)
    if not digits and not faces:
        bundled = f"scikit-learn {version('scikit-learn')}"
        digits = tuple(ImageSet("digits", names, None, bundled) for names in pairs)
    return ImageSets(digits, faces, sets("cifar", settings.cifar_pairs))


def _kind(path: Path) -> str:
    if any((path / folder / ATTRIBUTES).is_file() for folder in CELEBA_FOLDERS):
        return "celeba"
    if path.is_dir():
        try:
            find_cifar10(path)
        except FileNotFoundError:
            return "mnist"
        return "cifar"
    return "mnist"


def _fingerprint(path: Path) -> str:
    """Return a hash of what is in a file or folder; of photographs, which are many, only of their names and sizes."""
    digest = hashlib.sha256()
    for file, name in _files(path):
        size = file.stat().st_size
        digest.update(f"{name}\0{size}\0".encode(errors="surrogateescape"))  # names of files need not be text
        if file.suffix.lower() not in IMAGE_FILES and size <= LARGEST_READ:
            with file.open("rb") as content:
                while chunk := content.read(CHUNK):
                    digest.update(chunk)
    return digest.hexdigest()[:32]


def _files(path: Path) -> Iterator[tuple[Path, str]]:
    if path.is_file():
        yield path, ""  # the same file under another name is the same
    else:
        for file in sorted(path.rglob("*")):
            if file.is_file():
                yield file, file.relative_to(path).as_posix()
