"""Graph attention on the hand's own mesh: phi and varphi of the paper's Ours-GraphAttn (Table 1).

The paper only names it ("Graph attentions, Li et al. 2022a"): every vertex attends to itself and
to its neighbours on the mesh, so that what one vertex sees helps those beside it.
"""

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
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


def mutual_slots(ring: Int[np.ndarray, "vertex slot"]) -> Int[np.ndarray, "vertex slot"]:
    """Where the neighbour in a slot has the vertex in its own ring, as an index into ring.ravel().

    A slot that only fills up the row leads to itself.
    """
    grid = np.indices(ring.shape)
    own, place = grid[0], grid[1]
    filled = (ring == own) & (place > 0)
    slot = np.zeros((len(ring), len(ring)), np.int64)  # of a vertex (row), that of another (column)
    slot[own[~filled], ring[~filled]] = place[~filled]
    return ring * ring.shape[1] + np.where(filled, place, slot[ring, own])


def linear_on_parts(layer: nn.Linear, parts: list[Tensor]) -> Tensor:
    """A linear layer on the concatenation of arrays that share all axes but the last.

    The sum of linear layers on the parts is the same and spares the widest array of the network;
    axes of size one broadcast.
    """
    weights = layer.weight.split([part.shape[-1] for part in parts], dim=1)
    total = F.linear(parts[0], weights[0], layer.bias)
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total = total + F.linear(part, weight)
    return total


def _gathered_dots(
    x: Float[Tensor, "n v head d"], y: Float[Tensor, "n v head d"], ring: Int[Tensor, "v slot"]
) -> Float[Tensor, "n v slot head"]:
    """Of each vertex's x with the y of those in its ring."""
    dots = [(x * y.index_select(1, slot)).sum(dim=-1) for slot in ring.unbind(1)]
    return torch.stack(dots, dim=2)


def _gathered_sum(
    weights: Float[Tensor, "n v slot head"], x: Float[Tensor, "n v head d"], ring: Tensor
) -> Float[Tensor, "n v head d"]:
    """For each vertex the weighted sum of x over its ring."""
    total = torch.zeros_like(x)
    for slot, weight in zip(ring.unbind(1), weights.unbind(2), strict=True):
        total.addcmul_(x.index_select(1, slot), weight[..., None])
    return total


class _Attend(torch.autograd.Function):
    """See `attend`; the derivative is written out because torch's keeps every gathered array.

    A ring is mutual: who attends to a vertex is in its own ring. So the gradients of keys and
    values are gathered as well, where torch would scatter.
    """

    @staticmethod
    def forward(ctx, query, key, value, ring, mutual):  # pyright: ignore
        real = ring != ring[:, :1]
        real[:, 0] = True
        scores = _gathered_dots(query, key, ring) * query.shape[-1] ** -0.5
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        weights = scores.masked_fill(~real[..., None], -torch.inf).softmax(dim=2).to(value.dtype)
        ctx.save_for_backward(query, key, value, weights, ring, mutual)
        return _gathered_sum(weights, value, ring)

    @staticmethod
    def backward(ctx, gradient: Tensor):  # pyright: ignore
        query, key, value, weights, ring, mutual = ctx.saved_tensors

        def turned(values: Tensor) -> Tensor:
            """What a vertex gives its neighbours, from what it is given by them."""
            return values.flatten(1, 2).index_select(1, mutual.flatten()).view_as(values)

        wide = weights.to(torch.promote_types(weights.dtype, torch.float32))
        slope = _gathered_dots(gradient, value, ring)
        scores = wide * (slope - (wide * slope).sum(dim=2, keepdim=True))
        scores = (scores * query.shape[-1] ** -0.5).to(query.dtype)
        return (
            _gathered_sum(scores, key, ring),
            _gathered_sum(turned(scores), query, ring),
            _gathered_sum(turned(weights), gradient, ring),
            None,
            None,
        )


def attend(
    query: Float[Tensor, "n v head d"],
    key: Float[Tensor, "n v head d"],
    value: Float[Tensor, "n v head d"],
    ring: Int[Tensor, "v slot"],
    mutual: Int[Tensor, "v slot"],
) -> Float[Tensor, "n v head d"]:
    """Attention of every vertex to its ring.

    The neighbours are gathered, a slot at a time: a ring has at most some ten vertices of 778, and
    masked attention to all is several times slower on a CPU (`benchmarks/estimators.py`).

    Args:
        ring, mutual: see `one_ring` and `mutual_slots`.
    """
    return _Attend.apply(query, key, value, ring, mutual)


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
        mutual: Int[Tensor, "v slot"],
    ) -> Float[Tensor, "n v width"]:
        """Pre-norm; see `attend`."""
        qkv = self.project(self.norm_ring(x))
        q, k, v = rearrange(qkv, "n v (k head d) -> k n v head d", k=3, head=self.heads)
        x = x + self.merge(attend(q, k, v, ring, mutual).flatten(2))
        return x + self.vertex(self.norm_vertex(x))


class GraphAttention(nn.Module):
    """Concatenation followed by blocks of attention on the mesh, in the place of `ConcatMLP`.

    The last layer starts at zero: a fresh module moves nothing.
    """

    ring: Int[Tensor, "v slot"]
    mutual: Int[Tensor, "v slot"]

    def __init__(self, inputs: list[int], outputs: int, ring: Int[np.ndarray, "v slot"]):
        """`ring`: see `one_ring`."""
        super().__init__()
        self.first = nn.Linear(sum(inputs), WIDTH)
        self.blocks = nn.ModuleList(RingBlock(WIDTH, HEADS) for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(WIDTH)
        self.last = nn.Linear(WIDTH, outputs)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        # Not persistent: the mesh is the hand model's, which may be licensed.
        self.register_buffer("ring", torch.from_numpy(ring), persistent=False)
        self.register_buffer("mutual", torch.from_numpy(mutual_slots(ring)), persistent=False)

    def forward(self, parts: list[Tensor]) -> Tensor:
        """Parts share all axes but the last; axes of size one broadcast."""
        x = linear_on_parts(self.first, parts)
        for block in self.blocks:
            x = block(x, self.ring, self.mutual)
        return self.last(self.norm(x)).float()
