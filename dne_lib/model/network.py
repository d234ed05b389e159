"""The whole network: encoder, auxiliary maps, coarse meshes, M dual-noise modules (Fig. 1)."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dne_lib.camera import project
from dne_lib.config import HAND_UNIT, ModelConfig, check_fields
from dne_lib.files import InputError
from dne_lib.mano import HandModel, rotation_6d_to_matrix
from dne_lib.model.auxiliary import Auxiliary, AuxiliaryBlock
from dne_lib.model.coarse import CoarseRegressor, Parameters
from dne_lib.model.encoder import Encoder
from dne_lib.model.noise import Calibration
from dne_lib.model.refine import (
    ESTIMATORS,
    AttentionRegressor,
    CoordinateRegressor,
    DualNoiseModule,
    Refinement,
    unrefined,
)


class Stage(NamedTuple):
    """The meshes after the baseline or after one module; wrist-relative, hand units, NDC."""

    vertices: Float[Tensor, "batch hand 778 3"]  # of the best-scored sample
    joints: Float[Tensor, "batch hand 21 3"]
    camera: Float[Tensor, "batch hand 2 2"]
    projections: Float[Tensor, "batch hand 778 2"]  # Pi(vertices, camera)
    samples: Float[Tensor, "sample batch hand 778 3"]  # v_{m,r}
    coordinates: Float[Tensor, "sample batch hand 778 2"]  # u + eps_2d; for the baseline Pi(v, c)
    scores: Float[Tensor, "sample batch hand"]


class Output(NamedTuple):
    """Everything the network predicts."""

    auxiliary: Auxiliary
    parameters: Parameters
    regressed: Float[Tensor, "batch hand 778 3"] | None  # (u_x, u_y, confidence logit)
    stages: tuple[Stage, ...]  # the baseline's, then one per module


def check_model_config(config: ModelConfig) -> None:
    """Reject settings that cannot be built.

    Raises:
        InputError: names the field, its value and what it may be.
    """
    check_fields(config, "model")
    if config.stages not in (2, 3, 4):
        raise InputError(f"model.stages is {config.stages}: keep 2, 3 or 4 stages of the ResNet")
    if config.estimator not in ESTIMATORS:
        names = " or ".join(ESTIMATORS)
        raise InputError(
            f"model.estimator is {config.estimator!r}: use {names}, or add it to "
            "dne_lib.model.refine.ESTIMATORS first, in Python"
        )
    if config.image_size % 2 ** (config.stages + 1) or config.image_size < 32:
        multiple = 2 ** (config.stages + 1)
        raise InputError(f"model.image_size is {config.image_size}: use a multiple of {multiple}")
    if config.feature_size * 4 != config.image_size:
        raise InputError(
            f"model.feature_size is {config.feature_size}: the encoder gives image_size / 4 = "
            f"{config.image_size // 4}"
        )
    for name in ("channels", "samples", "voxel_grid", "gamma", "delta", "ridge"):
        if getattr(config, name) <= 0:
            raise InputError(f"model.{name} is {getattr(config, name)}: it must be above zero")
    for name in ("gamma", "delta"):  # with points at infinity, reading F kills the process
        if getattr(config, name) > 1000:
            raise InputError(f"model.{name} is {getattr(config, name)}: give 1000 at most")
    if config.modules < 0 or config.vertex_embedding < 0:
        raise InputError("model.modules and model.vertex_embedding cannot be negative")


class DualNoiseNetwork(nn.Module):
    """Image to two hand meshes, refined M times.

    In training mode each module draws R noise samples; in evaluation mode it takes the means and
    the result is deterministic. Weights are float32; half precision is `torch.autocast`'s.
    """

    def __init__(self, config: ModelConfig, hands: HandModel | None = None):
        """Raises InputError for settings that cannot be built."""
        super().__init__()
        check_model_config(config)
        self.config = config
        # By kind of image, SH or IH; read with the weights, if they have been calibrated.
        self.calibration: dict[str, Calibration] = {}
        self.hands = hands if hands is not None else HandModel()
        self.encoder = Encoder(config)
        self.auxiliary = AuxiliaryBlock(config.channels)
        self.coarse = CoarseRegressor(config.channels, self.hands)
        topology = self.hands.topology
        self.regressor = None
        if config.noise_2d:
            self.regressor = (
                AttentionRegressor(config.channels, torch.from_numpy(topology.places).float())
                if config.regressor == "attention"
                else CoordinateRegressor(config.feature_size, config.channels)
            )
        self.refiners = nn.ModuleList(
            DualNoiseModule(config, topology) for _ in range(config.modules)
        )

    def forward(
        self,
        image: Float[Tensor, "batch 3 S S"],
        present: Bool[Tensor, "batch hand"] | None = None,
        samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Output:
        """Run every stage.

        Args:
            image: RGB in [0, 1], S = config.image_size. With the regressor `attention` another
                multiple of 2^(stages + 1) is taken too, and read worse.
            present: refine only these hands (others come back as zeros); None: both.
            samples: noise draws per module; None: R while training, the means otherwise.
            generator: source of the noise; None: torch's global one.

        Raises:
            InputError: the images have a size that the encoder cannot halve often enough.
        """
        multiple = 2 ** (self.config.stages + 1)
        if image.shape[-2] % multiple or image.shape[-1] % multiple:
            high, wide = image.shape[-2:]
            raise InputError(f"images are {wide} x {high} pixels: use multiples of {multiple}")
        if samples is None:
            samples = self.config.samples if self.training and self.config.sampling else 0
        features = self.encoder(image)
        auxiliary, features = self.auxiliary(features)
        parameters = self.coarse(features)
        rotations = rotation_6d_to_matrix(parameters.pose)
        mesh = self.hands(rotations, parameters.betas)
        vertices = mesh.vertices / HAND_UNIT

        batch = image.shape[0]
        if present is None:  # not by `nonzero`, which `torch.export` cannot follow
            n = torch.arange(2 * batch, device=image.device)
            where = n // 2, n % 2
        else:
            where = present.nonzero(as_tuple=True)
        points = None
        if self.regressor is not None:
            points = self.regressor(features, parameters.features, where)
        f = features[where[0]].float()
        steps = [unrefined(vertices[where], parameters.camera[where])]
        for module in self.refiners:
            mesh, camera = steps[-1].mesh, steps[-1].camera
            steps.append(module(f, mesh, camera, points, where[1], samples, generator))
        regressed = None if points is None else _scatter(points, where, batch)
        stages = tuple(self._stage(step, where, batch) for step in steps)
        return Output(auxiliary, parameters, regressed, stages)

    def _stage(self, step: Refinement, where: tuple[Tensor, ...], batch: int) -> Stage:
        """Put the hands back on the axes batch and hand."""
        vertices, camera = (_scatter(x, where, batch) for x in (step.mesh, step.camera))
        samples, coordinates, scores = (
            torch.stack([_scatter(x, where, batch) for x in each])
            for each in (step.vertices, step.coordinates, step.scores)
        )
        return Stage(
            vertices=vertices,
            joints=self.hands.regress_joints(vertices),
            camera=camera,
            projections=project(vertices, camera),
            samples=samples,
            coordinates=coordinates,
            scores=scores,
        )


def _scatter(
    values: Float[Tensor, "n *rest"], where: tuple[Tensor, ...], batch: int
) -> Float[Tensor, "batch hand *rest"]:
    """Zeros but for the hands that are there."""
    full = values.new_zeros(batch, 2, *values.shape[1:])
    full[where] = values
    return full
