"""Natural hand poses: blends of templates within joint limits, no finger through another.

Poses are made for the right hand, as 16 local rotations in MANO's joint order with the global
orientation left at identity; `mirror_rotations` makes them poses of the left hand. Everything
follows from the rest joints, so any MANO-like template will do.

Angles are degrees, shaped (finger, joint, axis): fingers thumb to pinky, joints base to tip,
axes flexion (towards the palm), abduction (towards the thumb's side) and twist (about the bone).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from dne_lib.files import InputError

# Fingers as listed here (thumb to pinky) for MANO's order: index, middle, pinky, ring, thumb.
_MANO_FINGERS = [1, 2, 4, 3, 0]
# The thumb's back in the palm's axes (backwards, out of the back of the hand, towards the thumb).
_THUMB_UP = (0.6, 0.6, 1.0)
_DIP_OVER_PIP = 0.62  # the two joints share tendons

# Thumb: flexion, abduction, twist of its base, flexion of the two others. The thumbs of gestures
# in which it touches a finger were fitted to the built-in hand, by minimising the gap between the
# two pads (pinch, ok) or the thumb's pad and the back of a folded finger (fist, point, victory,
# horns), with their normals opposed; the tests hold them to that.
# Fingers: flexion of the first two joints, index to pinky. Fan: spread of the fingers, degrees.
_TEMPLATES: dict[str, tuple[tuple[float, ...], tuple[tuple[float, float], ...], float]] = {
    "flat": ((-8, -6, 0, 0, 0), ((0, 0), (0, 0), (0, 0), (0, 0)), 3),
    "spread": ((-15, -15, 0, -5, -5), ((-6, 2), (-8, 2), (-6, 2), (-4, 2)), 11),
    "relaxed": ((4, 2, -8, 8, 10), ((16, 22), (20, 28), (24, 32), (26, 34)), 3),
    "fist": ((42, 37, -38, 35, 32), ((66, 80), (78, 88), (77, 87), (74, 84)), 0),
    "point": ((42, 37, -38, 35, 32), ((4, 4), (78, 88), (77, 87), (74, 84)), 0),
    "victory": ((42, 19, -14, 35, 12), ((4, 4), (2, 4), (77, 87), (74, 84)), 9),
    "thumb up": ((-12, -14, 0, -8, -10), ((66, 80), (78, 88), (77, 87), (74, 84)), 0),
    "pinch": ((33, 28, -38, 16, -5), ((74, 20), (32, 34), (26, 30), (20, 26)), 3),
    "ok": ((33, 28, -38, 16, -5), ((74, 20), (12, 14), (6, 8), (0, 6)), 6),
    "grasp": ((18, 22, -28, 12, 15), ((38, 42), (42, 46), (42, 48), (42, 48)), 4),
    "horns": ((42, 37, -38, 35, 32), ((4, 4), (78, 88), (77, 87), (0, 6)), 4),
    "claw": ((-4, 6, 0, 12, 30), ((6, 70), (4, 74), (6, 72), (8, 68)), 5),
}
TEMPLATES = tuple(_TEMPLATES)
_WEIGHTS = np.array([1, 1, 2, 1.2, 0.8, 0.6, 0.4, 1, 0.6, 1.5, 0.3, 0.8])

# Limits, degrees: (flexion, abduction, twist) x (low, high) of each joint.
_FINGER_LIMITS = [
    [(-20, 90), (-18, 18), (-6, 6)],
    [(-3, 108), (0, 0), (0, 0)],
    [(-5, 75), (0, 0), (0, 0)],
]
_THUMB_LIMITS = [
    [(-25, 42), (-25, 45), (-50, 15)],
    [(-12, 60), (-8, 8), (-5, 5)],
    [(-20, 80), (0, 0), (0, 0)],
]
LIMITS: Float[np.ndarray, "5 3 3 2"] = np.array([_THUMB_LIMITS] + [_FINGER_LIMITS] * 4, float)

# Capsules: 15 phalanges, thumb to pinky and base to tip, then the metacarpals index to pinky.
# Radii in units of the distance from wrist to middle MCP, measured on the built-in hand.
_RADII = np.array(
    [
        [0.185, 0.115, 0.092],
        [0.095, 0.090, 0.080],
        [0.098, 0.088, 0.078],
        [0.090, 0.082, 0.072],
        [0.078, 0.070, 0.062],
    ]
)
_PALM_RADIUS = 0.15
# Where a metacarpal's capsule starts and ends on the way from wrist to knuckle: nearer to the
# knuckle than this it would reach, in a short finger, into that finger's own middle phalanx.
_PALM_START, _PALM_END = 0.1, 0.75
CANDIDATES, TRIES = 8, 8  # poses tested at once, and how often, before giving up


class Anatomy(NamedTuple):
    """What a pose needs to know of a right hand: joints at rest and an axis frame at each."""

    joints: Float[np.ndarray, "21 3"]
    frames: Float[np.ndarray, "5 3 3 3"]  # finger, joint; columns flexion axis, back, bone


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


def anatomy(joints: Float[np.ndarray, "21 3"]) -> Anatomy:
    """Anatomical frames from the rest joints of a right hand.

    Args:
        joints: metres, wrist first, then thumb to pinky, each base to tip.

    Raises:
        InputError: joints that are not finite, coincide, or belong to a left hand.
    """
    bones = np.diff(joints[1:].reshape(5, 4, 3), axis=1)
    if not np.isfinite(joints).all() or np.linalg.norm(bones, axis=-1).min() < 1e-6:
        raise InputError("rest joints are not finite or coincide: give the 21 joints of a hand")
    forward = _unit(joints[9] - joints[0])
    back = _unit(np.cross(joints[17] - joints[0], joints[5] - joints[0]))
    if back @ (joints[4] - joints[0]) > 0:  # only in a left hand does the thumb lie on this side
        raise InputError("these are a left hand's rest joints: give the right hand's, mirror poses")
    side = np.cross(back, forward)
    thumb = np.stack([-forward, back, side], axis=1) @ np.array(_THUMB_UP)
    z = _unit(bones)
    x = _unit(np.cross(np.stack([thumb, back, back, back, back])[:, None], z))
    return Anatomy(joints, np.stack([x, np.cross(z, x), z], axis=-1))


def rotations_from_angles(
    angles: Float[np.ndarray, "*batch 5 3 3"], hand: Anatomy
) -> Float[np.ndarray, "*batch 16 3 3"]:
    """Local rotations, MANO's joint order: twist first, then flexion, then abduction."""
    (sx, sy, sz), (cx, cy, cz) = (
        np.moveaxis(f(np.radians(angles)), -1, 0) for f in (np.sin, np.cos)
    )
    local = np.stack(
        [
            *(cy * cz + sy * sx * sz, sy * sx * cz - cy * sz, sy * cx),
            *(cx * sz, cx * cz, -sx),
            *(cy * sx * sz - sy * cz, sy * sz + cy * sx * cz, cy * cx),
        ],
        axis=-1,
    ).reshape(*angles.shape, 3)
    fingers = hand.frames @ local @ np.swapaxes(hand.frames, -1, -2)
    rotations = np.empty((*angles.shape[:-3], 16, 3, 3))
    rotations[..., 0, :, :] = np.eye(3)
    rotations[..., 1:, :, :] = fingers[..., _MANO_FINGERS, :, :, :].reshape(
        *angles.shape[:-3], 15, 3, 3
    )
    return rotations


def pose_joints(
    rotations: Float[np.ndarray, "*batch 16 3 3"], joints: Float[np.ndarray, "21 3"]
) -> Float[np.ndarray, "*batch 21 3"]:
    """Forward kinematics: the 21 joints (tips included) about the wrist at the origin.

    Args:
        rotations: local, MANO's joint order, the first one global.
        joints: at rest, wrist first, then thumb to pinky, each base to tip; either hand.
    """
    batch = rotations.shape[:-3]
    order = np.argsort(_MANO_FINGERS)
    fingers = rotations[..., 1:, :, :].reshape(*batch, 5, 3, 3, 3)[..., order, :, :, :]
    rest = (joints - joints[0])[1:].reshape(5, 4, 3)
    bones = np.diff(rest, axis=1)[..., None]
    frame = np.broadcast_to(rotations[..., :1, :, :], (*batch, 5, 3, 3))
    places = [(frame @ rest[:, 0, :, None])[..., 0]]
    for joint in range(3):
        frame = frame @ fingers[..., joint, :, :]
        places.append(places[-1] + (frame @ bones[:, joint])[..., 0])
    posed = np.zeros((*batch, 21, 3))
    posed[..., 1:, :] = np.stack(places, axis=-2).reshape(*batch, 20, 3)
    return posed


def capsules(
    joints: Float[np.ndarray, "*batch 21 3"],
) -> tuple[Float[np.ndarray, "*batch 19 2 3"], Float[np.ndarray, "*batch 19"]]:
    """A hand as capsules: end points of their axes and radii, in the unit of the joints.

    15 phalanges (thumb to pinky, base to tip), then the metacarpals index to pinky.
    """
    unit = np.linalg.norm(joints[..., 9, :] - joints[..., 0, :], axis=-1)[..., None]
    fingers = joints[..., 1:, :].reshape(*joints.shape[:-2], 5, 4, 3)
    bones = np.stack([fingers[..., :-1, :], fingers[..., 1:, :]], axis=-2)
    tips, last = bones[..., 2, 1, :], bones[..., 2, 0, :]
    # The tip joint lies on the skin, so the axis ends a radius before it.
    bones[..., 2, 1, :] = tips - _unit(tips - last) * (_RADII[:, 2] * unit)[..., None]
    wrist, knuckles = joints[..., None, 0, :], fingers[..., 1:, 0, :]
    palm = np.stack([wrist + k * (knuckles - wrist) for k in (_PALM_START, _PALM_END)], axis=-2)
    segments = np.concatenate([bones.reshape(*bones.shape[:-4], 15, 2, 3), palm], axis=-3)
    radii = np.concatenate([_RADII.ravel(), np.full(4, _PALM_RADIUS)]) * unit
    return segments, radii


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distance of segments (..., 2, 3), both longer than zero; Ericson 2005, section 5.1.9."""
    p, q = a[..., 0, :], b[..., 0, :]
    u, v, r = a[..., 1, :] - p, b[..., 1, :] - q, p - q
    uu, vv, uv, ur, vr = (
        np.einsum("...c,...c->...", *pair) for pair in ((u, u), (v, v), (u, v), (u, r), (v, r))
    )
    determinant = uu * vv - uv * uv
    parallel = determinant < 1e-9 * uu * vv
    s = np.clip((uv * vr - ur * vv) / np.where(parallel, 1.0, determinant), 0, 1)
    t = np.clip((uv * np.where(parallel, 0.0, s) + vr) / vv, 0, 1)
    s = np.clip((uv * t - ur) / uu, 0, 1)
    return np.linalg.norm(r + s[..., None] * u - t[..., None] * v, axis=-1)


def _tested_pairs() -> tuple[np.ndarray, np.ndarray]:
    """Pairs of a hand's capsules that must stay apart."""
    pairs = []
    for a in range(19):
        for b in range(a + 1, 19):
            finger_a, joint_a = divmod(a, 3)
            finger_b, joint_b = divmod(b, 3)
            if b >= 15:
                # Fingers grow out of the palm, and the thumb's first two bones lie against it.
                apart = a < 15 and joint_a > (1 if finger_a == 0 else 0)
            elif a == 0:
                apart = finger_b > 0 and joint_b == 2  # fingertips against the ball of the thumb
            else:
                apart = finger_a != finger_b
            if apart:
                pairs.append((a, b))
    first, second = np.array(pairs).T
    return first, second


_FIRST, _SECOND = _tested_pairs()


def self_penetration(joints: Float[np.ndarray, "*batch 21 3"]) -> Float[np.ndarray, "*batch"]:
    """How deep a hand's capsules reach into each other at most; negative is a gap."""
    segments, radii = capsules(joints)
    distance = _distance(segments[..., _FIRST, :, :], segments[..., _SECOND, :, :])
    depth = radii[..., _FIRST] + radii[..., _SECOND] - distance
    return np.asarray(depth.max(axis=-1))


def _fill(
    thumb: np.ndarray, fingers: np.ndarray, fan: np.ndarray
) -> Float[np.ndarray, "batch 5 3 3"]:
    """Angles from the numbers of a template: thumb (batch, 5), fingers (batch, 4, 2), fan."""
    angles = np.zeros((len(thumb), 5, 3, 3))
    angles[:, 0, 0] = thumb[:, :3]
    angles[:, 0, 1:, 0] = thumb[:, 3:]
    angles[:, 1:, :2, 0] = fingers
    closed = np.clip(fingers[..., 0] / 80, 0, 1)
    # In a fist the palm is in the way of the last phalanx.
    angles[:, 1:, 2, 0] = _DIP_OVER_PIP * fingers[..., 1] * (1 - 0.35 * closed)
    # Collateral ligaments tighten as the knuckle bends: no room to spread in a fist.
    room = 1 - 0.9 * closed
    angles[:, 1:, 0, 1] = np.array([1.0, 0.1, -0.7, -1.4]) * fan[:, None] * room
    return angles


def _table(names: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = [_TEMPLATES[name] for name in names]
    thumbs, fingers, fans = zip(*rows, strict=True)
    return np.array(thumbs, float), np.array(fingers, float), np.array(fans, float)


_THUMBS, _FINGERS, _FANS = _table(list(TEMPLATES))


def template_angles(name: str) -> Float[np.ndarray, "5 3 3"]:
    """Joint angles of a template, degrees.

    Raises:
        InputError: no template of that name.
    """
    if name not in _TEMPLATES:
        raise InputError(f"no hand pose called {name!r}: choose one of {', '.join(TEMPLATES)}")
    return _fill(*_table([name]))[0]


def template_pose(name: str, hand: Anatomy) -> Float[np.ndarray, "16 3 3"]:
    """Local rotations of a template for the right hand.

    Raises:
        InputError: no template of that name.
    """
    return rotations_from_angles(template_angles(name), hand)


def sample_angles(
    rng: np.random.Generator, count: int, noise: float = 1.0
) -> Float[np.ndarray, "batch 5 3 3"]:
    """Joint angles of random blends of two templates plus noise, within `LIMITS`, degrees.

    Nothing keeps the fingers of these from passing through each other: see `sample_pose`.
    """
    scores = np.log(_WEIGHTS) + rng.gumbel(size=(count, len(_WEIGHTS)))
    a, b = np.argsort(-scores, axis=1)[:, :2].T  # two different templates, by weight
    share = rng.beta(0.6, 0.6, count)

    def blend(values: np.ndarray) -> np.ndarray:
        w = share.reshape(-1, *[1] * (values.ndim - 1))
        return (1 - w) * values[a] + w * values[b]

    def jitter(*shape: int) -> np.ndarray:
        return noise * rng.normal(size=(count, *shape))

    thumb = blend(_THUMBS) + jitter(5) * np.array([5, 5, 4, 7, 8])
    # A hand opens and closes as a whole, each finger a little on its own.
    curl = 5 * jitter(1, 1) + 5 * jitter(4, 1)
    fingers = blend(_FINGERS) + curl * np.array([1, 1.2]) + 4 * jitter(4, 2)
    angles = _fill(thumb, fingers, blend(_FANS) + 3 * jitter())
    angles[:, 1:, 0, 1:] += jitter(4, 2) * np.array([1.5, 1.5])
    angles[:, 1:, 2, 0] += 4 * jitter(4)
    angles[:, 0, 1, 1:] += 2 * jitter(2)
    return np.clip(angles, LIMITS[..., 0], LIMITS[..., 1])


def sample_pose(rng: np.random.Generator, hand: Anatomy) -> Float[np.ndarray, "16 3 3"]:
    """A random natural pose of the right hand whose fingers do not pass through each other.

    Where none is found in `TRIES` it is the relaxed hand, which is open whatever the shape.

    Args:
        rng: the only source of randomness.
        hand: from `anatomy`.
    """
    for _ in range(TRIES):
        rotations = rotations_from_angles(sample_angles(rng, CANDIDATES), hand)
        good = np.flatnonzero(self_penetration(pose_joints(rotations, hand.joints)) <= 0)
        if len(good):
            return rotations[good[0]]
    return template_pose("relaxed", hand)


def mirror_rotations(
    rotations: Float[np.ndarray, "*batch 3 3"],
) -> Float[np.ndarray, "*batch 3 3"]:
    """The same pose for the other hand: rotations mirrored in x."""
    sign = np.array([-1.0, 1.0, 1.0])
    return rotations * sign[:, None] * sign
