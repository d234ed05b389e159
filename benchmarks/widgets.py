"""How long each widget takes from a slider's change to its new picture being on its way.

The medians over the ranges of all its controls, in milliseconds and in plain charts that
matplotlib draws in the same run: a chart is what a redraw is, Python and small arrays on one core,
where a pass of a network would tell how many cores there are. Times are of the processor, so that
what else the machine does is not counted; nor is the reader's browser.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import comm
import cv2
import numpy as np
import torch
from comm.base_comm import BaseComm
from matplotlib.figure import Figure
from torch.utils.data import default_collate

from dne_lib import InterHand, load_network, synthesize, widgets
from dne_lib.camera import project
from dne_lib.config import DataConfig, ModelConfig
from dne_lib.lessons import stand_in
from dne_lib.plots import png
from dne_lib.widgets import losses
from dne_lib.widgets.panels import Callback

IMAGES = 16
STOPS = 8  # values of each control, about
WANTED = {"2D": 0.15, "3D": 0.3}  # seconds


class Encoder(BaseComm):
    """Writes messages as a kernel does, and sends them nowhere."""

    def publish_msg(self, msg_type: str, data: Any = None, **_: Any) -> None:
        json.dumps(data)


def callbacks(root: Path) -> Iterator[tuple[str, Callback, widgets.Controls]]:
    """Every widget, with scenes of the sizes that the lessons have."""
    network, config = load_network("shipped")
    hands = network.hands
    synthesize(root, train=IMAGES, test=0, seed=1, progress=False)
    samples = [*InterHand(root, "train", config.model, DataConfig(root=root), augment=False)]
    photos = InterHand(root, "train", ModelConfig(), DataConfig(root=root), augment=False)
    batch = default_collate(samples)
    with torch.no_grad():
        output = network(batch["image"], batch["present"])
        features = network.auxiliary(network.encoder(batch["image"]))[1]
    first, side = samples[0], int(samples[0]["present"].nonzero()[0])
    coarse = stand_in(hands, first)
    points = project(coarse.vertices[side], coarse.camera[side])
    four = {name: values[:4] for name, values in batch.items()}
    seen = losses.snapshot(0, output)
    seen = seen._replace(**{name: getattr(seen, name)[:, :4] for name in seen._fields[1:]})
    pull = losses.Pull(np.ones(4), np.eye(4))

    w = widgets
    welcome = w.welcome_scene(batch, output.stages, hands.faces)
    learning = w.learning_scene(four, hands.faces, [seen._replace(step=i) for i in range(26)])
    coordinates = w.coordinate_scene(first, features[0], points, points + 0.1, side)
    errors = w.error_scene(batch, output.stages, hands.faces)
    yield (
        "0 welcome",
        partial(w.welcome_panels, welcome),
        w.welcome_controls(IMAGES, config.model.modules),
    )
    yield "1 augmentation", partial(w.augment_panels, photos, 0), w.AUGMENT_CONTROLS
    yield "2 hand", partial(w.hand_panels, hands), w.HAND_CONTROLS
    yield "3 maps", partial(w.maps_panels, w.maps_scene(samples, network)), w.MAPS_CONTROLS
    attention = w.attention_scene(samples, network)
    yield "4 attention", partial(w.attention_panels, attention), w.ATTENTION_CONTROLS
    noise = w.noise_scene(first, coarse, hands, side)
    yield "5 noise", partial(w.noise_panels, noise), w.NOISE_CONTROLS
    yield "6 coordinates", partial(w.coordinate_panels, coordinates), w.COORDINATE_CONTROLS
    views = w.views_scene(first, coarse, side)
    yield "7 views", partial(w.views_panels, views), w.VIEWS_CONTROLS
    camera = w.camera_scene(first, side)
    yield "8 camera", partial(w.camera_panels, camera), w.CAMERA_CONTROLS
    yield "9 learning", partial(w.learning_panels, learning), w.LEARNING_CONTROLS
    yield "9 balance", partial(w.balance_panels, (pull, pull)), w.BALANCE_CONTROLS
    yield "10 errors", partial(w.errors_panels, errors), w.ERRORS_CONTROLS
    yield "11 schedule", w.schedule_panels, w.SCHEDULE_CONTROLS


def redraws(callback: Callback, controls: widgets.Controls) -> list[float]:
    """Seconds of every change on a walk along each control."""
    inputs = widgets.explore(callback, controls).children[0].children
    times = []
    for widget, control in zip(inputs, controls.values(), strict=True):
        values = control.values[:: max(1, len(control.values) // STOPS)]
        for value in [*values, control.start]:
            if value == widget.value:
                continue
            start = time.process_time()
            widget.value = value
            times.append(time.process_time() - start)
    return times


def charts(repeats: int = 5) -> list[float]:
    """Seconds of drawing a plain chart as a picture."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        figure = Figure((4, 3), dpi=100)
        figure.subplots().plot(np.arange(100))
        png(figure)
        times.append(time.process_time() - start)
    return times


def main() -> None:
    """Print a row for each widget, the one nearest to its limit first."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    comm.create_comm = Encoder
    charts()  # the first one loads fonts
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, callback, controls in callbacks(Path(folder) / "data"):
            kind = "3D" if any(panel.solid for panel in callback()) else "2D"
            before, times, after = charts(), redraws(callback, controls), charts()
            rows.append((np.median(times), np.median(before + after), kind, name, len(times)))
    for seconds, chart, kind, name, count in sorted(rows, key=lambda r: -r[0] / WANTED[r[2]]):
        print(f"{name:15} {kind}: {seconds / chart:4.1f} charts of {chart * 1e3:.0f} ms", end="")
        print(
            f" = {seconds * 1e3:4.0f} ms, {seconds / WANTED[kind]:4.0%} of what is allowed", end=""
        )
        print(f" ({count} changes)")


if __name__ == "__main__":
    main()
