"""Shaded pictures of one or two hands: skin, nails, one to three lights, soft shadows, a studio.

Rays are cast by Embree, only inside the box of the hands. A picture is a pure function of its
arguments. Albedo and light are linear; backgrounds and the result are display values (sRGB-like).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from jaxtyping import Bool, Float, Int, UInt8

from dne_lib.mano import ASSETS, FINGERTIPS
from dne_lib.rasterize import vertex_normals

WIDTH, HEIGHT = 512, 334  # InterHand2.6M's landscape images
GAMMA = 2.2
SHADOW_RAYS = 7  # per light and sample in half-shadow
PROBES = 3  # per light and sample elsewhere
AMBIENT_RAYS = 12  # per vertex
STEP = 0.004  # metres; more between neighbouring pixels is an edge
# Light to dark, display values; neighbours are about equally far apart to the eye.
SKIN_TONES = np.array(
    [
        [0.97, 0.83, 0.75],
        [0.92, 0.74, 0.63],
        [0.83, 0.63, 0.51],
        [0.73, 0.53, 0.41],
        [0.60, 0.42, 0.32],
        [0.47, 0.32, 0.25],
        [0.37, 0.25, 0.20],
    ]
)
# Where an edge pixel is sampled besides its centre: a rotated grid.
SUBPIXELS = np.array([[-0.375, -0.125], [-0.125, 0.375], [0.125, -0.375], [0.375, 0.125]])


def _floats(*values: float | int) -> Float[np.ndarray, "values"]:
    return np.array(values, np.float32)


class Camera(NamedTuple):
    """A pinhole; the centre of the first pixel is at (0, 0)."""

    focal: Float[np.ndarray, "2"]  # pixels
    centre: Float[np.ndarray, "2"]  # pixels


class Picture(NamedTuple):
    image: UInt8[np.ndarray, "height width 3"]  # RGB
    coverage: Float[np.ndarray, "height width"]  # part of each pixel that hands fill, 0..1


@dataclass(frozen=True)
class Skin:
    """What makes a subject's hands look like that subject's."""

    base: Float[np.ndarray, "3"]  # linear albedo
    palm: Float[np.ndarray, "3"]  # linear albedo of the inside of the hand
    nail: Float[np.ndarray, "3"]
    redness: float  # of knuckles, fingertips and palm
    mottle: Float[np.ndarray, "778"]  # slow changes of brightness, standard deviation 1
    gloss: float


class Nail(NamedTuple):
    """An ellipse on the back of a fingertip, rest coordinates, metres."""

    joint: int  # the last of its finger
    centre: Float[np.ndarray, "3"]
    along: Float[np.ndarray, "3"]  # unit, towards the tip
    across: Float[np.ndarray, "3"]
    normal: Float[np.ndarray, "3"]
    length: float  # half of it
    width: float


@dataclass(frozen=True)
class RestHand:
    """Facts of the rest pose of the right hand; the left hand mirrors it, vertex for vertex."""

    faces: Int[np.ndarray, "face 3"]  # 1538 of the hand, then the fan that caps the wrist
    rim: Int[np.ndarray, "edge"]  # the wrist's open edge
    position: Float[np.ndarray, "779 3"]  # metres; the last is the cap's centre
    masks: Float[np.ndarray, "779 3"]  # palm, back, red (knuckles and fingertips), 0..1
    part: Int[np.ndarray, "779"]
    joints: Float[np.ndarray, "16 3"]
    bones: Float[np.ndarray, "16 3"]  # unit direction from each joint to the next
    lengths: Float[np.ndarray, "16"]  # metres
    nails: tuple["Nail", ...]
    smooth: Float[np.ndarray, "778 778"]  # averages a vertex with its neighbours, several times


@cache
def rest_hand() -> RestHand:
    """Read the built-in right hand and derive where its skin differs."""
    with np.load(ASSETS / "hand_right.npz") as file:
        rest = np.asarray(file["v_template"], float)
        hand_faces = file["f"].astype(np.int32)
        weights, nails = file["weights"], file["nails"].astype(np.float32)
        joints = file["J_regressor"] @ rest
    edges = {(f[i], f[(i + 1) % 3]) for f in hand_faces.tolist() for i in range(3)}
    following = {b: a for a, b in edges if (b, a) not in edges}
    rim = [min(following)]
    while following[rim[-1]] != rim[0]:
        rim.append(following[rim[-1]])
    fan = [[778, a, b] for a, b in zip(rim, rim[1:] + rim[:1], strict=True)]
    position = np.concatenate([rest, rest[rim].mean(0, keepdims=True)])

    normals = unit(vertex_normals(rest, hand_faces))
    tips = rest[FINGERTIPS]
    ends = {15: 0, 3: 1, 6: 2, 12: 3, 9: 4}  # last joint of a finger -> its tip, thumb to pinky
    following_point = np.array(
        [joints[4]] + [tips[ends[j]] if j in ends else joints[j + 1] for j in range(1, 16)]
    )
    bones = following_point - joints
    lengths = np.linalg.norm(bones, axis=1)

    def near(points: np.ndarray, radius: float) -> np.ndarray:
        distance = np.linalg.norm(rest[:, None] - points, axis=2).min(1)
        return np.exp(-((distance / radius) ** 2))

    palm, back = np.clip(-normals[:, 1], 0, 1), np.clip(normals[:, 1], 0, 1)
    knuckles = near(joints[1:], 0.011) * back
    masks = np.stack([palm, back, np.maximum(knuckles, 0.9 * near(tips, 0.011))], 1)
    adjacency = np.eye(778)
    for i in range(3):
        adjacency[hand_faces[:, i], hand_faces[:, (i + 1) % 3]] = 1
        adjacency[hand_faces[:, (i + 1) % 3], hand_faces[:, i]] = 1
    smooth = np.linalg.matrix_power(adjacency / adjacency.sum(1, keepdims=True), 5)
    return RestHand(
        faces=np.concatenate([hand_faces, np.array(fan, np.int32)]),
        rim=np.array(rim),
        position=position.astype(np.float32),
        masks=np.concatenate([masks, masks[rim].mean(0, keepdims=True)]).astype(np.float32),
        part=np.append(weights.argmax(1), 0),
        joints=joints.astype(np.float32),
        bones=(bones / lengths[:, None]).astype(np.float32),
        lengths=lengths.astype(np.float32),
        nails=tuple(
            _nail(row, joint, bones[joint]) for row, joint in zip(nails, ends, strict=True)
        ),
        smooth=smooth,
    )


def _nail(row: Float[np.ndarray, "14"], joint: int, bone: Float[np.ndarray, "3"]) -> Nail:
    """A row of the hand file: centre, two axes, normal, two radii."""
    axes, radii = row[3:9].reshape(2, 3), row[12:14]
    first = int(np.abs(axes @ bone).argmax())
    along = axes[first] * np.sign(axes[first] @ bone)
    return Nail(joint, row[:3], along, axes[1 - first], row[9:12], radii[first], radii[1 - first])


@cache
def skin_grain() -> Float[np.ndarray, "64 64 64 4"]:
    """Periodic noise in 3D, value and gradient per cell: the fine structure of skin."""
    rng = np.random.default_rng(7)
    frequency = np.fft.fftfreq(64)
    radius = np.sqrt(sum(np.meshgrid(*[frequency**2] * 3, indexing="ij")))
    band = np.exp(-(((radius - 0.16) / 0.1) ** 2)) + 4 * np.exp(-((radius / 0.04) ** 2))
    value = np.fft.ifftn(np.fft.fftn(rng.standard_normal((64, 64, 64))) * band).real
    value /= value.std()
    gradient = [np.roll(value, -1, i) - np.roll(value, 1, i) for i in range(3)]
    return np.stack([value, *gradient], -1).astype(np.float32)


@cache
def sensor_grain() -> Float[np.ndarray, "tall wide 3"]:
    """A sheet of noise twice the image: each picture cuts its own piece, which costs no draws."""
    rng = np.random.default_rng(8)
    grain = rng.standard_normal((2 * HEIGHT, 2 * WIDTH, 3), dtype=np.float32)
    return 0.8 * cv2.GaussianBlur(grain, (3, 3), 0.5) + 0.4 * grain


def sample_skin(
    rng: np.random.Generator,
    tone: float | None = None,
    colour: Float[np.ndarray, "3"] | None = None,
) -> Skin:
    """A subject's skin.

    Args:
        tone: 0 lightest .. 1 darkest; None draws it evenly.
        colour: display values; None takes that of the tone.
    """
    tone = rng.uniform() if tone is None else tone
    if colour is None:
        place = tone * (len(SKIN_TONES) - 1)
        low = min(int(place), len(SKIN_TONES) - 2)
        between = SKIN_TONES[low] * (1 - place + low) + SKIN_TONES[low + 1] * (place - low)
        display = np.clip(between * (1 + rng.normal(0, 0.02, 3)), 0, 1)
    else:
        display = colour
    base = display**GAMMA
    palm = base * (1 - 0.45 * tone) + 0.45 * tone * SKIN_TONES[2] ** GAMMA
    nail = np.clip(0.75 * base * [1.12, 0.92, 0.92] + 0.25 * np.array([0.8, 0.5, 0.45]), 0, 1)
    mottle = rest_hand().smooth @ rng.standard_normal(778)
    return Skin(
        base=base.astype(np.float32),
        palm=palm.astype(np.float32),
        nail=nail.astype(np.float32),
        redness=float(rng.uniform(0.5, 1.2) * (1 - 0.5 * tone)),
        mottle=(mottle / mottle.std()).astype(np.float32),
        gloss=float(rng.uniform(0.5, 1.3)),
    )


def sample_background(rng: np.random.Generator) -> Float[np.ndarray, "height width 3"]:
    """A studio out of focus: dark with dim lamps, a lit wall, wall and floor, or soft shapes."""
    height, width = HEIGHT // 4, WIDTH // 4  # nothing in it is sharp
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = x / width * 2 - 1, y / height * 2 - 1
    kind = rng.choice(["dark", "wall", "floor", "shapes"], p=[0.35, 0.25, 0.2, 0.2])
    level = rng.uniform(0.03, 0.2) if kind == "dark" else rng.uniform(0.2, 0.92)
    colour = level * (1 + rng.normal(0, 0.035, 3))
    image = np.tile(colour.astype(np.float32), (height, width, 1))
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.cos(angle) * x + np.sin(angle) * y
    image *= (1 + rng.uniform(0, 0.3) * slope)[..., None]
    if kind == "floor":
        edge = rng.uniform(-0.6, 0.7) + rng.normal(0, 0.08) * x
        mix = 0.5 + 0.5 * np.tanh((y - edge) / rng.uniform(0.04, 0.3))
        floor = rng.uniform(0.15, 0.85) * (1 + rng.normal(0, 0.06, 3))
        image += mix[..., None] * (floor - image)
    count = {"dark": rng.integers(0, 9), "wall": 1, "floor": rng.integers(0, 4), "shapes": 9}[kind]
    for _ in range(int(count)):
        spot, size = rng.uniform(-1.2, 1.2, 2), rng.uniform(0.05, 0.8 if kind != "dark" else 0.25)
        aspect, turn = rng.uniform(0.3, 1), rng.uniform(0, np.pi)
        dx, dy = x - spot[0], (y - spot[1]) * height / width
        u, v = np.cos(turn) * dx + np.sin(turn) * dy, np.cos(turn) * dy - np.sin(turn) * dx
        distance = np.sqrt(u**2 + (v / aspect) ** 2) / size
        mix = 0.5 - 0.5 * np.tanh((distance - 1) / rng.uniform(0.1, 0.8))
        if kind in ("dark", "wall"):
            image += (mix * rng.uniform(0.05, 0.3))[..., None]
        else:
            shade = rng.uniform(0.1, 0.9) * (1 + rng.normal(0, 0.07, 3))
            image += (mix * rng.uniform(0.3, 0.9))[..., None] * (shade - image)
    image *= (1 - rng.uniform(0, 0.25) * (x**2 + y**2) / 2)[..., None]
    image = cv2.resize(image.astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.clip(image, 0, 1)


# How far past the terminator diffuse light reaches, as a cosine, for red, green and blue.
WRAP = _floats(0.3, 0.15, 0.11)


class Light(NamedTuple):
    direction: Float[np.ndarray, "3"]  # unit, towards the light
    colour: Float[np.ndarray, "3"]
    size: float  # tangent of half the angle that the lamp fills


def sample_lights(rng: np.random.Generator) -> list[Light]:
    """One to three lamps: a key from above and the camera's side, then weaker ones anywhere."""
    lights = []
    for i in range(rng.integers(1, 4)):
        direction = rng.normal(size=3)
        if i == 0:
            direction = np.abs(direction) * [rng.choice([-1, 1]), -0.5, -0.8]
            direction[2] -= 0.4
        else:
            direction[1] -= 0.4
        warmth = rng.normal(0, 0.07)
        strength = rng.uniform(0.8, 1.2) if i == 0 else rng.uniform(0.2, 0.7)
        lights.append(
            Light(
                unit(direction).astype(np.float32),
                strength * _floats(1 + warmth, 1, 1 - warmth),
                float(rng.uniform(0.05, 0.3)),
            )
        )
    return lights


class Solid(NamedTuple):
    """What is in the picture besides hands: an arm, a sleeve, a thing that is held."""

    vertices: Float[np.ndarray, "vertex 3"]  # metres
    faces: Int[np.ndarray, "face 3"]  # of a closed surface
    normals: Float[np.ndarray, "vertex 3"]  # unit, outwards
    paint: Float[np.ndarray, "vertex 8"]  # place in the grain (metres), albedo, gloss, roughness


class Mesh(NamedTuple):
    """The hands of one picture, then the solids; camera frame, metres."""

    vertices: Float[np.ndarray, "vertex 3"]
    faces: Int[np.ndarray, "face 3"]
    normals: Float[np.ndarray, "vertex 3"]
    # Rest position, masks, mottle; then a solid's albedo, gloss and roughness.
    attributes: Float[np.ndarray, "vertex 12"]
    part: Int[np.ndarray, "vertex"]
    cap: Bool[np.ndarray, "face"]
    solid: Bool[np.ndarray, "face"]
    scene: EmbreeScene


def build_mesh(
    hands: Float[np.ndarray, "hand 778 3"],
    sides: tuple[int, ...],
    mottle: Float[np.ndarray, "778"],
    solids: Sequence[Solid] = (),
) -> Mesh:
    """Cap the wrists and hand all to Embree."""
    body = rest_hand()
    vertices, faces, normals = [], [], []
    for i, (hand, side) in enumerate(zip(hands, sides, strict=True)):
        hand = np.asarray(hand, float)
        capped = np.concatenate([hand, hand[body.rim].mean(0, keepdims=True)])
        own = body.faces[:, ::-1] if side else body.faces
        smooth = unit(vertex_normals(capped, own[:1538]))
        smooth[778] = unit(vertex_normals(capped, own[1538:])[778])
        vertices.append(capped)
        faces.append(own + 779 * i)
        normals.append(smooth)
    rest = np.concatenate(
        [body.position, body.masks, np.append(mottle, 0)[:, None], np.zeros((779, 5))], 1
    )
    attributes = [np.tile(rest.astype(np.float32), (len(hands), 1))]
    for solid in solids:
        faces.append(solid.faces + sum(map(len, vertices)))
        vertices.append(solid.vertices)
        normals.append(solid.normals)
        attributes.append(np.insert(solid.paint, [3] * 4, 0, axis=1).astype(np.float32))
    own, others = len(hands) * len(body.faces), sum(len(solid.faces) for solid in solids)
    scene = EmbreeScene()
    points = np.ascontiguousarray(np.concatenate(vertices), np.float32)
    triangles = np.ascontiguousarray(np.concatenate(faces), np.int32)
    TriangleMesh(scene, points, triangles)
    return Mesh(
        points,
        triangles,
        np.concatenate(normals).astype(np.float32),
        np.concatenate(attributes),
        np.append(np.tile(body.part, len(hands)), np.zeros(len(points) - 779 * len(hands), int)),
        np.append(np.tile(np.arange(len(body.faces)) >= 1538, len(hands)), np.zeros(others, bool)),
        np.arange(own + others) >= own,
        scene,
    )


def occluded(
    scene: EmbreeScene, origins: Float[np.ndarray, "ray 3"], directions: Float[np.ndarray, "rays 3"]
) -> Bool[np.ndarray, "ray"]:
    """Whether rays meet the mesh; one direction serves all origins."""
    if len(origins) == 0:
        return np.zeros(0, bool)
    hit = scene.run(
        np.ascontiguousarray(origins, np.float32),
        np.ascontiguousarray(directions, np.float32),
        query="OCCLUDED",
    )
    return hit >= 0


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.sqrt(np.einsum("...c,...c->...", vectors, vectors) + 1e-20)[..., None]


def ambient_light(mesh: Mesh, rng: np.random.Generator) -> Float[np.ndarray, "vertex"]:
    """The part of its sky that each vertex sees: few rays, since interpolation smooths it."""
    directions = unit(rng.standard_normal((len(mesh.vertices), AMBIENT_RAYS, 3), np.float32))
    directions = unit(directions + 1.02 * mesh.normals[:, None])  # cosine-weighted
    origins = np.repeat(mesh.vertices + 0.002 * mesh.normals, AMBIENT_RAYS, axis=0)
    blocked = occluded(mesh.scene, origins, directions.reshape(-1, 3))
    return 1 - blocked.reshape(-1, AMBIENT_RAYS).mean(1).astype(np.float32)


def cast(
    mesh: Mesh, pixels: Float[np.ndarray, "ray 2"], camera: Camera
) -> tuple[Int[np.ndarray, "ray"], Float[np.ndarray, "ray 3"], Float[np.ndarray, "ray"]]:
    """What the rays through image points (pixels) meet: face (-1: none), barycentrics, depth."""
    directions = np.ones((len(pixels), 3), np.float32)
    directions[:, :2] = (pixels - camera.centre) / camera.focal
    hits = mesh.scene.run(np.zeros_like(directions), directions, output=1)
    u, v = hits["u"], hits["v"]
    return hits["primID"], np.stack([1 - u - v, u, v], 1), hits["tfar"]


def albedo_and_gloss(
    rest: Float[np.ndarray, "sample 3"],
    masks: Float[np.ndarray, "sample 3"],
    mottle: Float[np.ndarray, "sample"],
    part: Int[np.ndarray, "sample"],
    grain: Float[np.ndarray, "sample"],
    skin: Skin,
) -> tuple[Float[np.ndarray, "sample 3"], Float[np.ndarray, "sample"]]:
    """Colour of the skin, its creases and the nails at points of the rest pose."""
    body = rest_hand()
    palm, back, red = masks.T
    inside = np.clip(1.6 * palm, 0, 1)[:, None]
    colour = skin.base + inside * (skin.palm - skin.base)
    flush = skin.redness * (0.7 * red + 0.35 * palm)
    colour = colour * (1 + flush[:, None] * _floats(0.06, -0.16, -0.15))
    colour = colour * (1 + 0.05 * mottle + 0.035 * grain)[:, None]

    local = rest - body.joints[part]
    along = (local * body.bones[part]).sum(1)
    finger = part > 0
    crease = np.zeros(len(rest), np.float32)
    for s in (along, along - body.lengths[part]):
        flexor = np.exp(-((s / 0.0009) ** 2)) * np.clip(2 * palm, 0, 1)
        wrinkle = np.exp(-((s / 0.005) ** 2)) * (0.5 + 0.5 * np.cos(s / 0.00045)) * back
        crease += 0.22 * flexor + 0.12 * wrinkle
    tip = np.isin(part, [nail.joint for nail in body.nails]) & (along > 0.5 * body.lengths[part])
    colour = colour * (1 - (crease * (finger & ~tip))[:, None] * _floats(0.8, 1, 1))

    gloss = np.full(len(rest), 0.5 * skin.gloss, np.float32)
    for nail in body.nails:
        on = np.flatnonzero(part == nail.joint)
        offset = rest[on] - nail.centre
        along = offset @ nail.along / nail.length
        radius = np.hypot(along, offset @ nail.across / nail.width)
        above = np.abs(offset @ nail.normal) < 0.004
        plate = np.clip((1.05 - radius) / 0.12, 0, 1) * above
        fold = np.exp(-(((radius - 1.1) / 0.1) ** 2)) * above
        edge = 0.4 * np.clip(5 * along - 3.9, 0, 1)[:, None]
        paint = skin.nail + edge * (_floats(0.85, 0.8, 0.74) - skin.nail)
        colour[on] += (0.85 * plate)[:, None] * (paint - colour[on])
        colour[on] *= 1 - 0.22 * fold[:, None]
        gloss[on] += 1.6 * plate
    return np.clip(colour, 0.005, 1), gloss


class Cuff(NamedTuple):
    """Cloth at the wrist, so that the capped end does not read as a cut; width 0: bare skin."""

    width: float  # metres
    colour: Float[np.ndarray, "3"]


def sample_cuff(rng: np.random.Generator) -> Cuff:
    colour = (rng.uniform(0.05, 0.6) * (1 + rng.normal(0, 0.1, 3))) ** GAMMA
    width = rng.uniform(0.004, 0.012) if rng.uniform() < 0.6 else 0.0
    return Cuff(float(width), np.clip(colour, 0.002, 1).astype(np.float32))


def shade(
    mesh: Mesh,
    face: Int[np.ndarray, "sample"],
    barycentric: Float[np.ndarray, "sample 3"],
    skin: Skin,
    cuff: Cuff,
    lights: list[Light],
    rng: np.random.Generator,
) -> Float[np.ndarray, "sample 3"]:
    """Linear radiance towards the camera at points of the mesh."""
    corners = mesh.faces[face]
    table = np.concatenate(
        [mesh.vertices, mesh.normals, ambient_light(mesh, rng)[:, None], mesh.attributes], 1
    )
    a, b, c = (table[corners[:, k]] * barycentric[:, k, None] for k in range(3))
    values = a + b + c
    point, normal, open_sky = values[:, :3], unit(values[:, 3:6]), values[:, 6]
    cap = mesh.cap[face]
    across = normal.copy()
    across[cap] = mesh.normals[corners[cap].max(1)]  # the centre's: rays start above the cap
    if cuff.width:
        normal = across  # cloth ends in a rim, skin is rounded
    rest, masks, mottle = values[:, 7:10], values[:, 10:13], values[:, 13]
    part = mesh.part[corners[np.arange(len(face)), barycentric.argmax(1)]]

    cell = np.floor(rest / np.float32(0.0006)).astype(np.int32) & 63
    grain = skin_grain()[cell[:, 0], cell[:, 1], cell[:, 2]]
    colour, gloss = albedo_and_gloss(rest, masks, mottle, part, grain[:, 0], skin)
    cloth = cap & (cuff.width > 0)
    if cuff.width:
        cloth |= (rest[:, 0] > rest_hand().position[778, 0] - cuff.width) & (part == 0)
        colour[cloth] = cuff.colour
        colour[cap] *= 0.35  # the inside of a sleeve
    gloss[cloth | cap] = 0.05
    rough = (~(cloth | cap)).astype(np.float32)
    solid = mesh.solid[face]
    paint = values[solid, 14:]
    colour[solid] = paint[:, :3] * (1 + 0.035 * paint[:, 4] * grain[solid, 0])[:, None]
    gloss[solid], rough[solid] = paint[:, 3], paint[:, 4]
    # The gradient lives in rest coordinates; as a small tilt its direction hardly matters.
    bumped = unit(normal + np.float32(0.03) * grain[:, 1:4] * rough[:, None])
    view = -unit(point)

    sky = open_sky * (0.75 - 0.25 * bumped[:, 1])  # brighter from above (y points down)
    level = np.float32(rng.uniform(0.15, 0.4))
    # Light that skin scatters fills creases with red.
    bounce = (1 - open_sky)[:, None] * _floats(0.25, 0.1, 0.08)
    radiance = colour * level * (sky[:, None] + bounce)
    origin = point + np.float32(0.0012) * across
    for light in lights:
        visible = visibility(mesh.scene, origin, normal, light, rng.uniform(0, 2 * np.pi))
        cosine = bumped @ light.direction
        # Wrapped diffuse light, wider in red: light under the skin passes the terminator.
        diffuse = np.clip((cosine[:, None] + WRAP) / (1 + WRAP), 0, 1)
        facing = np.clip(np.einsum("sc,sc->s", bumped, unit(view + light.direction)), 0, 1) ** 12
        shine = gloss * (0.05 * facing + 0.11 * facing**5) * np.clip(cosine * 4, 0, 1)
        radiance += visible[:, None] * light.colour * (colour * diffuse + shine[:, None])
    return radiance


def visibility(
    scene: EmbreeScene,
    origins: Float[np.ndarray, "sample 3"],
    normals: Float[np.ndarray, "sample 3"],
    light: Light,
    turn: float,
) -> Float[np.ndarray, "sample"]:
    """The part of a lamp that each point sees.

    All points look at the same points of the lamp: steps instead of speckles, and rays that are
    parallel, which Embree traces faster.
    """
    visible = np.zeros(len(origins), np.float32)
    side = unit(np.cross(light.direction, [0.31, 0.87, 0.38]))
    up = np.cross(light.direction, side)
    points = np.flatnonzero(normals @ light.direction > -0.15)
    for k in range(SHADOW_RAYS):
        if k == PROBES:
            # Where these, which span the lamp, agree, the others will.
            seen = visible[points]
            visible[points[seen == PROBES]] = SHADOW_RAYS
            points = points[(seen > 0) & (seen < PROBES)]
        radius = light.size * np.sqrt(1 - k / SHADOW_RAYS)
        angle = turn + k * 2 * np.pi / PROBES + (k // PROBES) * 1.3
        direction = light.direction + radius * (np.cos(angle) * side + np.sin(angle) * up)
        visible[points] += ~occluded(scene, origins[points], direction[None])
    return visible / SHADOW_RAYS


class Layer(NamedTuple):
    """What stands before the background."""

    colour: Float[np.ndarray, "height width 3"]  # display values times alpha
    alpha: Float[np.ndarray, "height width"]  # part of each pixel that anything fills
    coverage: Float[np.ndarray, "height width"]  # part of each pixel that hands fill

    def over(
        self, background: Float[np.ndarray, "height width 3"]
    ) -> Float[np.ndarray, "height width 3"]:
        """The whole picture."""
        return (background * (1 - self.alpha[..., None]) + self.colour).astype(np.float32)


def render(
    hands: Float[np.ndarray, "hand 778 3"],
    sides: tuple[int, ...],
    camera: Camera,
    skin: Skin,
    rng: np.random.Generator,
) -> Picture:
    """Draw hands into a 512x334 picture with lights, cuffs and background drawn from `rng`.

    Args:
        hands: vertices, camera frame, metres, in front of the camera.
        sides: 0 right, 1 left, for each hand.

    Returns:
        The picture; black coverage where no hand is in view.
    """
    background, lights, cuff = sample_background(rng), sample_lights(rng), sample_cuff(rng)
    layer = draw(build_mesh(hands, sides, skin.mottle), camera, skin, cuff, lights, rng)
    image = add_noise(layer.over(background), (0.002, 0.012), rng)
    return Picture(to_bytes(image), layer.coverage)


def draw(
    mesh: Mesh,
    camera: Camera,
    skin: Skin,
    cuff: Cuff,
    lights: list[Light],
    rng: np.random.Generator,
) -> Layer:
    """Cast rays into the box of the mesh, more where it has edges, and shade what they meet."""
    colour = np.zeros((HEIGHT, WIDTH, 3))
    alpha, coverage = np.zeros((2, HEIGHT, WIDTH), np.float32)
    flat = mesh.vertices[:, :2] / mesh.vertices[:, 2:] * camera.focal + camera.centre
    left, top = np.clip(np.floor(flat.min(0)) - 1, 0, [WIDTH, HEIGHT]).astype(int)
    right, bottom = np.clip(np.ceil(flat.max(0)) + 2, 0, [WIDTH, HEIGHT]).astype(int)
    height, width = max(bottom - top, 0), max(right - left, 0)
    if not height or not width:
        return Layer(colour, alpha, coverage)
    rows, columns = np.mgrid[top:bottom, left:right].astype(np.float32)
    pixels = np.stack([columns, rows], -1).reshape(-1, 2)
    face, barycentric, depth = cast(mesh, pixels, camera)
    # A sleeve is further out than the arm in it by less than what counts as a step.
    steps = np.where(face >= 0, depth + mesh.solid[face], 0).reshape(height, width)
    edge = np.flatnonzero(depth_edges(steps))
    finer = (pixels[edge, None] + SUBPIXELS).reshape(-1, 2)
    more = cast(mesh, finer, camera)
    face = np.concatenate([face, more[0]])
    barycentric = np.concatenate([barycentric, more[1]])
    pixel = np.concatenate([np.arange(height * width), np.repeat(edge, len(SUBPIXELS))])
    hit = np.flatnonzero(face >= 0)
    radiance = shade(mesh, face[hit], barycentric[hit], skin, cuff, lights, rng)
    # Part of the way to one brightness for all: cameras expose for what they see.
    exposure = rng.uniform(0.22, 0.4) / (radiance.mean() ** 0.4 * 0.25**0.6 + 1e-6)
    display = tone(exposure * radiance)
    total = np.bincount(pixel, minlength=height * width)
    sums = [np.bincount(pixel[hit], display[:, k], height * width) for k in range(3)]
    box = np.s_[top:bottom, left:right]
    colour[box] = (np.stack(sums, -1) / total[:, None]).reshape(height, width, 3)
    for part, here in ((alpha, hit), (coverage, hit[~mesh.solid[face[hit]]])):
        filled = np.bincount(pixel[here], minlength=height * width)
        part[box] = (filled / total).reshape(height, width)
    return Layer(colour, alpha, coverage)


def add_noise(
    image: Float[np.ndarray, "height width 3"],
    strength: tuple[float, float],
    rng: np.random.Generator,
) -> Float[np.ndarray, "height width 3"]:
    """A sensor's noise, of a standard deviation between two."""
    row, column = rng.integers(HEIGHT), rng.integers(WIDTH)
    grain = sensor_grain()[row : row + HEIGHT, column : column + WIDTH]
    return image + np.float32(rng.uniform(*strength)) * grain


def to_bytes(image: Float[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width 3"]:
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)


def tone(radiance: Float[np.ndarray, "sample 3"]) -> Float[np.ndarray, "sample 3"]:
    """Linear light to display values; highlights roll off instead of clipping."""
    rolled = radiance * (1 + radiance / 4) / (1 + radiance)
    return np.clip(1.25 * rolled, 0, 1) ** (1 / GAMMA)


def depth_edges(depth: Float[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """Pixels beside a silhouette or a step in depth (metres): those that need finer samples."""
    edge = np.zeros(depth.shape, bool)
    down = np.abs(depth[1:] - depth[:-1]) > STEP
    across = np.abs(depth[:, 1:] - depth[:, :-1]) > STEP
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    return edge
