"""A stream of samples as a dataset of torch; imported only when asked for."""

from collections.abc import Iterator
from itertools import count

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from mfa_fast._labels import class_indices
from mfa_fast.datasets.stream import SampleStream


# The comment for mypy is needed where torch is not installed, and only there.
class TorchSampleStream(
    IterableDataset[tuple[torch.Tensor, torch.Tensor]]  # type: ignore[misc,unused-ignore]
):
    """Batches (X, y) of a stream, shared out among the workers of a DataLoader."""

    def __init__(self, stream: SampleStream) -> None:
        self._stream = stream
        self._start = stream.position

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Iterate over the batches of this worker, or over all of them outside workers."""
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        classes = getattr(self._stream.classifier, "classes_", None)
        for batch in count(first, step):
            X, y = self._stream.draw(self._start + batch * self._stream.batch_size)
            # The labels of a mixture are component indices already.
            indices = y if classes is None else class_indices(classes, y, len(y))
            yield torch.from_numpy(X), torch.from_numpy(indices.astype(np.int64))
