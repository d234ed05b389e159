"""What the notebooks play with.

A widget is a plain function from slider values to a list of `Panel`s, and a dictionary of
`Control`s. `still` draws panels with matplotlib, for readers on the web; `explore` draws them with
plotly beside live sliders. Neither knows what a hand is.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, NamedTuple

import cv2
import ipywidgets
import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int, Shaped
from matplotlib.colors import LightSource, to_rgb
from matplotlib.figure import Figure
from plotly.subplots import make_subplots
from torch import Tensor

from dne_lib.camera import ndc_to_pixels
from dne_lib.config import HANDS
from dne_lib.files import InputError
from dne_lib.mano import SKELETON

PIXELS = 256  # side of the images that widgets draw on
# Of a live figure, in the browser's pixels: what JupyterLab leaves on a small laptop's screen. By
# itself plotly takes 700, as it cannot know the room before it is shown.
WIDTH = 900
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
    ticks: Sequence[str] = ()  # names of 0, 1, ... on the x axis of a chart; none: numbers

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


def offered(controls: Controls) -> Callable[[Callback], Callback]:
    """A decorator of callbacks: a name that no control offers must not be taken for another.

    Raises (the callback): InputError, with the names that there are.
    """

    def decorated(callback: Callback) -> Callback:
        @wraps(callback)
        def checked(*scene: Any, **values: Any) -> list[Panel]:
            for name, value in values.items():
                control = controls.get(name)
                if isinstance(control, Choice) and value not in control.values:
                    names = ", ".join(map(str, control.values))
                    raise InputError(f"{name} is {value!r}: give one of {names}")
            return callback(*scene, **values)

        return checked

    return decorated


def upright(places: np.ndarray) -> np.ndarray:
    """Camera frame (y down, z forward) to the frame plots have (z up, y away from the reader)."""
    return np.stack([places[..., 0], places[..., 2], -places[..., 1]], axis=-1)


def still(panels: list[Panel]) -> Figure:
    """Panels as a picture."""
    side = min(4.2, 12 / len(panels))  # inches: a page shrinks what is wider, and its letters
    figure = Figure((side * len(panels), 0.95 * side), facecolor="white", dpi=90)
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
                _draw_points(axis, layer, panel, order)
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
            if panel.ticks:
                axis.set_xticks(range(len(panel.ticks)), panel.ticks)
            axis.grid(alpha=0.3)
        if any(isinstance(layer, Points) and layer.label for layer in panel.layers):
            axis.legend(fontsize=8, loc="lower left" if panel.pictured else "best")
    return figure


def _draw_points(axis: Any, layer: Points, panel: Panel, order: int) -> None:
    places = upright(layer.places) if panel.solid else layer.places
    style: dict[str, Any] = {"color": layer.colour, "label": layer.label or None, "zorder": order}
    if layer.size:
        edge = {"markeredgecolor": "white", "markeredgewidth": 0.7 * _outlined(layer, panel)}
        style |= {"linestyle": "", "marker": "o", "markersize": layer.size} | edge
    elif layer.dashed:
        style["linestyle"] = "--"
    axis.plot(*places.T, **style)


def _outlined(layer: Points, panel: Panel) -> bool:
    """Whether dots are few and large enough for an outline, which tells black from a dark image."""
    return panel.pictured and layer.size >= 5


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


def _trace(layer: Picture | Points | Surface, panel: Panel, legend: str) -> Any:
    """An empty plotly trace for a layer; `_values` fills it."""
    if isinstance(layer, Picture):
        return go.Image(hoverinfo="skip")
    if isinstance(layer, Surface):
        return go.Mesh3d(
            **dict(zip("ijk", layer.faces.T, strict=True)), opacity=layer.opacity,
            hoverinfo="skip", lighting={"ambient": 0.5, "diffuse": 0.7},
        )  # fmt: skip
    kind = go.Scatter3d if panel.solid else go.Scatter
    size = layer.size * (0.7 if panel.solid else 1)
    edge = {"line": {"color": "white", "width": 1}} if _outlined(layer, panel) else {}
    marker = {"size": size, "color": layer.colour} | edge
    style: dict[str, Any] = {"mode": "markers", "marker": marker}
    if not layer.size:
        line = {"color": layer.colour, "width": 5 if panel.solid else 2}
        style = {"mode": "lines", "line": line | ({"dash": "dash"} if layer.dashed else {})}
    return kind(**style, showlegend=bool(layer.label), legend=legend)


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
    return dict(zip("xyz", places.T, strict=False)) | {"name": layer.label}


def live_figure(panels: list[Panel]) -> go.FigureWidget:
    """Panels as a plotly figure that `redraw` can change; solid ones turn under the mouse."""
    kinds = [{"type": "scene" if panel.solid else "xy"} for panel in panels]
    titles = [panel.title or " " for panel in panels]  # an empty title would leave no place for one
    figure = make_subplots(1, len(panels), specs=[kinds], subplot_titles=titles)
    figure.update_annotations(font_size=12)
    middles = [title.x for title in figure.select_annotations()]
    labels = [sum(bool(getattr(x, "label", "")) for x in panel.layers) for panel in panels]
    charts = any(not panel.solid and not panel.pictured for panel in panels)
    plot = min(400, WIDTH // len(panels))
    top, room, foot = 55, 45 * charts + 10, 20 * max(labels)
    height = top + plot + room + foot
    for column, panel in enumerate(panels, start=1):
        legend = f"legend{column if column > 1 else ''}"
        for layer in panel.layers:
            figure.add_trace(_trace(layer, panel, legend), row=1, col=column)
        # Below its own panel.
        across = {"x": middles[column - 1], "xanchor": "center"}
        figure.update_layout(
            {legend: across | {"yref": "container", "y": foot / height, "yanchor": "top"}}
        )
        if panel.solid:
            eye = {"x": 0.4, "y": -1.5, "z": 0.35}
            hidden: dict[str, Any] = {f"{axis}axis": {"visible": False} for axis in "xyz"}
            view = {"aspectmode": "cube", "camera": {"eye": eye}}
            figure.update_scenes(hidden | view, row=1, col=column)
        elif panel.pictured:
            figure.update_xaxes(visible=False, range=[0, PIXELS], row=1, col=column)
            figure.update_yaxes(visible=False, range=[PIXELS, 0], row=1, col=column)
    figure.update_layout(
        width=WIDTH, height=height, margin={"l": 10, "r": 10, "t": top, "b": room + foot},
        template="plotly_white", uirevision="keep",
    )  # fmt: skip
    widget = go.FigureWidget(figure)
    redraw(widget, panels)
    return widget


def redraw(figure: go.FigureWidget, panels: list[Panel]) -> None:
    """Show other panels, in one message to the browser; the reader's view of a mesh stays."""
    pairs = [(layer, panel.solid) for panel in panels for layer in panel.layers]
    solid = [panel for panel in panels if panel.solid]
    flat = [panel for panel in panels if not panel.solid]
    # A layout has a first scene and first axes even where no panel is of that kind.
    scenes = zip(figure.select_scenes(), solid, strict=False)
    axes = zip(figure.select_xaxes(), figure.select_yaxes(), flat, strict=False)
    with figure.batch_update():
        for trace, (layer, is_solid) in zip(list[Any](figure.data), pairs, strict=True):
            trace.update(_values(layer, is_solid))
        for title, panel in zip(figure.select_annotations(), panels, strict=True):
            title.text = panel.title or " "
        for scene, panel in scenes:
            scene.update(_cube(panel, scene))
        for x, y, panel in axes:
            if not panel.pictured:
                x.title.text, y.title.text, y.range = panel.x, panel.y, panel.limits
                if panel.ticks:
                    x.update(tickvals=list(range(len(panel.ticks))), ticktext=list(panel.ticks))


def _cube(panel: Panel, scene: Any) -> dict[str, Any]:
    """Axes of a cube around what is drawn; the one before for as long as it fits.

    A cube that followed every change would hide that a hand grows.
    """
    places = [
        upright(layer.vertices if isinstance(layer, Surface) else layer.places)
        for layer in panel.layers
        if not isinstance(layer, Picture)
    ]
    low, high = (f(np.concatenate(places), axis=0) for f in (np.nanmin, np.nanmax))
    span = float((high - low).max())
    before = [scene[f"{axis}axis"].range for axis in "xyz"]
    if None not in before:
        first, last = np.transpose(np.array(before, float))
        if (first <= low).all() and (high <= last).all() and 2 * span >= last[0] - first[0]:
            return {}
    ranges = (low + high)[:, None] / 2 + 0.55 * max(span, 1e-6) * np.array([-1, 1])
    return {
        f"{axis}axis": {"range": range_.tolist()}
        for axis, range_ in zip("xyz", ranges, strict=True)
    }


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
    whole = isinstance(control.step, int)
    decimals = len(f"{control.step:g}".partition(".")[2])
    return (ipywidgets.IntSlider if whole else ipywidgets.FloatSlider)(
        control.start, min=control.low, max=control.high, step=control.step,
        description=control.label, style=style, readout_format="d" if whole else f".{decimals}f",
    )  # fmt: skip


def pixels(points: Float[Tensor, "point 2"]) -> Float[np.ndarray, "point 2"]:
    return ndc_to_pixels(points, PIXELS).numpy()


def bones(joints: Shaped[np.ndarray, "21 axis"]) -> Shaped[np.ndarray, "60 axis"]:
    """The skeleton as one line, broken by NaN between bones."""
    gap = np.full(joints.shape[-1], np.nan, joints.dtype)
    parts = [(joints[p], joints[i], gap) for i, p in enumerate(SKELETON) if p >= 0]
    return np.array([place for part in parts for place in part])


def check_present(sample: dict[str, Tensor], side: int) -> None:
    if not sample["present"][side]:
        raise InputError(f"this image has no {HANDS[side]} hand: choose another side")
