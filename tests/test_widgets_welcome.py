"""The widget of lesson 0; tests/test_widgets.py drives its controls."""

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from dne_lib import widgets
from dne_lib.camera import project
from dne_lib.config import HAND_UNIT
from dne_lib.lessons import few_samples, stand_in
from dne_lib.mano import HandModel
from dne_lib.model import Stage
from dne_lib.plots import ERROR_COLOURS, ERROR_SCALE

SIZES = (1.5, 1.0, 0.5)  # of the disturbance, stage by stage


def welcomed(hands, samples):
    """Three stages that come closer to the truth, and what the widget makes of them."""
    stages = []
    for size in SIZES:
        guess = [stand_in(hands, each, seed=1, size=size) for each in samples]
        vertices, camera = (torch.stack(each) for each in zip(*guess, strict=True))
        points, joints = project(vertices, camera), hands.regress_joints(vertices)
        scores = torch.zeros(1, len(guess), 2)
        stages.append(Stage(vertices, joints, camera, points, vertices[None], points[None], scores))
    return widgets.welcome_scene(default_collate(samples), stages, hands.faces)


@pytest.fixture(scope="module")
def hands():
    return HandModel()


@pytest.fixture(scope="module")
def samples():
    return few_samples(3, image_size=64)


@pytest.fixture(scope="module")
def scene(hands, samples):
    return welcomed(hands, samples)


def test_errors_are_of_the_hands_present(scene, samples):
    assert scene.errors.shape == (len(SIZES), len(samples), 2)
    for stage in range(len(SIZES)):
        for n, sample in enumerate(samples):
            there = sample["present"].numpy()
            away = scene.projections[stage, n] - sample["vertices_2d"].numpy()
            pixels = np.linalg.norm(away, axis=-1).mean(-1)[there].mean() * 128
            assert scene.errors[stage, n, 1] == pytest.approx(pixels, rel=1e-4)
    assert (np.diff(scene.errors[:, :, 0], axis=0) < 0).all()


def test_the_mesh_in_space_is_that_of_the_hands_present(scene, samples):
    for n, sample in enumerate(samples):
        surface = widgets.welcome_panels(scene, n + 1, "module 1")[1].layers[0]
        there = sample["present"].numpy()
        assert len(surface.vertices) == 778 * there.sum()
        assert len(surface.faces) == 1538 * there.sum()
        for mesh, wrist_relative in zip(
            np.split(surface.vertices, there.sum()), scene.vertices[1, n][there], strict=True
        ):
            size = np.ptp(mesh, axis=0)
            np.testing.assert_allclose(
                size, np.ptp(wrist_relative, axis=0) * 1000 * HAND_UNIT, rtol=1e-3
            )


def test_the_truth_is_everywhere_right_and_says_so(scene):
    panels = widgets.welcome_panels(scene, 2, "truth", "error")
    colours = panels[1].layers[0].colour
    np.testing.assert_allclose(
        colours, np.tile(ERROR_COLOURS(0.0)[:3], (len(colours), 1)), atol=1e-6
    )
    assert panels[2].title == "the truth: no error"
    wrong = widgets.welcome_panels(scene, 2, "coarse", "error")
    assert np.ptp(wrong[1].layers[0].colour) > 0.5
    assert wrong[1].title == f"turn it; {ERROR_SCALE}"
    assert widgets.welcome_panels(scene, 2, "coarse", "hands")[1].title == "turn it"
    solid, flat = scene.errors[0, 1]
    assert wrong[2].title == f"{solid:.1f} mm, {flat:.1f} pixels off"
