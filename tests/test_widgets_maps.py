"""Lessons 3 and 4: maps and attention, on a small network with random weights."""

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from dne_lib import widgets
from dne_lib.camera import project
from dne_lib.config import HAND_UNIT, ModelConfig
from dne_lib.files import InputError
from dne_lib.lessons import few_samples
from dne_lib.mano import HandModel
from dne_lib.model import DualNoiseNetwork
from dne_lib.model.auxiliary import Auxiliary
from dne_lib.plots import MAP_TITLES
from dne_lib.widgets.attention import POWERS, READINGS, posed, spotlight


@pytest.fixture(scope="module")
def samples():
    return few_samples(3, image_size=64)


@pytest.fixture(scope="module")
def network():
    return small_network()


def small_network():
    torch.manual_seed(0)
    config = ModelConfig(
        backbone="resnet18", stages=3, pretrained=False, image_size=64, feature_size=16,
        channels=16, modules=0,
    )  # fmt: skip
    return DualNoiseNetwork(config, HandModel()).eval()


def many(samples):
    """Enough for the maps' widget; the first and last differ."""
    return [samples[i % 3] for i in range(8)]


def pairs(samples):
    """Three of two hands; the first and last differ."""
    both = next(each for each in samples if each["present"].all())
    return [both, both, both | {"image": both["image"].flip(-1)}]


def perfect(batch):
    parts = torch.nn.functional.one_hot(batch["parts"], 33).movedim(-1, 1).float()
    names = ("depth", "normals", "heatmaps", "densepose")
    return Auxiliary(*(batch[name] for name in names), parts)


def test_errors_of_maps_are_zero_for_the_truth_and_counted_in_their_units(samples):
    batch = default_collate(samples)
    rest = torch.rand(778, 3)
    rest[:2] = torch.tensor([[0.0, 0, 0], [1.0, 0.5, 0.25]])  # a box, metres
    rest[:, 1:] *= torch.tensor([0.5, 0.25])
    rest[1] = torch.tensor([1.0, 0.5, 0.25])
    exact = perfect(batch)
    for name, error in widgets.map_errors(exact, batch, rest).items():
        # The arc cosine of almost 1.
        assert error.max() < (0.1 if name == "normals" else 1e-6), name

    on_hand = batch["parts"] > 0
    turned = exact.normals[:, [1, 0, 2]] * torch.tensor([-1.0, 1, 1])[:, None, None]
    heat = exact.heatmaps.clone()
    heat[:, 7] += 0.5
    heat[:, 9] -= 0.25
    wrong = Auxiliary(
        exact.depth - 0.1,
        turned,
        heat,
        exact.densepose + torch.tensor([0.003, 0.008, 0.0])[:, None, None],
        exact.parts.roll(1, 1),
    )
    errors = widgets.map_errors(wrong, batch, rest)
    assert (errors["parts"] == 100).all()
    torch.testing.assert_close(errors["depth"], 9.5 * on_hand, atol=1e-3, rtol=0)
    # A quarter turn about z: cos = z².
    z = exact.normals[:, 2]
    expected = torch.rad2deg(torch.acos(z.square().clamp(max=1))) * on_hand
    torch.testing.assert_close(errors["normals"], expected, atol=0.1, rtol=0)
    torch.testing.assert_close(errors["densepose"], 5.0 * on_hand, atol=1e-3, rtol=0)
    torch.testing.assert_close(errors["heatmaps"], torch.full_like(errors["heatmaps"], 50.0))


def test_the_panels_show_truth_prediction_and_difference(samples, network):
    scene = widgets.maps_scene(many(samples), network)
    for title in MAP_TITLES:
        photo, truth, predicted, _ = widgets.maps_panels(scene, 2, title, 1.0)
        bare = widgets.maps_panels(scene, 2, title, 0.0)
        for panel in bare[1:3]:
            np.testing.assert_array_equal(panel.layers[0].image, photo.layers[0].image)
        assert not np.array_equal(truth.layers[0].image, predicted.layers[0].image)
    # Of a network that is right, nothing is left.
    batch = default_collate(many(samples))
    right = widgets.map_errors(perfect(batch), batch, network.hands.template[0])
    errors = [{k: v[i].numpy() for k, v in right.items()} for i in range(8)]
    shown = widgets.maps_panels(scene._replace(errors=errors, predicted=scene.truth), 2, "depth")
    np.testing.assert_array_equal(shown[1].layers[0].image, shown[2].layers[0].image)
    assert shown[3].title.startswith("difference: 0 mm")


def test_too_few_images_are_refused(samples, network):
    with pytest.raises(InputError, match="3 samples"):
        widgets.maps_scene(samples, network)
    with pytest.raises(InputError, match="1 of 3 samples show both hands"):
        widgets.attention_scene(samples, network)


def test_at_temperature_one_the_regressor_is_itself(samples, network):
    image = torch.stack([each["image"] for each in samples])
    with torch.no_grad():
        output = network(image)
        _, features = network.auxiliary(network.encoder(image))
    ours = widgets.parameters_at(network, features, 1.0)
    for mine, theirs in zip(ours, output.parameters, strict=True):
        torch.testing.assert_close(mine, theirs)
    hands = posed(network, ours)
    torch.testing.assert_close(hands.vertices, output.stages[0].vertices, atol=1e-5, rtol=0)
    wrists = project(hands.joints, ours.camera)[:, :, 0]
    torch.testing.assert_close(wrists, ours.camera[..., 1])


def test_hot_attention_averages_and_cold_attention_picks(samples, network):
    with torch.no_grad():
        _, features = network.auxiliary(network.encoder(samples[0]["image"][None]))
        x = network.coarse.block(features)
        maps = network.coarse.maps(x).view(2, 110, -1)
        logits = network.coarse.attention(x).view(2, 18, -1)
    hot = widgets.parameters_at(network, features, 1e6)
    pose = maps[:, :96].mean(-1).view(2, 16, 6)
    torch.testing.assert_close(hot.pose[0], pose, atol=1e-4, rtol=0)
    cold = widgets.parameters_at(network, features, 1e-6)
    for side in range(2):
        for joint in range(16):
            place = logits[side, joint].argmax()
            chosen = maps[side, 6 * joint : 6 * joint + 6, place]
            torch.testing.assert_close(cold.pose[0, side, joint], chosen)
        torch.testing.assert_close(
            cold.betas[0, side], maps[side, 96:106, logits[side, 16].argmax()]
        )


def test_the_attention_widget_marks_the_joint_and_counts_places(samples, network):
    scene = widgets.attention_scene(pairs(samples), network)
    joint = {"wrist": 0, "thumb 1": 1, "index 3": 7, "pinky 2": 18, "shape": 0, "camera": 0}
    for reading, k in joint.items():
        panel = widgets.attention_panels(scene, reading=reading, side="left")[0]
        expected = (scene.batch["joints_2d"][0, 1, k] + 1) * 128 - 0.5
        np.testing.assert_allclose(panel.layers[1].places[0], expected, atol=1e-3)
        assert reading in panel.title
    hot = widgets.attention_panels(scene, power=8.0)[0]
    assert "about 64 of 64 places" in hot.title
    assert len(READINGS) == len(set(READINGS)) == 18


def test_the_attention_widget_names_images_as_the_lesson_does(samples, network):
    alone = next(each for each in samples if not each["present"].all())
    one, two, three = pairs(samples)
    scene = widgets.attention_scene([alone, one, alone, two, three], network)
    titles = [widgets.attention_panels(scene, image=image)[1].title for image in (1, 2, 3)]
    assert [title.split(":")[0] for title in titles] == ["image 2", "image 4", "image 5"]


def test_errors_of_the_attention_scene_are_those_of_the_network(samples, network):
    scene = widgets.attention_scene(pairs(samples), network)
    with torch.no_grad():
        stage = network(scene.batch["image"]).stages[0]
    space = (stage.vertices - scene.batch["vertices"]).norm(dim=-1).mean((1, 2)) * HAND_UNIT * 1000
    plane = (stage.projections - scene.batch["vertices_2d"]).norm(dim=-1).mean((1, 2)) * 128
    trained = scene.errors[:, list(POWERS).index(0.0)]
    np.testing.assert_allclose(trained, torch.stack([space, plane], -1), rtol=1e-3)


def test_the_spotlight_is_brightest_where_the_attention_is():
    attention = torch.zeros(4, 4)
    attention[1, 2] = 1
    shown = spotlight(np.full((64, 64, 3), 0.5, np.float32), attention)
    row, column = np.unravel_index(shown[..., 0].argmax(), (64, 64))
    assert (row // 16, column // 16) == (1, 2)
    np.testing.assert_allclose(shown[60, 4], 0.225, atol=1e-6)
