"""What the tests of all loaders of images check."""

import numpy as np
import pytest


def message(error_type, function, *args, **kwargs):
    """Return the message of the error: one line, without the trace of what a library raised."""
    with pytest.raises(error_type) as info:
        function(*args, **kwargs)
    error = info.value
    assert "\n" not in str(error)
    assert error.__context__ is None or error.__suppress_context__
    return str(error)


def check_form(bunch, labels):
    """Check what all loaders promise."""
    d = int(np.prod(bunch.image_shape))
    for X, y in ((bunch.X_train, bunch.y_train), (bunch.X_test, bunch.y_test)):
        assert X.shape == (len(y), d)
        assert X.dtype == np.float32
        assert X.flags.c_contiguous
        assert X.flags.writeable
        assert X.min() >= 0
        assert X.max() <= 1
        assert y.dtype == np.int64
        assert np.array_equal(np.unique(y), labels)
    assert len(bunch.target_names) == len(labels)
    assert bunch.name in bunch.DESCR
