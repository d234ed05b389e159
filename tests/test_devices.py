"""No GPU is needed to see that all is put on it: torch simulates one, without computing.

Forward only: to go back, autograd asks for a real one.
"""

import dataclasses

import pytest
import torch
from torch._subclasses.fake_tensor import (
    FakeTensorDeviceMismatchError,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils.data import default_collate

from dne_lib.config import DataConfig, LossConfig
from dne_lib.data.interhand import InterHand
from dne_lib.losses import total_loss
from dne_lib.mano import HandModel
from dne_lib.model import DualNoiseNetwork
from tests.samples import CONFIG

pytestmark = pytest.mark.skipif(
    not torch.backends.cuda.is_built(), reason="this torch knows no CUDA, not even a simulated one"
)


@pytest.fixture(scope="module")
def real_batch(builtin_data):
    dataset = InterHand(builtin_data, "train", CONFIG, DataConfig(), augment=True, seed=0)
    return default_collate([dataset[i] for i in range(4)])


@pytest.fixture
def on_gpu(monkeypatch, real_batch):
    """A batch and, of a configuration, a network, on a simulated GPU."""
    # Its answer has a shape that no simulation can know.
    where = real_batch["present"].nonzero(as_tuple=True)
    # What autocast asks for.
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    with FakeTensorMode() as mode:

        def move(tensor):
            return mode.from_tensor(tensor).to("cuda")

        there = tuple(move(index) for index in where)
        monkeypatch.setattr(torch.Tensor, "nonzero", lambda *_, **__: there)

        def build(**changes):
            with unset_fake_temporarily():
                network = DualNoiseNetwork(dataclasses.replace(CONFIG, **changes), HandModel())
            for module in network.modules():
                for name, values in list(module.named_parameters(recurse=False)):
                    setattr(module, name, torch.nn.Parameter(move(values).detach()))
                for name, values in list(module.named_buffers(recurse=False)):
                    setattr(module, name, move(values))
            return network

        yield {name: move(values) for name, values in real_batch.items()}, build


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"estimator": "graph"},
        {"regressor": "mlp"},
        {"noise_2d": False},
        {"noise_3d": False, "camera_correction": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("reduced", [False, True], ids=["float32", "bfloat16"])
def test_loss_of_training(changes, reduced, on_gpu):
    batch, build = on_gpu
    network = build(**changes).train()
    with torch.autocast("cuda", torch.bfloat16, enabled=reduced):
        out = network(batch["image"], batch["present"])
    loss, terms = total_loss(out, batch, LossConfig())
    assert loss.device.type == "cuda"
    assert all(term.device.type == "cuda" for term in terms.values())
    assert out.stages[-1].vertices.dtype == torch.float32


@torch.no_grad()
def test_prediction(on_gpu):
    batch, build = on_gpu
    out = build().eval()(batch["image"])
    assert out.stages[-1].vertices.device.type == "cuda"


def test_what_stays_behind_is_noticed(on_gpu):
    batch, build = on_gpu
    network = build()
    network.hands.template = network.hands.template.to("cpu")
    with pytest.raises(FakeTensorDeviceMismatchError, match="at least two devices"):
        network(batch["image"], batch["present"])
