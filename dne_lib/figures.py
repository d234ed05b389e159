"""The method in one drawing: every tensor between image and mesh, with its shape (lesson 0)."""

from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from dne_lib.config import JOINTS, VERTICES, ModelConfig
from dne_lib.model.auxiliary import CHANNELS

STEP, TENSOR, LESSON = "#fbe3cf", "#e3ebf7", "#555555"  # what computes, what is computed, numbers
Number = int | float
BACKBONES = {"resnet18": "ResNet-18", "resnet50": "ResNet-50"}


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of what the network makes of one image, in the order of the forward pass.

    The names are those of `Output` and its parts. `samples`, `coordinates` and `scores` are those
    of a module while training; at inference the first axis has length 1.
    """
    size, hands, samples = config.feature_size, 2, config.samples
    return {
        "image": (3, config.image_size, config.image_size),
        "features": (config.channels, size, size),
        **{name: (channels, size, size) for name, channels in CHANNELS.items()},
        "pose": (hands, 16, 6),
        "betas": (hands, 10),
        "camera": (hands, 2, 2),
        "vertices": (hands, VERTICES, 3),
        "joints": (hands, JOINTS, 3),
        "projections": (hands, VERTICES, 2),
        "regressed": (hands, VERTICES, 3),
        "coordinates": (samples, hands, VERTICES, 2),
        "samples": (samples, hands, VERTICES, 3),
        "scores": (samples, hands),
    }


def pipeline(
    config: ModelConfig,
    photo: Float[np.ndarray, "size size 3"],
    coarse: Float[np.ndarray, "size size 3"],
    refined: Float[np.ndarray, "size size 3"],
) -> Figure:
    """The two stages of the method, drawn for a configuration.

    Orange boxes compute, blue ones are tensors; a number in a circle is the lesson on it.

    Args:
        photo, coarse, refined: pictures for the input and the two outputs.
    """
    text = {name: " × ".join(map(str, shape)) for name, shape in tensor_shapes(config).items()}
    side = f"{config.feature_size} × {config.feature_size}"
    maps = "\n".join(f"{name} {channels}" for name, channels in CHANNELS.items())
    theta, beta = rf"$\theta$  {text['pose']}", rf"$\beta$  {text['betas']}"
    state = f"v  {text['vertices']}\nu  {text['projections']}\nc  {text['camera']}"

    figure = Figure((13, 5.6), facecolor="white", dpi=90)
    axis: Any = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, 130), ylim=(0, 56))
    axis.set_axis_off()
    axis.text(1, 54, "coarse stage", fontsize=13, weight="bold", va="center")
    axis.text(10, 24.5, "refinement", fontsize=13, weight="bold", va="center")

    _picture(axis, photo, 1, 37, f"image\n{text['image']}", 1)
    _box(axis, 21, 40, 11, 8, f"encoder\n{BACKBONES[config.backbone]}", STEP, 3)
    _box(axis, 36, 40, 12, 8, f"F\n{text['features']}", TENSOR)
    _box(axis, 52, 36.5, 12, 15, f"five maps\n{maps}\neach {side}", TENSOR, 3)
    _box(axis, 68, 40, 12, 8, f"merged F\n{text['features']}", TENSOR, 3)
    _box(axis, 84, 40, 10, 8, "baseline\nspatial\nsoftmax", STEP, 4)
    _box(axis, 98, 39, 12, 10, f"{theta}\n{beta}\nc  {text['camera']}", TENSOR, 2)
    _picture(axis, coarse, 115, 37, f"coarse mesh\nv  {text['vertices']}")
    for start, end in ((15, 21), (32, 36), (48, 52), (64, 68), (80, 84), (94, 98), (110, 115)):
        _arrow(axis, (start, 44), (end, 44))
    # Lines go round what they pass, so that each ends where it is read.
    _arrow(axis, (42, 40), (42, 35), (74, 35), (74, 40))

    frame = FancyBboxPatch((21, 2), 89, 19, "round,pad=0.3", fc="none", ec=LESSON, ls="--")
    axis.add_patch(frame)
    axis.text(22, 3.8, f"dual-noise module, M = {config.modules} in a row", fontsize=11,
              weight="bold", va="center")  # fmt: skip
    _box(axis, 1, 6, 15, 10, state, TENSOR, 8)
    _box(axis, 24, 6, 13, 10, "2D noise\nF read at u\n" + r"$\phi$, Eq. 3", STEP, 6)
    _box(axis, 41, 6, 15, 10, "u + noise\nEq. 1–2\n" + text["coordinates"], TENSOR, 5)
    _box(axis, 60, 6, 13, 10, "3D noise\nthree views\n" + r"$\varphi$, Eq. 4", STEP, 7)
    _box(axis, 77, 6, 15, 10, "v + noise\nEq. 1–2\n" + text["samples"], TENSOR, 5)
    _box(axis, 96, 6, 12, 10, "best sample,\nnew camera\nEq. 5–7", STEP, 8)
    _picture(axis, refined, 115, 5, f"refined mesh\nv  {text['vertices']}")
    for start, end in ((16, 24), (37, 41), (56, 60), (73, 77), (92, 96), (108, 115)):
        _arrow(axis, (start, 11), (end, 11))
    _arrow(axis, (122, 32.4), (122, 28.8), (8.5, 28.8), (8.5, 16))
    _box(axis, 22.5, 22.5, 23, 4.5, f"image points  {text['regressed']}", TENSOR, 6)
    _arrow(axis, (28, 22.5), (28, 16))
    # F is read by the image points and by both noises, where the points are.
    _arrow(axis, (78, 40), (78, 18.8), (33.5, 18.8), (33.5, 16))
    _arrow(axis, (66.5, 18.8), (66.5, 16))
    _arrow(axis, (78, 24.7), (45.5, 24.7))
    return figure


def _box(
    axis: Any, x: Number, y: Number, w: Number, h: Number, text: str, colour: str, lesson: int = 0
) -> None:
    axis.add_patch(FancyBboxPatch((x, y), w, h, "round,pad=0,rounding_size=1", fc=colour, ec="0.5"))
    axis.text(x + w / 2, y + h / 2, text, ha="center", va="center", fontsize=10, linespacing=1.3)
    if lesson:
        _badge(axis, x + w, y + h, lesson)


def _badge(axis: Any, x: Number, y: Number, lesson: int) -> None:
    circle = {"boxstyle": "circle,pad=0.2", "fc": LESSON, "lw": 0}
    style = {"color": "white", "fontsize": 9, "weight": "bold", "bbox": circle}
    axis.text(x, y, str(lesson), ha="center", va="center", **style)


def _picture(
    axis: Any, image: np.ndarray, x: Number, y: Number, caption: str, lesson: int = 0
) -> None:
    axis.imshow(image, extent=(x, x + 14, y, y + 14), aspect="auto", zorder=2)
    axis.text(x + 7, y - 0.6, caption, ha="center", va="top", fontsize=10, linespacing=1.3)
    if lesson:
        _badge(axis, x + 14, y + 14, lesson)


def _arrow(axis: Any, *path: tuple[Number, Number]) -> None:
    """A line through the points with a head at its end."""
    points = np.array(path)
    axis.plot(*points[:-1].T, color="0.35", lw=1.2)
    head = {"arrowstyle": "-|>", "color": "0.35", "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", points[-1], points[-2], arrowprops=head)
