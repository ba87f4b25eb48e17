"""The paper's networks and their training."""

from functools import partial

import numpy as np
import pytest

from mfa_fast import MFAClassifier
from mfa_fast.attacks import cw_l2, ddn
from mfa_fast.datasets import SampleStream, load_digits_pair

torch = pytest.importorskip("torch", reason="torch is not installed")
from mfa_fast.experiments.networks import AllConvolutional, StridedNetwork  # noqa: E402
from mfa_fast.experiments.trades import Trades, trades_loss  # noqa: E402
from mfa_fast.experiments.training import TrainConfig, train_network  # noqa: E402

DIGITS = load_digits_pair(0, 6)
TRAIN, HELD_OUT = (DIGITS.X_train, DIGITS.y_train), (DIGITS.X_test, DIGITS.y_test)
networks = pytest.mark.parametrize("kind", [AllConvolutional, StridedNetwork])


@pytest.fixture(scope="module")
def symmetric():
    return MFAClassifier(3, 3, random_state=0).fit(*TRAIN).symmetric(1e-3)


def _network(width=4, seed=0):
    return StridedNetwork(DIGITS.image_shape, 2, width=width, seed=seed)


def _config(**settings):
    return TrainConfig(**{"images": 1_000, "evaluate_every": 250, "target_accuracy": None} | settings)


def _convolutions(network):
    return [layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)]


class _Recorder(torch.nn.Module):
    """A linear network that keeps the rows it was trained on."""

    def __init__(self, n_features):
        super().__init__()
        self.linear = torch.nn.Linear(n_features, 2)
        self.rows = []

    def forward(self, x):
        if self.training:
            self.rows.append(x.detach().numpy().copy())
        return self.linear(x)


# ------------------------------------------------------------------------------------------------------------- networks


def test_the_reference_network_doubles_its_width_as_it_halves_the_image():
    layers = _convolutions(AllConvolutional((28, 28), 2, width=4))
    assert [c.in_channels for c in layers] == [1, 4, 8, 8, 16, 16, 32]
    assert [c.out_channels for c in layers] == [4, 8, 8, 16, 16, 32, 2]
    assert all(c.kernel_size == (3, 3) and c.stride == (1, 1) for c in layers)
    assert len(_convolutions(AllConvolutional((64, 64, 3), 2, width=4))) == 9


@pytest.mark.parametrize("depth", [8, 12, 24])
def test_the_network_of_figure_9_has_four_strides(depth):
    layers = _convolutions(StridedNetwork((28, 28), 2, width=4, depth=depth))
    assert len(layers) == depth
    assert sum(c.stride == (2, 2) for c in layers) == 4
    assert all(c.out_channels == c.in_channels * c.stride[0] for c in layers[1:])
    assert layers[0].out_channels == 4 and layers[-1].out_channels == 64


@networks
@pytest.mark.parametrize("image_shape", [(8, 8), (28, 28), (12, 16, 3)])
def test_rows_are_images(kind, image_shape):
    network = kind(image_shape, 3, 2).eval()
    rows = torch.rand(5, int(np.prod(image_shape)), generator=torch.Generator().manual_seed(0))
    images = rows.reshape(5, *image_shape[:2], -1).permute(0, 3, 1, 2)
    with torch.no_grad():
        assert network(rows).shape == (5, 3)
        assert torch.equal(network(rows), network(images))


@networks
def test_initial_weights_are_a_function_of_the_seed(kind):
    state = torch.get_rng_state()
    one, same, other = (kind((8, 8), 2, 4, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert any(not torch.equal(value, other[name]) for name, value in one.items())


def test_bad_networks_are_named():
    with pytest.raises(ValueError, match="image_shape must be"):
        AllConvolutional((784,), 2, width=4)
    with pytest.raises(ValueError, match="width"):
        AllConvolutional((28, 28), 2, width=0)
    with pytest.raises(ValueError, match="depth must be a multiple of 4"):
        StridedNetwork((28, 28), 2, width=4, depth=10)
    with pytest.raises(ValueError, match="n_classes"):
        StridedNetwork((28, 28), 1, width=4)


# ------------------------------------------------------------------------------------------------------------- training


def test_every_image_is_shown_once_in_every_pass():
    X, y = TRAIN[0][:70], TRAIN[1][:70]
    network = _Recorder(64)
    train_network(network, (X, y), _config(images=150, batch_size=40), held_out=HELD_OUT)
    rows = np.concatenate(network.rows)
    assert [len(batch) for batch in network.rows] == [40, 40, 40, 30]
    for first in (0, 70):
        assert np.array_equal(np.unique(rows[first : first + 70], axis=0), np.unique(X, axis=0))
    assert not np.array_equal(rows[:70], rows[70:140])


def test_a_stream_is_shown_in_order_and_left_where_it_is(symmetric):
    stream = SampleStream(symmetric, 7, seed=3, start=21)
    network = _Recorder(64)
    train_network(network, stream, _config(images=130, batch_size=50), held_out=HELD_OUT)
    X, _ = symmetric.sample(130, random_state=3, start=21)
    assert np.array_equal(np.concatenate(network.rows), X.astype(np.float32))
    assert stream.position == 21


def test_learns_what_it_is_shown(symmetric):
    held_out = symmetric.sample(200, random_state=1)
    stream = SampleStream(symmetric, 50, seed=0)
    trained = train_network(_network(), stream, _config(images=5_000, evaluate_every=1_000), held_out=held_out)
    assert trained.accuracy >= 0.98
    assert trained.images == 5_000
    assert [e.images for e in trained.history] == [1_000, 2_000, 3_000, 4_000, 5_000]
    assert trained.history[-1].loss < trained.history[0].loss
    assert np.mean(trained.predict(held_out[0]) == held_out[1]) == trained.accuracy
    assert trained.seconds > 0


@pytest.mark.parametrize("trades", [None, Trades(beta=2.0, steps=2)])
def test_goes_on_after_an_interruption_as_if_there_had_been_none(trades, tmp_path):
    config = _config(images=700, trades=trades)
    whole = train_network(_network(), TRAIN, config, held_out=HELD_OUT)

    def interrupt(done, total):
        if done >= 600:
            raise KeyboardInterrupt

    path = tmp_path / "network.pt"
    with pytest.raises(KeyboardInterrupt):
        train_network(_network(), TRAIN, config, held_out=HELD_OUT, checkpoint=path, progress=interrupt)
    calls = []
    resumed = train_network(
        _network(), TRAIN, config, held_out=HELD_OUT, checkpoint=path, progress=lambda *call: calls.append(call)
    )
    assert calls[0] == (500, 700) and calls[-1] == (700, 700)
    assert resumed.history == whole.history
    weights = whole.network.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in resumed.network.state_dict().items())
    assert [p.name for p in tmp_path.iterdir()] == ["network.pt"]
    again = train_network(_network(), TRAIN, config, held_out=HELD_OUT, checkpoint=path)
    assert again.history == whole.history and again.seconds == resumed.seconds


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(monkeypatch, tmp_path):
    path = tmp_path / "network.pt"
    save, calls = torch.save, []

    def second_fails(state, file):
        save(state, file)
        calls.append(file)
        if len(calls) == 2:
            raise OSError("no space left")

    monkeypatch.setattr(torch, "save", second_fails)
    with pytest.raises(OSError, match="no space left"):
        train_network(_network(), TRAIN, _config(images=500), held_out=HELD_OUT, checkpoint=path)
    assert torch.load(path, weights_only=True)["seen"] == 250
    assert [p.name for p in tmp_path.iterdir()] == ["network.pt"]


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04"])
def test_a_damaged_checkpoint_is_named(content, tmp_path):
    path = tmp_path / "network.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"network\.pt is damaged \(\w+\); delete it"):
        train_network(_network(), TRAIN, _config(), held_out=HELD_OUT, checkpoint=path)


@pytest.mark.parametrize("change", ["configuration", "data", "weights", "width"])
def test_a_checkpoint_of_another_training_is_refused(change, tmp_path):
    path = tmp_path / "network.pt"
    train_network(_network(), TRAIN, _config(), held_out=HELD_OUT, checkpoint=path)
    network = {"weights": _network(seed=1), "width": _network(width=2)}.get(change, _network())
    data = (TRAIN[0] + 1, TRAIN[1]) if change == "data" else TRAIN
    config = _config(seed=1) if change == "configuration" else _config()
    with pytest.raises(ValueError, match=r"network\.pt is of another training"):
        train_network(network, data, config, held_out=HELD_OUT, checkpoint=path)


def test_ends_when_the_target_is_reached():
    config = _config(images=100_000, target_accuracy=0.9)
    trained = train_network(_network(), TRAIN, config, held_out=HELD_OUT)
    assert trained.images < 100_000
    assert [e.accuracy >= 0.9 for e in trained.history] == [False] * (len(trained.history) - 1) + [True]


@pytest.mark.parametrize("target", [None, 1.0])
@pytest.mark.parametrize("interrupted", [False, True])
def test_the_most_accurate_weights_are_kept(interrupted, target, symmetric, tmp_path):
    """With steps so long that the accuracy goes up and down."""
    config = _config(images=2_000, evaluate_every=100, learning_rate=0.1, target_accuracy=target)
    train, held_out = symmetric.sample(300, random_state=1), symmetric.sample(500, random_state=2)
    flipped = held_out[0], np.where(np.arange(500) == 0, 6 - held_out[1], held_out[1])  # out of reach

    def interrupt(done, total):
        if done >= 1_950:
            raise KeyboardInterrupt

    path = tmp_path / "network.pt"
    if interrupted:
        with pytest.raises(KeyboardInterrupt):
            train_network(_network(), train, config, held_out=flipped, checkpoint=path, progress=interrupt)
    trained = train_network(_network(), train, config, held_out=flipped, checkpoint=path)
    accuracies = [e.accuracy for e in trained.history]
    assert trained.images == 2_000
    assert accuracies[-1] < max(accuracies) == trained.accuracy
    assert np.mean(trained.predict(flipped[0]) == flipped[1]) == trained.accuracy


@pytest.mark.parametrize("attack", [partial(cw_l2, iterations=100), ddn], ids=["cw_l2", "ddn"])
def test_a_trained_network_can_be_attacked(attack, symmetric):
    X, y = symmetric.sample(20, random_state=2)
    trained = train_network(_network(), TRAIN, _config(images=3_000), held_out=HELD_OUT)
    result = attack(trained, X, y)
    assert set(trained.classes_) == {0, 6}
    assert np.array_equal(result.success, trained.predict(result.X_adv) != y)
    assert result.success.mean() >= 0.9
    assert np.array_equal(result.n_steps == 0, trained.predict(X) != y)


def test_bad_settings_are_named():
    for name in ("images", "batch_size", "evaluate_every"):
        with pytest.raises(ValueError, match=name):
            TrainConfig(**{name: 0})
    with pytest.raises(ValueError, match="learning_rate"):
        TrainConfig(learning_rate=0.0)
    with pytest.raises(ValueError, match="target_accuracy"):
        TrainConfig(target_accuracy=1.5)
    with pytest.raises(ValueError, match="beta"):
        Trades(beta=-1.0)
    with pytest.raises(ValueError, match="norm must be one of 'l2', 'linf'"):
        Trades(beta=1.0, norm="l1")
    with pytest.raises(ValueError, match="labels that the model does not know"):
        train_network(_network(), TRAIN, _config(), held_out=(TRAIN[0], TRAIN[1] + 1))


# --------------------------------------------------------------------------------------------------------------- TRADES


def _perturbed(network, X, settings):
    """The second batch that the loss sends through the network with a gradient is the perturbed one."""
    batches = []
    hook = network.register_forward_pre_hook(lambda _, inputs: batches.append(inputs[0].detach()))
    trades_loss(network, X, torch.zeros(len(X), dtype=torch.long), settings, 0)
    hook.remove()
    return batches[-1]


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_inner_attack_stays_within_the_radius_and_uses_it(norm):
    trained = train_network(_network(), TRAIN, _config(), held_out=HELD_OUT)
    X = torch.from_numpy(HELD_OUT[0][:30])
    delta = _perturbed(trained.network, X, Trades(beta=1.0, norm=norm, radius=0.3)) - X
    sizes = delta.norm(dim=1) if norm == "l2" else delta.abs().amax(dim=1)
    assert torch.all(sizes <= 0.3 * (1 + 1e-5))
    assert sizes.mean() >= 0.29


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_inner_attack_beats_a_random_one(norm):
    trained = train_network(_network(), TRAIN, _config(), held_out=HELD_OUT)
    X = torch.from_numpy(HELD_OUT[0][:30])
    settings = Trades(beta=1.0, norm=norm, radius=0.3)
    found = _perturbed(trained.network, X, settings)
    noise = torch.randn(X.shape, generator=torch.Generator().manual_seed(1))
    random = X + 0.3 * (noise.sign() if norm == "linf" else noise / noise.norm(dim=1, keepdim=True))
    with torch.no_grad():
        clean, strong, weak = (torch.log_softmax(trained.network(x), dim=1) for x in (X, found, random))
    divergence = [torch.sum(clean.exp() * (clean - other)) for other in (strong, weak)]
    assert divergence[0] > 2 * divergence[1] > 0


def test_without_a_weight_it_is_plain_training():
    plain = train_network(_network(), TRAIN, _config(), held_out=HELD_OUT)
    trades = train_network(_network(), TRAIN, _config(trades=Trades(beta=0.0)), held_out=HELD_OUT)
    assert plain.history == trades.history


@pytest.mark.parametrize(("norm", "radius"), [("l2", 1.0), ("linf", 0.2)])
def test_it_makes_networks_more_robust(norm, radius, symmetric):
    X, y = symmetric.sample(100, random_state=2)
    held_out = symmetric.sample(200, random_state=1)

    def distance(trades):
        found = []
        for seed in (0, 1):  # one network alone is more or less robust by chance
            config = _config(images=5_000, trades=trades)
            trained = train_network(
                _network(seed=seed), SampleStream(symmetric, 50, seed=seed), config, held_out=held_out
            )
            found.append(ddn(trained, X, y).summary()["mean_l2"])
        return np.mean(found)

    assert distance(Trades(beta=5.0, norm=norm, radius=radius, steps=5)) > 1.1 * distance(None)
