import dataclasses

import pytest
import torch

from dne_lib.config import Config, DataConfig, ModelConfig, TrainConfig
from dne_lib.estimate import Measured, estimate, extrapolate, measure
from dne_lib.files import InputError
from dne_lib.model import DualNoiseNetwork

MODEL = ModelConfig(
    backbone="resnet18", stages=2, pretrained=False, image_size=32, feature_size=8,
    channels=8, modules=1, samples=2,
)  # fmt: skip


@pytest.fixture
def config(builtin_data):
    train = TrainConfig(steps=7200, batch_size=12, precision="no")
    return Config(model=dataclasses.replace(MODEL), data=DataConfig(root=builtin_data), train=train)


def test_a_straight_line_through_two_batches():
    small, large = Measured(2, 0.5, 3.0), Measured(4, 0.7, 4.0)
    assert extrapolate(small, large, 10) == pytest.approx((1.3, 7.0))
    assert extrapolate(small, large, 4) == pytest.approx((0.7, 4.0))


def test_more_images_are_never_faster():
    """The clock of a busy machine may say so."""
    assert extrapolate(Measured(1, 0.9, 2.0), Measured(2, 0.6, 2.0), 100) == (0.6, 2.0)


def test_an_estimate_in_a_process_of_its_own(config):
    found = estimate(config)
    expected = sum(p.numel() for p in DualNoiseNetwork(MODEL).parameters())
    assert found.parameters == expected
    assert found.hours == pytest.approx(2 * found.seconds)
    assert 0 < found.seconds < 60
    # torch alone takes a tenth of a gigabyte, this network next to nothing.
    assert 0.1 < found.gigabytes < 4
    assert found.device == "CPU" or torch.cuda.is_available()


def test_the_coarse_stage_has_no_modules(config):
    config.train.stage = "coarse"
    _, _, parameters = measure(config, 1)
    coarse = DualNoiseNetwork(dataclasses.replace(MODEL, modules=0))
    assert parameters == sum(p.numel() for p in coarse.parameters())


def test_data_that_is_not_there(config, tmp_path):
    config.data.root = tmp_path
    with pytest.raises(InputError, match=str(tmp_path)):
        measure(config, 1)


def test_more_processes_than_images(config):
    with pytest.raises(InputError, match=r"train\.batch_size is 12, fewer than the 13 processes"):
        estimate(config, processes=13)
