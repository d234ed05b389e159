"""What the notebooks play with: `panels` draws, one module per lesson says what."""

from dne_lib.widgets.attention import (
    ATTENTION_CONTROLS,
    attention_panels,
    attention_scene,
    parameters_at,
    spotlight,
)
from dne_lib.widgets.camera import CAMERA_CONTROLS, camera_panels, camera_scene, disturbed
from dne_lib.widgets.coordinates import (
    COORDINATE_CONTROLS,
    coordinate_panels,
    coordinate_scene,
    feature_colours,
    four_pixels,
)
from dne_lib.widgets.data import AUGMENT_CONTROLS, augment_panels
from dne_lib.widgets.errors import ERRORS_CONTROLS, error_scene, errors_panels, share_within
from dne_lib.widgets.hand import HAND_CONTROLS, hand_panels, volume, without_correctives
from dne_lib.widgets.losses import (
    BALANCE_CONTROLS,
    LEARNING_CONTROLS,
    balance_panels,
    learning_panels,
    learning_scene,
    pull,
    snapshot,
)
from dne_lib.widgets.maps import MAPS_CONTROLS, map_errors, maps_panels, maps_scene
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
from dne_lib.widgets.schedule import SCHEDULE_CONTROLS, schedule_panels
from dne_lib.widgets.views import VIEWS_CONTROLS, view_image, views_panels, views_scene, voxels
from dne_lib.widgets.welcome import welcome_controls, welcome_panels, welcome_scene

__all__ = [
    "ATTENTION_CONTROLS",
    "AUGMENT_CONTROLS",
    "BALANCE_CONTROLS",
    "CAMERA_CONTROLS",
    "COORDINATE_CONTROLS",
    "ERRORS_CONTROLS",
    "HAND_CONTROLS",
    "LEARNING_CONTROLS",
    "MAPS_CONTROLS",
    "MOST_SAMPLES",
    "NOISE_CONTROLS",
    "SCHEDULE_CONTROLS",
    "VIEWS_CONTROLS",
    "Choice",
    "Controls",
    "Panel",
    "Picture",
    "Points",
    "Slider",
    "Surface",
    "attention_panels",
    "attention_scene",
    "augment_panels",
    "balance_panels",
    "camera_panels",
    "camera_scene",
    "coordinate_panels",
    "coordinate_scene",
    "disturbed",
    "draw_noise",
    "error_scene",
    "errors_panels",
    "explore",
    "feature_colours",
    "four_pixels",
    "hand_panels",
    "learning_panels",
    "learning_scene",
    "map_errors",
    "maps_panels",
    "maps_scene",
    "noise_panels",
    "noise_scene",
    "parameters_at",
    "pull",
    "schedule_panels",
    "share_within",
    "snapshot",
    "spotlight",
    "still",
    "view_image",
    "views_panels",
    "views_scene",
    "volume",
    "voxels",
    "welcome_controls",
    "welcome_panels",
    "welcome_scene",
    "without_correctives",
]  # fmt: skip
