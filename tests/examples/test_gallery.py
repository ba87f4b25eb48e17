"""The examples of the documentation run, on the digits that come with scikit-learn, and draw what they should."""

import runpy
from pathlib import Path

import pytest
from threadpoolctl import threadpool_limits

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("plot_*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
# What a library that draws finds deprecated in another is not theirs to mend.
@pytest.mark.filterwarnings("error::UserWarning", "error::RuntimeWarning", "ignore::DeprecationWarning")
def test_example(path, monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.delenv("MFA_FAST_DATA", raising=False)
    backend = pyplot.get_backend()
    pyplot.switch_backend("agg")
    try:
        # Other people's small matrix products take longer on several threads, on a busy machine far longer.
        with threadpool_limits(1, user_api="blas"):
            runpy.run_path(str(path))
        figures = [pyplot.figure(number) for number in pyplot.get_fignums()]
        assert figures
        for figure in figures:
            figure.canvas.draw()
            assert all(axes.has_data() for axes in figure.axes)
    finally:
        pyplot.close("all")
        pyplot.switch_backend(backend)
