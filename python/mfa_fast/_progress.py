"""What a fit is doing, told to scikit-learn's callbacks where its version has them (1.9 on)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

_Method = TypeVar("_Method", bound=Callable[..., Any])

try:
    from sklearn.callback import CallbackSupportMixin
    from sklearn.callback import with_callbacks as _with_callbacks
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing: this scikit-learn has no callbacks, and so estimators have no `set_callbacks`."""

    def _with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:
        """Return the method as it is."""
        return method


__all__ = ["CallbackSupportMixin", "Task", "with_callbacks"]


def with_callbacks(method: _Method) -> _Method:
    """Decorate a fit, so that its callbacks are torn down however it ends."""
    return cast(_Method, _with_callbacks(method))


class Task:
    """A fit or a part of one, between its begin and its end.

    The tasks of a fit make a tree, of which a progress bar shows every node that has parts.
    """

    def __init__(self, context: Any, estimator: Any, X: Any, y: Any, metadata: dict[str, Any]) -> None:
        self._context = context
        self._told = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        if context is not None:
            context.call_on_fit_task_begin(**self._told)

    @classmethod
    def fit(cls, estimator: Any, n_parts: int, X: Any, y: Any, sample_weight: Any) -> Task:
        """Begin a fit that has this many parts at most; the method that calls this is decorated `with_callbacks`."""
        begin = getattr(estimator, "_init_callback_context", None)
        metadata = {} if sample_weight is None else {"sample_weight": sample_weight}
        return cls(None if begin is None else begin(max_subtasks=n_parts), estimator, X, y, metadata)

    def part(self, name: str, n_parts: int = 0) -> Task:
        """Begin the next part, which itself has this many at most."""
        context = None
        if self._context is not None:
            context = self._context.subcontext(task_name=name, max_subtasks=n_parts)
        return Task(context, **self._told)

    @contextmanager
    def fit_of(self, name: str, estimator: Any) -> Iterator[None]:
        """Let another estimator's fit, which is run inside, be the next part."""
        if self._context is None:
            yield
            return
        context = self._context.subcontext(task_name=name)
        with context.propagate_callback_context(estimator):
            task = Task(context, **self._told)
            yield
            task.end()

    def end(self, fitted: Callable[[], dict[str, Any]] | None = None) -> bool:
        """End it, and return whether a callback asks for no more tasks like this one.

        `fitted` makes the attributes that the estimator would have if its fit were over now; it is only called if a
        callback wants to look at them.
        """
        if self._context is None:
            return False
        return bool(self._context.call_on_fit_task_end(**self._told, reconstruction_attributes=fitted))
