"""The baseline: MANO parameters by spatial softmax over parameter maps (after Yu et al. 2023a)."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from dne_lib.camera import pixels_to_ndc
from dne_lib.mano import HandModel, matrix_to_rotation_6d
from dne_lib.model.encoder import conv_block

POSE, BETAS, CAMERA = 16 * 6, 10, 4
ATTENTIONS = 16 + 1 + 1  # one per joint rotation, one for the shape, one for the camera
START_SCALE = 0.6  # of the camera: a hand fills most of a single-hand crop


class Parameters(NamedTuple):
    """What the baseline regresses for each hand."""

    pose: Float[Tensor, "batch hand 16 6"]  # theta: full rotations, 6D, global_orient first
    betas: Float[Tensor, "batch hand 10"]
    camera: Float[Tensor, "batch hand 2 2"]  # c: rows x, y; columns scale, translation
    attention: Float[Tensor, "batch hand 18 h w"]  # sums to one over h w
    features: Float[Tensor, "batch D h w"]  # the map all of these were read from; h w half of F's


def pixel_centres(
    height: int, width: int, device: torch.device | None = None
) -> Float[Tensor, "place 2"]:
    """NDC (x, y) of the pixels of a map, row by row."""
    x = pixels_to_ndc(torch.arange(width, dtype=torch.float32, device=device), width)
    y = pixels_to_ndc(torch.arange(height, dtype=torch.float32, device=device), height)
    return torch.cartesian_prod(y, x).flip(-1)


class CoarseRegressor(nn.Module):
    """F to MANO parameters and camera, for both hands."""

    def __init__(self, channels: int, hands: HandModel):
        super().__init__()
        self.block = nn.Sequential(
            conv_block(channels, 2 * channels, stride=2), BasicBlock(2 * channels, 2 * channels)
        )
        self.maps = nn.Conv2d(2 * channels, 2 * (POSE + BETAS + CAMERA), 1)
        self.attention = nn.Conv2d(2 * channels, 2 * ATTENTIONS, 1)
        # Each parameter is mixed by the attention map of its joint, the shape's or the camera's.
        mixer = torch.arange(ATTENTIONS).repeat_interleave(torch.tensor([6] * 16 + [BETAS, CAMERA]))
        self.mixer: Tensor
        self.register_buffer("mixer", mixer, persistent=False)
        self._start_at_the_mean(hands)

    def _start_at_the_mean(self, hands: HandModel) -> None:
        """Begin with the mean hand: far rotations and tiny scales are slow to unlearn."""
        mean = matrix_to_rotation_6d(hands.mano_rotations(torch.zeros(2, 48))).flatten(1)
        scale = math.log(math.expm1(START_SCALE))  # the inverse of softplus
        camera = torch.tensor([scale, 0.0, scale, 0.0]).expand(2, 4)
        start = torch.cat([mean, torch.zeros(2, BETAS), camera], dim=1)
        self.maps.bias = nn.Parameter(start.flatten())
        with torch.no_grad():
            self.maps.weight.mul_(0.1)

    def forward(self, features: Float[Tensor, "batch C H W"]) -> Parameters:
        """Parameters = sum over places of softmax(attention) * map; see `Parameters`."""
        x = self.block(features)
        maps = rearrange(self.maps(x).float(), "b (hand p) h w -> b hand p (h w)", hand=2)
        logits = rearrange(self.attention(x).float(), "b (hand a) h w -> b hand a (h w)", hand=2)
        attention = logits.softmax(dim=-1)
        places = pixel_centres(x.shape[-2], x.shape[-1], x.device)
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 would round to 0.25 pixels
            values = einsum(attention[:, :, self.mixer], maps, "b hand p s, b hand p s -> b hand p")
            centre = einsum(attention[:, :, -1], places, "b hand s, s xy -> b hand xy")
        pose, betas, camera = values.split([POSE, BETAS, CAMERA], dim=-1)
        scale, offset = rearrange(camera, "b hand (xy k) -> k b hand xy", k=2)
        # Convolutions cannot tell where they are: each place votes for itself plus an offset.
        translation = offset + centre
        return Parameters(
            pose=rearrange(pose, "b hand (joint d) -> b hand joint d", d=6),
            betas=betas,
            camera=torch.stack([F.softplus(scale), translation], dim=-1),
            attention=rearrange(attention, "b hand a (h w) -> b hand a h w", h=x.shape[-2]),
            features=x,
        )
