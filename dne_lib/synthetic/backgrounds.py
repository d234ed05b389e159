"""What may be behind hands on a photograph: rooms, desks, gardens, clutter, gradients.

Nothing here is a picture of anything: boxes, discs and noise, in the colours and the contrast of
the things that they stand for. Every scene is sharp and of display values; the lens blurs it.
"""

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int

from dne_lib.synthetic.render import HEIGHT, WIDTH, sample_background

# Display values. Walls and paper; wood, leather and skin; paint, cloth and print.
PALE = np.array([[0.93, 0.92, 0.9], [0.85, 0.83, 0.78], [0.78, 0.8, 0.82], [0.88, 0.84, 0.74]])
WOOD = np.array([[0.72, 0.54, 0.37], [0.5, 0.34, 0.22], [0.83, 0.68, 0.5], [0.33, 0.23, 0.17]])
SKIN = np.array([[0.88, 0.7, 0.6], [0.7, 0.5, 0.39], [0.45, 0.31, 0.24]])
GREEN = np.array([[0.28, 0.4, 0.15], [0.4, 0.5, 0.22], [0.16, 0.25, 0.11], [0.55, 0.55, 0.3]])
SKY = np.array([[0.5, 0.68, 0.88], [0.75, 0.84, 0.93], [0.86, 0.87, 0.88], [0.93, 0.8, 0.68]])

Image = Float[np.ndarray, "height width 3"]


def sample_scene(rng: np.random.Generator) -> Image:
    """A background drawn at random, 334 rows and 512 columns."""
    kinds = (room, desk, garden, clutter, gradient, sample_background)
    scene = kinds[rng.choice(len(kinds), p=[0.34, 0.25, 0.13, 0.09, 0.05, 0.14])]
    image = scene(rng)
    if scene in (room, garden) and rng.uniform() < 0.35:
        person(image, rng)
    return np.clip(image, 0, 1)


def tint(
    rng: np.random.Generator, palette: Float[np.ndarray, "colour 3"] | None = None
) -> Float[np.ndarray, "3"]:
    """A colour near one of a palette's, or any: mostly dull, now and then loud."""
    if palette is not None:
        return np.clip(palette[rng.integers(len(palette))] * (1 + rng.normal(0, 0.05, 3)), 0, 1)
    hue = np.cos(2 * np.pi * (rng.uniform() + np.arange(3) / 3))
    level, vivid = rng.uniform(0.06, 0.9), rng.beta(1.2, 5)
    return np.clip(level * (1 + vivid * hue), 0, 1)


@cache
def clouds() -> Float[np.ndarray, "1024 1024"]:
    """A sheet of 1/f noise that tiles, standard deviation 1: the irregularity of most things."""
    frequency = np.fft.fftfreq(1024)
    radius = np.hypot(frequency[:, None], frequency)
    spectrum = np.fft.fft2(np.random.default_rng(9).standard_normal((1024, 1024)))
    sheet = np.fft.ifft2(spectrum / np.maximum(radius, 1 / 1024)).real
    return ((sheet - sheet.mean()) / sheet.std()).astype(np.float32)


def patch(
    rng: np.random.Generator, scale: float | int = 1, stretch: float | int = 1
) -> Float[np.ndarray, "height width"]:
    """A piece of the sheet the size of a picture; `scale` enlarges, `stretch` pulls it in x."""
    rows, columns = rng.integers(1024, size=2)
    y = (np.arange(HEIGHT) / scale + rows).astype(int) % 1024
    x = (np.arange(WIDTH) / (scale * stretch) + columns).astype(int) % 1024
    piece = clouds()[y[:, None], x]
    return cv2.GaussianBlur(piece, (0, 0), 0.5 * scale) if scale > 1 else piece


def gradient(rng: np.random.Generator) -> Image:
    """From one colour to another."""
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    mix = 0.5 + 0.5 * np.tanh(rng.uniform(0.5, 3) * (np.cos(angle) * x + np.sin(angle) * y))
    start, end = tint(rng), tint(rng)
    return (start + mix[..., None] * (end - start)).astype(np.float32)


def clutter(rng: np.random.Generator) -> Image:
    """Things in front of things, the smaller the more: their edges are spread as in photographs."""
    image = np.empty((HEIGHT, WIDTH, 3), np.float32)
    image[:] = tint(rng)
    palettes = (None, None, WOOD, WOOD, PALE, PALE, SKIN, GREEN)
    colours = [tint(rng, palette) for palette in palettes]
    for _ in range(rng.integers(60, 200)):
        size = 12 / rng.uniform(0.05, 1) ** 0.9
        colour = colours[rng.integers(len(colours))] * rng.uniform(0.5, 1.2)
        centre = rng.uniform([-30, -30], [WIDTH + 30, HEIGHT + 30])
        turn, aspect = rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 1)
        corners = np.array([[-1, -aspect], [1, -aspect], [1, aspect], [-1, aspect]])
        if rng.uniform() < 0.3:
            corners[1:3] *= [1, 0.2]
        rounded = rng.uniform() < 0.5
        # First its shadow.
        for drop, paint in (
            (0.08 * size, 0.4 * colours[0]),
            (0, colour),
            (-0.05 * size, 1.1 * colour),
        ):
            place, extent = centre + drop, size * (1 if drop >= 0 else 0.75)
            if rounded:
                box = (tuple(place), (2 * extent, 2 * extent * aspect), np.degrees(turn))
                cv2.ellipse(image, box, paint.tolist(), -1, cv2.LINE_AA)
            else:
                fill(image, extent * corners @ rotation(turn) + place, paint)
    return image * (1 + 0.06 * patch(rng, 2) + 0.1 * patch(rng, 8))[..., None]


def rotation(angle: float) -> Float[np.ndarray, "2 2"]:
    """Of row vectors."""
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def fill(
    image: Image, corners: Float[np.ndarray, "corner 2"], colour: Float[np.ndarray, "3"]
) -> None:
    """Paint a polygon, pixels, with smooth edges."""
    points = np.round(corners * 16).astype(np.int32)
    cv2.fillConvexPoly(image, points, colour.tolist(), cv2.LINE_AA, shift=4)


def desk(rng: np.random.Generator) -> Image:
    """A table top from above, more or less steeply, with paper, books, cups and the like on it."""
    image = np.empty((HEIGHT, WIDTH, 3), np.float32)
    wooden = rng.uniform() < 0.5
    image[:] = tint(rng, WOOD) if wooden else tint(rng, PALE if rng.uniform() < 0.5 else None)
    if wooden:
        image *= (1 + 0.09 * patch(rng, 1, 12) + 0.05 * patch(rng, 4, 5))[..., None]
    else:
        image *= (1 + 0.03 * patch(rng, rng.choice([1.0, 3.0])))[..., None]
    for _ in range(rng.integers(2, 9)):
        centre, turn = rng.uniform([0, 0], [WIDTH, HEIGHT]), rng.normal(0, 0.5)
        _thing(image, rng, centre, turn)
    # Seen at a slant: the far side is smaller.
    far = rng.uniform(0, 0.3) * WIDTH
    flat = np.array([[0, 0], [WIDTH, 0], [WIDTH, HEIGHT], [0, HEIGHT]], np.float32)
    seen = np.array([[0, 0], [WIDTH, 0], [WIDTH + far, HEIGHT], [-far, HEIGHT]], np.float32)
    image = cv2.warpPerspective(
        image, cv2.getPerspectiveTransform(flat, seen), (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR
    )
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j].astype(np.float32)
    lamp = rng.uniform(-1, 1, 2)
    falloff = np.exp(-rng.uniform(0, 0.5) * ((x - lamp[0]) ** 2 + (y - lamp[1]) ** 2))
    return (image * (rng.uniform(0.5, 1.15) * falloff)[..., None]).astype(np.float32)


def _thing(
    image: Image, rng: np.random.Generator, centre: Float[np.ndarray, "2"], turn: float
) -> None:
    """Paint one thing that lies on a table, with its shadow."""
    kind = rng.choice(["paper", "book", "phone", "keys", "pen", "cup"])
    half = {
        "paper": (105, 148),
        "book": (80, 115),
        "phone": (38, 78),
        "keys": (190, 62),
        "pen": (4, 70),
        "cup": (42, 42),
    }[kind] * rng.uniform(0.7, 1.3, 1)
    turned = rotation(turn + (np.pi / 2) * rng.integers(2))

    def quad(low: Sequence[float | int], high: Sequence[float | int]) -> np.ndarray:
        """Corners of a rectangle given in halves of the thing."""
        corners = np.array([low, [high[0], low[1]], high, [low[0], high[1]]])
        return corners * half @ turned + centre

    height = {"paper": 2, "book": 9, "phone": 5, "keys": 7, "pen": 4, "cup": 26}[kind]
    shadow = np.ones((HEIGHT, WIDTH), np.float32)
    drop = np.array([0.5, 0.8]) * height
    if kind == "cup":
        cv2.ellipse(shadow, (tuple(centre + drop), tuple(2 * half), 0), 0.5, -1)
    else:
        corners = (quad((-1, -1), (1, 1)) + drop).astype(np.int32)
        cv2.fillConvexPoly(shadow, corners, 0.5)
    image *= cv2.GaussianBlur(shadow, (0, 0), 1 + 0.5 * height)[..., None]

    body = tint(rng, PALE) if kind == "paper" else tint(rng)
    if kind == "cup":
        cup, drink = tint(rng, PALE) if rng.uniform() < 0.5 else body, tint(rng, WOOD) * 0.5
        for radius, colour in ((1, cup), (0.88, 0.75 * cup), (0.82, drink)):
            place = (tuple(centre), tuple(2 * radius * half), 0)
            cv2.ellipse(image, place, colour.tolist(), -1, cv2.LINE_AA)
        return
    fill(image, quad((-1, -1), (1, 1)), body)
    if kind == "paper":
        ink, edge = 0.45 * body, rng.uniform(-0.4, 0.9)
        for row in np.arange(-0.88, edge, 0.07):
            fill(image, quad((-0.82, row), (rng.uniform(0.3, 0.82), row + 0.025)), ink)
    elif kind == "book":
        fill(image, quad((-1, -1), (-0.86, 1)), 0.6 * body)
        low = rng.uniform(-0.7, 0.2)
        fill(image, quad((-0.6, low), (0.7, low + rng.uniform(0.1, 0.6))), tint(rng))
    elif kind == "phone":
        screen = tint(rng) if rng.uniform() < 0.5 else np.full(3, 0.05)
        fill(image, quad((-0.92, -0.94), (0.92, 0.94)), screen)
    elif kind == "keys":
        key = tint(rng, PALE) * rng.choice([0.15, 1])
        for row in np.arange(-0.85, 0.8, 0.36):
            for column in np.arange(-0.95, 0.9, 0.128):
                fill(image, quad((column, row), (column + 0.11, row + 0.3)), key)
    else:
        fill(image, quad((-1, 0.8), (1, 1)), 0.4 * body)


def garden(rng: np.random.Generator) -> Image:
    """Sky, leaves and ground."""
    y = np.linspace(0, 1, HEIGHT, dtype=np.float32)[:, None, None]
    image = tint(rng, SKY) * (0.85 + 0.2 * y) * np.ones((1, WIDTH, 1), np.float32)
    image += 0.03 * patch(rng, 4, 2)[..., None]
    horizon, light = rng.uniform(-0.2, 0.9), rng.uniform(0.5, 1.2)
    for depth in range(3):
        edge = y[..., 0] - horizon + 0.25 - 0.15 * depth + 0.09 * patch(rng, 2)
        leaves = patch(rng, rng.uniform(0.8, 2)) + 0.6 * patch(rng, 0.35)
        colour = light * tint(rng, GREEN) * np.exp(0.35 * leaves)[..., None]
        mask = np.clip(20 * edge + 0.5 * leaves, 0, 1)[..., None]
        image += mask * (colour - image)
    ground = tint(rng, GREEN if rng.uniform() < 0.5 else WOOD) * light
    mix = np.clip(12 * (y - horizon - 0.25), 0, 1)
    image += mix * (ground * (1 + 0.15 * patch(rng, 1, 3)[..., None]) - image)
    return np.clip(image, 0, 1).astype(np.float32)


def person(image: Image, rng: np.random.Generator) -> None:
    """Paint somebody who stands behind: skin that is no hand."""
    scale, x = rng.uniform(60, 170), rng.uniform(0, WIDTH)
    top = rng.uniform(-0.8, 1.2) * scale
    skin, cloth, hair = tint(rng, SKIN), tint(rng), tint(rng, WOOD) * rng.uniform(0.2, 0.9)
    for place, size, colour in (
        ((0, 2.9), (2.6, 3.4), cloth),
        ((0, 1.15), (0.42, 0.9), 0.8 * skin),
        ((0, 0.45), (0.84, 1.15), hair),
        ((0.05, 0.58), (0.68, 0.92), skin),
        ((-0.1, 0.52), (0.1, 0.05), 0.25 * skin),
        ((0.2, 0.52), (0.1, 0.05), 0.25 * skin),
        ((0.06, 0.83), (0.22, 0.05), skin * [0.8, 0.5, 0.5]),
    ):
        box = (
            (x + scale * place[0], top + scale * place[1]),
            (scale * size[0], scale * size[1]),
            0,
        )
        cv2.ellipse(image, box, colour.tolist(), -1, cv2.LINE_AA)


def room(rng: np.random.Generator) -> Image:
    """The inside of a room with furniture, cast at half the size."""
    # x right, y down, z into it; metres.
    size = rng.uniform([2.5, 2.2, 3], [7, 3.2, 8]).astype(np.float32)
    eye = size * rng.uniform([0.2, 0.3, 0.02], [0.8, 0.7, 0.3]).astype(np.float32)
    rays = _rays(rng)
    times = (np.where(rays > 0, size[:, None], 0) - eye[:, None]) / rays
    axis, time = times.argmin(0), times.min(0)
    point = eye[:, None] + time * rays
    colour = _walls(rng, size, point, axis, rays[axis, np.arange(len(axis))] > 0)
    # The nearer to an edge of the room, the less light.
    near = np.sort(np.minimum(point, size[:, None] - point), axis=0)[1]
    light = 0.75 + 0.25 * np.clip(near / 0.4, 0, 1)

    for _ in range(rng.integers(2, 8)):
        low, high, paint = _furniture(rng, size)
        if np.linalg.norm(np.clip(eye, low[:, 0], high[:, 0]) - eye) < 0.6:
            continue  # it would fill the picture
        gap = np.maximum(0, np.maximum(low - point, point - high))
        light *= 1 - 0.5 * np.exp(-np.sqrt((gap * gap).sum(0)) / 0.15)
        enter, leave = (low - eye[:, None]) / rays, (high - eye[:, None]) / rays
        start = np.minimum(enter, leave).max(0)
        end = np.maximum(enter, leave).min(0)
        hit = np.flatnonzero((start > 0) & (start < end) & (start < time))
        face = np.minimum(enter, leave)[:, hit].argmax(0)
        time[hit] = start[hit]
        point[:, hit] = place = eye[:, None] + start[hit] * rays[:, hit]
        along = place[0] - low[0] + 0.6 * (place[2] - low[2])
        doors = (np.abs(along % rng.uniform(0.3, 0.8)) < 0.02) & (face != 1)
        board = np.array([0.8, 1.05, 0.65])[face] * np.where(doors, 0.6, 1)
        colour[hit] = paint * board[:, None]
        light[hit] = 0.75 + 0.25 * np.clip((size[1] - place[1]) / 0.5, 0, 1)
    lamp = size * rng.uniform([0.1, 0, 0.1], [0.9, 0.4, 0.9])
    falloff = 1 / (1 + ((point - lamp[:, None]) ** 2).sum(0) / rng.uniform(3, 20))
    colour *= (light * (rng.uniform(0.35, 1.0) + rng.uniform(0, 0.6) * falloff))[:, None]
    image = colour.astype(np.float32).reshape(HEIGHT // 2, WIDTH // 2, 3)
    smooth = cv2.GaussianBlur(image, (0, 0), 0.6)
    return np.clip(cv2.resize(smooth, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), 0, 1)


def _rays(rng: np.random.Generator) -> Float[np.ndarray, "3 ray"]:
    """Of a camera that looks more or less straight into the room, rows of the picture in turn."""
    yaw, pitch, wide = rng.normal(0, 0.6), rng.normal(0.05, 0.18), rng.uniform(0.35, 0.8)
    y, x = np.mgrid[-1 : 1 : HEIGHT // 2 * 1j, -1 : 1 : WIDTH // 2 * 1j].reshape(2, -1)
    rays = np.stack([wide * x, wide * y * HEIGHT / WIDTH, np.ones_like(x)])
    rays[1:] = rotation(pitch) @ rays[1:]
    rays[[0, 2]] = rotation(yaw) @ rays[[0, 2]]
    return np.where(np.abs(rays) < 1e-6, 1e-6, rays).astype(np.float32)


def _furniture(
    rng: np.random.Generator, size: Float[np.ndarray, "3"]
) -> tuple[Float[np.ndarray, "3 1"], Float[np.ndarray, "3 1"], Float[np.ndarray, "3"]]:
    """Two corners of a box that stands on the floor or hangs on a wall, and its colour."""
    extent = rng.uniform([0.3, 0.3, 0.3], [1.6, 1.9, 1.0])
    low = size * rng.uniform([0, 0, 0.35], [1, 1, 1]) - extent / 2
    low[1] = size[1] - extent[1] if rng.uniform() < 0.8 else rng.uniform(0.2, 0.8)
    corners = np.stack([low, low + extent]).astype(np.float32)[..., None]
    return corners[0], corners[1], tint(rng, (WOOD, WOOD, PALE, None, None)[rng.integers(5)])


def _walls(
    rng: np.random.Generator,
    size: Float[np.ndarray, "3"],
    point: Float[np.ndarray, "3 ray"],
    axis: Int[np.ndarray, "ray"],
    far: Bool[np.ndarray, "ray"],
) -> Float[np.ndarray, "ray 3"]:
    """Colour of floor, ceiling and walls with windows, pictures and shelves on them.

    Args:
        axis, far: which pair of walls a point is on, and which of the two.
    """
    paint = tint(rng, PALE if rng.uniform() < 0.7 else None)
    colour = np.where((axis == 2)[:, None], paint, 0.88 * paint)
    colour[(axis == 1) & ~far] = tint(rng, PALE)
    floor = (axis == 1) & far
    x, _, z = point[:, floor]
    plank = np.floor(x / 0.14)
    shade = 1 + 0.12 * np.sin(12.9 * plank + 78.2 * np.floor(z / 0.9 + 0.37 * plank))
    if rng.uniform() < 0.3:  # tiles
        shade = 1 - 0.35 * ((np.floor(x / 0.3) + np.floor(z / 0.3)) % 2)
    colour[floor] = tint(rng, WOOD if rng.uniform() < 0.6 else None) * shade[:, None]

    walls = [((axis == 0) & ~far, 2), ((axis == 0) & far, 2), ((axis == 2) & far, 0)]
    for _ in range(rng.integers(2, 9)):
        wall, along = walls[rng.choice(3, p=[0.25, 0.25, 0.5])]
        extent = rng.uniform([0.3, 0.3], [1.4, 1.2])
        middle = rng.uniform([0.1, 0.25], [0.9, 0.6]) * size[[along, 1]]
        # -1 to 1 over the thing and a frame around.
        u, v = 2 * (point[[along, 1]] - middle[:, None]) / extent[:, None]
        reach = np.maximum(np.abs(u), np.abs(v))
        colour[wall & (reach < 1.12)] = tint(rng, PALE if rng.uniform() < 0.5 else WOOD)
        inside = np.flatnonzero(wall & (reach < 1))
        u, v = u[inside], v[inside]
        kind = rng.choice(["window", "picture", "shelf"])
        if kind == "window":
            pane = (np.abs(u) > 0.04) & (np.abs(v) > 0.03)
            colour[inside[pane]] = 1.3 * tint(rng, SKY) - 0.08 * v[pane, None]
        elif kind == "picture":
            below = v + 0.8 * np.sin(rng.uniform(0.5, 3) * u) > rng.uniform(-0.6, 0.6)
            colour[inside] = np.where(below[:, None], tint(rng), tint(rng))
        else:
            row, height = np.divmod(1.5 * (v + 1), 1)
            book = (np.floor((u + 1) * extent[0] / 0.09) * 7 + row * 5).astype(int)
            spines = np.array([tint(rng) for _ in range(16)])[book % 16]
            standing = height > 0.12 + 0.05 * (book % 6)
            colour[inside] = np.where(standing[:, None], spines, 0.25 * paint)
    return colour
