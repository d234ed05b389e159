"""The dual-noise-estimation module: Eq. 3, Eq. 4, and one step of camera correction.

Everything here works on a flat list of hands (`n`): the network gathers the hands that are
present from both axes, batch and hand, before the first module, and puts them back at the end.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from dne_lib.camera import project, ridge_camera
from dne_lib.config import VERTICES, ModelConfig
from dne_lib.mano import HandTopology
from dne_lib.model.coarse import pixel_centres
from dne_lib.model.encoder import conv_block
from dne_lib.model.graph import GraphAttention, linear_on_parts, one_ring
from dne_lib.model.noise import sample_noise

SMALLEST_SCALE = 0.1  # of a camera, NDC per hand unit: a hand a tenth of the image wide
STEP = 0.1  # hand units, what a step typically is: smaller inputs are slow to be heard
SHARE = -1.0  # logit of the part of the way that a fresh module goes: a good quarter


def interpolate(
    features: Float[Tensor, "n C H W"], points: Float[Tensor, "n v 2"]
) -> Float[Tensor, "n v C"]:
    """Image-aligned features: F read at NDC points, bilinearly; beyond the border, the border's."""
    sampled = F.grid_sample(
        features, points[:, :, None], padding_mode="border", align_corners=False
    )
    return rearrange(sampled, "n c v 1 -> n v c")


def working_dtype(tensor: Tensor) -> torch.dtype:
    """What autocast computes a linear layer in: casting once spares a cast for every layer."""
    device = tensor.device.type
    on = torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if on else tensor.dtype


class _MaxOverCell(torch.autograd.Function):
    """Each row becomes the maximum over all rows of its cell.

    The derivative of `scatter_reduce` is far slower on a CPU; here each maximum hands its
    gradient to the row it came from (to each of them where rows tie).
    """

    @staticmethod
    def forward(ctx, rows: Tensor, cell: Tensor, cells: int) -> Tensor:  # pyright: ignore
        lowest = rows.new_full((cells, rows.shape[1]), -torch.inf)
        index = cell[:, None].expand_as(rows)
        out = lowest.scatter_reduce(0, index, rows, "amax").index_select(0, cell)
        ctx.save_for_backward(rows == out, cell)
        ctx.cells = cells
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor):  # pyright: ignore
        highest, cell = ctx.saved_tensors
        total = gradient.new_zeros(ctx.cells, gradient.shape[1]).index_add(0, cell, gradient)
        return total.index_select(0, cell) * highest, None, None


def three_views(
    features: Float[Tensor, "n v C"], vertices: Float[Tensor, "n v 3"], grid: int
) -> list[Float[Tensor, "n v C"]]:
    """What each vertex sees on the front, lateral and top views of the voxel grid (Fig. 2).

    Vertices are normalised to their bounding cube and dropped into grid^3 voxels. Aggregating by
    maximum inside a voxel and then along an axis is one maximum over the column, so the dense
    volume is never built: a vertex reads the maximum over its own column.

    Args:
        features: one vector per vertex.
        vertices: in any unit; only their relative places matter.
        grid: cells along each axis.

    Returns:
        front (columns along z), lateral (along x), top (along y).
    """
    low = vertices.amin(dim=1, keepdim=True)
    side = (vertices.amax(dim=1, keepdim=True) - low).amax(dim=2, keepdim=True).clamp(min=1e-6)
    x, y, z = ((vertices - low) / side * grid).long().clamp(0, grid - 1).unbind(dim=-1)
    n = torch.arange(len(vertices), device=vertices.device)[:, None]
    rows = rearrange(features, "n v c -> (n v) c")
    views = []
    for column, row in ((x, y), (z, y), (x, z)):
        cell = ((n * grid + row) * grid + column).flatten()
        most = _MaxOverCell.apply(rows, cell, len(vertices) * grid * grid)
        views.append(most.view_as(features))
    return views


class ConcatMLP(nn.Module):
    """Concatenation followed by an MLP, as the paper realises phi and varphi.

    The last layer starts at zero: a fresh module moves nothing.
    """

    def __init__(self, inputs: list[int], hidden: int, outputs: int):
        super().__init__()
        self.first = nn.Linear(sum(inputs), hidden)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, outputs)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, parts: list[Tensor]) -> Tensor:
        """Parts share all axes but the last; axes of size one broadcast."""
        x = F.gelu(linear_on_parts(self.first, parts))
        return self.last(F.gelu(self.second(x))).float()


def fourier(places: Float[Tensor, "v 3"], octaves: int = 4) -> Float[Tensor, "v k"]:
    """Sines and cosines of coordinates in [0, 1], k = 6 octaves: near vertices look alike."""
    angles = (places[..., None] * torch.pi * 2.0 ** torch.arange(octaves)).flatten(1)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class AttentionRegressor(nn.Module):
    """2D coordinates read off the whole of F: (HW) x C to N x C to N x 3, by attention.

    Every vertex has a query, made from its place on the hand at rest (what the DensePose map shows
    in each pixel), and looks for itself among the places of F. The centre of its attention is a
    first answer; an MLP adds the rest, and the confidence, from the features found there.
    """

    def __init__(self, channels: int, places: Float[Tensor, "778 3"]):
        super().__init__()
        width = self.width = channels
        self.places: Tensor
        self.register_buffer("places", fourier(places), persistent=False)
        self.query = nn.Sequential(
            nn.Linear(self.places.shape[1], 2 * width), nn.GELU(), nn.Linear(2 * width, 2 * width)
        )
        self.own_query = nn.Parameter(torch.zeros(2, VERTICES, width))
        self.down = conv_block(channels, 2 * channels, stride=2)
        self.keys = nn.Conv2d(2 * channels, 2 * width, 1)
        self.values = nn.Conv2d(2 * channels, 2 * width, 1)
        self.read = ConcatMLP([width, width], 2 * width, 3)

    def forward(
        self,
        features: Float[Tensor, "batch C H W"],
        coarse: Float[Tensor, "batch D h w"],
        where: tuple[Int[Tensor, " n"], Int[Tensor, " n"]],
    ) -> Float[Tensor, "n v 3"]:
        """(u_x, u_y, confidence logit) of every vertex, NDC.

        Args:
            features: F.
            coarse: what the baseline made of F, at half its size.
            where: image and side of each hand.
        """
        x = self.down(features) + coarse
        k, v = (
            rearrange(conv(x), "b (hand c) h w -> b hand (h w) c", hand=2)[where]
            for conv in (self.keys, self.values)
        )
        q = rearrange(self.query(self.places), "v (hand c) -> hand v c", hand=2)
        q = (q + self.own_query)[where[1]].to(k.dtype)
        attention = (q @ k.mT * self.width**-0.5).softmax(dim=-1)
        found = (attention @ v).to(k.dtype)
        pixels = pixel_centres(x.shape[-2], x.shape[-1], x.device)
        with torch.autocast(x.device.type, enabled=False):
            centre = attention.float() @ pixels
        offset = self.read([found, q])
        return torch.cat([centre + offset[..., :2], offset[..., 2:]], dim=-1)


class CoordinateRegressor(nn.Module):
    """The same as the paper has it: two MLPs, over the places of F and over its channels.

    Each vertex is a mixture of places with the same weights for every image.
    """

    def __init__(self, feature_size: int, channels: int):
        super().__init__()
        self.places = nn.ModuleList(
            nn.Sequential(
                nn.Linear(feature_size**2, 2 * channels),
                nn.GELU(),
                nn.Linear(2 * channels, VERTICES),
            )
            for _ in range(2)
        )
        self.channels = nn.Sequential(
            nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, 3)
        )

    def forward(
        self,
        features: Float[Tensor, "batch C H W"],
        coarse: Float[Tensor, "batch D h w"],
        where: tuple[Int[Tensor, " n"], Int[Tensor, " n"]],
    ) -> Float[Tensor, "n v 3"]:
        """As `AttentionRegressor`; `coarse` is not used."""
        places = rearrange(features, "b c h w -> b c (h w)")
        tokens = torch.stack([mix(places) for mix in self.places], dim=1)[where]
        return self.channels(rearrange(tokens, "n c v -> n v c")).float()


def asked_step(
    projected: Float[Tensor, "n v 2"],
    points: Float[Tensor, "n v 2"],
    camera: Float[Tensor, "n 2 2"],
) -> Float[Tensor, "n v 2"]:
    """x and y of the 3D noise whose shadow is the way from the projections to the points (Eq. 1).

    Args:
        projected: of the vertices, NDC.
        points: u + eps_2d, NDC.
        camera: what projected them.

    Returns:
        Hand units; the depth is anyone's guess.
    """
    return (points - projected) / camera[:, None, :, 0].clamp(min=SMALLEST_SCALE)


# phi and varphi: (widths of what is given for each vertex, width of the answer, configuration,
# topology) to a module that takes these parts, each n x 778 x width, 1 for n or 778 where all
# are alike, and answers n x 778 x width. A name added here is one that `ModelConfig.estimator`,
# and with it training, plans and `load_network`, knows. The command must import it first:
# python -c "import mine; from dne_lib.cli import main; main()" evaluate runs/mine
ESTIMATORS: dict[str, Callable[[list[int], int, ModelConfig, HandTopology], nn.Module]] = {
    "mlp": lambda inputs, outputs, config, _: ConcatMLP(inputs, 2 * config.channels, outputs),
    "graph": lambda inputs, outputs, _, hand: GraphAttention(inputs, outputs, one_ring(hand.faces)),
}


class Refinement(NamedTuple):
    """What one module returns; samples lead."""

    vertices: Float[Tensor, "sample n v 3"]  # v + eps_3d, hand units
    coordinates: Float[Tensor, "sample n v 2"]  # u + eps_2d, NDC
    scores: Float[Tensor, "sample n"]  # higher is better
    best: Int[Tensor, " n"]
    camera: Float[Tensor, "n 2 2"]

    @property
    def mesh(self) -> Float[Tensor, "n v 3"]:
        """The vertices that go on: those of the best sample."""
        return self.vertices[self.best, torch.arange(len(self.best), device=self.best.device)]


def unrefined(vertices: Float[Tensor, "n v 3"], camera: Float[Tensor, "n 2 2"]) -> Refinement:
    """What the first module starts from, in the form of what modules return: m = 0."""
    scores = vertices.new_zeros(1, len(vertices))
    return Refinement(
        vertices[None], project(vertices, camera)[None], scores, scores[0].long(), camera
    )


class DualNoiseModule(nn.Module):
    """Refines vertices, their image points and the camera of each hand."""

    def __init__(self, config: ModelConfig, topology: HandTopology):
        super().__init__()
        self.config = config
        c = config.channels
        about, own = [], []  # widths of inputs the paper does not have: see the configuration
        # Without any noise nobody reads it, and several GPUs want a gradient for all there is.
        if config.vertex_embedding and (config.noise_2d or config.noise_3d):
            # Started where DensePose puts the vertex, which is what the features speak of.
            waves = fourier(torch.from_numpy(topology.places).float())
            mix = torch.randn(waves.shape[1], config.vertex_embedding) / waves.shape[1] ** 0.5
            self.embedding = nn.Parameter((waves @ mix).repeat(2, 1, 1))
            about += [config.vertex_embedding]
        if config.vertex_coordinates:
            about += [3 + 2 + 2 + 2]
            own = [c]

        def estimator(inputs: list[int], outputs: int) -> nn.Module:
            return ESTIMATORS[config.estimator](inputs, outputs, config, topology)

        if config.noise_2d:
            self.phi = estimator([c, c, *about], 2)
        if config.noise_3d:
            self.share = config.consistency and config.noise_2d
            self.varphi = estimator([c, c, c, *own, *about], 3 + self.share)
        self.score = nn.Sequential(nn.Linear(3 * c + 2, c), nn.GELU(), nn.Linear(c, 1))

    def forward(
        self,
        features: Float[Tensor, "n C H W"],
        vertices: Float[Tensor, "n v 3"],
        camera: Float[Tensor, "n 2 2"],
        regressed: Float[Tensor, "n v 3"] | None,
        side: Int[Tensor, " n"],
        samples: int = 0,
        generator: torch.Generator | None = None,
    ) -> Refinement:
        """One step of refinement.

        Args:
            features: F of the image each hand is in, float32.
            vertices: the mesh to refine; wrist-relative, hand units.
            camera: the camera that goes with it.
            regressed: (u_x, u_y, confidence logit) from the regressor; None when the 2D noise is
                switched off.
            side: 0 for a right hand, 1 for a left.
            samples: R draws of the noise; 0 takes the means, as the paper does at inference.
            generator: source of the noise.
        """
        config, dtype = self.config, working_dtype(features)
        projected = project(vertices, camera)
        u, mean_2d = projected, torch.zeros_like(projected)
        if regressed is not None:
            # The paper takes both points and does not say how u comes of them: ours is a gate, from
            # the third number that it regresses and names no use for.
            point, gate = regressed[..., :2], regressed[..., 2:].sigmoid()
            u = gate * point + (1 - gate) * projected
            f_p, f_r = (interpolate(features, p).to(dtype) for p in (projected, point))
            about = self._about(vertices, projected, u, asked_step(projected, u, camera), side)
            mean_2d = self.phi([f_p, f_r, *about])  # Eq. 3

        drawn = []
        for _ in range(max(samples, 1)):
            epsilon_2d, mean_3d = mean_2d, torch.zeros_like(vertices)
            if samples and config.noise_2d:
                epsilon_2d = sample_noise(mean_2d, config.gamma, config.delta, generator)
            points = u + epsilon_2d
            aligned = interpolate(features, points).to(dtype)
            views = three_views(aligned, vertices, config.voxel_grid)
            if config.noise_3d:
                own = [aligned] if config.vertex_coordinates else []
                asked = asked_step(projected, points, camera)
                about = self._about(vertices, projected, points, asked, side)
                mean_3d = self.varphi([*views, *own, *about])  # Eq. 4
                if self.share:
                    mean_3d, logit = mean_3d.split([3, 1], dim=-1)
                    part = (SHARE + logit).sigmoid()
                    mean_3d = mean_3d + F.pad(part * asked, (0, 1))
            epsilon_3d = mean_3d
            if samples and config.noise_3d:
                epsilon_3d = sample_noise(mean_3d, config.gamma, config.delta, generator)
            score = self._score(views, epsilon_2d - mean_2d, epsilon_3d - mean_3d)
            drawn.append((vertices + epsilon_3d, points, score))

        refined, coordinates, scores = (torch.stack(each) for each in zip(*drawn, strict=True))
        best = scores.argmax(dim=0) if config.selection else torch.zeros_like(side)
        if config.camera_correction and regressed is not None:
            n = torch.arange(len(side), device=side.device)
            camera = ridge_camera(refined[best, n], coordinates[best, n], config.ridge)  # Eq. 7
        return Refinement(refined, coordinates, scores, best, camera)

    def _about(
        self, vertices: Tensor, projected: Tensor, u: Tensor, step: Tensor, side: Tensor
    ) -> list[Tensor]:
        """Which vertex this is and where it now stands, as far as switched on."""
        parts = [self.embedding[side]] if self.config.vertex_embedding else []
        if self.config.vertex_coordinates:
            parts.append(torch.cat([vertices, projected, u, step / STEP], dim=-1))
        return parts

    def _score(self, views: list[Tensor], away_2d: Tensor, away_3d: Tensor) -> Tensor:
        """Confidence from pooled features, and from how far the sample strayed from the means.

        Detached, so that learning to rank samples does not bend what they are made of.
        """
        strayed = [away.abs().mean(dim=(1, 2))[:, None] for away in (away_2d, away_3d)]
        pooled = torch.cat([*(view.float().mean(dim=1) for view in views), *strayed], dim=-1)
        return self.score(pooled.detach()).float().squeeze(-1)
