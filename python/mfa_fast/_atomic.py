"""Fits that fail leave the estimator as it was: what it had, it can go on with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

_Method = TypeVar("_Method", bound=Callable[..., Any])


@contextmanager
def unchanged_on_error(estimator: Any) -> Iterator[None]:
    """Give an estimator the attributes back that it had, if there is an error inside.

    Attributes are replaced in a fit, never changed in place, so that to keep them costs nothing.
    """
    attributes = vars(estimator)
    before = dict(attributes)
    try:
        yield
    except BaseException:
        # None that it had is missing at any time: other threads may be scoring with it.
        attributes.update(before)
        for name in attributes.keys() - before.keys():
            del attributes[name]
        raise


def all_or_nothing(method: _Method) -> _Method:
    """Decorate a method after whose errors the estimator is to be as it was."""

    @wraps(method)
    def call(estimator: Any, *args: Any, **kwargs: Any) -> Any:
        with unchanged_on_error(estimator):
            return method(estimator, *args, **kwargs)

    return cast(_Method, call)
