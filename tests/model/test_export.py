"""The network where it is deployed: exported, on images of other sizes, on none at all."""

import warnings

import pytest
import torch

from dne_lib.config import ModelConfig
from dne_lib.files import InputError
from dne_lib.mano import HandModel
from dne_lib.model import DualNoiseNetwork

CONFIG = ModelConfig(
    backbone="resnet18", stages=2, pretrained=False, image_size=32, feature_size=8, channels=8,
    modules=2, vertex_embedding=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = DualNoiseNetwork(CONFIG, HandModel()).eval()
    for module in network.refiners:  # a fresh one would move nothing
        torch.nn.init.normal_(module.varphi.last.weight, std=0.1)
    return network


def test_an_exported_network_says_the_same(network):
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        exported = torch.export.export(network, (images,)).module()
    found, expected = (net(images.flip(0)).stages[-1] for net in (exported, network))
    assert not torch.equal(expected.vertices, network(images).stages[0].vertices.flip(0))
    torch.testing.assert_close(found.vertices, expected.vertices)
    torch.testing.assert_close(found.projections, expected.projections)


def test_no_images_are_no_hands(network):
    output = network(torch.zeros(0, 3, 32, 32))
    assert output.stages[-1].vertices.shape == (0, 2, 778, 3)
    assert output.stages[-1].joints.shape == (0, 2, 21, 3)


def test_images_that_cannot_be_halved_are_refused(network):
    with pytest.raises(InputError, match="images are 36 x 36 pixels: use multiples of 8"):
        network(torch.zeros(1, 3, 36, 36))
