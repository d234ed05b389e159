"""What the notebooks play with: `panels` draws, one module per lesson says what."""

from dne_lib.widgets.camera import CAMERA_CONTROLS, camera_panels, camera_scene, disturbed
from dne_lib.widgets.data import AUGMENT_CONTROLS, augment_panels
from dne_lib.widgets.hand import HAND_CONTROLS, hand_panels, volume, without_correctives
from dne_lib.widgets.noise import (
    MOST_SAMPLES,
    NOISE_CONTROLS,
    draw_noise,
    noise_panels,
    noise_scene,
)  # fmt: skip
from dne_lib.widgets.panels import (
    Choice,
    Controls,
    Panel,
    Picture,
    Points,
    Slider,
    Surface,
    explore,
    still,
)  # fmt: skip

__all__ = [
    "AUGMENT_CONTROLS", "CAMERA_CONTROLS", "HAND_CONTROLS", "MOST_SAMPLES", "NOISE_CONTROLS", "Choice", "Controls",
    "Panel", "Picture", "Points", "Slider", "Surface", "augment_panels", "camera_panels", "camera_scene", "disturbed",
    "draw_noise", "explore", "hand_panels", "noise_panels", "noise_scene", "still", "volume",
    "without_correctives",
]  # fmt: skip
