import dataclasses
import json
import math

import pytest
import safetensors.torch
import torch

from dne_lib import load_pretrained
from dne_lib.config import Config, ModelConfig, config_to_dict
from dne_lib.files import InputError
from dne_lib.model import DualNoiseNetwork
from dne_lib.model.noise import Calibration
from dne_lib.weights import (
    find_weights,
    load_network,
    load_weights,
    read_calibration,
    read_weights,
    save_network,
)
from scripts.average_weights import average
from scripts.join_weights import join

MODEL = ModelConfig(
    backbone="resnet18",
    stages=2,
    pretrained=False,
    image_size=32,
    feature_size=8,
    channels=8,
    modules=1,
    samples=2,
)


@pytest.mark.parametrize("half", [False, True])
def test_weights_come_back_from_disk(tmp_path, half):
    torch.manual_seed(0)
    network = DualNoiseNetwork(MODEL)
    save_network(network, Config(model=MODEL), tmp_path / "net.safetensors", half)
    loaded, config = load_network(tmp_path / "net.safetensors")
    assert config.model == MODEL
    assert not loaded.training
    for name, value in network.state_dict().items():
        close = {"atol": 1e-3, "rtol": 1e-3} if half else {"atol": 0, "rtol": 0}
        torch.testing.assert_close(loaded.state_dict()[name], value, **close)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 16}, "another configuration"),
        ({"modules": 2}, "missing"),
        ({"backbone": "resnet50"}, "another configuration"),
    ],
)
def test_weights_of_another_configuration_are_refused(tmp_path, change, message):
    save_network(DualNoiseNetwork(MODEL), Config(model=MODEL), tmp_path / "net.safetensors")
    state, _ = read_weights(tmp_path / "net.safetensors")
    other = DualNoiseNetwork(dataclasses.replace(MODEL, **change))
    with pytest.raises(InputError, match=message):
        load_weights(other, state, "net.safetensors")


def test_a_file_without_its_modules_is_no_trained_network(tmp_path):
    coarse = DualNoiseNetwork(dataclasses.replace(MODEL, modules=0))
    save_network(coarse, Config(model=MODEL), tmp_path / "net.safetensors")
    with pytest.raises(InputError, match=r"lacks \d+ weights .* refiners\.0"):
        load_network(tmp_path / "net.safetensors")


def test_a_full_network_lends_its_coarse_part(tmp_path):
    state = DualNoiseNetwork(MODEL).state_dict()
    coarse = DualNoiseNetwork(dataclasses.replace(MODEL, modules=0))
    assert set(load_weights(coarse, state, "here")) == set(coarse.state_dict())


def test_a_regressor_of_the_other_kind_stays_fresh():
    coarse = dataclasses.replace(MODEL, modules=0)
    state = DualNoiseNetwork(coarse).state_dict()
    other = DualNoiseNetwork(dataclasses.replace(coarse, regressor="mlp"))
    before = {k: v.clone() for k, v in other.state_dict().items() if k.startswith("regressor")}
    loaded = load_weights(other, state, "here")
    assert set(loaded) == {k for k in state if not k.startswith("regressor")}
    assert before
    for name, value in before.items():
        assert torch.equal(other.state_dict()[name], value)


def test_a_coarse_network_takes_the_place_of_another_ones(tmp_path):
    full = DualNoiseNetwork(MODEL)
    full.calibration = {"SH": Calibration(0.1, 0.01, 3.0)}
    save_network(full, Config(model=MODEL), tmp_path / "full.safetensors")
    smaller = dataclasses.replace(MODEL, modules=0, image_size=64, feature_size=16)
    coarse = DualNoiseNetwork(smaller)
    save_network(coarse, Config(model=smaller), tmp_path / "coarse.safetensors")
    paths = [str(tmp_path / f"{name}.safetensors") for name in ("coarse", "full")]
    join(*paths, tmp_path / "joined.safetensors")
    joined, config = load_network(tmp_path / "joined.safetensors")
    assert config.model == MODEL
    assert not joined.calibration
    modules = {k: v for k, v in full.state_dict().items() if k.startswith("refiners.")}
    expected = coarse.state_dict() | modules
    assert joined.state_dict().keys() == expected.keys()
    for name, value in joined.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_files_that_hold_no_weights(tmp_path):
    with pytest.raises(InputError, match="no weights at"):
        find_weights(tmp_path / "nowhere")
    path = tmp_path / "net.safetensors"
    save_network(DualNoiseNetwork(MODEL), Config(model=MODEL), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        read_weights(path)
    safetensors.torch.save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="carries no configuration"):
        read_weights(path)
    for config in ("[1]", "{", '{"model": 3}'):
        safetensors.torch.save_file({"x": torch.zeros(1)}, path, metadata={"config": config})
        with pytest.raises(InputError, match="carries no configuration of ours"):
            read_weights(path)
    values = json.dumps({"model": {"colours": 3}})
    safetensors.torch.save_file({"x": torch.zeros(1)}, path, metadata={"config": values})
    with pytest.raises(InputError, match="unknown fields colours: it was written by another"):
        read_weights(path)


@pytest.mark.parametrize("varied", [False, True])
def test_the_networks_in_the_package_are_ready_for_use(varied):
    network = load_pretrained(varied=varied)
    assert not network.training
    assert network.calibration
    size = network.config.image_size
    with torch.no_grad():
        output = network(torch.rand(1, 3, size, size), torch.ones(1, 2, dtype=torch.bool))
    assert len(output.stages) == network.config.modules + 1


def test_the_mean_of_networks_is_taken_weight_by_weight(tmp_path):
    files, networks = [tmp_path / f"{seed}.safetensors" for seed in range(3)], []
    for seed, file in enumerate(files):
        torch.manual_seed(seed)
        networks.append(DualNoiseNetwork(MODEL))
        networks[-1].encoder.stem[1].running_mean += seed  # a buffer
        save_network(networks[-1], Config(model=MODEL), file)
    average([str(file) for file in files], tmp_path / "mean.safetensors")
    state = load_network(tmp_path / "mean.safetensors")[0].state_dict()
    states = [network.state_dict() for network in networks]
    for name, value in state.items():
        if value.is_floating_point():
            mean = torch.stack([each[name] for each in states]).mean(dim=0)
            torch.testing.assert_close(value, mean)
    torch.testing.assert_close(state["encoder.stem.1.running_mean"], torch.ones(64))


def test_networks_that_differ_have_no_mean(tmp_path):
    files = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    for file, ridge in zip(files, (0.1, 0.2), strict=True):
        model = dataclasses.replace(MODEL, ridge=ridge)
        save_network(DualNoiseNetwork(model), Config(model=model), file)
    with pytest.raises(InputError, match=r"not alike: model\.ridge differ"):
        average([str(file) for file in files], tmp_path / "mean.safetensors")


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    network, path = DualNoiseNetwork(MODEL), tmp_path / "net.safetensors"
    torch.nn.init.constant_(network.coarse.maps.bias, math.nan)
    save_network(network, Config(model=MODEL), path)
    with pytest.raises(InputError, match=r"no numbers, coarse\.maps\.bias first"):
        read_weights(path)


@pytest.mark.parametrize(
    "fit", [(math.nan, 1, 1), (1, 0, 1), (1, 1, -1), (-1, 1, 1), ("a", 1, 1), (1, 1)]
)
def test_a_calibration_that_no_fit_gives_is_not_believed(tmp_path, caplog, fit):
    network, path = DualNoiseNetwork(MODEL), tmp_path / "net.safetensors"
    good = {"IH": Calibration(0.0, 0.1, 3.0)}
    network.calibration = good
    save_network(network, Config(model=MODEL), path)
    assert read_calibration(path) == good
    bad = json.dumps({"SH": dict(zip(("gamma", "delta", "freedom"), fit, strict=False))})
    config = json.dumps(config_to_dict(Config(model=MODEL)))
    safetensors.torch.save_file(
        network.state_dict(), path, metadata={"config": config, "calibration": bad}
    )
    assert read_calibration(path) == {}
    assert "calibrate it again" in caplog.text


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [("data", "root", None), ("data", "margin", "x"), ("train", "workers", "x")],
)
def test_a_configuration_with_impossible_values_is_refused(tmp_path, part, field, value):
    network, path = DualNoiseNetwork(MODEL), tmp_path / "net.safetensors"
    values = config_to_dict(Config(model=MODEL))
    values[part][field] = value
    safetensors.torch.save_file(network.state_dict(), path, metadata={"config": json.dumps(values)})
    with pytest.raises(InputError, match=r"net\.safetensors"):
        read_weights(path)
