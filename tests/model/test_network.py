import dataclasses
from typing import get_args
from urllib.error import URLError

import pytest
import torch
import torchvision

from dne_lib.config import LossConfig, ModelConfig, Preset, preset
from dne_lib.files import InputError
from dne_lib.losses import total_loss
from dne_lib.mano import HandModel
from dne_lib.model import DualNoiseNetwork
from dne_lib.model.coarse import pixel_centres
from dne_lib.model.encoder import Encoder
from tests.samples import make_batch

SMALL = ModelConfig(
    backbone="resnet18",
    stages=2,
    pretrained=False,
    image_size=64,
    feature_size=16,
    channels=16,
    modules=2,
    samples=2,
)


@pytest.fixture(scope="module")
def hands():
    return HandModel()


def build(hands, **changes):
    torch.manual_seed(0)
    network = DualNoiseNetwork(dataclasses.replace(SMALL, **changes), hands)
    for name, parameter in network.named_parameters():
        if "last.weight" in name:  # fresh modules move nothing: stir them
            torch.nn.init.normal_(parameter, std=0.05)
    return network


@pytest.fixture(scope="module")
def image():
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_parameters_are_float32_under_autocast(hands, image):
    """A place in the image or a rotation, rounded to eight bits, is off by a quarter pixel."""
    network = build(hands).train()
    with torch.autocast("cpu", torch.bfloat16):
        parameters = network(image).parameters
    for values in (parameters.pose, parameters.betas, parameters.camera):
        assert values.dtype == torch.float32
        assert not torch.equal(values, values.bfloat16().float())


def test_shapes_of_every_output(hands, image):
    network = build(hands).train()
    out = network(image)
    assert out.auxiliary.depth.shape == (3, 1, 16, 16)
    assert out.auxiliary.heatmaps.shape == (3, 42, 16, 16)
    assert out.auxiliary.parts.shape == (3, 33, 16, 16)
    assert out.parameters.pose.shape == (3, 2, 16, 6)
    assert [len(stage.samples) for stage in out.stages] == [1, 2, 2]
    for stage in out.stages:
        assert stage.vertices.shape == (3, 2, 778, 3)
        assert stage.joints.shape == (3, 2, 21, 3)
        assert stage.camera.shape == (3, 2, 2, 2)
        assert stage.projections.shape == (3, 2, 778, 2)


def test_evaluation_twice_gives_the_same_bits(hands, image):
    network = build(hands).eval()
    with torch.no_grad():
        first, second = network(image), network(image)
    for a, b in zip(first.stages, second.stages, strict=True):
        assert torch.equal(a.vertices, b.vertices)
        assert torch.equal(a.projections, b.projections)


def test_training_samples_and_a_generator_repeats_them(hands, image):
    network = build(hands).train()
    draws = [
        network(image, generator=torch.Generator().manual_seed(seed)).stages[-1].vertices
        for seed in (1, 1, 2)
    ]
    torch.testing.assert_close(draws[0], draws[1])
    assert not torch.allclose(draws[0], draws[2])


def test_sampling_off_trains_on_the_means(hands, image):
    out = build(hands, sampling=False).train()(image)
    assert [len(stage.samples) for stage in out.stages] == [1, 1, 1]


def test_sampling_at_inference_is_an_option(hands, image):
    network = build(hands).eval()
    assert len(network(image, samples=5).stages[-1].samples) == 5


def test_the_best_scored_sample_goes_on(hands, image):
    network, heard = build(hands, samples=4).train(), []
    network.refiners[1].register_forward_hook(lambda _, given, __: heard.extend(given[1:3]))
    out = network(image, generator=torch.Generator().manual_seed(0))
    for stage in out.stages[1:]:
        best = stage.scores.argmax(0)
        assert best.any()  # the first one would do otherwise
        expected = stage.samples.take_along_dim(best[None, ..., None, None], dim=0)[0]
        assert torch.equal(stage.vertices, expected)
    vertices, camera = heard
    assert torch.equal(vertices, out.stages[1].vertices.flatten(0, 1))
    assert torch.equal(camera, out.stages[1].camera.flatten(0, 1))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"modules": 0},
        {"noise_2d": False},
        {"noise_3d": False},
        {"camera_correction": False},
        {"sampling": False},
        {"selection": False},
        {"regressor": "mlp"},
        {"estimator": "graph"},
        {"consistency": False},
        {"vertex_embedding": 0},
        {"vertex_coordinates": False},
    ],
    ids=str,
)
def test_gradients_reach_every_parameter(hands, image, change):
    """Of the loss itself: processes that share the work wait for every gradient."""
    network, batch = build(hands, **change).train(), make_batch(hands)
    loss, _ = total_loss(network(image, batch["present"]), batch, LossConfig())
    loss.backward()
    parameters = dict(network.named_parameters())
    assert not [name for name, p in parameters.items() if p.grad is None]
    # A single sample is not ranked, and what is added to all scores moves no rank.
    unranked = "score.2.bias" if change.get("sampling", True) else ".score."
    silent = [name for name, p in parameters.items() if not p.grad.any()]
    assert not [name for name in silent if unranked not in name]


def test_hands_that_are_absent_change_nothing_for_the_others(hands, image):
    network = build(hands).eval()
    present = torch.tensor([[True, False], [True, True], [False, True]])
    with torch.no_grad():
        both, some = network(image), network(image, present)
    for a, b in zip(both.stages, some.stages, strict=True):
        torch.testing.assert_close(a.vertices[present], b.vertices[present])
        torch.testing.assert_close(a.projections[present], b.projections[present])
        assert not b.vertices[~present].any()


def test_an_image_without_hands_passes(hands, image):
    out = build(hands).train()(image, torch.zeros(3, 2, dtype=torch.bool))
    assert not out.stages[-1].vertices.any()


def test_without_modules_it_is_the_baseline(hands, image):
    full, coarse = build(hands).eval(), build(hands, modules=0).eval()
    state = {k: v for k, v in full.state_dict().items() if k in coarse.state_dict()}
    coarse.load_state_dict(state)
    with torch.no_grad():
        a, b = full(image), coarse(image)
    assert len(b.stages) == 1
    assert torch.equal(a.stages[0].vertices, b.stages[0].vertices)


def test_the_encoder_sees_images_as_those_of_imagenet_were_shown(image):
    encoder, seen = Encoder(SMALL), []
    encoder.stem.register_forward_hook(lambda _, given, __: seen.extend(given))
    encoder(image)
    usual = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
    normalise = torchvision.transforms.Normalize(usual.mean, usual.std)
    torch.testing.assert_close(seen, [normalise(image)])


def test_the_merge_reads_parts_as_probabilities_and_the_other_maps_as_they_are(hands, image):
    network, read = build(hands), []
    network.auxiliary.merge.register_forward_hook(lambda _, given, __: read.extend(given))
    *maps, parts = network(image).auxiliary
    probabilities = read[0][:, -33:]
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(3, 16, 16))
    odds = (probabilities / probabilities[:, :1]).log()  # against the background
    torch.testing.assert_close(odds, parts - parts[:, :1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(read[0][:, -82:-33], torch.cat(maps, dim=1))


def test_attention_sums_to_one(hands, image):
    parameters = build(hands)(image).parameters
    torch.testing.assert_close(parameters.attention.sum(dim=(-1, -2)), torch.ones(3, 2, 18))


def test_every_joint_the_shape_and_the_camera_are_read_by_an_attention_of_their_own(hands, image):
    network, heard = build(hands), []
    torch.nn.init.normal_(network.coarse.attention.weight)  # fresh ones are much alike
    network.coarse.maps.register_forward_hook(lambda _, __, maps: heard.append(maps))
    parameters = network(image).parameters
    maps = heard[0].unflatten(1, (2, 16 * 6 + 10 + 4)).split([6] * 16 + [10, 4], dim=2)
    *pose, betas, camera = [
        (parameters.attention[:, :, j, None] * each).sum(dim=(-1, -2))
        for j, each in enumerate(maps)
    ]
    for j, rotation in enumerate(pose):
        torch.testing.assert_close(parameters.pose[:, :, j], rotation)
    torch.testing.assert_close(parameters.betas, betas)
    scale = torch.nn.functional.softplus(camera[..., ::2])
    torch.testing.assert_close(parameters.camera[..., 0], scale)


def test_pixel_centres_are_where_grid_sample_reads_a_pixel():
    """Reading a map of coordinates at the centres gives the centres."""
    places = pixel_centres(3, 4)
    ramp = places.T.reshape(1, 2, 3, 4)
    read = torch.nn.functional.grid_sample(ramp, places[None, None], align_corners=False)
    torch.testing.assert_close(read[0, :, 0].T, places)


def test_the_camera_looks_where_its_attention_is(hands, image):
    """With no offset learned yet, the translation is the centre of the attention map."""
    network = build(hands)
    network.coarse.maps.weight.data.zero_()
    parameters = network(image).parameters
    weights = parameters.attention[:, :, -1].flatten(2)
    expected = weights @ pixel_centres(*parameters.attention.shape[-2:])
    torch.testing.assert_close(parameters.camera[..., 1], expected)


def test_a_fresh_network_starts_at_the_mean_hand(hands):
    torch.manual_seed(0)
    network = DualNoiseNetwork(SMALL, hands)
    network.coarse.maps.weight.data.zero_()
    out = network(torch.rand(1, 3, 64, 64))
    mean = hands(hands.mano_rotations(torch.zeros(1, 2, 48)), torch.zeros(1, 2, 10))
    torch.testing.assert_close(out.stages[0].vertices * 0.095, mean.vertices, atol=1e-5, rtol=0)
    torch.testing.assert_close(out.stages[0].camera[..., 0], torch.full((1, 2, 2), 0.6))


def test_weights_on_disk_hold_nothing_of_the_hand_model(hands):
    assert not [name for name in build(hands).state_dict() if name.startswith("hands")]


@pytest.mark.parametrize("name", get_args(Preset))
def test_presets_run(hands, name):
    config = preset(name).model
    config.pretrained = False
    network = DualNoiseNetwork(config, hands).eval()
    with torch.no_grad():
        out = network(torch.rand(1, 3, config.image_size, config.image_size))
    assert len(out.stages) == 4
    assert out.auxiliary.depth.shape[-1] == config.feature_size


def test_small_weights_fit_into_the_package(hands):
    state = DualNoiseNetwork(preset("small").model, hands).state_dict()
    assert 2 * sum(values.numel() for values in state.values()) < 32e6


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"backbone": "vgg"}, "backbone"),
        ({"estimator": "gcn"}, "estimator"),
        ({"stages": 1}, "stages"),
        ({"image_size": 100}, "image_size"),
        ({"feature_size": 32}, "feature_size"),
        ({"gamma": 0.0}, "gamma"),
        ({"modules": -1}, "modules"),
    ],
)
def test_settings_that_cannot_be_built(hands, change, names):
    config = dataclasses.replace(SMALL)
    for name, value in change.items():  # past the type check, as values read from a file would be
        setattr(config, name, value)
    with pytest.raises(InputError, match=names):
        DualNoiseNetwork(config, hands)


def test_without_internet_it_is_said_where_the_weights_belong(monkeypatch, tmp_path):
    def offline(*_, **__):
        raise URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(InputError, match=rf"resnet18-\w+\.pth into {tmp_path}.*checkpoints, or"):
        Encoder(ModelConfig(backbone="resnet18"))
    Encoder(ModelConfig(backbone="resnet18", pretrained=False))
