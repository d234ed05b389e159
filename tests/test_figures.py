import dataclasses

import numpy as np
import pytest
import torch

from dne_lib.config import ModelConfig, preset
from dne_lib.figures import pipeline, tensor_shapes
from dne_lib.model import DualNoiseNetwork
from dne_lib.plots import png

SMALL = ModelConfig(
    backbone="resnet18", stages=2, pretrained=False, image_size=64, feature_size=16, channels=8,
    modules=1, samples=3,
)  # fmt: skip


def test_the_network_keeps_what_the_drawing_promises():
    network = DualNoiseNetwork(SMALL).eval()
    with torch.no_grad():
        output = network(torch.rand(1, 3, 64, 64), samples=SMALL.samples)
        features = network.encoder(torch.rand(1, 3, 64, 64))
    stage = output.stages[-1]
    found = {"image": (3, 64, 64), "features": features.shape[1:]}
    found |= {name: values.shape[1:] for name, values in output.auxiliary._asdict().items()}
    found |= {name: getattr(output.parameters, name).shape[1:] for name in ("pose", "betas")}
    for name in ("camera", "vertices", "joints", "projections"):
        found[name] = getattr(stage, name).shape[1:]
    assert output.regressed is not None
    found["regressed"] = output.regressed.shape[1:]
    for name in ("coordinates", "samples", "scores"):
        values = getattr(stage, name)
        found[name] = (len(values), *values.shape[2:])
    assert {name: tuple(shape) for name, shape in found.items()} == tensor_shapes(SMALL)


@pytest.mark.parametrize("name", ["tiny", "small", "paper"])
def test_the_drawing_names_every_shape(name):
    config = dataclasses.replace(preset(name).model, modules=5)
    pictures = [np.full((8, 8, 3), value, np.float32) for value in (0.2, 0.5, 0.8)]
    figure = pipeline(config, *pictures)
    text = "\n".join(each.get_text() for each in figure.axes[0].texts)
    shapes = tensor_shapes(config)
    for tensor in ("image", "features", "pose", "betas", "camera", "vertices", "projections",
                   "regressed", "coordinates", "samples"):  # fmt: skip
        assert " × ".join(map(str, shapes[tensor])) in text, tensor
    assert "M = 5" in text
    assert ("ResNet-50" if name == "paper" else "ResNet-18") in text
    assert [image.get_array().mean() for image in figure.axes[0].images] == pytest.approx(
        [0.2, 0.5, 0.8]
    )
    assert png(figure).startswith(b"\x89PNG")
