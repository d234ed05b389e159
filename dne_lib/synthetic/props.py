"""What stands with the hands of a frame: arms, sleeves, things in hands and before them.

All are closed surfaces in the same ray tracer as the hands, so that light and shadow agree. They
give way: no arm goes through a hand, nothing that is held goes through a finger.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial.distance import cdist

from dne_lib.rasterize import vertex_normals
from dne_lib.synthetic.backgrounds import PALE, WOOD, tint
from dne_lib.synthetic.render import (
    GAMMA,
    HEIGHT,
    WIDTH,
    Camera,
    Skin,
    Solid,
    albedo_and_gloss,
    build_mesh,
    cast,
    rest_hand,
    unit,
)

HIDDEN = 0.4  # part of a hand's picture that arms and things may hide
COARSE = 6  # pixels between the rays that find out
NEAR = 0.05  # metres from the camera: what comes nearer is left out
ARM = 0.45  # metres of arm: further than most pictures


class Prop(NamedTuple):
    """Something that stands with the hands: there as a whole, or not at all."""

    solids: tuple[Solid, ...]
    arm: bool = False  # whether it continues a hand


def make_solid(
    vertices: Float[np.ndarray, "vertex 3"],
    faces: Int[np.ndarray, "face 3"],
    colour: Float[np.ndarray, "..."],
    gloss: float | Float[np.ndarray, "vertex"],
    rough: float | int,
    texture: Float[np.ndarray, "vertex 3"] | None = None,
) -> Solid:
    """A closed surface with its colours (linear) and normals, turned to look outwards."""
    a, b, c = np.moveaxis(vertices[faces] - vertices.mean(0), 1, 0)
    if (a * np.cross(b, c)).sum() < 0:
        faces = faces[:, ::-1]
    paint = np.empty((len(vertices), 8), np.float32)
    paint[:, :3] = vertices if texture is None else texture
    paint[:, 3:6], paint[:, 6], paint[:, 7] = colour, gloss, rough
    normals = unit(vertex_normals(vertices, faces))
    return Solid(vertices, np.ascontiguousarray(faces, np.int32), normals, paint)


def loft(
    rings: Float[np.ndarray, "ring point 3"],
) -> tuple[Float[np.ndarray, "vertex 3"], Int[np.ndarray, "face 3"]]:
    """The skin over rings of points, closed at both ends."""
    count, points = rings.shape[:2]
    a = np.arange(count * points).reshape(count, points)
    b = np.roll(a, -1, 1)
    sides = [np.stack([a[:-1], b[:-1], a[1:]], -1), np.stack([b[:-1], b[1:], a[1:]], -1)]
    first, last = np.full(points, a.size), np.full(points, a.size + 1)
    ends = [np.stack([first, b[0], a[0]], -1), np.stack([last, a[-1], b[-1]], -1)]
    vertices = np.concatenate([rings.reshape(-1, 3), rings[[0, -1]].mean(1)])
    return vertices, np.concatenate([face.reshape(-1, 3) for face in (*sides, *ends)])


def linear(colour: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    """Albedo of a display colour; nothing is black or as white as snow."""
    return np.clip(colour**GAMMA, 0.004, 0.9)


class Arm(NamedTuple):
    """The course of a forearm from the wrist."""

    along: Float[np.ndarray, "ring"]  # metres from the wrist; the first is negative, in the hand
    centre: Float[np.ndarray, "ring 3"]
    rings: Float[np.ndarray, "ring 16 3"]


def bend_arm(hand: Float[np.ndarray, "778 3"], spread: float, rng: np.random.Generator) -> Arm:
    """Continue a wrist: on along it, then bent to where the elbow is, wider and rounder.

    Args:
        spread: standard deviation of the wrist's angle, radians, up and down; a third sideways.
    """
    body = rest_hand()
    rim = hand[body.rim]
    start = rim.mean(0)
    out = unit(start - hand[_heel()].mean(0))
    wide = rim[3] - rim[12]  # from thumb to pinky
    wide = unit(wide - wide @ out * out)
    thick = np.cross(out, wide)
    up, aside = np.clip(rng.normal(0, [spread, spread / 3]), [-0.9, -0.35], [0.9, 0.35])
    along = np.concatenate([[-0.012], ARM * np.linspace(0, 1, 24) ** 1.7])
    # The bend is over within three centimetres.
    share = np.clip(along / 0.03, 0, 1)
    share = share * share * (3 - 2 * share)
    ahead = unit(out + np.outer(share, np.tan(up) * thick + np.tan(aside) * wide))
    middle = (ahead[1:] + ahead[:-1]) / 2 * np.diff(along)[:, None]
    centre = np.concatenate([np.zeros((1, 3)), np.cumsum(middle, 0)])
    centre += start - centre[1]
    offset = (rim - start) @ np.stack([out, wide, thick], 1)
    grow = np.clip(along / 0.22, 0, 1)[:, None]
    broad = unit(np.cross(thick, ahead))
    tall = np.cross(ahead, broad)
    axial = offset[:, 0] * np.clip(1 - along / 0.04, 0, 1)[:, None]
    rings = (
        centre[:, None]
        + axial[..., None] * ahead[:, None]
        + (offset[:, 1] * (1 + 0.5 * grow))[..., None] * broad[:, None]
        + (offset[:, 2] * (1 + 0.9 * grow))[..., None] * tall[:, None]
    )
    return Arm(along, centre, rings)


def _heel() -> Int[np.ndarray, "vertex"]:
    """Vertices of the hand some 25 mm before the wrist's edge, all around."""
    body = rest_hand()
    x = body.position[:778, 0]
    return np.flatnonzero((body.part[:778] == 0) & (x > 0.06) & (x < 0.074))


def bare(arm: Arm, hand: Float[np.ndarray, "778 3"], side: int, skin: Skin) -> Solid:
    """The skin of a forearm: at the wrist it has the hand's own place, colour and normals."""
    body = rest_hand()
    along, rings = arm.along[1:], arm.rings[1:]
    vertices, faces = loft(rings)
    fade = np.exp(-along / 0.05)[:, None]
    masks = body.masks[body.rim] * (0.5 + 0.5 * fade[..., None])
    mottle = skin.mottle[body.rim] * fade
    rest = body.position[body.rim] + along[:, None, None] * np.array([1, 0, 0])

    def all_of(values: np.ndarray) -> np.ndarray:
        """Of the rings, and of the centres of the two ends."""
        flat = values.reshape(rings.shape[0] * rings.shape[1], -1)
        return np.concatenate([flat, values[[0, -1]].mean(1).reshape(2, -1)]).astype(np.float32)

    rest, masks, mottle = all_of(rest), all_of(masks), all_of(mottle)[:, 0]
    part = np.zeros(len(rest), int)
    colour, gloss = albedo_and_gloss(rest, masks, mottle, part, np.zeros_like(mottle), skin)
    solid = make_solid(vertices, faces, colour, gloss, 1.0, rest)
    own = body.faces[:1538, ::-1] if side else body.faces[:1538]
    solid.normals[:16] = unit(vertex_normals(hand, own))[body.rim]
    return solid


def sleeve(arm: Arm, rng: np.random.Generator) -> Solid:
    """Cloth around a forearm, from somewhere near the wrist to its end, with folds."""
    low = rng.choice([rng.uniform(-0.006, 0.02), rng.uniform(0.02, 0.12)])
    along = low + (ARM - low) * np.linspace(0, 1, 40) ** 1.3
    course = np.concatenate([arm.centre[:, None], arm.rings], 1).reshape(len(arm.along), 51)
    course = np.stack([np.interp(along, arm.along, column) for column in course.T], 1)
    centre, rings = course[:, :3], course[:, 3:].reshape(40, 16, 3)
    # Twice the points round, for folds.
    rings = np.stack([rings, (rings + np.roll(rings, -1, 1)) / 2], 2).reshape(40, 32, 3)
    around = 2 * np.pi * np.arange(32) / 32
    loose = rng.uniform(0.003, 0.014)
    folds = sum(
        rng.uniform(0.1, 0.5)
        * np.sin(k * around + rng.uniform(30, 130) * along[:, None] + rng.uniform(0, 7))
        for k in (0, 1, 2, 3)
    )
    out = unit(rings - centre[:, None])
    # A hem that turns in to the skin: nobody looks into the sleeve.
    hem = [rings[:1] - 0.004 * out[:1], rings[:1] + 0.7 * loose * out[:1]]
    widths = loose * (1 + 0.4 * folds) + 0.15 * np.clip(along - low, 0, 0.1)[:, None]
    vertices, faces = loft(np.concatenate([*hem, rings + widths[..., None] * out]))
    colour = np.tile(linear(tint(rng)), (len(vertices), 1))
    if rng.uniform() < 0.25:
        places = np.repeat(np.concatenate([[low, low], along]), 32)
        stripes = places // rng.uniform(0.006, 0.03) % 2 == 0
        colour[:-2][stripes] = linear(tint(rng))
    return make_solid(vertices, faces, colour, 0.04, rng.uniform(0.3, 1.5))


class Shape(NamedTuple):
    """A superquadric (Barr 1981): ellipsoids, boxes, cylinders and what lies between."""

    centre: Float[np.ndarray, "3"]
    axes: Float[np.ndarray, "3 3"]  # rows: units along which the sizes are
    size: Float[np.ndarray, "3"]  # half, metres
    square: tuple[float, float]  # along and around the third axis: 1 round .. 0 square

    def inside(self, points: Float[np.ndarray, "point 3"]) -> Bool[np.ndarray, "point"]:
        x, y, z = np.abs((points - self.centre) @ self.axes.T / self.size).clip(1e-9, 1e3).T
        along, around = self.square
        flat = (x ** (2 / around) + y ** (2 / around)) ** (around / along)
        return flat + z ** (2 / along) < 1


def surface(
    shape: Shape,
) -> tuple[Float[np.ndarray, "vertex 3"], Int[np.ndarray, "face 3"]]:
    """A mesh of a shape, with points both in its faces and along its edges."""

    def angles(square: float) -> np.ndarray:
        """From 0 to a right angle."""
        even = np.linspace(0, np.pi / 2, 7)
        placed = np.arccos(np.linspace(0, 1, 6) ** (1 / square))
        return np.unique(np.concatenate([even, placed, np.pi / 2 - placed]).round(6))

    def power(values: np.ndarray, square: float) -> np.ndarray:
        return np.sign(values) * np.abs(values) ** square

    up, quarter = angles(shape.square[0]), angles(shape.square[1])
    up = np.concatenate([-up[:0:-1], up])[1:-1, None]  # the poles close by themselves
    turn = np.concatenate([quarter[:-1] + i * np.pi / 2 for i in range(4)])
    c = power(np.cos(up), shape.square[0])
    x, y = c * power(np.cos(turn), shape.square[1]), c * power(np.sin(turn), shape.square[1])
    z = power(np.sin(up), shape.square[0]) * np.ones_like(x)
    return loft(np.stack([x, y, z], -1) * shape.size @ shape.axes + shape.centre)


def sample_shape(rng: np.random.Generator, along: Float[np.ndarray, "3"]) -> Shape:
    """A ball, a box, a can or a stick around the origin; its third axis is `along`."""
    third = unit(along + 0.15 * rng.normal(size=3))
    first = unit(np.cross(third, rng.normal(size=3)))
    axes = np.stack([first, np.cross(third, first), third])
    kind = rng.choice(["ball", "box", "can", "stick"], p=[0.2, 0.25, 0.25, 0.3])
    if kind == "ball":
        size, square = rng.uniform(0.02, 0.045) * rng.uniform(0.7, 1.2, 3), (1.0, 1.0)
    elif kind == "box":
        size, square = rng.uniform([0.02, 0.006, 0.03], [0.05, 0.03, 0.09]), (0.12, 0.12)
    else:
        thin, long = (
            ((0.018, 0.035), (0.04, 0.1)) if kind == "can" else ((0.004, 0.013), (0.07, 0.17))
        )
        size = np.array([1, 1, 0]) * rng.uniform(*thin) + np.array([0, 0, rng.uniform(*long)])
        square = (0.1, 1.0)
    return Shape(np.zeros(3), axes, size, square)


def paint_shape(shape: Shape, rng: np.random.Generator) -> Solid:
    """Wood, plastic, metal or print: one colour, with bands around some."""
    vertices, faces = surface(shape)
    palette = (None, None, WOOD, PALE)[rng.integers(4)]
    colour = np.tile(linear(tint(rng, palette)), (len(vertices), 1))
    if rng.uniform() < 0.4:
        place = (vertices - shape.centre) @ shape.axes[2] / shape.size[2]
        low = rng.uniform(-1, 0.5)
        band = (place > low) & (place < low + rng.uniform(0.2, 1))
        colour[band] = linear(tint(rng))
    return make_solid(vertices, faces, colour, rng.uniform(0, 2), rng.choice([0, 0.3, 1]))


def palm(
    hand: Float[np.ndarray, "778 3"], side: int
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    """Middle of the palm, the way it looks, and the way across it to the thumb's side."""
    body = rest_hand()
    own = body.faces[:1538, ::-1] if side else body.faces[:1538]
    weights = body.masks[:778, 0] * (body.part[:778] == 0)
    centre = weights @ hand / weights.sum()
    index, pinky = (hand[body.part[:778] == joint].mean(0) for joint in (1, 7))
    return centre, unit(weights @ unit(vertex_normals(hand, own))), unit(index - pinky)


def hold(
    hands: Float[np.ndarray, "hand 778 3"],
    sides: tuple[int, ...],
    obstacles: Float[np.ndarray, "point 3"],
    rng: np.random.Generator,
) -> Solid | None:
    """Put a thing into a hand, as large as it fits; None where it does not.

    Args:
        obstacles: points that are not to be in the thing; with those of all the hands.
    """
    i = int(rng.integers(len(sides)))
    centre, ahead, across = palm(hands[i], sides[i])
    shape = sample_shape(rng, across if rng.uniform() < 0.7 else rng.normal(size=3))
    reach = np.abs(shape.axes @ ahead) @ shape.size  # at least as far as its surface
    slip = rng.normal(0, 0.01, 3) + across * rng.normal(0, 0.3) * shape.size[2]
    for scale in (1.0, 0.8, 0.64, 0.5):
        for gap in (0.0, 0.006, 0.015, 0.03):
            place = centre + (scale * min(reach, 0.045) + gap) * ahead + slip
            tried = shape._replace(centre=place, size=shape.size * scale)
            if not tried.inside(obstacles).any():
                return paint_shape(tried, rng)
    return None


def skin_points(
    hands: Float[np.ndarray, "hand 778 3"],
) -> Float[np.ndarray, "hand 2316 3"]:
    """Vertices and middles of faces."""
    faces = rest_hand().faces[:1538]
    return np.concatenate([hands, hands[:, faces].mean(2)], 1)


def sample_arm(
    hands: Float[np.ndarray, "hand 778 3"],
    i: int,
    others: Float[np.ndarray, "point 3"],
    rng: np.random.Generator,
) -> Arm | None:
    """A forearm that passes by fingers and by `others`; None where there is no way."""
    fingers = hands[i][rest_hand().part[:778] > 0]
    points = np.concatenate([fingers, others])
    for attempt in range(10):
        arm = bend_arm(hands[i], 0.3 + 0.08 * attempt, rng)
        radius = np.linalg.norm(arm.rings - arm.centre[:, None], axis=2).max(1)
        if (cdist(points, arm.centre[2:]) > radius[2:] + 0.004).all():
            return arm
    return None


def sample_props(
    hands: Float[np.ndarray, "hand 778 3"],
    sides: tuple[int, ...],
    skin: Skin,
    rng: np.random.Generator,
) -> list[Prop]:
    """Arms, sleeves and held things of one frame.

    Args:
        hands: vertices, metres, in any frame: that of the result.
        sides: 0 right, 1 left, for each hand.
    """
    points = skin_points(hands)
    props: list[Prop] = []
    reached = np.zeros((0, 3))
    bared, sleeved = rng.uniform(size=2) < (0.95, 0.6)
    look = int(rng.integers(1 << 31))  # both arms are of one shirt
    for i, side in enumerate(sides):
        others = np.concatenate([*(points[j] for j in range(len(sides)) if j != i), reached])
        arm = sample_arm(hands, i, others, rng) if bared else None
        if arm is None:
            continue
        worn = (sleeve(arm, np.random.default_rng(look)),) if sleeved else ()
        props.append(Prop((bare(arm, hands[i], side, skin), *worn), arm=True))
        reached = np.concatenate([reached, arm.rings[2:].reshape(-1, 3)])
    if rng.uniform() < 0.4:
        thing = hold(hands, sides, np.concatenate([*points, reached]), rng)
        if thing is not None:
            props.append(Prop((thing,)))
    return props


def see(
    props: Sequence[Prop], rotation: Float[np.ndarray, "3 3"], position: Float[np.ndarray, "3"]
) -> list[Prop]:
    """Props in the frame of a camera: x_camera = rotation (x_world - position)."""
    return [
        prop._replace(
            solids=tuple(
                solid._replace(
                    vertices=(solid.vertices - position) @ rotation.T,
                    normals=solid.normals @ rotation.T,
                )
                for solid in prop.solids
            )
        )
        for prop in props
    ]


def pass_before(hands: Float[np.ndarray, "hand 778 3"], rng: np.random.Generator) -> Solid | None:
    """A stick, a rod or the edge of a box between the camera and a hand."""
    aim = hands.reshape(-1, 3)[rng.integers(778 * len(hands))]
    centre = aim * (1 - rng.uniform(0.05, 0.2) / aim[2]) + rng.normal(0, 0.02, 3) * [1, 1, 0]
    angle = rng.uniform(0, 2 * np.pi)
    along = np.array([np.cos(angle), np.sin(angle), rng.normal(0, 0.3)])
    shape = sample_shape(rng, along)
    long = max(0.12, shape.size[2])
    shape = shape._replace(
        centre=centre + rng.uniform(0.5, 1) * long * shape.axes[2],
        size=np.array([min(shape.size[0], 0.03), min(shape.size[1], 0.03), long]),
    )
    return (
        None if shape.inside(skin_points(hands).reshape(-1, 3)).any() else paint_shape(shape, rng)
    )


def leave_visible(
    hands: Float[np.ndarray, "hand 778 3"],
    sides: tuple[int, ...],
    props: Sequence[Prop],
    camera: Camera,
) -> list[Prop]:
    """The props that together hide no more of any hand than HIDDEN; they are tried in order."""
    rows, columns = np.mgrid[0:HEIGHT:COARSE, 0:WIDTH:COARSE].astype(np.float32)
    pixels = np.stack([columns, rows], -1).reshape(-1, 2)
    mesh = build_mesh(hands, sides, np.zeros(778))
    face, _, depth = cast(mesh, pixels, camera)
    owner = np.where(face >= 0, face // len(rest_hand().faces), -1)
    hidden, kept = np.zeros(len(pixels), bool), []
    for prop in props:
        if min(solid.vertices[:, 2].min() for solid in prop.solids) < NEAR:
            continue
        alone = build_mesh(hands[:0], (), np.zeros(778), prop.solids)
        face, _, before = cast(alone, pixels, camera)
        tried = hidden | ((face >= 0) & (before < depth - 1e-4))
        if all(tried[owner == i].sum() <= HIDDEN * (owner == i).sum() for i in range(len(sides))):
            kept.append(prop)
            hidden = tried
    return kept
