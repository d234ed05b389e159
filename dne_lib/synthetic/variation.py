"""Hands as photographs show them: on arms, with things, in rooms, through a lens and a JPEG.

What stands with the hands belongs to the frame (`props.sample_props`), the rest to the picture
(`render_varied`). Labels are those of the plain picture, byte for byte. A sleeve or a thing that
hides part of a hand changes neither them nor the maps made from them: what is asked of the network
is the whole hand, as for the fingers that another hand hides; the maps teach it to see through,
and a mask of what is visible would need a label that InterHand2.6M does not have. So that there is
something left to see, what hides more of a hand than `props.HIDDEN` is left out of the picture.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float

from dne_lib.synthetic.backgrounds import sample_scene
from dne_lib.synthetic.props import Prop, leave_visible, pass_before
from dne_lib.synthetic.render import (
    GAMMA,
    HEIGHT,
    WIDTH,
    Camera,
    Cuff,
    Layer,
    Light,
    Picture,
    Skin,
    add_noise,
    build_mesh,
    draw,
    sample_cuff,
    sample_lights,
    sample_skin,
    to_bytes,
)

VERSION = 1  # of the variation: raise it when the same recipe draws something else
# Limits of the six classes of skin by the individual typology angle, atan((L* - 50) / b*), degrees:
# dark, brown, tan, intermediate, light, very light (Chardon et al. 1991, Del Bino and Bernerd
# 2013). The outer two are open; -58 and 65 are about where measured skin ends.
ITA = (-58.0, -30.0, 10.0, 28.0, 41.0, 55.0, 65.0)


def ita_skin(rng: np.random.Generator, tone: float) -> Skin:
    """A subject's skin, even over the classes of the individual typology angle.

    Args:
        tone: 0 lightest .. 1 darkest; each sixth is a class.
    """
    angle = np.interp(6 * (1 - tone), range(7), ITA)
    # Chroma is largest in the middle and falls towards either end, as measurements have it.
    yellow = 20.5 - 9 * ((angle - 5) / 60) ** 2 + rng.normal(0, 0.8)
    red = 10.5 + rng.normal(0, 0.8) - 2 * (angle / 60) ** 2
    lab = np.array([50 + yellow * np.tan(np.radians(angle)), red, yellow], np.float32)
    colour = cv2.cvtColor(lab[None, None], cv2.COLOR_Lab2RGB)[0, 0]
    return sample_skin(rng, tone, np.clip(colour.astype(float), 0.01, 1))


def line_kernel(length: float, angle: float) -> Float[np.ndarray, "side side"]:
    """What motion leaves of a point: a line around it, so that labels show mid-exposure."""
    half = int(np.ceil(length / 2)) + 1
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    for t in ((np.arange(8 * half) + 0.5) / (8 * half) - 0.5) * length:
        x, y = half + t * np.cos(angle), half + t * np.sin(angle)
        column, row = int(x), int(y)
        u, v = x - column, y - row
        kernel[row : row + 2, column : column + 2] += np.outer([1 - v, v], [1 - u, u])
    return kernel / kernel.sum()


def disc_kernel(radius: float) -> Float[np.ndarray, "side side"]:
    """What a lens out of focus leaves of a point."""
    half = int(np.ceil(radius))
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    kernel = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1).astype(np.float32)
    return kernel / kernel.sum()


def blur(
    image: Float[np.ndarray, "height width *channel"], kernel: Float[np.ndarray, "side side"]
) -> Float[np.ndarray, "height width *channel"]:
    """Filter; what is outside the picture is as at its edge."""
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REPLICATE)


def in_light(
    image: Float[np.ndarray, "height width 3"], kernel: Float[np.ndarray, "side side"]
) -> Float[np.ndarray, "height width 3"]:
    """Filter light instead of display values (nearly): small bright things stay bright."""
    return np.sqrt(np.maximum(blur(image * image, kernel), 0))


def move(layer: Layer, kernel: Float[np.ndarray, "side side"]) -> Layer:
    """Hands that move while the shutter is open."""
    colour, alpha = blur(layer.colour.astype(np.float32), kernel), blur(layer.alpha, kernel)
    return layer._replace(colour=colour, alpha=alpha)


def cast_shadow(
    background: Float[np.ndarray, "height width 3"],
    alpha: Float[np.ndarray, "height width"],
    light: Light,
    rng: np.random.Generator,
) -> Float[np.ndarray, "height width 3"]:
    """The shadow of a layer on a surface close behind it."""
    distance = rng.uniform(5, 45)  # pixels
    shift = -distance * light.direction[:2] / max(0.5, -light.direction[2])
    moved = cv2.warpAffine(
        alpha, np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32), (WIDTH, HEIGHT)
    )
    soft = cv2.GaussianBlur(moved, (0, 0), 1 + distance * light.size)
    return background * (1 - np.float32(rng.uniform(0.2, 0.6)) * soft[..., None])


def colour_cast(
    image: Float[np.ndarray, "height width 3"], warmth: float, green: float
) -> Float[np.ndarray, "height width 3"]:
    """A white balance that is off: gains of light, equal to e^warmth and its inverse, e^green."""
    gains = np.exp(np.array([warmth, green, -warmth]) / GAMMA)
    return image * gains.astype(np.float32)


def develop(
    image: Float[np.ndarray, "height width 3"], contrast: float, saturation: float, gain: float
) -> Float[np.ndarray, "height width 3"]:
    """What a camera does to please: contrast about middle grey, saturation, brightness."""
    grey = image @ np.array([0.299, 0.587, 0.114], np.float32)
    image = grey[..., None] + np.float32(saturation) * (image - grey[..., None])
    return np.float32(gain) * (np.float32(0.5) + np.float32(contrast) * (image - np.float32(0.5)))


def sample_quality(rng: np.random.Generator) -> int:
    """Of a JPEG: from a messenger's to a camera's."""
    return int(rng.integers(35, 97))


def render_varied(
    hands: Float[np.ndarray, "hand 778 3"],
    sides: tuple[int, ...],
    camera: Camera,
    skin: Skin,
    props: Sequence[Prop],
    rng: np.random.Generator,
) -> Picture:
    """Draw hands and what stands with them as `render` does, but as a photograph.

    Args:
        hands: vertices, camera frame, metres, in front of the camera.
        sides: 0 right, 1 left, for each hand.
        props: in the camera's frame.

    Returns:
        The picture; its coverage is of hands only, where nothing hides them, before any blur.
    """
    background, lights, cuff = sample_scene(rng), sample_lights(rng), sample_cuff(rng)
    if rng.uniform() < 0.2 and (stick := pass_before(hands, rng)) is not None:
        props = [*props, Prop((stick,))]
    props = leave_visible(hands, sides, props, camera)
    if any(prop.arm for prop in props):
        cuff = Cuff(0.0, cuff.colour)
    mesh = build_mesh(hands, sides, skin.mottle, [s for prop in props for s in prop.solids])
    layer = draw(mesh, camera, skin, cuff, lights, rng)

    if rng.uniform() < 0.75:  # focused on the hands
        background = in_light(background, disc_kernel(np.exp(rng.uniform(-0.4, 2.2))))
    if rng.uniform() < 0.4:
        background = cast_shadow(background, layer.alpha, lights[0], rng)
    if rng.uniform() < 0.3:
        layer = move(layer, line_kernel(min(12.0, 1 + rng.exponential(4)), rng.uniform(0, np.pi)))
    image = layer.over(background)
    if rng.uniform() < 0.15:  # the camera shook
        image = in_light(
            image, line_kernel(min(7.0, 1 + rng.exponential(2)), rng.uniform(0, np.pi))
        )
    if rng.uniform() < 0.35:
        image = in_light(image, disc_kernel(rng.uniform(0.6, 2.6)))
    image = colour_cast(image, rng.normal(0, 0.16), rng.normal(0, 0.06))
    image = develop(image, rng.uniform(0.85, 1.2), rng.uniform(0.75, 1.25), rng.uniform(0.8, 1.2))
    return Picture(to_bytes(add_noise(image, (0.002, 0.035), rng)), layer.coverage)
