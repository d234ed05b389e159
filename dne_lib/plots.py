"""Pictures: meshes over images, error colours, the five maps, training curves.

Images are float RGB in [0, 1], "height width 3". Every picture is a matplotlib `Figure`; a
notebook shows it as it is, `save_figure` writes it.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import orjson
from jaxtyping import Bool, Float, Int
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, hsv_to_rgb
from matplotlib.figure import Figure

from dne_lib.camera import ndc_to_pixels
from dne_lib.config import JOINTS, PARTS
from dne_lib.files import InputError, write_bytes
from dne_lib.metrics import MILLIMETRES
from dne_lib.rasterize import rasterize, vertex_normals

SKIN = np.array([[0.93, 0.60, 0.42], [0.42, 0.62, 0.90]], np.float32)  # right warm, left blue
LIGHT = np.array([-0.3, -0.5, -1.0], np.float32) / np.sqrt(1.34, dtype=np.float32)
# An orthographic camera knows no distance. Scale and distance trade through the focal length,
# in NDC here: about what InterHand2.6M's cameras have in a crop around the hands.
FOCAL = 12.0
# Meshes are drawn at twice the image's resolution, against jagged edges, but never wider or higher
# than this: rasterising takes memory by the pixel.
LAYER = 1024
WORST = 30.0  # millimetres at the top of the error colours
ERROR_COLOURS = matplotlib.colormaps["turbo"]
ERROR_SCALE = f"error: blue 0, red {WORST:.0f} mm"  # where there is no room for a bar


def placed(
    vertices: Float[np.ndarray, "hand vertex 3"], camera: Float[np.ndarray, "hand 2 2"]
) -> Float[np.ndarray, "hand vertex 3"]:
    """Both hands in one camera frame, hand units: each moved to where its own camera sees it.

    Sideways, a translation t at scale s is t / s hand units; the distance is `FOCAL` / s, a weak
    perspective whose focal length is nominal. So the hands lie right beside each other in the
    image, but the gap between them in depth is only a guess from their sizes.
    """
    scale = np.maximum(camera[..., 0].mean(-1), 1e-3)
    shift = np.concatenate([camera[..., 1], np.full_like(scale[:, None], FOCAL)], axis=-1)
    return (vertices + (shift / scale[:, None])[:, None]).astype(np.float32)


def draw_hands(
    image: Float[np.ndarray, "height width 3"],
    points: Float[np.ndarray, "hand vertex 2"],
    vertices: Float[np.ndarray, "hand vertex 3"],
    faces: Int[np.ndarray, "hand face 3"],
    present: Bool[np.ndarray, "hand"],
    colours: Float[np.ndarray, "hand vertex 3"] | None = None,
    opacity: float = 0.9,
) -> Float[np.ndarray, "height width 3"]:
    """Shaded meshes over an image, the nearer surface in front.

    Args:
        points: pixels of the image (the centre of the first is 0).
        vertices: camera frame with distances above 0 (see `placed`), any unit.
        present: hands to draw.
        colours: of the vertices; None paints the right hand warm and the left one blue.
    """
    shown = np.flatnonzero(present)
    height, width = image.shape[:2]
    if not len(shown) or not np.isfinite(points[shown]).all():
        return image.copy()
    if colours is None:
        colours = np.broadcast_to(SKIN[:, None], vertices.shape)
    count = vertices.shape[1]
    all_faces = np.concatenate([faces[hand] + i * count for i, hand in enumerate(shown)])
    normals = np.concatenate([vertex_normals(vertices[hand], faces[hand]) for hand in shown])
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)
    fine = min(2, LAYER / max(height, width))
    size = np.array([round(width * fine), round(height * fine)])
    face, weights = rasterize(
        (points[shown].reshape(-1, 2) + 0.5) * (size / (width, height)) - 0.5,
        vertices[shown, :, 2].reshape(-1),
        all_faces,
        int(size[1]),
        int(size[0]),
    )
    hit = face >= 0
    corners, weights = all_faces[face[hit]], weights[hit][..., None]
    facing = (normals[corners] * weights).sum(1) @ LIGHT
    # A surface seen from inside (through the open wrist) stays dark.
    shade = 0.35 + 0.65 * np.maximum(facing, 0)
    layer = np.zeros((*hit.shape, 4), np.float32)
    layer[hit, :3] = (colours[shown].reshape(-1, 3)[corners] * weights).sum(1) * shade[:, None]
    layer[hit, 3] = 1
    way = cv2.INTER_AREA if fine > 1 else cv2.INTER_LINEAR
    layer = cv2.resize(layer, (width, height), interpolation=way)
    return np.clip(image * (1 - opacity * layer[..., 3:]) + opacity * layer[..., :3], 0, 1)


def draw_crop(
    image: Float[np.ndarray, "3 S S"],
    projections: Float[np.ndarray, "hand vertex 2"],
    vertices: Float[np.ndarray, "hand vertex 3"],
    camera: Float[np.ndarray, "hand 2 2"],
    faces: Int[np.ndarray, "hand face 3"],
    present: Bool[np.ndarray, "hand"],
    colours: Float[np.ndarray, "hand vertex 3"] | None = None,
    size: int = 256,
) -> Float[np.ndarray, "size size 3"]:
    """`draw_hands` in the network's terms: a crop, NDC, wrist-relative hand units."""
    background = enlarged(image, size)
    points = ndc_to_pixels(projections, size)
    return draw_hands(background, points, placed(vertices, camera), faces, present, colours)


def enlarged(image: Float[np.ndarray, "3 S S"], size: int = 256) -> Float[np.ndarray, "s s 3"]:
    """A crop, channels last, at the size pictures are drawn in."""
    resized = cv2.resize(image.transpose(1, 2, 0), (size, size), interpolation=cv2.INTER_LINEAR)
    return np.clip(resized, 0, 1)


def error_colours(
    vertices: Float[np.ndarray, "hand vertex 3"], truth: Float[np.ndarray, "hand vertex 3"]
) -> Float[np.ndarray, "hand vertex 3"]:
    """Colours of the distance to the truth, 0 to `WORST` millimetres; both in hand units."""
    millimetres = np.linalg.norm(vertices - truth, axis=-1) * MILLIMETRES
    return ERROR_COLOURS(np.minimum(millimetres / WORST, 1.0))[..., :3].astype(np.float32)


def part_colours(parts: Int[np.ndarray, "height width"]) -> Float[np.ndarray, "height width 3"]:
    """The 33 parts: black background, the right hand red to yellow, the left one cyan to blue.

    Each finger has its hue; its bones are dark, strong and pale in turn, each finger beginning with
    another than its neighbours. So parts that touch differ in lightness, which tells them apart for
    eyes that confuse red and green, too. Palms are palest.
    """
    finger = np.repeat([1, 2, 4, 3, 0], 3)  # of bones in MANO's order, counted from the thumb
    saturation, value = np.array([[0.75, 1.0, 0.5], [0.5, 0.85, 1.0]])  # dark, strong, pale
    turn = (finger + np.tile([0, 1, 2], 5)) % 3
    palette = [np.zeros((1, 3))]
    for hue in (0.02, 0.55):  # of the thumbs
        bones = np.stack([hue + 0.03 * finger, saturation[turn], value[turn]], axis=-1)
        palette += [hsv_to_rgb([[hue + 0.06, 0.25, 1.0]]), hsv_to_rgb(bones)]
    colours = np.concatenate(palette).astype(np.float32)
    assert len(colours) == PARTS
    return colours[parts]


def map_pictures(
    depth: Float[np.ndarray, "1 S S"],
    normals: Float[np.ndarray, "3 S S"],
    heatmaps: Float[np.ndarray, "42 S S"],
    densepose: Float[np.ndarray, "3 S S"],
    parts: Int[np.ndarray, "S S"],
) -> list[Float[np.ndarray, "S S 3"]]:
    """The five auxiliary maps as pictures: parts, depth, normals, DensePose, summed heat maps.

    Depth (-2 to 2 hand units, near is bright), normals and DensePose are shown where `parts`
    says there is a hand, for elsewhere nothing trains them.
    """
    hand = (parts > 0)[..., None]
    near = np.clip(0.5 - depth[0] / 4, 0, 1)
    towards = normals.transpose(1, 2, 0) * np.array([1, -1, -1], np.float32)
    heat = np.clip(heatmaps.reshape(2, JOINTS, *heatmaps.shape[1:]).sum(1), 0, 1)
    pictures = [
        part_colours(parts),
        matplotlib.colormaps["viridis"](near)[..., :3] * hand,
        np.clip(towards / 2 + 0.5, 0, 1) * hand,
        np.clip(densepose.transpose(1, 2, 0), 0, 1) * hand,
        np.clip(heat[0, ..., None] * SKIN[0] + heat[1, ..., None] * SKIN[1], 0, 1),
    ]
    return [picture.astype(np.float32) for picture in pictures]


MAPS = ("parts", "depth", "normals", "densepose", "heatmaps")
MAP_TITLES = ("parts", "depth", "normals", "DensePose", "heat maps")


def contact_sheet(
    rows: Sequence[Sequence[Float[np.ndarray, "_ _ 3"]]],
    columns: Sequence[str],
    labels: Sequence[str] = (),
    error_bar: bool = False,
) -> Figure:
    """Images in a grid: titles above the columns, labels beside the rows.

    Args:
        rows: images of any size; each is stretched to its cell.
        error_bar: explain `error_colours` in a bar on the right.
    """
    size = 1.9
    figure = Figure(
        (size * len(columns) + 0.5, size * len(rows) + 0.35), facecolor="white", dpi=110
    )
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02)
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for row, images in zip(axes, rows, strict=True):
        for axis, image in zip(row, images, strict=True):
            axis.imshow(image, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title, fontsize=9)
    for axis, label in zip(axes[:, 0], labels, strict=False):
        axis.set_ylabel(label, fontsize=9)
    if error_bar:
        mappable = ScalarMappable(Normalize(0, WORST), ERROR_COLOURS)
        figure.colorbar(mappable, ax=axes[:, -1], label="distance to the truth, mm", fraction=0.05)
    return figure


def training_curves(
    log: str | Path, smoothing: int = 20, names: Sequence[str] | None = None
) -> Figure:
    """The numbers in a run's `log.jsonl` against the step; a decade and more on a log axis.

    Args:
        names: of the numbers to show; None: all.

    Raises:
        InputError: the log is missing, empty, or not JSON lines.
    """
    try:
        entries = [
            orjson.loads(line) for line in Path(log).read_bytes().splitlines() if line.strip()
        ]
    except (OSError, orjson.JSONDecodeError) as error:
        raise InputError(f"{log} cannot be read as a training log ({error}): train again") from None
    series: dict[str, tuple[list[float], list[float]]] = {}
    for entry in entries:
        for name, value in entry.items():
            wanted = name in names if names is not None else name != "step"
            if wanted and "step" in entry and isinstance(value, int | float):
                steps, values = series.setdefault(name, ([], []))
                steps.append(entry["step"])
                values.append(value)
    if not series:
        raise InputError(f"{log} holds no steps yet: give the log of a run that has begun")
    columns = min(3, len(series))
    count = -(-len(series) // columns)
    figure = Figure((4 * columns, 2.6 * count), facecolor="white", dpi=110)
    figure.set_layout_engine("constrained")
    axes = figure.subplots(count, columns, squeeze=False).ravel()
    for axis in axes[len(series) :]:
        axis.set_visible(False)
    for axis, (name, (steps, values)) in zip(axes, series.items(), strict=False):
        axis.plot(steps, values, color="0.8", linewidth=0.8)
        width = min(smoothing, max(len(values) // 4, 1))
        smooth = np.convolve(values, np.ones(width) / width, mode="valid")
        axis.plot(steps[width - 1 :], smooth, color="C0")
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        if 0 < 10 * min(values) < max(values):
            axis.set_yscale("log")
    return figure


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG with an opaque background."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    return buffer.getvalue()


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG.

    Raises:
        InputError: the file cannot be written.
    """
    write_bytes(Path(path), png(figure))
