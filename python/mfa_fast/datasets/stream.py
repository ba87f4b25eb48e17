"""Endless samples of a known distribution, for learners that never see an image twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from mfa_fast._typing import Array
from mfa_fast._validation import MOST_SAMPLES, check_flag, check_integer

if TYPE_CHECKING:
    from mfa_fast.datasets._torch_stream import TorchSampleStream


LARGEST_SEED = 2**32 - 1


class Sampler(Protocol):
    """A fitted model whose sample i is a function of the seed and i alone."""

    def sample(self, n_samples: int, *, noise: bool, random_state: int, start: int) -> tuple[Array, Array]:
        """Return samples `start` to `start` + `n_samples` - 1 of a seed, and their labels."""
        ...


class SampleStream(Iterator[tuple[Array, Array]]):
    """Endless fresh batches of samples of a classifier's own distribution.

    Sample i depends on the seed and on i alone. So a stream that goes on from a saved position,
    with whatever batch size, gives what an uninterrupted one would have given.

    Parameters
    ----------
    classifier : MFAClassifier
        Fitted. An MFA will do too: its labels are component indices.
    batch_size : int
        Samples per batch, at least 1.
    seed : int
        From 0 to 2**32 - 1. Different seeds give independent streams.
    start : int, default=0
        Index of the first sample.
    noise : bool, default=True
        False: points on the components' subspaces, without the noise around them.

    Attributes
    ----------
    position : int
        Index of the next sample.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong type or out of its range.
    sklearn.exceptions.NotFittedError
        If `classifier` is not fitted.

    Examples
    --------
    >>> import numpy as np
    >>> from mfa_fast import MFA, MFAClassifier
    >>> from mfa_fast.datasets import SampleStream
    >>> mixtures = [
    ...     MFA.from_parameters([1.0], [mean], np.ones((1, 1, 3)), np.full((1, 3), 0.1))
    ...     for mean in ([0.0, 0.0, 0.0], [1.0, 0.0, 0.0])
    ... ]
    >>> stream = SampleStream(MFAClassifier.from_mixtures(mixtures), batch_size=50, seed=0)
    >>> X, y = next(stream)
    >>> X.shape, y.shape, stream.position
    ((50, 3), (50,), 50)

    Stop and go on:

    >>> state = stream.state_dict()
    >>> X, y = next(stream)
    >>> stream.load_state_dict(state)
    >>> np.array_equal(next(stream)[0], X)
    True
    """

    def __init__(
        self,
        classifier: Sampler,
        batch_size: int,
        seed: int,
        *,
        start: int = 0,
        noise: bool = True,
    ) -> None:
        if not hasattr(classifier, "sample"):
            kind = type(classifier).__name__
            msg = f"classifier must be a fitted MFAClassifier; got an object of type {kind}"
            raise TypeError(msg)
        if isinstance(classifier, BaseEstimator):  # others have only their `sample` to ask
            check_is_fitted(classifier)
        self.classifier = classifier
        self.batch_size = check_integer("batch_size", batch_size, 1)
        self.seed = check_integer("seed", seed, 0, LARGEST_SEED)
        self.noise = check_flag("noise", noise)
        self._position = check_integer("start", start, 0, MOST_SAMPLES - self.batch_size)

    @property
    def position(self) -> int:
        """Index of the next sample."""
        return self._position

    def __next__(self) -> tuple[Array, Array]:
        """Return the next batch.

        Returns
        -------
        X : ndarray of shape (batch_size, n_features)
        y : ndarray of shape (batch_size,)
            Labels as in the classifier's ``classes_``.
        """
        batch = self.draw(self._position)
        self._position += self.batch_size  # only now: an interrupted call loses no samples
        return batch

    def draw(self, start: int) -> tuple[Array, Array]:
        """Return the batch that begins at sample `start`, and leave the position as it is.

        Parameters
        ----------
        start : int

        Returns
        -------
        X : ndarray of shape (batch_size, n_features)
        y : ndarray of shape (batch_size,)

        Examples
        --------
        >>> from mfa_fast.datasets import SampleStream, gaussian_toy
        >>> stream = SampleStream(gaussian_toy("spherical", robust=True), batch_size=50, seed=0)
        >>> X, y = stream.draw(50)
        >>> _ = next(stream)
        >>> bool((next(stream)[0] == X).all())
        True
        """
        return self.classifier.sample(self.batch_size, noise=self.noise, random_state=self.seed, start=start)

    def state_dict(self) -> dict[str, int | bool]:
        """Return what `load_state_dict` needs to go on from here: plain numbers, no arrays.

        Returns
        -------
        state_dict : dict
        """
        return {"position": self._position, "seed": self.seed, "noise": self.noise}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from where a stream of the same classifier, seed and noise was.

        Parameters
        ----------
        state_dict : mapping
            From `state_dict`. The batch size is not part of it and may differ.

        Raises
        ------
        TypeError, ValueError
            If it is no mapping, lacks an entry or comes from a stream with another seed or noise.
        """
        if not isinstance(state_dict, Mapping):
            kind = type(state_dict).__name__
            msg = f"state_dict must be a mapping; got an object of type {kind}"
            raise TypeError(msg)
        own = self.state_dict()
        missing = own.keys() - state_dict.keys()
        if missing:
            msg = (
                f"state_dict must have the entries {', '.join(own)}; got none for "
                f"{', '.join(sorted(missing))}; pass what SampleStream.state_dict() returned"
            )
            raise ValueError(msg)
        for name in ("seed", "noise"):
            if state_dict[name] != own[name]:
                msg = (
                    f"state_dict must come from a stream with {name}={own[name]}; got "
                    f"{name}={state_dict[name]}; make this stream with {name}={state_dict[name]}"
                )
                raise ValueError(msg)
        most = MOST_SAMPLES - self.batch_size
        self._position = check_integer("state_dict['position']", state_dict["position"], 0, most)

    def torch(self) -> TorchSampleStream:
        """Return the stream from here on as a ``torch.utils.data.IterableDataset``.

        It gives whole batches, so it goes with ``DataLoader(dataset, batch_size=None)``. With
        any number of workers the loader gives the batches that this stream would give, in the
        same order: worker w of W makes batches w, w + W, ....

        Every pass over the dataset begins anew at the position that the stream has now, and
        leaves the stream where it is. Keep one pass for a whole training; to go on after
        ``n`` batches, make the stream with ``start=n * batch_size`` added to its first start.

        Returns
        -------
        torch.utils.data.IterableDataset
            Of pairs (X, y): X as the classifier's samples, y int64 indices into ``classes_``.

        Raises
        ------
        ImportError
            If torch is not installed.
        """
        try:
            from mfa_fast.datasets._torch_stream import TorchSampleStream
        except ImportError as error:
            msg = f"SampleStream.torch needs torch ({error}); install it with: pip install torch"
            raise ImportError(msg) from None
        return TorchSampleStream(self)
