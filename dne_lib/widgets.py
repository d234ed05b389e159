"""What the notebooks play with.

A widget is a plain function from slider values to a list of `Panel`s, and a dictionary of
`Control`s. `still` draws panels with matplotlib, for readers on the web; `explore` draws them with
plotly beside live sliders. Neither knows what a hand is.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import ipywidgets
import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int, Shaped
from matplotlib.colors import LightSource, to_rgb
from matplotlib.figure import Figure
from plotly.subplots import make_subplots
from torch import Tensor

from dne_lib.camera import ndc_to_pixels, project, ridge_camera
from dne_lib.config import HAND_UNIT, HANDS, VERTICES
from dne_lib.data.poses import TEMPLATES, anatomy, mirror_rotations, template_pose
from dne_lib.files import InputError
from dne_lib.lessons import Coarse
from dne_lib.mano import FINGERTIPS, SKELETON, HandModel, lbs
from dne_lib.model.noise import sample_noise
from dne_lib.plots import SKIN, enlarged

PIXELS = 256  # side of the images that widgets draw on
WARM, COOL, GREEN, GREY = "#d95f02", "#4575b4", "#1b9e77", "#888888"


class Picture(NamedTuple):
    """An image; the axes are its pixels."""

    image: Float[np.ndarray, "height width 3"]


class Points(NamedTuple):
    """Dots or, with `size` 0, a line through them; two or three columns."""

    places: Shaped[np.ndarray, "point axis"]
    colour: str = WARM
    size: float = 5
    label: str = ""
    dashed: bool = False


class Surface(NamedTuple):
    """A mesh, in the camera frame: x right, y down, z forward."""

    vertices: Float[np.ndarray, "vertex 3"]
    faces: Int[np.ndarray, "face 3"]
    colour: Any = GREY  # one name, or RGB of each vertex
    opacity: float = 1.0


class Panel(NamedTuple):
    """One plot. For every slider value a widget has the same panels with the same layers."""

    title: str
    layers: Sequence[Picture | Points | Surface]
    x: str = ""
    y: str = ""
    limits: tuple[float, float] | None = None  # of the y axis of a chart

    @property
    def solid(self) -> bool:
        """Whether it is in three dimensions."""
        return any(
            isinstance(layer, Surface)
            or (isinstance(layer, Points) and layer.places.shape[-1] == 3)
            for layer in self.layers
        )

    @property
    def pictured(self) -> bool:
        """Whether its axes are the pixels of an image."""
        return any(isinstance(layer, Picture) for layer in self.layers)


class Slider(NamedTuple):
    """A number to set."""

    label: str
    low: float
    high: float
    step: float
    start: float

    @property
    def values(self) -> list[float] | list[int]:
        """Every value it can take."""
        count = round((self.high - self.low) / self.step)
        values = [round(self.low + i * self.step, 6) for i in range(count + 1)]
        return [int(value) for value in values] if isinstance(self.step, int) else values


class Choice(NamedTuple):
    """One of several names; starts at the first."""

    label: str
    values: Sequence[str]

    @property
    def start(self) -> str:
        """The first."""
        return self.values[0]


Control = Slider | Choice
Controls = Mapping[str, Control]
Callback = Callable[..., list[Panel]]


def start_values(controls: Controls) -> dict[str, Any]:
    """The value every control starts with."""
    return {name: control.start for name, control in controls.items()}


def upright(places: np.ndarray) -> np.ndarray:
    """Camera frame (y down, z forward) to the frame plots have (z up, y away from the reader)."""
    return np.stack([places[..., 0], places[..., 2], -places[..., 1]], axis=-1)


def still(panels: list[Panel]) -> Figure:
    """Panels as a picture."""
    figure = Figure((4.2 * len(panels), 4.0), facecolor="white", dpi=90)
    figure.set_layout_engine("constrained")
    for i, panel in enumerate(panels):
        options = {"projection": "3d"} if panel.solid else {}
        axis: Any = figure.add_subplot(1, len(panels), i + 1, **options)
        axis.set_title(panel.title, fontsize=10)
        axis.computed_zorder = False  # a surface must not hide the points drawn after it
        for order, layer in enumerate(panel.layers):
            if isinstance(layer, Picture):
                axis.imshow(layer.image)
            elif isinstance(layer, Surface):
                vertices = upright(layer.vertices)
                collection = axis.plot_trisurf(
                    *vertices.T, triangles=layer.faces, color=GREY, alpha=layer.opacity,
                    linewidth=0, antialiased=False, shade=False, zorder=order,
                )  # fmt: skip
                collection.set_facecolor(_shaded(layer, vertices))
                collection.set_edgecolor("none")
            else:
                _draw_points(axis, layer, panel.solid, order)
        if panel.solid:
            axis.set_axis_off()
            spans = [
                high - low for low, high in (axis.get_xlim(), axis.get_ylim(), axis.get_zlim())
            ]
            axis.set_box_aspect(spans, zoom=1.15)
            axis.view_init(12, -75)
        elif panel.pictured:
            axis.set(xticks=[], yticks=[], xlim=(0, PIXELS), ylim=(PIXELS, 0))
        else:
            axis.set(xlabel=panel.x, ylabel=panel.y, ylim=panel.limits)
            axis.grid(alpha=0.3)
        if any(isinstance(layer, Points) and layer.label for layer in panel.layers):
            axis.legend(fontsize=7, loc="lower left" if panel.pictured else "best")
    return figure


def _draw_points(axis: Any, layer: Points, solid: bool, order: int) -> None:
    places = upright(layer.places) if solid else layer.places
    style: dict[str, Any] = {"color": layer.colour, "label": layer.label or None, "zorder": order}
    if layer.size:
        style |= {"linestyle": "", "marker": "o", "markersize": layer.size, "markeredgewidth": 0}
    elif layer.dashed:
        style["linestyle"] = "--"
    axis.plot(*places.T, **style)


def _shaded(layer: Surface, vertices: np.ndarray) -> np.ndarray:
    """Colour and light of every face; plot_trisurf's own shading drops vertex colours."""
    corners = vertices[layer.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    light = 0.55 + 0.45 * np.clip(normals @ LightSource(225, 40).direction, 0, 1)
    colours = _rgb(layer)[layer.faces].mean(1) * light[:, None]
    return np.concatenate([colours, np.full((len(colours), 1), layer.opacity)], axis=1)


def _rgb(layer: Surface) -> np.ndarray:
    if isinstance(layer.colour, str):
        return np.tile(to_rgb(layer.colour), (len(layer.vertices), 1))
    return np.asarray(layer.colour)


def _png_address(image: np.ndarray) -> str:
    pixels = cv2.cvtColor((image * 255).astype(np.uint8), cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".png", pixels)[1].tobytes()
    return "data:image/png;base64," + base64.b64encode(encoded).decode()


def _trace(layer: Picture | Points | Surface, solid: bool) -> Any:
    """An empty plotly trace for a layer; `_values` fills it."""
    if isinstance(layer, Picture):
        return go.Image(hoverinfo="skip")
    if isinstance(layer, Surface):
        return go.Mesh3d(
            **dict(zip("ijk", layer.faces.T, strict=True)), opacity=layer.opacity,
            hoverinfo="skip", lighting={"ambient": 0.5, "diffuse": 0.7},
        )  # fmt: skip
    kind = go.Scatter3d if solid else go.Scatter
    size = layer.size * (0.7 if solid else 1)
    style: dict[str, Any] = {"mode": "markers", "marker": {"size": size, "color": layer.colour}}
    if not layer.size:
        line = {"color": layer.colour, "width": 5 if solid else 2}
        style = {"mode": "lines", "line": line | ({"dash": "dash"} if layer.dashed else {})}
    return kind(**style, name=layer.label, showlegend=bool(layer.label))


def _values(layer: Picture | Points | Surface, solid: bool) -> dict[str, Any]:
    """What changes in a trace when a slider moves."""
    if isinstance(layer, Picture):
        return {"source": _png_address(layer.image)}
    if isinstance(layer, Surface):
        values = dict(zip("xyz", upright(layer.vertices).T, strict=True))
        faces = dict(zip("ijk", layer.faces.T, strict=True))
        if isinstance(layer.colour, str):
            return values | faces | {"color": layer.colour}
        rgb = (255 * _rgb(layer)).astype(int)
        return values | faces | {"vertexcolor": [f"rgb({r},{g},{b})" for r, g, b in rgb]}
    places = upright(layer.places) if solid else layer.places
    return dict(zip("xyz", places.T, strict=False))


def live_figure(panels: list[Panel]) -> go.FigureWidget:
    """Panels as a plotly figure that `redraw` can change; solid ones turn under the mouse."""
    kinds = [{"type": "scene" if panel.solid else "xy"} for panel in panels]
    titles = [panel.title or " " for panel in panels]  # an empty title would leave no place for one
    figure = make_subplots(1, len(panels), specs=[kinds], subplot_titles=titles)
    for column, panel in enumerate(panels, start=1):
        for layer in panel.layers:
            figure.add_trace(_trace(layer, panel.solid), row=1, col=column)
        if panel.solid:
            eye = {"x": 0.4, "y": -1.5, "z": 0.35}
            hidden: dict[str, Any] = {f"{axis}axis": {"visible": False} for axis in "xyz"}
            view = {"aspectmode": "data", "camera": {"eye": eye}}
            figure.update_scenes(hidden | view, row=1, col=column)
        elif panel.pictured:
            figure.update_xaxes(visible=False, range=[0, PIXELS], row=1, col=column)
            figure.update_yaxes(visible=False, range=[PIXELS, 0], row=1, col=column)
        else:
            figure.update_xaxes(title=panel.x, row=1, col=column)
            figure.update_yaxes(title=panel.y, range=panel.limits, row=1, col=column)
    legend = {"orientation": "h", "y": -0.12}
    figure.update_layout(
        height=430, margin={"l": 10, "r": 10, "t": 40, "b": 10}, template="plotly_white",
        legend=legend, uirevision="keep",
    )  # fmt: skip
    widget = go.FigureWidget(figure)
    redraw(widget, panels)
    return widget


def redraw(figure: go.FigureWidget, panels: list[Panel]) -> None:
    """Show other panels, in one message to the browser; the reader's view of a mesh stays."""
    pairs = [(layer, panel.solid) for panel in panels for layer in panel.layers]
    with figure.batch_update():
        for trace, (layer, solid) in zip(list[Any](figure.data), pairs, strict=True):
            trace.update(_values(layer, solid))
        for title, panel in zip(figure.layout.annotations, panels, strict=True):
            title.text = panel.title or " "


def explore(callback: Callback, controls: Controls) -> ipywidgets.VBox:
    """Live sliders over a figure: moving one calls `callback` with all values by name."""
    figure = live_figure(callback(**start_values(controls)))
    inputs = {name: _input(control) for name, control in controls.items()}

    def changed(_: Any) -> None:
        redraw(figure, callback(**{name: widget.value for name, widget in inputs.items()}))

    for widget in inputs.values():
        widget.observe(changed, names="value")
    layout = ipywidgets.Layout(flex_flow="row wrap")
    return ipywidgets.VBox([ipywidgets.HBox(list(inputs.values()), layout=layout), figure])


def _input(control: Control) -> Any:
    style = {"description_width": "initial"}
    if isinstance(control, Choice):
        return ipywidgets.Dropdown(
            description=control.label, options=list(control.values), style=style
        )
    kind = ipywidgets.IntSlider if isinstance(control.step, int) else ipywidgets.FloatSlider
    return kind(
        control.start, min=control.low, max=control.high, step=control.step,
        description=control.label, style=style,
    )  # fmt: skip


# Lesson 2: the hand model.

HAND_CONTROLS: Controls = {
    "gesture": Choice("gesture", ("fist", *(name for name in TEMPLATES if name != "fist"))),
    "bend": Slider("how far", 0.0, 1.0, 0.05, 0.6),
    "size": Slider("β₁", -3.0, 3.0, 0.25, 0.0),
    "build": Slider("β₂", -3.0, 3.0, 0.25, 0.0),
    "side": Choice("hand", HANDS),
    "correctives": Choice("pose correctives", ("on", "off")),
}


def hand_panels(
    hands: HandModel,
    gesture: str = "fist",
    bend: float = 0.6,
    size: float = 0.0,
    build: float = 0.0,
    side: str = "right",
    correctives: str = "on",
) -> list[Panel]:
    """A posed, shaped hand and the skeleton inside it.

    Args:
        gesture: one of `dne_lib.data.poses.TEMPLATES`.
        bend: 0 is the flat template of the model, 1 the gesture.
        size, build: the first two shape coefficients.
        side: right or left.
        correctives: on or off.
    """
    hand = HANDS.index(side)
    still_hand = hands.single(0, torch.eye(3).expand(16, 3, 3), torch.zeros(10))
    goal = template_pose(gesture, anatomy(still_hand.joints.double().numpy()))
    rotations = _part_way(torch.from_numpy(goal), bend).float()
    if hand:
        rotations = torch.from_numpy(mirror_rotations(rotations.numpy())).float()
    betas = torch.zeros(10)
    betas[:2] = torch.tensor([size, build])
    posed = hands.single(hand, rotations, betas)
    vertices = posed.vertices
    if correctives == "off":
        vertices = without_correctives(hands, hand, rotations, betas)
    # Show the back of the hand, fingers up: from the model's own axes to the camera's.
    sign = 1.0 if hand == 0 else -1.0
    turn = np.array([[0, 0, -sign], [sign, 0, 0], [0, -1, 0]], np.float32)
    shown = (vertices.numpy() @ turn.T, posed.joints.numpy() @ turn.T)
    surface = Surface(shown[0] * 1000, hands.faces[hand], SKIN[[hand]].repeat(VERTICES, 0), 0.45)
    bones = _bones(shown[1] * 1000)
    litres = volume(vertices.numpy(), hands.faces[hand]) * 1e6
    title = f"{side} hand, {gesture}: {litres:.0f} ml"
    return [
        Panel(title, [surface, Points(bones, "black", 0), Points(shown[1] * 1000, GREEN, 5)]),
    ]


def without_correctives(
    hands: HandModel,
    side: int,
    rotations: Float[Tensor, "16 3 3"],
    betas: Float[Tensor, "10"],
) -> Float[Tensor, "778 3"]:
    """Plain linear blend skinning, metres, wrist at the origin."""
    vertices, joints = lbs(
        betas[None], rotations[None], hands.template[side], hands.shapedirs[side],
        torch.zeros_like(hands.posedirs[side]), hands.regressor[side], hands.parents,
        hands.weights[side], pose2rot=False,
    )  # fmt: skip
    return vertices[0] - joints[0, 0]


def volume(vertices: Float[np.ndarray, "vertex 3"], faces: Int[np.ndarray, "face 3"]) -> float:
    """What a mesh encloses, in its unit cubed: signed tetrahedra from the centre of the mesh.

    The open wrist is closed only roughly, by the cone to the centre, so compare, do not measure.
    """
    a, b, c = np.moveaxis((vertices - vertices.mean(0))[faces], 1, 0)
    return float((a * np.cross(b, c)).sum() / 6)


def _part_way(rotations: Float[Tensor, "joint 3 3"], share: float) -> Float[Tensor, "joint 3 3"]:
    """Rotations about the same axes by a share of the angle."""
    vectors = [cv2.Rodrigues(matrix)[0][:, 0] * share for matrix in rotations.numpy()]
    return torch.from_numpy(np.stack([cv2.Rodrigues(vector)[0] for vector in vectors]))


def _bones(joints: Float[np.ndarray, "21 3"]) -> Float[np.ndarray, "60 3"]:
    """The skeleton as one line, broken by NaN between bones."""
    gap = np.full(3, np.nan, joints.dtype)
    parts = [(joints[p], joints[i], gap) for i, p in enumerate(SKELETON) if p >= 0]
    return np.array([place for part in parts for place in part])


# Lesson 5: noise.

MOST_SAMPLES = 64
NOISE_CONTROLS: Controls = {
    "gamma": Slider("γ", 0.0, 1.0, 0.02, 0.1),
    "delta": Slider("δ", 0.0, 0.1, 0.005, 0.01),
    "samples": Slider("R", 1, MOST_SAMPLES, 1, 16),
    "seed": Slider("seed", 0, 20, 1, 0),
    "space": Choice("noise in", ("3D", "2D")),
    "where": Choice("vertices", ("fingertips", "knuckles", "everywhere")),
}


class NoiseScene(NamedTuple):
    """One hand, a coarse guess at it, and the mean noise some module predicted for the guess."""

    image: Float[np.ndarray, "256 256 3"]
    faces: Int[np.ndarray, "1538 3"]
    camera: Float[Tensor, "2 2"]
    vertices: Float[Tensor, "778 3"]  # coarse, hand units
    truth: Float[Tensor, "778 3"]
    points: Float[Tensor, "778 2"]  # projections of the coarse vertices, NDC
    true_points: Float[Tensor, "778 2"]
    mean_3d: Float[Tensor, "778 3"]  # hand units
    mean_2d: Float[Tensor, "778 2"]  # NDC
    knuckles: list[int]


def noise_scene(
    sample: dict[str, Tensor], coarse: Coarse, hands: HandModel, side: int, share: float = 0.6
) -> NoiseScene:
    """A scene in which the predicted mean goes part of the way from the coarse hand to the truth.

    Args:
        side: the hand, 0 right, 1 left.
        share: of the way; 1 would be a perfect module.

    Raises:
        InputError: the sample has no such hand.
    """
    _check_present(sample, side)
    vertices, camera = coarse.vertices[side], coarse.camera[side]
    truth, true_points = sample["vertices"][side], sample["vertices_2d"][side]
    points = project(vertices, camera)
    joints = hands.regress_joints(coarse.vertices)[side, [5, 9, 13, 17]]
    knuckles = torch.cdist(joints, vertices).argmin(1).tolist()
    return NoiseScene(
        enlarged(sample["image"].numpy(), PIXELS), hands.faces[side], camera, vertices, truth,
        points, true_points, share * (truth - vertices), share * (true_points - points), knuckles,
    )  # fmt: skip


class Draws(NamedTuple):
    """What R samples of Eq. 2 did for one hand; mm in 3D, pixels of 256 in 2D."""

    samples: Float[Tensor, "sample 778 axis"]  # v + epsilon or u + epsilon
    mean_error: float  # of the deterministic mean
    best_error: Float[np.ndarray, "sample"]  # of the best whole hand among the first 1, 2, ... R
    vertex_error: Float[np.ndarray, "sample"]  # were every vertex free to pick its own sample


def draw_noise(
    scene: NoiseScene, gamma: float, delta: float, samples: int, seed: int, space: str
) -> Draws:
    """Sample Eq. 2 around the scene's mean and compare with the truth.

    A larger R keeps the samples of a smaller one: always the first of the same `MOST_SAMPLES`.
    """
    flat = space == "2D"
    start, mean = (scene.points, scene.mean_2d) if flat else (scene.vertices, scene.mean_3d)
    truth, unit = (scene.true_points, PIXELS / 2) if flat else (scene.truth, 1000 * HAND_UNIT)
    generator = torch.Generator().manual_seed(seed)
    noise = sample_noise(mean.expand(MOST_SAMPLES, *mean.shape), gamma, delta, generator)[:samples]
    errors = (start + noise - truth).norm(dim=-1) * unit
    return Draws(
        start + noise,
        float((start + mean - truth).norm(dim=-1).mean() * unit),
        errors.mean(1).cummin(0).values.numpy(),
        errors.cummin(0).values.mean(1).numpy(),
    )


def noise_panels(
    scene: NoiseScene,
    gamma: float = 0.1,
    delta: float = 0.01,
    samples: int = 16,
    seed: int = 0,
    space: str = "3D",
    where: str = "fingertips",
) -> list[Panel]:
    """Samples of Eq. 2 on the image, on the mesh, and what they are worth.

    In 2D the samples have no depth: on the mesh they are drawn at the depth of their vertex.

    Args:
        gamma, delta: of Eq. 2; delta in hand units in 3D, in NDC in 2D.
        samples: R, up to `MOST_SAMPLES`.
        space: 3D or 2D.
        where: fingertips, knuckles or everywhere.
    """
    chosen = {"fingertips": FINGERTIPS, "knuckles": scene.knuckles}.get(
        where, range(0, VERTICES, 26)
    )
    index = torch.tensor(list(chosen))
    draws = draw_noise(scene, gamma, delta, samples, seed, space)
    cloud = draws.samples[:, index]
    scale, translation = scene.camera.unbind(-1)
    if space == "2D":
        depth = scene.vertices[index, 2:].expand(samples, -1, -1)
        flat, solid = cloud, torch.cat([(cloud - translation) / scale, depth], dim=-1)
        mean_flat = (scene.points + scene.mean_2d)[index]
        mean_solid = torch.cat([(mean_flat - translation) / scale, depth[0]], dim=-1)
    else:
        flat, solid = project(cloud, scene.camera), cloud
        mean_solid = (scene.vertices + scene.mean_3d)[index]
        mean_flat = project(mean_solid, scene.camera)
    name = "pixels" if space == "2D" else "mm"
    counts = np.arange(1, samples + 1)
    best, alone = draws.best_error[-1], draws.mean_error
    return [
        Panel(
            f"R = {samples} samples in {space}",
            [
                Picture(scene.image),
                Points(_pixels(flat.flatten(0, 1)), WARM, 4, "samples"),
                Points(_pixels(scene.true_points[index]), GREEN, 7, "truth"),
                Points(_pixels(mean_flat), "black", 5, "mean"),
            ],
        ),
        Panel(
            "the same on the mesh",
            [
                Surface(scene.vertices.numpy(), scene.faces, GREY, 0.35),
                Points(solid.flatten(0, 1).numpy(), WARM, 3),
                Points(scene.truth[index].numpy(), GREEN, 6),
                Points(mean_solid.numpy(), "black", 5),
            ],
        ),
        Panel(
            f"best of {samples}: {best:.1f} {name}; the mean: {alone:.1f} {name}",
            [
                Points(np.stack([counts, draws.best_error], 1), WARM, 5, "best whole hand"),
                Points(np.stack([counts, draws.vertex_error], 1), COOL, 5, "best for each vertex"),
                Points(np.array([[0, alone], [samples + 1, alone]]), "black", 0, "the mean", True),
            ],
            "R",
            f"mean vertex error, {name}",
        ),
    ]


def _pixels(points: Float[Tensor, "point 2"]) -> Float[np.ndarray, "point 2"]:
    return ndc_to_pixels(points, PIXELS).numpy()


def _check_present(sample: dict[str, Tensor], side: int) -> None:
    if not sample["present"][side]:
        raise InputError(f"this image has no {HANDS[side]} hand: choose another side")


# Lesson 8: the camera.

CAMERA_CONTROLS: Controls = {
    "noise": Slider("noise, pixels", 0.0, 20.0, 0.5, 3.0),
    "outliers": Slider("outliers, %", 0, 50, 1, 0),
    "ridge": Slider("log₁₀ ξ", -6.0, 4.0, 0.25, -2.0),
    "seed": Slider("seed", 0, 20, 1, 0),
}


class CameraScene(NamedTuple):
    """A hand whose mesh is known, and where its vertices truly are in the image."""

    image: Float[np.ndarray, "256 256 3"]
    vertices: Float[Tensor, "778 3"]  # hand units
    points: Float[Tensor, "778 2"]  # NDC


def disturbed(
    points: Float[Tensor, "vertex 2"], noise: float, outliers: int, seed: int
) -> Float[Tensor, "vertex 2"]:
    """Image points with an error of `noise` pixels (of 256) and some per cent anywhere at all."""
    generator = torch.Generator().manual_seed(seed)
    error = torch.randn(points.shape, generator=generator) * noise * 2 / PIXELS
    anywhere = 2 * torch.rand(points.shape, generator=generator) - 1
    order = torch.randperm(len(points), generator=generator)
    strayed = order < round(len(points) * outliers / 100)
    return torch.where(strayed[:, None], anywhere, points + error)


def camera_panels(
    scene: CameraScene,
    noise: float = 3.0,
    outliers: int = 0,
    ridge: float = -2.0,
    seed: int = 0,
) -> list[Panel]:
    """Disturbed points, the camera solved from them, and where it sees the mesh.

    Args:
        noise: standard deviation, pixels.
        outliers: per cent of the points.
        ridge: logarithm of ξ to base 10.
    """
    given = disturbed(scene.points, noise, outliers, seed)
    solved = ridge_camera(scene.vertices, given, 10**ridge)
    clean = ridge_camera(scene.vertices, scene.points, 1e-6)
    path = torch.stack(
        [ridge_camera(scene.vertices, given, 10**power) for power in np.linspace(-6, 6, 49)]
    )
    seen = project(scene.vertices, solved)
    error = float((seen - scene.points).norm(dim=-1).mean()) * PIXELS / 2
    axes = zip("xy", (WARM, COOL), strict=True)
    rows = [
        layer
        for axis, (name, colour) in enumerate(axes)
        for layer in (
            Points(path[:, axis].numpy(), colour, 0, f"{name} axis, any ξ", True),
            Points(clean[[axis]].numpy(), GREEN, 10, "truth" if axis else ""),
            Points(solved[[axis]].numpy(), colour, 6, f"{name} axis, this ξ"),
        )
    ]
    every = slice(None, None, 3)
    return [
        Panel(
            f"mean distance to the true points: {error:.1f} pixels",
            [
                Picture(scene.image),
                Points(_pixels(given[every]), GREY, 4, "given points"),
                Points(_pixels(seen[every]), WARM, 4, "seen by the solved camera"),
            ],
        ),
        Panel("the camera: scale and translation", rows, "scale s", "translation t", (-1.0, 1.0)),
    ]


def camera_scene(sample: dict[str, Tensor], side: int) -> CameraScene:
    """The scene of one hand of a sample.

    Raises:
        InputError: the sample has no such hand.
    """
    _check_present(sample, side)
    return CameraScene(
        enlarged(sample["image"].numpy(), PIXELS),
        sample["vertices"][side],
        sample["vertices_2d"][side],
    )
