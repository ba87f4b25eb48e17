"""Does what is left of a sweep, in this process or in several."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from threadpoolctl import threadpool_limits

from mfa_fast._validation import check_threads
from mfa_fast.experiments.reproduce.cells import Cell, Context, Store, closure, missing

Progress = Callable[[str, int, int], None]
LOCK = "in-use"


def run_cells(
    cells: Iterable[Cell],
    store: Store,
    *,
    jobs: int = 1,
    n_threads: int | None = None,
    force: bool = False,
    progress: Progress = lambda title, done, total: None,
) -> int:
    """Do all cells that are not done yet, and what they need.

    Parameters
    ----------
    cells : iterable of Cell
    store : Store
        Where results are kept.
    jobs : int
        Processes. The order in which cells are done, and the number of processes, change no result.
    n_threads : int or None
        In all; shared out among the processes. None: as many as OMP_NUM_THREADS says,
        or all cores.
    force : bool
        Do everything anew.
    progress : callable
        Called as ``progress(title, done, total)``: what was begun or ended last, and how many cells are done.

    Returns
    -------
    int
        How many cells were done.

    Raises
    ------
    ValueError
        If another process works in the same store, or its folder cannot be written.
    """
    store.prepare()
    with _alone_in(store.folder):
        store.sweep()
        left = closure(cells) if force else missing(cells, store)
        threads = check_threads(n_threads)
        if jobs == 1 or len(left) < 2:
            _run_here(left, store, threads, progress)
        else:
            _run_in_processes(left, store, jobs, max(1, threads // jobs), progress)
    return len(left)


def _run_here(left: Sequence[Cell], store: Store, threads: int, progress: Progress) -> None:
    for done, cell in enumerate(left):
        progress(cell.title, done, len(left))
        _make(cell, store, threads)
        progress(cell.title, done + 1, len(left))


def _run_in_processes(left: Sequence[Cell], store: Store, jobs: int, threads: int, progress: Progress) -> None:
    waiting = dict.fromkeys(left)
    running: dict[Future[None], Cell] = {}
    done: set[Cell] = set()
    # Spawned, not forked: threads of BLAS and torch do not survive a fork.
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=_end_with_parent)
    try:
        while waiting or running:
            blocked = set(waiting) | set(running.values())
            ready = [cell for cell in waiting if not blocked.intersection(cell.inputs)]
            for cell in ready[: jobs - len(running)]:
                del waiting[cell]
                running[pool.submit(_make, cell, store, threads)] = cell
                progress(cell.title, len(done), len(left))
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                cell = running.pop(future)
                future.result()
                done.add(cell)
                progress(cell.title, len(done), len(left))
    finally:
        pool.shutdown(cancel_futures=True)


def _make(cell: Cell, store: Store, threads: int) -> None:
    pools = threads
    if "torch" in cell.requires:
        import torch

        # What torch computes depends on the number of its threads: with one, it does not on the number of jobs.
        pools = 1
        torch.set_num_threads(1)
    with threadpool_limits(pools):
        store.make(cell, Context(store, threads))


def _end_with_parent() -> None:
    """Let a worker process end when the sweep is killed: nobody would be left to tell it to."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _lock(file: IO[str]) -> None:
    """Lock a file, or raise OSError where another process has."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    # The system lifts the lock when the process ends, however it ends.
    with (folder / LOCK).open("w") as file:
        try:
            _lock(file)
        except OSError as error:
            msg = f"out is in use: another sweep is at work in {folder.parent}; wait for it, or name another folder"
            raise ValueError(msg) from error
        yield
