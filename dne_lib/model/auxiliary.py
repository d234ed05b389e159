"""The five auxiliary maps and their merge into F (Overall Architecture)."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dne_lib.config import PARTS
from dne_lib.model.encoder import conv_block

CHANNELS = {"depth": 1, "normals": 3, "heatmaps": 42, "densepose": 3, "parts": PARTS}


class Auxiliary(NamedTuple):
    """Predicted maps a_1 ... a_5, at the size of F."""

    depth: Float[Tensor, "batch 1 H W"]  # relative to the wrist, hand units
    normals: Float[Tensor, "batch 3 H W"]  # camera frame
    heatmaps: Float[Tensor, "batch 42 H W"]  # 21 right joints, 21 left
    densepose: Float[Tensor, "batch 3 H W"]  # place on the right hand at rest, in [0, 1]
    parts: Float[Tensor, "batch 33 H W"]  # logits


class AuxiliaryBlock(nn.Module):
    """Predicts the maps from F, then folds them back into F."""

    def __init__(self, channels: int):
        super().__init__()
        self.block = conv_block(channels, channels)
        self.predict = nn.Conv2d(channels, sum(CHANNELS.values()), 1)
        self.merge = conv_block(channels + sum(CHANNELS.values()), channels)

    def forward(
        self, features: Float[Tensor, "batch C H W"]
    ) -> tuple[Auxiliary, Float[Tensor, "batch C H W"]]:
        """F to the five maps and the merged F."""
        maps = self.predict(self.block(features))
        auxiliary = Auxiliary(*maps.split(list(CHANNELS.values()), dim=1))
        readable = torch.cat([*auxiliary[:4], auxiliary.parts.softmax(dim=1)], dim=1)
        # The paper has no residual. It keeps what the 82 readable channels cannot say.
        return auxiliary, features + self.merge(torch.cat([features, readable], dim=1))
