"""What the tenth lesson's widget draws is measured as the metrics measure."""

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from dne_lib import widgets
from dne_lib.camera import project
from dne_lib.files import InputError
from dne_lib.mano import HandModel
from dne_lib.metrics import PROTOCOLS, mpvpe
from dne_lib.model import Stage
from dne_lib.widgets import errors
from tests.samples import make_sample


@pytest.fixture(scope="module")
def hands():
    return HandModel()


@pytest.fixture(scope="module")
def batch(hands):
    return default_collate([make_sample(hands, i, (True, True)) for i in range(4)])


def stage(batch, vertices, joints):
    points = project(vertices, batch["camera"])
    scores = torch.zeros(1, *batch["present"].shape)
    return Stage(vertices, joints, batch["camera"], points, vertices[None], points[None], scores)


@pytest.fixture(scope="module")
def stages(batch):
    """Coarse: 9.5 mm beside its joints. Last: too large, the first image's hands most of all."""
    beside = torch.tensor([0.1, 0.0, 0.0])
    size = torch.tensor([1.4, 1.1, 1.2, 1.3])[:, None, None, None]
    return (
        stage(batch, batch["vertices"] + beside, batch["joints"]),
        stage(batch, size * batch["vertices"], size * batch["joints"]),
    )


@pytest.fixture(scope="module")
def scene(batch, stages, hands):
    return widgets.error_scene(batch, stages, hands.faces)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_errors_are_those_of_the_metric(scene, batch, stages, protocol):
    for i, each in enumerate(stages):
        truth = batch["vertices"], batch["joints"]
        expected = mpvpe(each.vertices, each.joints, *truth, protocol).flatten()
        found = scene.protocols[protocol].errors[i].mean(-1)
        np.testing.assert_allclose(np.sort(found), expected.sort().values, atol=1e-3)


def test_what_alignment_forgives(scene):
    wrist, scaled, best = (
        scene.protocols[name].errors.mean(-1) for name in ("wrist", "mcp-scaled", "procrustes")
    )
    np.testing.assert_allclose(wrist[0], 9.5, atol=1e-3)
    np.testing.assert_allclose(best[0], 0, atol=1e-2)  # a shift is forgiven
    np.testing.assert_allclose(scaled[1], 0, atol=1e-2)  # a wrong size is, too
    assert wrist[1].min() > 3


def test_the_worst_hand_is_the_first(scene):
    error = scene.protocols["wrist"].errors[1].mean(-1)
    assert (np.diff(error) <= 1e-4).all()
    assert scene.protocols["wrist"].errors.shape == (2, 8, 778)


def test_the_share_within_a_threshold():
    found = errors.share_within(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([0.0, 2.0, 10.0]))
    assert found.tolist() == [0, 50, 100]


def test_what_is_too_far_off_is_orange(scene):
    for threshold in (2, 20):
        panels = widgets.errors_panels(scene, threshold, "wrist", "last module", 0)
        error = scene.protocols["wrist"].errors[1, 0]
        orange = (panels[1].layers[0].colour == errors.FAR).all(-1)
        assert (orange == (error > threshold)).all()
        share = 100 * (error <= threshold).mean()
        assert panels[2].layers[3].places[0] == pytest.approx([threshold, share])
        curve = panels[2].layers[0].places
        assert curve[threshold] == pytest.approx([threshold, share])
    panels = widgets.errors_panels(scene, 10, "wrist", "coarse", 3)
    assert panels[2].title == "100 % within 10 mm"
    assert "10 mm off" in panels[0].title


def test_too_few_hands(batch, stages, hands):
    few = {name: values[:2] for name, values in batch.items()}
    with pytest.raises(InputError, match="4 hands in the batch"):
        widgets.error_scene(few, stages, hands.faces)
