"""Memory beyond inputs and outputs stays within scikit-learn's `working_memory`: docs/memory.md, promise 5."""

import subprocess
import sys

import numpy as np
import pytest

from mfa_fast import _memory

# What does not depend on the number of samples: the packed model, threads' scratch, the allocator's slack.
BESIDE = 16

CHILD = """
import sys, warnings
import numpy as np, sklearn
from mfa_fast import MFA
warnings.simplefilter("ignore")
kind, method, memory, path = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4]

def peak():
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith("VmHWM")).split()[1]) / 1024

class Batches:
    def __init__(self, count):
        self.count = count
    def __len__(self):
        return self.count
    def __getitem__(self, i):
        return np.random.default_rng(i).integers(0, 256, (4000, 512), dtype=np.uint8)

if kind == "memory map":
    X = np.load(path, mmap_mode="r")
elif kind == "HDF5":
    import h5py
    X = h5py.File(path)["X"]
else:
    X = Batches(50)
with sklearn.config_context(working_memory=memory):
    # The libraries' own share: what they hold once, whatever the number of samples.
    model = MFA(4, 2, max_iter=1, random_state=0).fit(Batches(1)[0])
    model.score_samples(Batches(1)[0])
    before = peak()
    result = getattr(MFA(4, 2, max_iter=1, random_state=0) if method == "fit" else model, method)(X)
print(peak() - before)
"""

N, D = 200_000, 512
MIB = 2**20


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same samples twice: 98 MiB in uint8, as float64 they would be 781."""
    folder = tmp_path_factory.mktemp("memory")
    X = np.lib.format.open_memmap(folder / "X.npy", "w+", np.uint8, (N, D))
    for i in range(50):
        X[i * 4000 : (i + 1) * 4000] = np.random.default_rng(i).integers(0, 256, (4000, D), dtype=np.uint8)
    X.flush()
    yield folder
    for file in folder.iterdir():
        file.unlink()


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize(
    ("kind", "method", "outputs"),
    [
        ("memory map", "fit", 0),
        ("HDF5", "fit", 0),
        ("batches", "fit", 0),
        ("HDF5", "score", 0),
        ("batches", "predict", 8 * N),
    ],
)
def test_peak_of_a_process(kind, method, outputs, files):
    path = files / "X.npy"
    if kind == "HDF5":
        h5py = pytest.importorskip("h5py", reason="h5py is not installed")
        path = files / "X.h5"
        if not path.exists():
            with h5py.File(path, "w") as file:
                file.create_dataset("X", data=np.load(files / "X.npy", mmap_mode="r"), chunks=(1000, D))
    memory = 64
    child = subprocess.run(
        [sys.executable, "-c", CHILD, kind, method, str(memory), str(path)], capture_output=True, text=True, check=True
    )
    # Pages of a memory map are the input. Batches' outputs are put together at the end.
    allowed = memory + BESIDE + (N * D if kind == "memory map" else 0) / MIB + 2 * outputs / MIB
    assert float(child.stdout) <= allowed


def test_blocks_fit_into_the_memory():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_memory, "working_memory", lambda: 256 * MIB)
        for K, L, d, size in [(1, 1, 64, 1), (10, 4, 784, 4), (200, 10, 12288, 8)]:
            expectation = _memory.expectation_rows(K, L, d * size)
            assert 96 <= expectation <= 256 * MIB / (2 * d * size + 32 * K * (L + 3) + 40)
            assert 96 <= _memory.scoring_rows(K, d, d * size) <= 256 * MIB / (2 * d * size + 8 * (K + 2 * d))
            start = _memory.start_rows(K, L, d, d * size, 2000)
            each = d * size + 8 * (5 * max(16, 2 * L) + 7 * L + 24)
            assert start == 10 * K or start * each + min(start, 2000) * 32 * d <= 7 / 8 * 256 * MIB
            assert 16 * d * _memory.projection_rows(d, 4096) <= max(32 * MIB, 96 * 16 * d)
