"""Some of the cases of tests/fuzz.py, whose hundred thousand are for a person to run."""

import pytest

import fuzz


@pytest.mark.parametrize("part", range(4))
def test_hostile_arguments_give_a_clear_error_or_the_right_answer(part):
    seen, failures = fuzz.run_cases(seed=2024, first=250 * part, count=250)
    assert not failures, "\n".join(f"python tests/fuzz.py --seed 2024 --first {n} --cases 1\n{t}" for n, t in failures)
    # Both must have been seen for every kind of case, or nothing was tried.
    for case in fuzz.CASES:
        assert any(name == case.__name__ for name, _ in seen), case.__name__
    assert any(outcome == "answer" for _, outcome in seen)
    assert any(outcome == "ValueError" for _, outcome in seen)
