"""The image encoder: a ResNet and a top-down path to one feature map F (Overall Architecture)."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from jaxtyping import Float
from torch import Tensor, nn

from dne_lib.config import ModelConfig
from dne_lib.files import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def conv_block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, batch normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def resnet(name: str, pretrained: bool) -> torchvision.models.ResNet:
    """A ResNet, with ImageNet weights if asked for, which torchvision downloads once.

    Raises:
        InputError: they are not there and cannot be downloaded.
    """
    build = getattr(torchvision.models, name)
    if not pretrained:
        return build()
    weights: Any = torchvision.models.get_model_weights(name)
    try:
        return build(weights=weights.DEFAULT)
    except (OSError, RuntimeError) as error:  # no network, or half a file
        place = Path(torch.hub.get_dir()) / "checkpoints"
        raise InputError(
            f"cannot download {name}'s ImageNet weights ({error}): put {weights.DEFAULT.url} into "
            f"{place}, or start without them (--model.no-pretrained)"
        ) from None


class Encoder(nn.Module):
    """Image to feature maps F at a quarter of its resolution.

    The coarsest stage sees the whole hand and the finest places a fingertip; the top-down path
    (a feature pyramid) adds the first to the second.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        net = resnet(config.backbone, config.pretrained)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        stages = [net.layer1, net.layer2, net.layer3, net.layer4][: config.stages]
        self.stages = nn.ModuleList(stages)
        expansion = 4 if config.backbone == "resnet50" else 1
        widths = [expansion * 64 * 2**i for i in range(config.stages)]
        self.lateral = nn.ModuleList(nn.Conv2d(width, config.channels, 1) for width in widths)
        self.smooth = conv_block(config.channels, config.channels)

    def forward(self, image: Float[Tensor, "batch 3 S S"]) -> Float[Tensor, "batch C H W"]:
        """RGB in [0, 1] to F, with H = W = S / 4."""
        x = self.stem((image - self.mean) / self.std)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        top = self.lateral[-1](maps[-1])
        for lateral, finer in zip(self.lateral[-2::-1], maps[-2::-1], strict=True):
            up = F.interpolate(top, scale_factor=2, mode="bilinear", align_corners=False)
            top = up + lateral(finer)
        return self.smooth(top)
