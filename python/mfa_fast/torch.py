"""An MFAClassifier as a torch module; imported only when asked for.

What it gives are logits, log p(x, class), and not probabilities. With noise of standard deviation 0.001 two classes lie
some 1e6 nats apart, so that in float32 a softmax over them is exactly 0 or 1, and so are the gradients of probabilities
and of the cross-entropy exactly 0: nothing is left to attack. The logits' own gradients are as large as the gap.
`temperature` divides the logits for what has to go through a softmax.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

try:
    import torch
except ModuleNotFoundError as error:
    msg = f"mfa_fast.torch needs torch ({error}); install it with: pip install 'mfa_fast[torch]'"
    raise ModuleNotFoundError(msg, name=error.name) from None

from mfa_fast._samples import Samples, as_samples
from mfa_fast._validation import check_integer, check_real
from mfa_fast.classifier import MFAClassifier

__all__ = ["MFAModule"]


def _samples(rows: torch.Tensor, classifier: MFAClassifier) -> Samples:
    """Borrow rows for a classifier. Tensors have no names of features, so none are missed."""
    samples = as_samples(rows)
    _check_width(samples.n_features, classifier)
    return samples


def _check_width(n_features: int, classifier: MFAClassifier) -> None:
    if n_features != classifier.n_features_in_:
        msg = f"x must have the classifier's {classifier.n_features_in_} features, got {n_features} features."
        raise ValueError(msg)


# Of each argument, the dimension that torch.func.vmap goes along.
_Dims = tuple[int | None, ...]


def _fold(info: Any, dim: int | None, rows: torch.Tensor) -> torch.Tensor:
    """Return all the rows that vmap goes through as one batch."""
    batches = rows.expand(info.batch_size, *rows.shape) if dim is None else rows.movedim(dim, 0)
    return batches.flatten(0, 1)


# Comments for mypy on classes are needed where torch is not installed, those on calls where it is.
class _ClassScores(torch.autograd.Function):  # type: ignore[misc,unused-ignore]
    """Class scores in float64 of rows in float32 or float64, by the kernels."""

    @staticmethod
    def forward(rows: torch.Tensor, classifier: MFAClassifier) -> torch.Tensor:
        samples = _samples(rows, classifier)
        return samples.wrap(classifier._class_scores(samples))  # type: ignore[no-any-return,unused-ignore]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, MFAClassifier], output: torch.Tensor) -> None:
        rows, ctx.classifier = inputs
        ctx.save_for_backward(rows)

    @staticmethod
    def vmap(info: Any, in_dims: _Dims, rows: torch.Tensor, classifier: MFAClassifier) -> tuple[torch.Tensor, int]:
        folded = _fold(info, in_dims[0], rows)
        scores = _ClassScores.apply(folded, classifier)  # type: ignore[no-untyped-call,unused-ignore]
        return scores.unflatten(0, (info.batch_size, -1)), 0

    @staticmethod
    def backward(ctx: Any, vectors: torch.Tensor) -> tuple[torch.Tensor, None]:
        gradient = _Gradient.apply(*ctx.saved_tensors, vectors, ctx.classifier)  # type: ignore[no-untyped-call,unused-ignore]
        return gradient, None


class _Gradient(torch.autograd.Function):  # type: ignore[misc,unused-ignore]
    """Vectors times the Jacobian of the class scores; a function of its own, so as to refuse to be derived."""

    @staticmethod
    def forward(rows: torch.Tensor, vectors: torch.Tensor, classifier: MFAClassifier) -> torch.Tensor:
        samples = _samples(rows, classifier)
        contiguous = vectors.detach().double().contiguous()
        weights: Any = contiguous.cpu().numpy() if samples.on_host else contiguous
        gradient = classifier._scorer(samples).gradient(samples, weights, sum_rule=classifier.rule == "sum")
        return samples.wrap(gradient)  # type: ignore[no-any-return,unused-ignore]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: torch.Tensor) -> None:
        """Keep nothing: there is no second derivative."""

    @staticmethod
    def vmap(
        info: Any, in_dims: _Dims, rows: torch.Tensor, vectors: torch.Tensor, classifier: MFAClassifier
    ) -> tuple[torch.Tensor, int]:
        folded = _fold(info, in_dims[0], rows), _fold(info, in_dims[1], vectors)
        gradient = _Gradient.apply(*folded, classifier)  # type: ignore[no-untyped-call,unused-ignore]
        return gradient.unflatten(0, (info.batch_size, -1)), 0

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> None:
        msg = "MFAModule can be derived once; its second derivative is not implemented."
        raise NotImplementedError(msg)


def _uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that torch.compile calls as it is, where it is compiling: there are no operations to trace.

    Only there, because `disable` imports the compiler, which takes seconds.
    """
    return torch.compiler.disable(function) if torch.compiler.is_compiling() else function  # type: ignore[no-untyped-call,unused-ignore]


class MFAModule(torch.nn.Module):  # type: ignore[misc,unused-ignore]
    r"""The class scores of an `MFAClassifier` as a layer, for any attack library that takes torch modules.

    Parameters
    ----------
    classifier : MFAClassifier
        Fitted. It is referred to, not copied.
    image_shape : tuple of int, default=None
        The shape in which the classifier's features make an image: (height, width), (height, width, channels) as the
        loaders of `mfa_fast.datasets` give it, or (channels, height, width). It is needed for colour images of the
        first kind, whose features have another order than torch's; None takes the features in torch's order.
    temperature : float, default=1.0
        The logits are divided by it. For losses that go through a softmax: 1 / (noise variance) brings gaps between
        classes to the size of squared distances.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels of the logits.

    Notes
    -----
    Logits are :math:`\log \pi_u + \log p(x \mid u)` under the classifier's rule. Their gradient is in closed form,
    :math:`-S_k^{-1} (x - \mu_k)` for the class's best component k under the maximum rule, the mean of these by
    posterior probability under the sum rule (docs/theory.md, (15a)); it can be taken once, not twice, in reverse mode,
    by `torch.func` too. Where the best component changes, the gradient under the maximum rule is that of the one which
    is taken. A network that is compiled calls the module as it is.

    Without a temperature and with little noise the gradient of a cross-entropy is exactly 0, as two classes lie some
    1e6 nats apart: attacks that climb it find nothing, which is masking of gradients and not robustness.

    There are no parameters to train, and none to move: the dtype of the logits is that of the samples, float32 or
    float64, and the kernels run where the samples are, on the CPU or on a CUDA device.

    Examples
    --------
    >>> import torch
    >>> from sklearn.datasets import load_digits
    >>> from mfa_fast import MFAClassifier
    >>> from mfa_fast.torch import MFAModule
    >>> X, y = load_digits(n_class=2, return_X_y=True)
    >>> classifier = MFAClassifier(n_components=3, n_factors=2, random_state=0).fit(X / 16, y)
    >>> module = MFAModule(classifier, image_shape=(8, 8))
    >>> images = torch.tensor(X[:5] / 16).reshape(5, 1, 8, 8).requires_grad_()
    >>> logits = module(images)
    >>> logits.argmax(dim=1).tolist() == y[:5].tolist()
    True
    >>> (logits[:, 0] - logits[:, 1]).sum().backward()
    >>> images.grad.shape
    torch.Size([5, 1, 8, 8])
    """

    def __init__(
        self, classifier: MFAClassifier, image_shape: Sequence[int] | None = None, *, temperature: float = 1.0
    ) -> None:
        super().__init__()
        if not isinstance(classifier, MFAClassifier):
            msg = f"classifier must be an MFAClassifier, got {type(classifier).__name__}."
            raise TypeError(msg)
        check_is_fitted(classifier)
        self.classifier = classifier
        self.image_shape = None if image_shape is None else _check_image_shape(image_shape, classifier.n_features_in_)
        self.temperature = check_real("temperature", temperature, above=0.0)
        self.eval()  # there is nothing that training would change, and attack libraries ask

    @property
    def classes_(self) -> Any:
        """The labels of the logits."""
        return self.classifier.classes_

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch.

        Parameters
        ----------
        x : Tensor of shape (n, channels, height, width) or (n, n_features)
            float32 or float64, in the units of the data that the classifier was fitted to: [0, 1] for the images of
            `mfa_fast.datasets`.

        Returns
        -------
        logits : Tensor of shape (n, n_classes)
            In nats, divided by the temperature; of the dtype of x.

        Raises
        ------
        CudaUnavailableError
            If x is a CUDA tensor, and there are no kernels for it in this build or on this machine.
        TypeError, ValueError
            If x is not as described, or has an entry that is not finite; in CUDA memory that may be found out later
            (`mfa_fast.synchronize`).
        """
        return (self.class_scores(x) / self.temperature).to(x.dtype)

    def class_scores(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the logits are rounded from: float64, whatever x is, and not divided by the temperature.

        The sign of their difference is that of the classifier. In float32 two logits of size 1e6 are equal up to 0.1
        nats, which is where attacks end.

        Parameters
        ----------
        x : Tensor of shape (n, channels, height, width) or (n, n_features)
            As in `forward`.

        Returns
        -------
        scores : Tensor of shape (n, n_classes), float64
        """
        if not isinstance(x, torch.Tensor) or x.dtype not in (torch.float32, torch.float64):
            kind = f"a tensor of {x.dtype}" if isinstance(x, torch.Tensor) else f"an object of type {type(x).__name__}"
            remedy = "x.to(torch.float32)" if isinstance(x, torch.Tensor) else "torch.as_tensor(x, dtype=torch.float32)"
            msg = f"x must be a tensor of float32 or float64, got {kind}; use {remedy}."
            raise TypeError(msg)
        rows = self._rows(x)
        if len(rows) == 0:  # what no estimator takes, but a layer does
            _check_width(rows.shape[1], self.classifier)
            return rows.double() @ rows.new_zeros((rows.shape[1], len(self.classes_)), dtype=torch.float64)
        return _uncompiled(_ClassScores.apply)(rows, self.classifier)

    def _rows(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim == 2:
            return x
        if x.ndim != 4:
            msg = f"x must have shape (n, channels, height, width) or (n, n_features), got {tuple(x.shape)}."
            raise ValueError(msg)
        shape = tuple(x.shape[1:])
        if self.image_shape in (None, shape, shape[1:] if shape[0] == 1 else None):
            return x.flatten(1)
        if self.image_shape == (*shape[1:], shape[0]):
            return x.permute(0, 2, 3, 1).flatten(1)
        msg = (
            f"x must hold images of shape {self.image_shape}, got shape {tuple(x.shape)} (n, channels, height, width)."
        )
        raise ValueError(msg)

    def extra_repr(self) -> str:
        """Return what the module's representation says beside its name.

        Returns
        -------
        text : str
        """
        return f"{self.classifier!r}, image_shape={self.image_shape}, temperature={self.temperature:g}"


def _check_image_shape(image_shape: Sequence[int], n_features: int) -> tuple[int, ...]:
    extents = np.atleast_1d(np.asarray(image_shape, object))
    shape = tuple(check_integer("image_shape", extent, 1) for extent in extents) if extents.ndim == 1 else ()
    if len(shape) not in (2, 3) or int(np.prod(shape)) != n_features:
        msg = (
            f"image_shape must be (height, width), (height, width, channels) or (channels, height, width) of the "
            f"classifier's {n_features} features, got {image_shape}."
        )
        raise ValueError(msg)
    return shape
