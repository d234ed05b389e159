import dataclasses

import numpy as np
import pytest
import torch

from dne_lib.files import InputError
from dne_lib.mano import HandModel
from dne_lib.metrics import MILLIMETRES
from dne_lib.model import DualNoiseNetwork, Stage
from dne_lib.uncertainty import (
    Measured,
    binned,
    calibration_figure,
    coverage,
    fit_scale,
    measure,
    scaled,
    vertex_spread,
)
from tests.samples import CONFIG, make_batch

LEVELS = np.array([0.1, 0.3, 0.5, 0.7, 0.9])


def stage(samples, scores=None):
    batch = samples.shape[1]
    return Stage(
        vertices=samples.mean(0),
        joints=torch.zeros(batch, 2, 21, 3),
        camera=torch.zeros(batch, 2, 2, 2),
        projections=torch.zeros(batch, 2, 778, 2),
        samples=samples,
        coordinates=samples[..., :2],
        scores=torch.zeros(samples.shape[:3]) if scores is None else scores,
    )


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_variances_of_the_modules_add(generator):
    draws = [stage(std * torch.randn(400, 1, 2, 778, 3, generator=generator)) for std in (0.3, 0.4)]
    spread = vertex_spread([stage(torch.zeros(1, 1, 2, 778, 3)), *draws])
    torch.testing.assert_close(spread, torch.full((1, 2, 778), 0.5), rtol=0.15, atol=0)
    assert spread.square().mean().item() == pytest.approx(0.25, rel=0.01)


@pytest.mark.parametrize("count", [2, 5])
def test_few_samples_do_not_shrink_the_variance(generator, count):
    samples = 0.2 * torch.randn(count, 8, 2, 778, 3, generator=generator)
    scores = torch.randn(count, 8, 2, generator=generator)
    spread = vertex_spread([stage(samples[:1]), stage(samples, scores)])
    assert spread.square().mean().sqrt().item() == pytest.approx(0.2, rel=0.03)


def test_samples_count_by_their_confidence(generator):
    samples = torch.randn(6, 1, 2, 778, 3, generator=generator)
    scores = torch.zeros(6, 1, 2)
    scores[2:] = -100.0
    baseline = stage(samples[:1])
    two = vertex_spread([baseline, stage(samples[:2])])
    torch.testing.assert_close(vertex_spread([baseline, stage(samples, scores)]), two)
    expected = (samples[0] - samples[1]).square().mean(-1).sqrt() / 2**0.5
    torch.testing.assert_close(two, expected)
    scores[1] = -100.0  # all the weight on one: no spread, but no division by zero either
    assert vertex_spread([baseline, stage(samples, scores)]).isfinite().all()


@pytest.mark.parametrize("count", [0, 1])
def test_no_samples_no_spread(count):
    stages = [stage(torch.zeros(1, 1, 2, 778, 3))] * (1 + count)
    with pytest.raises(InputError, match="no samples"):
        vertex_spread(stages)


@pytest.fixture
def truth():
    """Errors drawn from the very spread that is predicted, which differs from vertex to vertex."""
    rng = np.random.default_rng(0)
    spread = rng.lognormal(1.0, 0.7, (50, 778)).astype(np.float32)
    error = spread * np.linalg.norm(rng.normal(size=(50, 778, 3)), axis=-1)
    return Measured(spread, error.astype(np.float32))


def test_a_right_spread_is_calibrated(truth):
    assert fit_scale(truth) == pytest.approx(1, rel=0.01)
    np.testing.assert_allclose(coverage(truth, LEVELS), LEVELS, atol=0.01)
    predicted, true = binned(truth)
    np.testing.assert_allclose(true, predicted, rtol=0.05)
    assert (np.diff(predicted) > 0).all()
    assert np.mean(true**2) == pytest.approx(np.mean(truth.error.astype(np.float64) ** 2), rel=1e-3)


@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_a_wrong_scale_is_seen_and_mended(truth, factor):
    wrong = scaled(truth, factor)
    before = coverage(wrong, LEVELS)
    assert (before < LEVELS - 0.05).all() if factor < 1 else (before > LEVELS + 0.05).all()
    # Fitted on one half of the hands, shown on the other.
    one, other = (Measured(*(each[half] for each in wrong)) for half in (slice(25), slice(25, 50)))
    scale = fit_scale(one)
    assert scale == pytest.approx(1 / factor, rel=0.02)
    np.testing.assert_allclose(coverage(scaled(other, scale), LEVELS), LEVELS, atol=0.015)


def test_a_spread_that_knows_nothing_shows_in_the_bins(truth):
    """The scale can be right on average while no vertex is told from another."""
    rng = np.random.default_rng(1)
    shuffled = Measured(rng.permuted(truth.spread, axis=None).reshape(50, 778), truth.error)
    _, true = binned(shuffled)
    assert true.max() / true.min() < 1.2
    predicted, _ = binned(shuffled)
    assert predicted.max() / predicted.min() > 5


def test_the_figure_draws_each_by_name(truth):
    figure = calibration_figure({"before": scaled(truth, 0.5), "after": truth})
    left, right = figure.axes
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["before", "after"]
    before, after = right.lines[:2]
    assert (before.get_ydata() < after.get_ydata()).all()


def test_a_network_is_measured_on_the_hands_present():
    hands = HandModel()
    torch.manual_seed(0)
    network = DualNoiseNetwork(dataclasses.replace(CONFIG, consistency=False), hands).eval()
    batch = make_batch(hands)
    found = measure(network, [batch, batch], samples=4)
    assert found.spread.shape == found.error.shape == (8, 778)
    # Fresh modules move nothing: each draws with the floor delta of Eq. 2, two of them add up.
    expected = CONFIG.delta * 2**0.5 * MILLIMETRES
    assert np.sqrt(np.mean(found.spread**2)) == pytest.approx(expected, rel=0.05)
    coarse = network(batch["image"], batch["present"]).stages[0].vertices
    error = (coarse - batch["vertices"]).norm(dim=-1)[batch["present"]] * MILLIMETRES
    np.testing.assert_allclose(found.error[:4], error.detach().numpy(), rtol=1e-3)
    np.testing.assert_array_equal(found.spread, measure(network, [batch, batch], samples=4).spread)
