"""Cells: what names them, that they are done once, whole or not at all, and in any order."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from counting_cells import Add, Draw, Fail
from mfa_fast.experiments.reproduce import cells as cells_module
from mfa_fast.experiments.reproduce.cells import RECORD, UNFINISHED, VALUE, Store, closure, missing, spawned_seed
from mfa_fast.experiments.reproduce.distributions import Fitted
from mfa_fast.experiments.reproduce.images import find_image_sets
from mfa_fast.experiments.reproduce.run import run_cells
from mfa_fast.experiments.reproduce.settings import Settings


def diamond(log=None):
    a, b, c = (Draw(name, log) for name in "abc")
    left, right = Add((a, b), log), Add((b, c), log)
    return Add((left, right), log), (a, b, c, left, right)


def test_a_key_is_the_configuration_and_that_of_the_inputs():
    assert Draw("a").key == Draw("a").key != Draw("b").key
    assert Add((Draw("a"),)).key != Add((Draw("b"),)).key
    assert Add((Draw("a"), Draw("b"))).key != Add((Draw("b"), Draw("a"))).key
    assert Draw("a").key.startswith("Draw-")
    assert Draw("a", Path("x")).key == Draw("a", Path("y")).key  # where it logs decides nothing
    assert Draw("a", Path("x")) == Draw("a", Path("y"))


def test_a_key_changes_with_the_version(monkeypatch):
    before = Draw("a").key
    monkeypatch.setattr(cells_module.mfa_fast, "__version__", "0.0.test")
    assert Draw("a").key != before


@pytest.mark.parametrize(
    "change",
    [{"components": 3}, {"factors": 2}, {"max_iter": 7}, {"root_seed": 1}],
)
def test_a_key_changes_with_every_setting(change):
    images = find_image_sets(Settings(), []).digits[0]
    cell = Fitted(images, None, None, 100, 0)
    assert replace(cell, **change).key != cell.key


def test_a_key_follows_the_data_not_the_path(tmp_path):
    for name, content in (("a.npz", b"one"), ("b.npz", b"one"), ("c.npz", b"two")):
        (tmp_path / name).write_bytes(content)
    same, moved, other = (
        Fitted.of(find_image_sets(Settings(), [tmp_path / name]).digits[0], Settings())
        for name in ("a.npz", "b.npz", "c.npz")
    )
    assert same.key == moved.key != other.key


def test_seeds_belong_to_cells():
    assert Draw("a").seed(0, "draw") == Draw("a").seed(0, "draw")
    seeds = {Draw(name).seed(root, what) for name in "ab" for root in (0, 1) for what in ("draw", "other")}
    assert len(seeds) == 8
    assert spawned_seed(0, "ab", "c") != spawned_seed(0, "a", "bc")


def test_shared_inputs_are_done_once(tmp_path):
    top, parts = diamond(tmp_path / "log")
    assert run_cells([top], Store(tmp_path / "cells")) == 6
    assert sorted((tmp_path / "log").read_text().split()) == ["a", "add", "add", "add", "b", "c"]
    assert closure([top])[-1] == top
    assert set(closure([top])) == {top, *parts}


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("backwards", [False, True])
def test_order_and_jobs_change_nothing(jobs, backwards, tmp_path):
    top, parts = diamond()
    cells = [top, *parts]
    store = Store(tmp_path)
    run_cells(reversed(cells) if backwards else cells, store, jobs=jobs)
    a, b, c = (np.random.default_rng(Draw(name).seed(0, "draw")).normal(size=5) for name in "abc")
    np.testing.assert_array_equal(store.load(top), (a + b) + (b + c))


def test_nothing_is_done_twice_unless_forced(tmp_path):
    log = tmp_path / "log"
    top, _ = diamond(log)
    store = Store(tmp_path / "cells")
    run_cells([top], store)
    assert run_cells([top], store) == 0
    assert len(log.read_text().split()) == 6
    assert run_cells([top], store, force=True) == 6
    assert len(log.read_text().split()) == 12


def test_inputs_of_what_is_done_are_not_looked_at(tmp_path):
    top, parts = diamond()
    store = Store(tmp_path)
    run_cells([top], store)
    for part in parts:
        store.path(part).rename(tmp_path / f"gone-{part.key}")
    assert missing([top], store) == []
    assert run_cells([parts[3]], store) == 3


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failure_leaves_what_is_done_and_nothing_else(jobs, tmp_path):
    good = Draw("a")
    store = Store(tmp_path)
    with pytest.raises(ValueError, match="nothing can be done"):
        run_cells([Fail(good)], store, jobs=jobs)
    assert good in store
    assert not list(tmp_path.glob(f"{UNFINISHED}*"))
    assert Fail(good) not in store


def test_an_interrupted_write_is_no_result(tmp_path, monkeypatch):
    store, cell = Store(tmp_path), Draw("a")
    run_cells([cell], store)
    before = store.load(cell)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cells_module.joblib, "dump", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_cells([cell], store, force=True)
    np.testing.assert_array_equal(store.load(cell), before)
    assert not list(tmp_path.glob(f"{UNFINISHED}*"))


@pytest.mark.parametrize(("name", "content"), [(VALUE, b""), (VALUE, b"\x80\x05\x95\xff"), (RECORD, b"{")])
def test_a_damaged_result_is_named(name, content, tmp_path):
    store, cell = Store(tmp_path), Draw("a")
    run_cells([cell], store)
    (store.path(cell) / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{cell.key}' must hold .* got a damaged one .* remove that folder"):
        _ = store.load(cell), store.record(cell)


def test_leftovers_of_a_killed_sweep_are_removed(tmp_path):
    (tmp_path / f"{UNFINISHED}xyz").mkdir()
    (tmp_path / f"{UNFINISHED}xyz" / "value.joblib").write_bytes(b"half")
    run_cells([Draw("a")], Store(tmp_path))
    assert not list(tmp_path.glob(f"{UNFINISHED}*"))


def test_two_sweeps_cannot_share_a_folder(tmp_path):
    class Inner(Draw):
        def compute(self, context):
            with pytest.raises(ValueError, match="in use"):
                run_cells([Draw("b")], Store(tmp_path))
            return 0

    store = Store(tmp_path)
    assert run_cells([Inner("a")], store) == 1
    assert run_cells([Draw("b")], store) == 1


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="permission"):
        run_cells([Draw("a")], Store(tmp_path))


def test_records_say_what_a_result_is_of(tmp_path):
    store, cell = Store(tmp_path), Draw("a")
    run_cells([cell], store)
    record = store.record(cell)
    assert record["title"] == "draw a"
    assert record["configuration"] == {"": "Draw", "name": "a"}
    assert record["seconds"] >= 0


def test_threads_are_shared_out(tmp_path):
    seen = []

    class Ask(Draw):
        def compute(self, context):
            seen.append(context.n_threads)
            return 0

    run_cells([Ask("a")], Store(tmp_path), jobs=1, n_threads=3)
    assert seen == [3]
