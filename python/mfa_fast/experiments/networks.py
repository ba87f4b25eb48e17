"""The convolutional networks of the paper; imported only when asked for, as they need torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from mfa_fast._validation import check_integer

LEAK = 0.2  # slope of the leaky ReLUs below 0, CleverHans's


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw from a seed, and leave torch's own generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(check_integer("seed", seed, 0))
        yield


class ImageNetwork(nn.Module):  # type: ignore[misc,unused-ignore]
    """A network on images that come as rows, as the loaders of `mfa_fast.datasets` give them, or in torch's layout."""

    def __init__(self, image_shape: Sequence[int]) -> None:
        super().__init__()
        shape = tuple(check_integer("image_shape", extent, 1) for extent in image_shape)
        if len(shape) not in (2, 3):
            msg = f"image_shape must be (height, width) or (height, width, channels), got {shape}."
            raise ValueError(msg)
        self.height, self.width = shape[:2]
        self.channels = shape[2] if len(shape) == 3 else 1

    def _take(self, layers: list[nn.Module]) -> None:
        self.layers = nn.Sequential(*layers)
        for layer in layers:
            if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
                nn.init.kaiming_normal_(layer.weight, a=LEAK)
                nn.init.zeros_(layer.bias)
            if isinstance(layer, nn.Conv2d):
                # Channels last is the faster layout on the CPU, by a half for few channels.
                layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (n, n_classes) of rows (n, d) or images (n, channels, height, width)."""
        if x.ndim == 2:
            x = x.reshape(len(x), self.height, self.width, self.channels).permute(0, 3, 1, 2)
        return self.layers(x.contiguous(memory_format=torch.channels_last))


class AllConvolutional(ImageNetwork):
    """The reference network: CleverHans's ModelAllConvolutional.

    Two 3 x 3 convolutions with leaky ReLU, the second of twice the width, then average pooling by 2, as often as leaves
    images of some 4 x 4; one more convolution gives a channel per class, whose mean is the logit.

    Parameters
    ----------
    image_shape : tuple of int
        (height, width) or (height, width, channels), as ``Bunch.image_shape``.
    n_classes : int
    width : int
        Channels of the first convolution.
    seed : int, default=0
        Of the initial weights (He's for leaky ReLU).

    Notes
    -----
    Springenberg et al., Striving for simplicity: the all convolutional net, ICLR workshop 2015. Papernot et al., the
    CleverHans library, arXiv:1610.00768.

    Examples
    --------
    >>> import torch
    >>> from mfa_fast.experiments.networks import AllConvolutional
    >>> AllConvolutional((28, 28), 2, width=4)(torch.zeros(5, 784)).shape
    torch.Size([5, 2])
    """

    def __init__(self, image_shape: Sequence[int], n_classes: int, width: int, *, seed: int = 0) -> None:
        super().__init__(image_shape)
        check_integer("width", width, 1)
        scales = max(0, round(math.log2(self.height)) - 2)
        with _seeded(seed):
            layers: list[nn.Module] = []
            channels = self.channels
            for scale in range(scales):
                for out in (width << scale, width << (scale + 1)):
                    layers += [nn.Conv2d(channels, out, 3, padding=1), nn.LeakyReLU(LEAK)]
                    channels = out
                layers.append(nn.AvgPool2d(2))
            layers += [nn.Conv2d(channels, check_integer("n_classes", n_classes, 2), 3, padding=1), nn.LeakyReLU(LEAK)]
            layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
            self._take(layers)


class StridedNetwork(ImageNetwork):
    """The network of figure 9: convolutions of which every second has stride 2 and twice the width.

    Deeper ones than 8 layers have as many of stride 2, 4, at equal distances: images of 28 x 28 have no more halvings.

    Parameters
    ----------
    image_shape : tuple of int
        (height, width) or (height, width, channels), as ``Bunch.image_shape``.
    n_classes : int
    width : int
        Channels of the first convolution.
    depth : int, default=8
        Number of convolutions, a multiple of 4.
    seed : int, default=0
        Of the initial weights (He's for leaky ReLU).

    Examples
    --------
    >>> import torch
    >>> from mfa_fast.experiments.networks import StridedNetwork
    >>> StridedNetwork((28, 28), 2, width=4)(torch.zeros(5, 784)).shape
    torch.Size([5, 2])
    """

    def __init__(
        self, image_shape: Sequence[int], n_classes: int, width: int, *, depth: int = 8, seed: int = 0
    ) -> None:
        super().__init__(image_shape)
        check_integer("width", width, 1)
        if check_integer("depth", depth, 8) % 4:
            msg = f"depth must be a multiple of 4, so that 4 layers of stride 2 lie at equal distances; got {depth}."
            raise ValueError(msg)
        with _seeded(seed):
            layers: list[nn.Module] = []
            channels, out = self.channels, width
            for layer in range(1, depth + 1):
                stride = 1 if layer % (depth // 4) else 2
                out *= stride
                layers += [nn.Conv2d(channels, out, 3, stride=stride, padding=1), nn.LeakyReLU(LEAK)]
                channels = out
            layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
            layers.append(nn.Linear(channels, check_integer("n_classes", n_classes, 2)))
            self._take(layers)
