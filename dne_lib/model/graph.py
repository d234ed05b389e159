"""Graph attention on the hand's own mesh: phi and varphi of the paper's Ours-GraphAttn (Table 1).

The paper only names it ("Graph attentions, Li et al. 2022a"): every vertex attends to itself and
to its neighbours on the mesh, so that what one vertex sees helps those beside it.
"""

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

# Apart from the channels of F: at the paper's size an array as wide as the MLP's, for every layer
# of two blocks, would fill a GPU.
WIDTH, HEADS, BLOCKS = 128, 4, 2


def one_ring(faces: Int[np.ndarray, "*hand face 3"]) -> Int[np.ndarray, "vertex slot"]:
    """Every vertex, then its neighbours on the mesh in ascending order.

    Rows are filled up with the vertex itself: its number after the first slot is no neighbour.

    Args:
        faces: of one hand or both, whose faces join the same vertices.
    """
    corners = faces.reshape(-1, 3)
    edges = np.concatenate([corners[:, [i, j]] for i in range(3) for j in range(3) if i != j])
    edges = np.unique(edges, axis=0)
    count = np.bincount(edges[:, 0], minlength=corners.max() + 1)
    ring = np.tile(np.arange(len(count))[:, None], (1, 1 + count.max()))
    slot = 1 + np.arange(len(edges)) - np.repeat(np.cumsum(count) - count, count)
    ring[edges[:, 0], slot] = edges[:, 1]
    return ring


def linear_on_parts(layer: nn.Linear, parts: list[Tensor]) -> Tensor:
    """A linear layer on the concatenation of arrays that share all axes but the last.

    The sum of linear layers on the parts is the same and spares the widest array of the network;
    axes of size one broadcast.
    """
    weights = layer.weight.split([part.shape[-1] for part in parts], dim=1)
    return layer.bias + sum(F.linear(p, w) for p, w in zip(parts, weights, strict=True))


def attend(
    query: Float[Tensor, "n v head d"],
    key: Float[Tensor, "n v head d"],
    value: Float[Tensor, "n v head d"],
    ring: Int[Tensor, "v slot"],
    real: Bool[Tensor, "v slot"],
) -> Float[Tensor, "n v head d"]:
    """Attention of every vertex to the real slots of its ring.

    The neighbours are gathered: a ring has at most some ten vertices of 778, and training with
    masked attention to all took two to three times as long on a CPU (`benchmarks/estimators.py`).
    """
    pairs = torch.cat([key, value], dim=-1).index_select(1, ring.flatten())
    keys, values = pairs.unflatten(1, ring.shape).chunk(2, dim=-1)
    scores = (query[:, :, None] * keys).sum(dim=-1) / query.shape[-1] ** 0.5
    scores = scores.masked_fill(~real[..., None], -torch.inf)
    weights = scores.softmax(dim=2).to(values.dtype)  # autocast gives float32
    return (weights[..., None] * values).sum(dim=2)


class RingBlock(nn.Module):
    """Attention to the 1-ring, then an MLP on each vertex, both added to what they read."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_ring, self.norm_vertex = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.vertex = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(
        self,
        x: Float[Tensor, "n v width"],
        ring: Int[Tensor, "v slot"],
        real: Bool[Tensor, "v slot"],
    ) -> Float[Tensor, "n v width"]:
        """Pre-norm; see `attend`."""
        qkv = self.project(self.norm_ring(x))
        q, k, v = rearrange(qkv, "n v (k head d) -> k n v head d", k=3, head=self.heads)
        x = x + self.merge(attend(q, k, v, ring, real).flatten(2))
        return x + self.vertex(self.norm_vertex(x))


class GraphAttention(nn.Module):
    """Concatenation followed by blocks of attention on the mesh, in the place of `ConcatMLP`.

    The last layer starts at zero: a fresh module moves nothing.
    """

    ring: Int[Tensor, "v slot"]
    real: Bool[Tensor, "v slot"]

    def __init__(self, inputs: list[int], outputs: int, ring: Int[np.ndarray, "v slot"]):
        """`ring`: see `one_ring`."""
        super().__init__()
        self.first = nn.Linear(sum(inputs), WIDTH)
        self.blocks = nn.ModuleList(RingBlock(WIDTH, HEADS) for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(WIDTH)
        self.last = nn.Linear(WIDTH, outputs)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        real = ring != ring[:, :1]
        real[:, 0] = True
        # Not persistent: the mesh is the hand model's, which may be licensed.
        self.register_buffer("ring", torch.from_numpy(ring), persistent=False)
        self.register_buffer("real", torch.from_numpy(real), persistent=False)

    def forward(self, parts: list[Tensor]) -> Tensor:
        """Parts share all axes but the last; axes of size one broadcast."""
        x = linear_on_parts(self.first, parts)
        for block in self.blocks:
            x = block(x, self.ring, self.real)
        return self.last(self.norm(x)).float()
