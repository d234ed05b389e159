"""Every setting of the method, its data and its training, with the reason for its value.

The paper's hyperparameters are in a supplement that was never published; those marked
"open" are our choice.
"""

import dataclasses
import math
import numbers
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from dne_lib.files import InputError

HAND_UNIT = 0.095  # metres, wrist to middle MCP: the network's unit of length
HANDS = ("right", "left")  # the hand axis, in InterHand2.6M's order
VERTICES = 778
JOINTS = 21
PARTS = 33  # background, 16 right, 16 left; the paper's 34 is one more than 2 x 16 + 1

Preset = Literal["tiny", "small", "paper"]


@dataclass(slots=True)
class ModelConfig:
    """The network."""

    backbone: Literal["resnet18", "resnet50"] = "resnet50"  # paper: ResNet-50
    stages: int = 4  # residual stages kept; 3 drops the one that holds most of the weights
    pretrained: bool = True  # start the encoder from torchvision's ImageNet weights; open
    image_size: int = 256  # input pixels; paper: 256
    feature_size: int = 64  # H = W of F and of the auxiliary maps; open: IntagHand's heat maps
    channels: int = 256  # C of F; open
    modules: int = 3  # M; paper, Table 4: 3 is better than 1. 0 is the baseline alone
    samples: int = 4  # R while training; open
    sampling: bool = True  # draw samples while training (Eq. 2); off: one deterministic mean
    noise_2d: bool = True  # estimate mu_2d (Eq. 3); off: u stays the projection of v
    noise_3d: bool = True  # estimate mu_3d (Eq. 4); off: v stays the coarse mesh
    # Solve Eq. 6-7 after every module. Off, or without 2D noise, whose image points it is fitted
    # to: keep the coarse camera.
    camera_correction: bool = True
    selection: bool = True  # the best-scored sample goes on; off: the first one
    # How 2D coordinates are regressed: every vertex looks for itself, or the paper's MLP, which
    # mixes the places of F with the same weights for every image.
    regressor: Literal["attention", "mlp"] = "attention"
    # What phi and varphi are: "mlp"; "graph", attention on the hand's mesh (Table 1:
    # Ours-GraphAttn); or one of your own, by its name in `model.refine.ESTIMATORS`.
    estimator: str = "mlp"
    # mu_3d starts a part of the way to where Eq. 1 would put the vertex, given its image point; the
    # part is varphi's to say. Off: varphi alone, as in the paper, slow to find this out.
    consistency: bool = True
    gamma: float = 0.1  # Eq. 2: standard deviation per unit of |mu|; open
    delta: float = 0.01  # Eq. 2: its floor, hand units (1 mm) or NDC (1.3 px at 256); open
    ridge: float = 1e-2  # xi of Eq. 6; larger shrinks the scale, smaller is unstable; open
    voxel_grid: int = 16  # cells along each axis of the voxel grid (Fig. 2); open
    vertex_embedding: int = 24  # learned features: which vertex phi and varphi look at; 0: none
    # Give phi and varphi the vertex, its projection, its image point and the step between them too,
    # and varphi the features at that point; the paper does not.
    vertex_coordinates: bool = True


@dataclass(slots=True)
class DataConfig:
    """Where images come from and how they are changed while training."""

    root: Path = Path("data/builtin")  # an InterHand2.6M v1.0 tree
    mano: Path | None = None  # folder of the licensed MANO files; None: the built-in hand
    annotation: Literal["H", "M", "H+M"] = "H+M"  # by humans, by a machine, all; paper: all
    hand_type: Literal["SH", "IH", "All"] = "All"  # images of one hand, of two; paper: all
    every: int = 1  # take each n-th frame of a sequence: 6 makes 5 fps of the 30 fps release
    max_fit_error: float | None = None  # mm from MANO's to triangulated joints, mean; None: any
    margin: float = 1.25  # side of the crop over the longer side of the box of the hands
    rotation: float = 90.0  # degrees either way; paper
    scale: float = 0.1  # crop size times 1 +- this; paper
    shift: float = 10.0  # pixels at 256 either way; paper
    flip: bool = True  # mirror half of the images; paper
    brightness: float = 0.3  # gain 1 +- this: what IntagHand, whom the paper follows, does with 0.3
    noise: float = 0.03  # standard deviation of pixel noise, of full range
    paper_noise: bool = False  # the paper's N(0, 0.3) read literally; drowns the image

    def __post_init__(self) -> None:
        # Text does as well, in code that is not type-checked.
        self.root = Path(self.root)
        self.mano = None if self.mano is None else Path(self.mano)


@dataclass(slots=True)
class LossConfig:
    """Weights of Eq. 8-11 (all open) on terms averaged over elements, in hand units and NDC."""

    depth: float = 1.0
    normals: float = 1.0
    heatmaps: float = 100.0
    squared_heatmaps: bool = False  # L2: L1 (Eq. 9) is least at zero until a joint is located
    densepose: float = 3.0
    parts: float = 1.0
    pose: float = 1.0
    betas: float = 0.1
    vertices: float = 10.0  # lambda_3D
    projections: float = 5.0  # lambda_2D
    # Eq. 11 asks the coarse mesh too, as m = 0. Off: its sum begins at m = 1, as printed; before
    # modules, the coarse mesh is then trained by its parameters (Eq. 10) and through them.
    coarse_mesh: bool = True
    coordinates: float = 5.0  # u + eps_2d against the true projections: not in Eq. 11
    score: float = 0.1  # ranks the R samples: the paper names a confidence but no loss for it


@dataclass(slots=True)
class TrainConfig:
    """One stage of training."""

    stage: Literal["coarse", "full"] = "full"  # the baseline alone, or everything end to end
    # Weights to start from: a run folder, a .safetensors file, shipped[-coarse|-varied]. None:
    # scratch, but `dne train --preset tiny` begins its full stage with shipped-coarse.
    initial: str | None = None
    steps: int = 340_000  # optimiser steps; paper: 30 epochs of 1.36 M images in batches of 120
    batch_size: int = 120  # images a step, of all processes together; paper: 120
    learning_rate: float = 1e-3  # paper: 1e-3
    schedule: Literal["paper", "cosine"] = "paper"  # halved every epoch to 1e-6, or cosine to 0
    warmup: int = 500  # steps of linear warm-up, with the cosine only; the paper has none
    initial_rate: float = 1.0  # learning rate of the parts loaded from `initial`, relative
    weight_decay: float = 1e-4  # AdamW's; the paper has Adam and says nothing of decay
    clip: float = 1.0  # largest gradient norm; the paper has no such bound
    precision: Literal["no", "bf16"] = "bf16"
    workers: int = 8  # data-loading processes, of each training process
    save_every: int = 1000  # steps between checkpoints
    log_every: int = 20
    seed: int = 0


@dataclass(slots=True)
class Config:
    """Everything a run is made of."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def preset(name: Preset) -> Config:
    """A network with what trains it.

    `paper`: the paper's sizes and schedule. `small`: the paper's input on a smaller encoder, for
    one GPU and random weights; at half precision its weights take 31 MB. `tiny`: at laptop size.

    All of them have what the paper has not, unless it is switched off: `regressor` attention,
    `consistency`, `vertex_coordinates`, `vertex_embedding`, and the losses `coordinates`, `score`
    and `coarse_mesh`. The variant `As printed` of scripts/plans/open.yaml is without (but for
    `score`, as the paper's confidence must be learned somehow). Not switched off by any of them:
    the gate between the two image points (refine.py), the residual of the merge (auxiliary.py),
    the top-down path (encoder.py), and the camera's translation from where the baseline looks
    (coarse.py), of which the paper says nothing or something simpler.

    Raises:
        InputError: there is no such preset.
    """
    if name not in get_args(Preset):
        raise InputError(f"preset {name!r}: use {' or '.join(get_args(Preset))}")
    if name == "paper":
        return Config()
    model = ModelConfig(backbone="resnet18", pretrained=False, channels=128)
    if name == "tiny":
        model.stages, model.channels, model.samples = 3, 64, 2
        model.image_size, model.feature_size = 128, 32
    loss = LossConfig(heatmaps=150.0, squared_heatmaps=True, densepose=4.0, parts=3.0, betas=0.05)
    train = TrainConfig(steps=3000, schedule="cosine", warmup=300)
    if name == "tiny":
        train = TrainConfig(steps=300, batch_size=32, schedule="cosine", warmup=50, workers=1)
    train.initial_rate = 0.3  # at the full rate a short run harms the coarse network it starts from
    return Config(model=model, loss=loss, train=train)


def whole(data: DataConfig) -> DataConfig:
    """The same data, to be measured on: subsets are for training."""
    return dataclasses.replace(data, annotation="H+M", hand_type="All", every=1, max_fit_error=None)


def maps_first() -> LossConfig:
    """Weights for a network that knows nothing yet.

    With the vertex terms dominant, tens of thousands of images pass before it leaves the mean
    pose; once it names the parts right, they serve better (results/experiments.md).
    """
    return LossConfig(
        heatmaps=300.0,
        squared_heatmaps=True,
        densepose=12.0,
        parts=8.0,
        betas=0.05,
        vertices=2.0,
        projections=2.0,
        coordinates=2.0,
    )


def check_fields(values: Any, part: str) -> None:
    """Reject words that a field does not know, and what is no number where one is asked for.

    Args:
        values: a part of a `Config`.
        part: its name, for the error message.

    Raises:
        InputError: names the field, its value and what it may be.
    """
    for name, kind in get_type_hints(type(values)).items():
        value = getattr(values, name)
        if get_origin(kind) is Literal and value not in get_args(kind):
            raise InputError(f"{part}.{name} is {value!r}: use {' or '.join(get_args(kind))}")
        number = {int: numbers.Integral, float: numbers.Real}.get(kind)
        if number is not None and (isinstance(value, bool) or not isinstance(value, number)):
            wanted = "a whole number" if kind is int else "a number"
            raise InputError(f"{part}.{name} is {value!r}: give {wanted}")
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{part}.{name} is {value}: give a number that is finite")


def config_to_dict(config: Config) -> dict[str, Any]:
    """Plain values, as they stand in JSON."""
    values = dataclasses.asdict(config)
    values["data"] = {k: str(v) if isinstance(v, Path) else v for k, v in values["data"].items()}
    return values


def config_from_dict(values: dict[str, Any], source: Path) -> Config:
    """The inverse of `config_to_dict`.

    Args:
        values: what was read.
        source: the file it was read from, for the error message.

    Raises:
        InputError: it has fields that this version does not know, or values they cannot have.
    """
    parts = {}
    for name, kind in get_type_hints(Config).items():
        known = {f.name for f in dataclasses.fields(kind)}
        given = values.get(name, {}) if isinstance(values, dict) else None
        if not isinstance(given, dict):
            raise InputError(f"{source} carries no configuration of ours: take it from a backup")
        if unknown := sorted(set(given) - known):
            raise InputError(
                f"{source}: {name} has unknown fields {', '.join(unknown)}: it was written by "
                "another version of dne_lib; use that version, or train again"
            )
        paths = {k: Path(v) for k, v in given.items() if k in ("root", "mano") and v is not None}
        try:
            parts[name] = kind(**{**given, **paths})
            check_fields(parts[name], name)
        except (InputError, TypeError) as error:
            raise InputError(f"{source}: {error}") from None
    return Config(**parts)


def differences(old: dict[str, Any], new: dict[str, Any], free: Collection[str]) -> list[str]:
    """Dotted names of the fields in which two configurations differ, as `config_to_dict` has them.

    Args:
        old: what was read, perhaps of an earlier version: fields it lacks have their default.
        new: what is asked for.
        free: names that may differ.
    """
    defaults = config_to_dict(Config())
    return [
        f"{part}.{name}"
        for part, fields in new.items()
        for name, value in fields.items()
        if old.get(part, {}).get(name, defaults[part][name]) != value
        and f"{part}.{name}" not in free
    ]
