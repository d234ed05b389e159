import dataclasses
import logging

import numpy as np
import pytest
import safetensors.torch
import torch
from scipy.stats import chi
from scipy.stats import f as fisher

from dne_lib.config import Config
from dne_lib.files import InputError
from dne_lib.mano import HandModel
from dne_lib.metrics import MILLIMETRES
from dne_lib.model import DualNoiseNetwork
from dne_lib.model.noise import GAUSSIAN, Calibration, as_trained, radius, refined_way
from dne_lib.synthetic.synthesize import synthesize
from dne_lib.uncertainty import (
    Measured,
    binned,
    calibrate,
    calibration_figure,
    coverage,
    fit,
    measure,
)
from dne_lib.weights import load_network, read_calibration, save_calibration, save_network
from tests.samples import CONFIG, make_batch

LEVELS = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
TRUE = {"SH": Calibration(0.5, 0.05, 3.0), "IH": Calibration(2.0, 0.1, 6.0)}


def test_the_way_is_that_of_all_modules():
    step = torch.zeros(1, 2, 778, 3)
    step[0, 1, 5] = torch.tensor([1.0, 2.0, 2.0])
    there = refined_way([0 * step, step, step, -step / 3])
    # Of 3 and of 4, by Pythagoras: a step back does not undo one forth.
    expected = torch.zeros(1, 2, 778)
    expected[0, 1, 5] = 5
    torch.testing.assert_close(there, expected)
    with pytest.raises(InputError, match="without modules"):
        refined_way([step])


def test_the_noise_of_training_is_recovered_from_its_draws():
    rng = np.random.default_rng(0)
    config = dataclasses.replace(CONFIG, gamma=0.3, delta=0.02, modules=3)
    mean = rng.normal(size=(3, 778, 3))
    way = np.sqrt(np.square(mean).sum(axis=(0, 2), keepdims=False))[None].astype(np.float32)
    (sh, ih) = as_trained(config).values()
    assert sh == ih
    assert sh.freedom == GAUSSIAN
    # Where nothing moves, and far away, it is Eq. 2's own distribution.
    for size, tolerance in ((0.0, 0.02), (100.0, 0.1)):
        spread = config.gamma * np.abs(size * mean) + config.delta
        drawn = rng.normal(size=(400, 3, 778, 3)) * spread
        distance = np.linalg.norm(drawn.sum(axis=1), axis=-1)
        typical = np.sqrt(np.square(distance).mean())
        assert radius(size * way, sh, 0.5).shape == (1, 778)
        said = np.sqrt(np.square(radius(size * way, sh, 0.5) / chi.ppf(0.5, 3)).mean() * 3)
        assert said == pytest.approx(typical, rel=tolerance)


@pytest.mark.parametrize("level", [0.3, 0.5, 0.95])
def test_the_radius_holds_its_share_of_heavy_tails(level):
    rng = np.random.default_rng(1)
    way = rng.uniform(0, 0.3, 200_000).astype(np.float32)
    each = Calibration(1.5, 0.1, 2.5)
    assert (drawn(rng, way, each) < radius(way, each, level)).mean() == pytest.approx(
        level, abs=0.005
    )


def drawn(rng, way, each):
    """Errors: a Gaussian over the root of a chi-square, the definition of Student's t."""
    gauss = np.linalg.norm(rng.normal(size=(*way.shape, 3)), axis=-1)
    wide = np.sqrt(rng.chisquare(each.freedom, way.shape) / each.freedom)
    return ((each.gamma * way + each.delta) * gauss / wide).astype(np.float32)


@pytest.fixture
def truth():
    """Errors drawn from the very distributions of `TRUE`."""
    rng = np.random.default_rng(0)
    way = rng.lognormal(-2.5, 0.9, (120, 778)).astype(np.float32)
    interacting = np.arange(120) % 3 > 0
    error = np.where(interacting[:, None], drawn(rng, way, TRUE["IH"]), drawn(rng, way, TRUE["SH"]))
    return Measured(way, error, interacting)


def test_a_right_distribution_is_calibrated(truth):
    np.testing.assert_allclose(coverage(truth, TRUE, LEVELS), LEVELS, atol=0.01)
    predicted, true = binned(truth, TRUE)
    np.testing.assert_allclose(true, predicted, rtol=0.08)
    assert (np.diff(predicted) > 0).all()
    low = MILLIMETRES * 0.05 * np.sqrt(3 * fisher.ppf(0.5, 3, 3))
    assert predicted[0] > low


def test_numbers_are_found_again(truth):
    fits = fit(truth)
    for kind, true in TRUE.items():
        np.testing.assert_allclose(fits[kind], true, rtol=0.15)
    # Of other hands of the same kind.
    rng = np.random.default_rng(3)
    way = rng.lognormal(-2.5, 0.9, (50, 778)).astype(np.float32)
    other = Measured(way, drawn(rng, way, TRUE["IH"]), np.ones(50, bool))
    np.testing.assert_allclose(coverage(other, fits, LEVELS), LEVELS, atol=0.02)


@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_a_wrong_scale_shows(truth, factor):
    wrong = {k: Calibration(factor * g, factor * d, f) for k, (g, d, f) in TRUE.items()}
    found = coverage(truth, wrong, LEVELS)
    assert (found < LEVELS - 0.05).all() if factor < 1 else (found > LEVELS + 0.05).all()


def test_a_way_that_knows_nothing_shows_in_the_bins(truth):
    rng = np.random.default_rng(1)
    shuffled = truth._replace(way=rng.permuted(truth.way, axis=None).reshape(truth.way.shape))
    alone = {"SH": TRUE["IH"], "IH": TRUE["IH"]}
    predicted, true = binned(shuffled, alone)
    assert true.max() / true.min() < 1.2
    assert predicted.max() / predicted.min() > 5
    # Fitted, it is not believed.
    before = TRUE["IH"].gamma / TRUE["IH"].delta
    after = fit(shuffled)["IH"]
    assert after.gamma / after.delta < 0.2 * before


def test_few_hands_are_not_fitted(truth):
    few = Measured(*(values[:75] for values in truth))
    assert set(fit(few)) == {"IH"}
    with pytest.raises(InputError, match="30 hands are too few"):
        fit(Measured(*(values[:30] for values in truth)))


def test_the_figure_draws_each_by_name(truth):
    narrow = {k: Calibration(0.5 * g, 0.5 * d, f) for k, (g, d, f) in TRUE.items()}
    figure = calibration_figure(truth, {"as trained": narrow, "calibrated": TRUE})
    left, right = figure.axes
    names = [text.get_text() for text in left.get_legend().get_texts()]
    assert names == ["as trained", "calibrated"]
    before, after = right.lines[:2]
    assert (before.get_ydata() < after.get_ydata()).all()


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = DualNoiseNetwork(CONFIG, HandModel())
    # Fresh modules move nothing.
    torch.nn.init.constant_(network.refiners[0].varphi.last.bias, 0.1)
    return network.eval()


def test_a_network_is_measured_on_the_hands_present(network):
    batch = make_batch(network.hands)
    found = measure(network, [batch, batch])
    assert found.way.shape == found.error.shape == (8, 778)
    assert found.interacting.tolist() == 2 * [False, False, True, True]
    assert found.way.min() > 0.01
    stages = network(batch["image"], batch["present"]).stages
    error = (stages[-1].vertices - batch["vertices"]).norm(dim=-1)[batch["present"]]
    np.testing.assert_allclose(found.error[:4], error.detach().numpy(), rtol=1e-3)


def test_the_fit_travels_with_the_weights(network, tmp_path):
    path = tmp_path / "net.safetensors"
    save_network(network, Config(model=CONFIG), path, half=True)
    before = safetensors.torch.load_file(path)
    assert load_network(path)[0].calibration == {}
    assert save_calibration(path, TRUE) == path
    after = safetensors.torch.load_file(path)
    assert before.keys() == after.keys()
    assert all(after[k].dtype == v.dtype and torch.equal(after[k], v) for k, v in before.items())
    loaded, config = load_network(path)
    assert config.model == CONFIG
    assert loaded.calibration == TRUE
    # And on, as `ship_weights.py` does it.
    save_network(loaded, config, tmp_path / "shipped.safetensors", half=True)
    assert read_calibration(tmp_path / "shipped.safetensors") == TRUE


@pytest.mark.parametrize("text", ["{", "[1]", '{"SH": {"scale": 2}}', '{"SH": 8.1}'])
def test_a_fit_of_another_version_is_none(network, tmp_path, text, caplog):
    path = tmp_path / "net.safetensors"
    save_network(network, Config(model=CONFIG), path)
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    state = safetensors.torch.load_file(path)
    safetensors.torch.save_file(state, path, metadata | {"calibration": text})
    with caplog.at_level(logging.WARNING):
        assert load_network(path)[0].calibration == {}
    assert f"{path} holds a calibration of another version" in caplog.text


def test_a_network_is_calibrated_on_the_split_val(network, tmp_path, monkeypatch):
    config = Config(model=CONFIG)
    config.data.root = tmp_path / "data"
    synthesize(config.data.root, train=0, test=0, val=8, seed=5, workers=1, progress=False)
    with pytest.raises(InputError, match=r"^8 images are too few to calibrate"):
        calibrate(network, config)
    monkeypatch.setattr("dne_lib.uncertainty.FEWEST", 2)
    fits, table = calibrate(network, config)
    rows = [line.split("  ")[0] for line in table.splitlines()[2:6]]
    assert rows == ["SH, as trained", "SH, calibrated", "IH, as trained", "IH, calibrated"]
    # An untrained network errs by far more than the noise it was to train with.
    half = table.splitlines()[2].split()[4]
    assert half == "0.0%"
    assert f"IH: gamma {fits['IH'].gamma:.2f}, delta" in table
    config.data.root = tmp_path / "nowhere"
    with pytest.raises(InputError, match="nowhere"):
        calibrate(network, config)


def test_the_network_that_comes_with_the_package_is_calibrated():
    assert set(read_calibration("shipped")) == {"SH", "IH"}
