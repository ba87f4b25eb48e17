"""Training of networks, on a fixed set or on a stream of fresh samples; imported only when asked for.

Whatever is random in a batch is a function of the seed and of how many images came before it. So a training that was
interrupted goes on from its checkpoint as if it had not been.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from mfa_fast._files import whole_file
from mfa_fast._labels import class_indices
from mfa_fast._typing import Array
from mfa_fast._validation import check_integer, check_real
from mfa_fast.datasets import SampleStream
from mfa_fast.experiments.trades import Trades, trades_loss

Progress = Callable[[int, int], None]

EVALUATION_ROWS = 500  # at once


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of a training by Adam.

    Parameters
    ----------
    images : int
        How many are shown in all: passes over a fixed set, or fresh ones of a stream.
    batch_size : int
    learning_rate : float
    evaluate_every : int
        Images between two looks at the held-out accuracy; also between two checkpoints.
    target_accuracy : float or None
        Training ends at the first evaluation whose held-out accuracy is at least this. None: all images are shown. Of
        all evaluations the weights of the most accurate are kept, of equals the last: Adam's steps at times lead a
        network that made no error to one that makes many.
    trades : Trades or None
        None: the cross-entropy alone.
    seed : int
        Of the order of a fixed set, and of TRADES's random starts.
    """

    images: int = 100_000
    batch_size: int = 50
    learning_rate: float = 1e-3
    evaluate_every: int = 5_000
    target_accuracy: float | None = 1.0
    trades: Trades | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject what would only fail after minutes of work."""
        for name in ("images", "batch_size", "evaluate_every"):
            check_integer(name, getattr(self, name), 1)
        check_integer("seed", self.seed, 0)
        check_real("learning_rate", self.learning_rate, above=0.0)
        if self.target_accuracy is not None:
            check_real("target_accuracy", self.target_accuracy, least=0.0, most=1.0)


@dataclass(frozen=True)
class Evaluation:
    """Where a training stood: images shown, mean loss since the evaluation before, held-out accuracy."""

    images: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class TrainedNetwork:
    """A network and how it came about; `mfa_fast.attacks.cw_l2` takes it as it is.

    Attributes
    ----------
    network : torch.nn.Module
        On the device that it was trained on.
    classes_ : ndarray of shape (n_classes,)
        The labels of its logits.
    accuracy : float
        Held-out, of the weights that were kept.
    history : tuple of Evaluation
    seconds : float
        That training took, interruptions left out.
    """

    network: nn.Module
    classes_: Array
    accuracy: float
    history: tuple[Evaluation, ...]
    seconds: float

    @property
    def images(self) -> int:
        """Number of images that were shown."""
        return self.history[-1].images

    def predict(self, X: Array) -> Array:
        """Return the class of the largest logit.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)

        Returns
        -------
        labels : ndarray of shape (n_samples,)
        """
        return self.classes_[_predict(self.network, X)]


def train_network(
    network: nn.Module,
    data: tuple[Array, Array] | SampleStream,
    config: TrainConfig,
    *,
    held_out: tuple[Array, Array],
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress = lambda done, total: None,
) -> TrainedNetwork:
    """Train a network, in place.

    Parameters
    ----------
    network : torch.nn.Module
        Maps rows (n, n_features) of float32 to logits (n, n_classes). It gets an attribute `classes_`, and is moved to
        a CUDA device where torch finds one.
    data : (X, y) or SampleStream
        A fixed set, gone through in a new order every time; or a stream, of which every image is shown once, from its
        position on, which it keeps. (Batches are of the configuration's size, not of the stream's.)
    config : TrainConfig
    held_out : (X, y)
        On which the accuracy is measured.
    checkpoint : path, default=None
        A file that is written at every evaluation. If it exists, training goes on from it, with the same result as
        without the interruption.
    progress : callable
        Called as ``progress(done, total)``, in images.

    Returns
    -------
    trained : TrainedNetwork

    Raises
    ------
    ValueError
        If labels of `held_out` do not occur in `data`, or the checkpoint is damaged or of another training.

    Notes
    -----
    On one machine, with one number of threads of torch, results depend on the seeds alone.

    Examples
    --------
    >>> from mfa_fast.datasets import load_digits_pair
    >>> from mfa_fast.experiments.networks import StridedNetwork
    >>> from mfa_fast.experiments.training import TrainConfig, train_network
    >>> pair = load_digits_pair(0, 6)
    >>> trained = train_network(
    ...     StridedNetwork(pair.image_shape, 2, width=4),
    ...     (pair.X_train, pair.y_train),
    ...     TrainConfig(images=5_000, evaluate_every=1_000),
    ...     held_out=(pair.X_test, pair.y_test),
    ... )
    >>> bool((trained.predict(pair.X_test) == pair.y_test).mean() == trained.accuracy > 0.9)
    True
    """
    source = _Stream(data, config) if isinstance(data, SampleStream) else _FixedSet(*data, config)
    run = _Run(network, source, config, held_out)
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and path.exists():
        run.load(path)
    while not run.ended:
        progress(run.seen, config.images)
        run.step()
        if run.evaluation_is_due:
            run.evaluate()
            if path is not None:
                run.save(path)
    progress(config.images, config.images)
    accuracy = run.keep()
    return TrainedNetwork(network, source.classes, accuracy, tuple(run.history), run.seconds)


# -------------------------------------------------------------------------------------------------------------- batches


class _FixedSet:
    """Images in a new order at every pass."""

    def __init__(self, X: Array, y: Array, config: TrainConfig) -> None:
        self.classes = np.unique(y)
        self._X = np.ascontiguousarray(X, dtype=np.float32)
        self._y = class_indices(self.classes, y, len(X))
        self._config = config
        self._pass, self._order = -1, np.arange(0)

    def batch(self, start: int, size: int) -> tuple[Array, Array]:
        """Return images start to start + size - 1 of all that are shown, and their class indices."""
        places = np.arange(start, start + size)
        rows = np.concatenate(
            [
                self._of_pass(k)[places[places // len(self._X) == k] % len(self._X)]
                for k in np.unique(places // len(self._X))
            ]
        )
        return self._X[rows], self._y[rows]

    def _of_pass(self, k: int) -> Array:
        if k != self._pass:
            self._pass, self._order = k, np.random.default_rng([self._config.seed, k]).permutation(len(self._X))
        return self._order

    def arrays(self) -> tuple[Array, ...]:
        """Return what tells this source from others."""
        return self._X, self._y


class _Stream:
    """Images that are shown once."""

    def __init__(self, stream: SampleStream, config: TrainConfig) -> None:
        self.classes = np.asarray(stream.classifier.classes_)  # type: ignore[attr-defined]
        self._stream, self._first = stream, stream.position
        self._batch_size = config.batch_size

    def batch(self, start: int, size: int) -> tuple[Array, Array]:
        """Return images start to start + size - 1 of all that are shown, and their class indices."""
        stream = SampleStream(self._stream.classifier, size, self._stream.seed, noise=self._stream.noise)
        X, y = stream.draw(self._first + start)
        return X.astype(np.float32, copy=False), class_indices(self.classes, y, size)

    def arrays(self) -> tuple[Array, ...]:
        """Return what tells this source from others."""
        return self.batch(0, self._batch_size)


# ------------------------------------------------------------------------------------------------------------- training


class _Run:
    """A training in progress."""

    def __init__(
        self, network: nn.Module, source: _FixedSet | _Stream, config: TrainConfig, held_out: tuple[Array, Array]
    ) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = network.to(self.device)
        self.network.classes_ = source.classes  # type: ignore[assignment,unused-ignore]
        self.source, self.config = source, config
        self.held_out = np.asarray(held_out[0]), class_indices(source.classes, held_out[1], len(held_out[0]))
        self.fingerprint = self._fingerprint()
        self.optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
        self.seen, self.seconds = 0, 0.0
        self.history: list[Evaluation] = []
        self.losses: list[float] = []
        self.best = self._weights()

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.network.state_dict().items()}

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(repr((asdict(self.config), str(self.network))).encode())
        weights = (value.cpu().numpy() for value in self.network.state_dict().values())
        for array in (*weights, *self.source.arrays(), *self.held_out):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    @property
    def ended(self) -> bool:
        """Whether all images were shown, or the target was reached."""
        if not self.history:
            return False
        target = self.config.target_accuracy
        return self.seen >= self.config.images or (target is not None and self.history[-1].accuracy >= target)

    @property
    def evaluation_is_due(self) -> bool:
        """Whether the last batch passed a multiple of `evaluate_every`, or was the last."""
        shown = self.history[-1].images if self.history else 0
        every = self.config.evaluate_every
        return self.seen // every > shown // every or self.seen >= self.config.images

    def step(self) -> None:
        """Show one batch."""
        start = time.perf_counter()
        size = min(self.config.batch_size, self.config.images - self.seen)
        X, y = (torch.from_numpy(a).to(self.device) for a in self.source.batch(self.seen, size))
        self.network.train()
        if self.config.trades is None:
            loss = functional.cross_entropy(self.network(X), y)
        else:
            seed = int(np.random.SeedSequence([self.config.seed, self.seen]).generate_state(1)[0])
            loss = trades_loss(self.network, X, y, self.config.trades, seed)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call,unused-ignore]
        self.optimizer.step()
        self.losses.append(float(loss.detach()))
        self.seen += size
        self.seconds += time.perf_counter() - start

    def evaluate(self) -> None:
        """Measure the held-out accuracy."""
        accuracy = float(np.mean(_predict(self.network, self.held_out[0]) == self.held_out[1]))
        if all(accuracy >= e.accuracy for e in self.history):
            self.best = self._weights()
        self.history.append(Evaluation(self.seen, float(np.mean(self.losses)), accuracy))
        self.losses.clear()

    def keep(self) -> float:
        """Give the network the weights that are kept, and return their accuracy."""
        self.network.load_state_dict(self.best)
        return max(e.accuracy for e in self.history)

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        state = {
            "fingerprint": self.fingerprint,
            "network": self.network.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "seen": self.seen,
            "seconds": self.seconds,
            "history": [(e.images, e.loss, e.accuracy) for e in self.history],
        }
        with whole_file(path) as part:
            torch.save(state, part)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except (EOFError, UnpicklingError, RuntimeError) as error:
            msg = f"checkpoint {path} is damaged ({type(error).__name__}); delete it, or name another file."
            raise ValueError(msg) from error
        if not isinstance(state, dict) or state.get("fingerprint") != self.fingerprint:
            msg = (
                f"checkpoint {path} is of another training: network, initial weights, data or configuration differ; "
                "delete it, or name another file."
            )
            raise ValueError(msg)
        self.network.load_state_dict(state["network"])
        self.best = state["best"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.seen, self.seconds = state["seen"], state["seconds"]
        self.history = [Evaluation(*e) for e in state["history"]]


def _predict(network: nn.Module, X: Array) -> Array:
    device = next(network.parameters()).device
    network.eval()
    with torch.no_grad():
        parts = [
            network(torch.from_numpy(np.asarray(X[i : i + EVALUATION_ROWS], dtype=np.float32)).to(device))
            for i in range(0, len(X), EVALUATION_ROWS)
        ]
    return torch.cat(parts).argmax(dim=1).cpu().numpy()
