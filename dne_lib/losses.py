"""The training objective, Eq. 8-11: one function per equation.

`batch` is a collated dictionary of the data set. Absent hands never count, but that the maps of a
single hand's image tell that there is no other. Of a hand that is there and has no labels nothing
is asked. Norms are means over elements, so that a weight means the same at every size.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from dne_lib.camera import project
from dne_lib.config import VERTICES, LossConfig
from dne_lib.model.auxiliary import Auxiliary
from dne_lib.model.coarse import Parameters
from dne_lib.model.network import Output, Stage

Batch = dict[str, Tensor]


def masked_mean(values: Float[Tensor, "*lead"], mask: Bool[Tensor, "*lead"]) -> Float[Tensor, ""]:
    """Mean where the mask is set; zero where it is set nowhere."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def masked_l1(
    predicted: Float[Tensor, "*lead d"], true: Float[Tensor, "*lead d"], mask: Bool[Tensor, "*lead"]
) -> Float[Tensor, ""]:
    """Mean absolute difference where the mask is set; zero where it is set nowhere."""
    return masked_mean((predicted.float() - true).abs().mean(dim=-1), mask)


def parts_known(batch: Batch) -> Bool[Tensor, "batch height width"]:
    """Pixels whose part the labels tell.

    Off the labelled hands that is background, unless there is a hand without labels.
    """
    unlabelled = (batch["interacting"][:, None] & ~batch["present"]).any(dim=1)
    return (batch["parts"] > 0) | ~unlabelled[:, None, None]


def auxiliary_loss(
    auxiliary: Auxiliary, batch: Batch, config: LossConfig
) -> dict[str, Float[Tensor, ""]]:
    """L_aux (Eq. 9): L1 on four maps, cross-entropy on the parts; weighted.

    Depth, normals and DensePose count on the hands only: elsewhere they have no value. The heat
    maps count everywhere, but for joints that are not known to be there or not.
    """
    present, interacting = batch["present"], batch["interacting"]
    on_hand = batch["parts"] > 0
    none = ~interacting[:, None] & ~present  # not in the image: its heat maps are empty
    known = rearrange(batch["joint_valid"] | none[..., None], "b hand joint -> b (hand joint)")
    dense = {
        name: masked_l1(
            rearrange(getattr(auxiliary, name), "b c h w -> b h w c"),
            rearrange(batch[name], "b c h w -> b h w c"),
            on_hand,
        )
        for name in ("depth", "normals", "densepose")
    }
    difference = auxiliary.heatmaps.float() - batch["heatmaps"]
    heatmaps = difference.square() if config.squared_heatmaps else difference.abs()
    parts = F.cross_entropy(auxiliary.parts.float(), batch["parts"], reduction="none")
    return {
        "depth": config.depth * dense["depth"],
        "normals": config.normals * dense["normals"],
        "densepose": config.densepose * dense["densepose"],
        "heatmaps": config.heatmaps * masked_mean(heatmaps.mean(dim=(-1, -2)), known),
        "parts": config.parts * masked_mean(parts, parts_known(batch)),
    }


def mano_loss(
    parameters: Parameters, batch: Batch, config: LossConfig
) -> dict[str, Float[Tensor, ""]]:
    """L_MANO (Eq. 10): L1 on theta (6D rotations) and beta; weighted."""
    pose = rearrange(parameters.pose, "b hand joint d -> b hand (joint d)")
    true_pose = rearrange(batch["pose"], "b hand joint d -> b hand (joint d)")
    return {
        "pose": config.pose * masked_l1(pose, true_pose, batch["present"]),
        "betas": config.betas * masked_l1(parameters.betas, batch["betas"], batch["present"]),
    }


def vertex_loss(
    stages: tuple[Stage, ...], batch: Batch, config: LossConfig
) -> dict[str, Float[Tensor, ""]]:
    """L_v (Eq. 11) over every module and sample; weighted.

    The paper's sum begins at m = 1; here the coarse mesh is m = 0 (`coarse_mesh`), and all there is
    where there are no modules.

    The paper sums over the R samples; the mean keeps the weight the same whatever R is. Its 2D
    target is printed as Pi(v_m, c^g), which moves with the prediction; here it is Pi(v^g, c^g).
    """
    true_2d = project(batch["vertices"], batch["camera"])
    losses = {}
    first = 0 if config.coarse_mesh or len(stages) == 1 else 1
    for m, stage in enumerate(stages[first:], first):
        r = len(stage.samples)
        mask = batch["present"][..., None].expand(r, *batch["present"].shape, VERTICES)
        camera = stage.camera.expand(r, *stage.camera.shape)
        losses[f"vertices_{m}"] = config.vertices * masked_l1(
            stage.samples, batch["vertices"].expand_as(stage.samples), mask
        )
        projections = project(stage.samples, camera)
        losses[f"projections_{m}"] = config.projections * masked_l1(
            projections, true_2d.expand_as(projections), mask
        )
    return losses


def coordinate_loss(output: Output, batch: Batch, config: LossConfig) -> Float[Tensor, ""]:
    """The image points themselves, regressed and denoised, against the true projections.

    Eq. 11 reaches u only by detours: the camera's four numbers, what is read of F at u, the share
    of the step. This term, which the paper does not have, tells every point where its vertex is.
    """
    true = batch["vertices_2d"]
    mask = batch["present"][..., None].expand(true.shape[:-1])
    if output.regressed is None:
        return true.new_zeros(())
    loss = masked_l1(output.regressed[..., :2], true, mask)
    for stage in output.stages[1:]:
        points = stage.coordinates
        loss = loss + masked_l1(points, true.expand_as(points), mask.expand(points.shape[:-1]))
    return config.coordinates * loss


def score_loss(stages: tuple[Stage, ...], batch: Batch, config: LossConfig) -> Float[Tensor, ""]:
    """Teaches the confidence head to rank the R samples by their true error.

    Cross-entropy between softmax(scores) and softmax(-errors), the errors (3D in hand units plus
    2D in NDC) standardised within each group of R: their differences are far smaller than those
    between images.
    """
    loss = batch["vertices"].new_zeros(())
    for stage in stages[1:]:
        # One sample cannot be ranked: zero, with a gradient, as sharing among processes wants.
        freedom = min(1, len(stage.samples) - 1)
        with torch.no_grad():
            error = (stage.samples - batch["vertices"]).abs().mean(dim=(-1, -2))
            error += (stage.coordinates - batch["vertices_2d"]).abs().mean(dim=(-1, -2))
            deviation = error.std(dim=0, correction=freedom)
            error = (error - error.mean(dim=0)) / deviation.clamp(min=1e-6)
        each = -((-error).softmax(dim=0) * stage.scores.log_softmax(dim=0)).sum(dim=0)
        loss = loss + masked_mean(each, batch["present"])
    return config.score * loss


def total_loss(
    output: Output, batch: Batch, config: LossConfig
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """L (Eq. 8) and its weighted terms by name."""
    terms = auxiliary_loss(output.auxiliary, batch, config)
    terms |= mano_loss(output.parameters, batch, config)
    terms |= vertex_loss(output.stages, batch, config)
    terms["coordinates"] = coordinate_loss(output, batch, config)
    if len(output.stages) > 1:
        terms["score"] = score_loss(output.stages, batch, config)
    return torch.stack(list(terms.values())).sum(), terms
