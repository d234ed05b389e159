"""What the ninth lesson's widgets draw is true."""

import numpy as np
import pytest
import torch

from dne_lib import widgets
from dne_lib.config import LossConfig
from dne_lib.files import InputError
from dne_lib.losses import total_loss
from dne_lib.mano import HandModel
from dne_lib.model import DualNoiseNetwork
from dne_lib.plots import ERROR_SCALE
from dne_lib.widgets import losses
from tests.samples import CONFIG, make_batch


@pytest.fixture(scope="module")
def hands():
    return HandModel()


@pytest.fixture(scope="module")
def batch(hands):
    labels = {"pose": torch.zeros(3, 2, 16, 6), "betas": torch.zeros(3, 2, 10)}
    return make_batch(hands) | labels


@pytest.fixture(scope="module")
def network(hands):
    torch.manual_seed(0)
    return DualNoiseNetwork(CONFIG, hands).train()


@pytest.fixture
def scene(hands, batch, network):
    """Far off at step 0; at step 8 the coarse meshes are 9.5 mm off and the last ones right."""
    with torch.no_grad():
        first = widgets.snapshot(0, network(batch["image"], batch["present"], samples=0))
    beside = batch["vertices"] + torch.tensor([0.1, 0.0, 0.0])
    last = first._replace(step=8, vertices=torch.stack([beside, batch["vertices"]]))
    return widgets.learning_scene(batch, hands.faces, [first, last])


def test_errors_are_those_of_the_hands_present(scene, batch):
    assert scene.errors.shape == (2, 2, 3)
    np.testing.assert_allclose(scene.errors[1, 0], 9.5, atol=1e-4)
    np.testing.assert_allclose(scene.errors[1, 1], 0, atol=1e-4)
    away = (scene.snapshots[0].vertices[1, 0, 0] - batch["vertices"][0, 0]).norm(dim=-1).mean()
    assert scene.errors[0, 1, 0] == pytest.approx(float(away) * 95, rel=1e-4)


def test_a_learnt_mesh_lies_on_the_green_dots(scene):
    for image, count in enumerate((1, 1, 2), start=1):
        panels = widgets.learning_panels(scene, 100, image)
        surface, goal = panels[1].layers
        assert len(surface.vertices) == 778 * count
        assert surface.faces.max() == 778 * count - 1
        np.testing.assert_allclose(surface.vertices[::3], goal.places, atol=1e-5)
        assert panels[0].title == f"image {image}, step 8"
        assert panels[1].title == f"{ERROR_SCALE}; dots: truth"
        assert panels[2].title == "0 mm off"
    panels = widgets.learning_panels(scene, 100, 1, "coarse")
    surface, goal = panels[1].layers
    np.testing.assert_allclose(surface.vertices[::3] - goal.places, [[0.1, 0, 0]] * 260, atol=1e-5)
    assert panels[2].layers[2].places[0] == pytest.approx([8, 9.5], abs=1e-3)


def test_there_must_be_something_to_look_at(hands, batch):
    with pytest.raises(InputError, match="no snapshots"):
        widgets.learning_scene(batch, hands.faces, [])


def test_the_voices_make_up_the_loss(network, batch):
    """But for the score, and so do their gradients."""
    found = widgets.pull(network, batch, LossConfig(), seed=3)
    noise = torch.Generator().manual_seed(3)
    output = network(batch["image"], batch["present"], generator=noise)
    total, terms = total_loss(output, batch, LossConfig())
    rest = total - terms["score"]
    assert found.values.sum() == pytest.approx(rest.item(), rel=1e-5)
    slopes = torch.autograd.grad(rest, list(network.encoder.parameters()))
    squared = sum(slope.square().sum() for slope in slopes)
    assert found.gram.sum() == pytest.approx(float(squared), rel=1e-3)
    np.testing.assert_allclose(found.gram, found.gram.T, rtol=1e-4)


def test_agreement_is_a_cosine():
    gradients = np.array([[2.0, 0.0], [0.0, 1.0], [-3.0, 0.0]])
    weights = np.array([2.0, 3.0, 0.0])  # their sum: (4, 3)
    found = losses.agreement(gradients @ gradients.T, weights)
    np.testing.assert_allclose(found, [0.8, 0.6, -0.8])


def test_turning_a_voice_up_gives_it_the_loss_and_the_step():
    calm = losses.Pull(np.array([1.0, 2.0, 3.0, 4.0]), np.eye(4))
    pulls = (calm, calm._replace(values=np.ones(4)))
    shares, suits = widgets.balance_panels(pulls)
    assert [layer.places[0, 1] for layer in shares.layers[1::2]] == pytest.approx([10, 20, 30, 40])
    assert [layer.places[0, 1] for layer in suits.layers[1::2]] == pytest.approx([0.5] * 4)
    assert shares.title.endswith("2D")
    shares, suits = widgets.balance_panels(pulls, mano=2.0, network="trained")
    assert shares.layers[3].places[0, 1] == pytest.approx(100 * 100 / 103)
    assert suits.layers[3].places[0, 1] == pytest.approx(100 / np.sqrt(100**2 + 3))
    assert shares.title.endswith("MANO")
