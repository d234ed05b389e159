"""Lesson 6's widget: what is read, where, and the mixture of two points."""

import numpy as np
import pytest
import torch

from dne_lib import widgets
from dne_lib.camera import ndc_to_pixels
from dne_lib.files import InputError
from dne_lib.lessons import few_samples
from dne_lib.widgets.coordinates import TIP_VERTICES, TIPS


@pytest.fixture(scope="module")
def sample():
    return few_samples(1, image_size=64)[0]


@pytest.fixture(scope="module")
def side(sample):
    return int(sample["present"].nonzero()[0])


@pytest.fixture(scope="module")
def scene(sample, side):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(8, 16, 16, generator=generator)
    projected, regressed = 0.9 * (2 * torch.rand(2, 778, 2, generator=generator) - 1)
    return widgets.coordinate_scene(sample, features, projected, regressed, side)


def mixed(features, point):
    """The four pixels the widget marks, weighted by how near each is."""
    places = ndc_to_pixels(widgets.four_pixels(point, 16), 16)
    weights = (1 - (places - ndc_to_pixels(point, 16)).abs()).prod(1)
    columns, rows = places.round().long().unbind(1)
    return features[:, rows, columns] @ weights


@pytest.mark.parametrize("tip", TIPS)
def test_what_is_drawn_is_read_from_the_marked_pixels(scene, tip):
    vertex = TIP_VERTICES[tip]
    lines = widgets.coordinate_panels(scene, tip)[2].layers
    points = (scene.truth[vertex], scene.projected[vertex], scene.regressed[vertex])
    for line, point in zip(lines, points, strict=True):
        np.testing.assert_allclose(line.places[:, 1], mixed(scene.features, point), atol=1e-5)


def test_beyond_the_border_the_border_is_read():
    outside = ndc_to_pixels(widgets.four_pixels(torch.tensor([-1.2, 1.0]), 16), 16)
    np.testing.assert_allclose(outside[:, 0], 0, atol=1e-5)
    np.testing.assert_allclose(outside[:, 1], 15, atol=1e-5)


def test_the_projection_moves_by_pixels_and_u_lies_between(scene):
    def shown(**values):
        layers = widgets.coordinate_panels(scene, "ring tip", **values)[0].layers
        return {layer.label: layer.places[0] for layer in layers[2:]}

    start, moved = shown(), shown(right=12, down=-5)
    np.testing.assert_allclose(moved["projected"] - start["projected"], [12, -5], atol=1e-3)
    for name in ("regressed", "truth"):
        np.testing.assert_array_equal(moved[name], start[name])
    for gate, weights in ((0.0, (1, 0)), (1.0, (0, 1)), (0.25, (0.75, 0.25))):
        points = shown(gate=gate)
        expected = weights[0] * points["projected"] + weights[1] * points["regressed"]
        np.testing.assert_allclose(points["u"], expected, atol=1e-3)


def test_a_perfect_regression_is_said_to_be_one(scene):
    panels = widgets.coordinate_panels(scene._replace(regressed=scene.truth), gate=1.0)
    assert "regressed 0, u 0 pixels" in panels[0].title
    assert panels[2].title.endswith("f_r 1.00")


def test_colours_order_the_pixels_along_the_direction_of_largest_variance():
    ramp = torch.linspace(-1, 1, 256).view(16, 16)
    direction = torch.tensor([0.6, 0.8, 0.0, 0.1])
    other = torch.tensor([-0.8, 0.6, 0.0, 0.0])[:, None, None] * 0.1 * ramp.flip(1).sin()
    colours = widgets.feature_colours(direction[:, None, None] * ramp + other)
    assert colours.shape == (16, 16, 3)
    assert colours.min() == 0
    assert colours.max() == 1
    assert (colours[..., 0].flatten().diff() >= -0.01).all()
    assert colours[..., 0].std() > 0.2
    flat = widgets.feature_colours(torch.ones(4, 16, 16))
    assert flat.isfinite().all()


def test_an_absent_hand_is_refused(sample, scene):
    single = sample | {"present": torch.tensor([True, False])}
    with pytest.raises(InputError, match="choose another side"):
        widgets.coordinate_scene(single, scene.features, scene.projected, scene.regressed, 1)
