"""The built-in data: rendered hands in the files and folders of InterHand2.6M v1.0.

Every image is a function of (seed, split, index) alone, and so are its labels: neither the number
of images nor of processes changes them. Images 4k..4k+3 show frames 3k..3k+2, the last of them
from two cameras. Frames go round the captures, one subject each; subjects are never shared by
splits. Even sequences show one hand, odd ones two. Varied pictures show the same hands.

World frame: z up, the origin in the middle of a dome of cameras. Lengths are metres here and
millimetres in the files, except MANO's.
"""

import hashlib
import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation
from tqdm.auto import tqdm

from dne_lib.config import HANDS
from dne_lib.files import InputError, claim_folder, read_json, write_bytes, write_json
from dne_lib.mano import ASSETS, JOINTS_TO_INTERHAND, HandModel
from dne_lib.rasterize import vertex_normals
from dne_lib.synthetic import poses, variation
from dne_lib.synthetic.props import sample_props, see
from dne_lib.synthetic.render import HEIGHT, WIDTH, Camera, Skin, render, sample_skin, unit
from dne_lib.synthetic.variation import render_varied

VERSION = 2  # of the pictures: raise it when the same recipe draws something else
SPLITS = {"train": 0, "val": 1, "test": 2}  # the number enters the seed
SUBJECTS = {"train": 96, "val": 8, "test": 16}  # one capture each
CAMERAS = 10  # of each dome
CHUNK = 16  # images made together: one call of the hand model poses their frames
QUALITY = 92  # of the JPEGs
STYLES = ("facing", "beside", "over", "crossing", "free")
# Sequences alternate between one hand and two.
SEQUENCES = tuple(
    f"{i:04d}_{HANDS[i // 2 % 2] if i % 2 == 0 else STYLES[i // 2 % 5]}" for i in range(20)
)


class View(NamedTuple):
    """A camera of the dome: x_camera = rotation (x_world - position)."""

    rotation: Float[np.ndarray, "3 3"]
    position: Float[np.ndarray, "3"]
    camera: Camera


@dataclass(frozen=True)
class Subject:
    """Who is captured, and the dome around."""

    betas: Float[np.ndarray, "10"]
    skin: Skin
    anatomy: poses.Anatomy
    views: tuple[View, ...]


@dataclass(frozen=True)
class Frame:
    """One moment of a capture, without the hands' geometry."""

    capture: int
    sequence: str
    sides: tuple[int, ...]  # hands present, 0 right, 1 left
    rotations: Float[np.ndarray, "2 16 3 3"]
    apart: Float[np.ndarray, "3"]  # unit, from the left hand to the right
    shift: Float[np.ndarray, "3"]  # of the right hand before it meets the left
    gap: float


def synthesize(
    root: str | Path,
    train: int,
    test: int,
    seed: int,
    val: int = 0,
    workers: int | None = None,
    progress: bool = True,
    varied: bool = False,
) -> None:
    """Write an InterHand2.6M v1.0 tree of rendered hands.

    A run that was stopped goes on where it was: whole images are kept. Annotations are written
    when all images of a split are there, so that a half-made tree cannot be read by mistake.

    Args:
        root: folder of the tree: new, empty, or made by an earlier call with the same numbers.
        train, test, val: numbers of images.
        seed: below 2^63.
        workers: processes; None is one for each core, 1 stays in this process.
        progress: show progress bars.
        varied: pictures as photographs are, on arms, with things, in rooms, through a lens
            (`variation`), with the same labels; otherwise bare hands in a studio.

    Raises:
        InputError: the folder holds something else or another data set; a number is negative; the
            disk is full.
    """
    root, counts = Path(root), {"train": train, "val": val, "test": test}
    if min(*counts.values(), seed) < 0 or seed >= 2**63 or (workers is not None and workers < 1):
        raise InputError(
            f"{counts}, seed {seed}, workers {workers}: counts and seed cannot be negative, the "
            "seed not 2^63 or more, and there must be a worker"
        )
    claim_folder(root, "dataset")
    recipe = {"version": VERSION, "hand": _hand_digest(), "seed": seed, **counts}
    if varied:
        recipe["varied"] = variation.VERSION
    path = root / "recipe.json"
    if path.exists() and (found := read_json(path)) != recipe:
        raise InputError(
            f"{root} holds data made as {found}, not {recipe}: choose another folder, or delete it"
        )
    write_json(path, recipe)
    write_bytes(root / "annotations" / "skeleton.txt", skeleton_text().encode())
    write_bytes(root / "annotations" / "subject.txt", subject_text().encode())
    if workers is None:
        linux = sys.platform == "linux"  # where a container may own only some of the cores
        workers = len(os.sched_getaffinity(0)) if linux else os.cpu_count() or 1
    for split, count in counts.items():
        if count:
            _write_split(root, split, count, seed, workers, progress, varied)


def _hand_digest() -> str:
    """Which built-in hand: labels made with one hand do not fit another."""
    files = (ASSETS / f"hand_{side}.npz" for side in HANDS)
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _write_split(
    root: Path, split: str, count: int, seed: int, workers: int, progress: bool, varied: bool
) -> None:
    folder = root / "annotations" / split
    paths = {
        name: folder / f"InterHand2.6M_{split}_{name}.json"
        for name in ("camera", "joint_3d", "MANO_NeuralAnnot", "data")
    }
    if all(path.exists() for path in paths.values()):
        names = [image["file_name"] for image in read_json(paths["data"])["images"]]
        if all((root / "images" / split / name).exists() for name in names):
            return
    starts = range(0, count, CHUNK)
    work = partial(make_chunk, root / "images" / split, split, count, seed, varied)
    labels: dict[str, Any] = {"images": [], "annotations": []}
    joints: dict[str, Any] = {}
    mano: dict[str, Any] = {}
    with tqdm(total=count, unit="image", desc=f"drawing {split}", disable=not progress) as bar:
        for chunk in _parallel(work, starts, workers):
            labels["images"] += chunk["images"]
            labels["annotations"] += chunk["annotations"]
            for capture, frame, joint, hand in chunk["frames"]:
                joints.setdefault(capture, {})[frame] = joint
                mano.setdefault(capture, {})[frame] = hand
            bar.update(len(chunk["images"]))
    cameras = {c: _camera_label(subject(split, seed, int(c)).views) for c in joints}
    # The reader looks for all four; the one it starts from comes last.
    for name, value in zip(paths, (cameras, joints, mano, labels), strict=True):
        write_json(paths[name], value)


def _parallel(work: Any, starts: range, workers: int) -> Iterator[dict[str, Any]]:
    """Chunks in order, made by several processes."""
    if workers == 1 or len(starts) == 1:
        with _one_thread():
            yield from map(work, starts)
        return
    # As PyTorch's data loaders do; starting Python afresh would import everything again.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(workers, context, initializer=_single_thread) as pool:
        yield from pool.map(work, starts)


def _single_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums over several threads end in other bits."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    _single_thread()
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


@cache
def _hand_model() -> HandModel:
    return HandModel().eval()


@cache
def subject(split: str, seed: int, capture: int) -> Subject:
    """Shape, skin and dome of a capture."""
    rng = np.random.default_rng((seed, SPLITS[split], 1, capture))
    betas = np.clip(rng.normal(size=10), -2, 2).round(6)
    rest = torch.eye(3).expand(16, 3, 3)
    with torch.no_grad():
        joints = _hand_model().single(0, rest, torch.tensor(betas, dtype=torch.float32)).joints
    return Subject(
        betas=betas,
        skin=sample_skin(rng, _tone(split, seed, capture)),
        anatomy=poses.anatomy(joints.double().numpy()),
        views=tuple(_sample_view(rng, i) for i in range(CAMERAS)),
    )


def _tone(split: str, seed: int, capture: int) -> float:
    """The golden ratio spreads tones evenly over the captures, however many are used."""
    offset = np.random.default_rng((seed, SPLITS[split], 2)).uniform()
    return float((offset + capture * 0.6180339887) % 1)


@cache
def varied_skin(split: str, seed: int, capture: int) -> Skin:
    """Skin of a capture's subject in varied pictures."""
    rng = np.random.default_rng((seed, SPLITS[split], 5, capture))
    return variation.ita_skin(rng, _tone(split, seed, capture))


def _sample_view(rng: np.random.Generator, place: int) -> View:
    """A camera of the dome that looks at its middle, more or less upright."""
    azimuth = 2 * np.pi * (place + rng.uniform(-0.3, 0.3)) / CAMERAS
    elevation = np.radians(rng.choice([rng.uniform(-35, 20), rng.uniform(0, 75)]))
    distance = rng.uniform(0.6, 1.2)
    position = distance * np.array(
        [
            np.cos(elevation) * np.cos(azimuth),
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
        ]
    )
    forward = rng.normal(0, 0.01, 3) - position
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    rotation = Rotation.from_rotvec([0, 0, rng.normal(0, 0.15)]).as_matrix() @ rotation
    # Pixels per metre at the middle of the dome: InterHand2.6M has about 1150.
    focal = distance * rng.uniform(900, 1300) * (1 + rng.normal(0, 0.002, 2))
    centre = np.array([(WIDTH - 1) / 2, (HEIGHT - 1) / 2]) + rng.normal(0, 4, 2)
    # Rounded as in the file, so that what is drawn is what is read.
    return View(rotation.round(8), position.round(6), Camera(focal.round(4), centre.round(4)))


def sample_frame(rng: np.random.Generator, split: str, seed: int, number: int) -> Frame:
    """Draw the poses of a frame and how its hands are to be brought together."""
    captures = SUBJECTS[split]
    capture = number % captures
    order = (number + number // captures) % len(SEQUENCES)
    anatomy = subject(split, seed, capture).anatomy
    interacting = order % 2 == 1
    rotations = np.stack([poses.sample_pose(rng, anatomy), poses.sample_pose(rng, anatomy)])
    if rng.uniform() < 0.25:
        rotations[1] = rotations[0]  # both hands often do the same
    rotations[1] = poses.mirror_rotations(rotations[1])

    style = STYLES[order // 2 % 5] if interacting else "one"
    aim, apart, wobble, slip = _arrange(rng, style)
    # Most hands point up or away from the body, seen from anywhere; some are turned at will.
    body = Rotation.from_quat(rng.normal(size=4))
    if rng.uniform() < 0.75:
        yaw = Rotation.from_rotvec([0, 0, rng.uniform(-np.pi, np.pi)])
        tilt = Rotation.from_rotvec([-rng.uniform(0, np.pi / 2) * (rng.uniform() < 0.5), 0, 0])
        body = yaw * tilt * Rotation.from_rotvec(rng.normal(0, 0.45, 3))
    for side in range(2):
        turn = body * Rotation.from_rotvec(rng.normal(0, wobble, 3)) * aim[side]
        rotations[side, 0] = turn.as_matrix()
    return Frame(
        capture=capture,
        sequence=SEQUENCES[order],
        sides=(0, 1) if interacting else (order // 2 % 2,),
        rotations=rotations,
        apart=body.apply(apart / np.linalg.norm(apart)),
        shift=body.apply(rng.normal(0, slip, 3)),
        gap=float(rng.choice([0.0005, rng.exponential(0.02)])),
    )


def _arrange(
    rng: np.random.Generator, style: str
) -> tuple[list[Rotation], Float[np.ndarray, "3"], float, float]:
    """How two hands are held: orientations, direction apart, wobble (radians), slip (metres).

    In the axes of a person: x right, y forward, z up.
    """
    x, y, z = np.eye(3)
    if style == "facing":  # palms towards each other
        fingers, palms, apart, wobble, slip = (z, z), (-x, x), x, 0.35, 0.02
    elif style == "beside":  # palms to the same side
        palm = y if rng.uniform() < 0.5 else -y
        fingers, palms, apart, wobble, slip = (z, z), (palm, palm), x, 0.35, 0.025
        if rng.uniform() < 0.25:
            apart = -x  # arms crossed
    elif style == "over":  # one on the back of, or in, the other
        palm = -y if rng.uniform() < 0.5 else y
        fingers, palms = (z - 0.7 * x, z + 0.7 * x), (palm, rng.choice([-1, 1]) * palm)
        apart, wobble, slip = rng.choice([-1, 1]) * y, 0.4, 0.025
    elif style == "crossing":  # fingers across fingers
        palm = rng.choice([-1, 1], 2)[:, None] * y
        fingers, palms = (0.6 * z - x, 0.6 * z + x), (palm[0], palm[1])
        apart, wobble, slip = rng.choice([-1, 1]) * y + 0.3 * x, 0.35, 0.02
    else:
        fingers, palms, apart, wobble, slip = (z, z), (-y, -y), rng.normal(size=3), 0.9, 0.03
        if style == "one":
            wobble = 0.2
    aim = [_aim(side, fingers[side], palms[side]) for side in range(2)]
    return aim, apart, wobble, slip


def _aim(side: int, fingers: Float[np.ndarray, "3"], palm: Float[np.ndarray, "3"]) -> Rotation:
    """Turns a hand at rest (right fingers along -x, left along x, backs up y)."""
    fingers = fingers / np.linalg.norm(fingers)
    back = -(palm - palm @ fingers * fingers)
    back /= np.linalg.norm(back)
    rest = np.array([[1.0 if side else -1.0, 0, 0], [0, 1, 0]])
    here, there = (np.stack([a, b, np.cross(a, b)], 1) for a, b in (rest, (fingers, back)))
    return Rotation.from_matrix(there @ here.T)


def bring_together(
    right: Float[np.ndarray, "778 3"],
    left: Float[np.ndarray, "778 3"],
    frame: Frame,
    faces: Any,
) -> Float[np.ndarray, "3"]:
    """How far to move the right hand so that it comes from `apart` and stops short of the left.

    Args:
        right, left: vertices in world axes, wrists at the origin.
        frame: gives direction, shift and gap.
        faces: (hand, 1538, 3).
    """
    start = left.mean(0) - right.mean(0) + frame.shift
    moved = right + start
    side = np.linalg.svd(frame.apart[None])[2][1:].T  # two axes across the way
    lateral = cdist(moved @ side, left @ side, "sqeuclidean")
    # Vertices as balls: the last way along which two of them meet.
    radius = 0.006
    reach = np.sqrt(np.maximum(radius**2 - lateral, 0))
    distance = (left @ frame.apart)[None] - (moved @ frame.apart)[:, None] + reach
    touching = lateral < radius**2
    travel = distance[touching].max() - 0.9 * radius if touching.any() else 0.0
    normals = [unit(vertex_normals(vertices, faces[i])) for i, vertices in enumerate((right, left))]
    tree = KDTree(left)
    for _ in range(12):
        deep = _depth(moved + travel * frame.apart, left, normals, tree)
        if deep < 0.0005:
            break
        travel += max(deep, 0.002)
    return start + (travel + frame.gap) * frame.apart


def _depth(right: np.ndarray, left: np.ndarray, normals: list[np.ndarray], tree: KDTree) -> float:
    """How deep vertices of either hand are below the surface of the other, about; metres."""
    depth = 0.0
    for points, surface, normal, index in (
        (right, left, normals[1], tree),
        (left, right, normals[0], KDTree(right)),
    ):
        distance, near = index.query(points, distance_upper_bound=0.03)
        found = np.flatnonzero(np.isfinite(distance))
        if len(found):
            near = np.asarray(near)[found]
            below = ((surface[near] - points[found]) * normal[near]).sum(1)
            depth = max(depth, float(below.max()))
    return depth


def make_chunk(
    folder: Path, split: str, count: int, seed: int, varied: bool, start: int
) -> dict[str, list[Any]]:
    """Draw images start..start+15 that do not exist yet, and return the labels of all of them.

    Args:
        folder: of the split's images.
        count: images of the split; those from there on are left out.
    """
    first = start // 4 * 3
    numbers = range(first, first + CHUNK // 4 * 3)
    rngs = [np.random.default_rng((seed, SPLITS[split], 3, n)) for n in numbers]
    frames = [sample_frame(rng, split, seed, n) for rng, n in zip(rngs, numbers, strict=True)]
    people = [subject(split, seed, frame.capture) for frame in frames]
    rotations = np.stack([frame.rotations for frame in frames]).astype(np.float32)
    betas = np.repeat(np.stack([p.betas for p in people])[:, None], 2, 1).astype(np.float32)
    model = _hand_model()
    with torch.no_grad():
        hands = model(torch.from_numpy(rotations), torch.from_numpy(betas))
        rest = model.wrist_rest(torch.from_numpy(betas)).double().numpy()
    vertices, joints = hands.vertices.double().numpy(), hands.joints.double().numpy()

    result: dict[str, list[Any]] = {"images": [], "annotations": [], "frames": []}
    for k, (frame, rng) in enumerate(zip(frames, rngs, strict=True)):
        views = 1 + (k % 3 == 2)
        index = start + k // 3 * 4 + k % 3
        if index >= count:
            break
        wrist = np.zeros((2, 3))
        if len(frame.sides) == 2:
            wrist[0] = bring_together(vertices[k, 0], vertices[k, 1], frame, model.faces)
        present = list(frame.sides)
        cloud = (vertices[k] + wrist[:, None])[present].reshape(-1, 3)
        wrist += rng.normal(0, 0.015, 3) - (cloud.min(0) + cloud.max(0)) / 2
        wrist = wrist.round(6)
        points, joint = vertices[k] + wrist[:, None], joints[k] + wrist[:, None]

        number = str(10000 + numbers[k] // SUBJECTS[split])
        pose, trans = _mano_pose(frame.rotations, model), wrist - rest[k]
        mano = {
            name: {
                "pose": pose[side].round(6),
                "shape": people[k].betas,
                "trans": trans[side].round(6),
            }
            if side in present
            else None
            for side, name in enumerate(HANDS)
        }
        kind = "interacting" if len(present) == 2 else HANDS[present[0]]
        seen = np.zeros((2, 21, 1), np.int8)
        seen[present] = 1
        world = np.where(seen, 1000 * joint[:, JOINTS_TO_INTERHAND], 0)
        label = {"joint_valid": seen.reshape(42, 1), "hand_type": kind}
        coordinates = {
            "world_coord": world.reshape(42, 3).round(4),
            **label,
            "hand_type_valid": 1,
            "seq": frame.sequence,
        }
        result["frames"].append((str(frame.capture), number, coordinates, mano))
        for name, view in _choose_views(rng, people[k].views, points[present], views):
            if index >= count:
                break
            camera = (points[present] - view.position) @ view.rotation.T
            file_name = f"Capture{frame.capture}/{frame.sequence}/cam{name}/image{number}.jpg"
            if not (folder / file_name).exists():
                draw = np.random.default_rng((seed, SPLITS[split], 4, index))
                quality = QUALITY
                if varied:
                    quality = variation.sample_quality(draw)
                    skin = varied_skin(split, seed, frame.capture)
                    seeds = (seed, SPLITS[split], 6, numbers[k])
                    props = sample_props(
                        points[present], frame.sides, skin, np.random.default_rng(seeds)
                    )
                    props = see(props, view.rotation, view.position)
                    picture = render_varied(camera, frame.sides, view.camera, skin, props, draw)
                else:
                    picture = render(camera, frame.sides, view.camera, people[k].skin, draw)
                write_bytes(folder / file_name, _jpeg(picture.image, quality))
            result["images"].append(
                {
                    "id": index,
                    "file_name": file_name,
                    "width": WIDTH,
                    "height": HEIGHT,
                    "capture": frame.capture,
                    "subject": _first_subject(split) + frame.capture,
                    "seq_name": frame.sequence,
                    "camera": name,
                    "frame_idx": int(number),
                }
            )
            result["annotations"].append(
                {
                    "id": index,
                    "image_id": index,
                    "bbox": _box(camera, view.camera),
                    **label,
                    "hand_type_valid": 1,
                }
            )
            index += 1
    return result


def _mano_pose(
    rotations: Float[np.ndarray, "2 16 3 3"], model: HandModel
) -> Float[np.ndarray, "2 48"]:
    """Axis-angle, relative to MANO's mean pose."""
    vectors = Rotation.from_matrix(rotations.reshape(-1, 3, 3)).as_rotvec().reshape(2, 48)
    vectors[:, 3:] -= model.mean_pose.double().numpy()
    return vectors


def _choose_views(
    rng: np.random.Generator, views: tuple[View, ...], points: np.ndarray, count: int
) -> list[tuple[str, View]]:
    """Different cameras, those first that see the hands whole."""
    order = rng.permutation(len(views))

    def outside(place: int) -> bool:
        x, y, w, h = _pixel_box((points - views[place].position) @ views[place].rotation.T,
                                views[place].camera)  # fmt: skip
        return bool(x < 3 or y < 3 or x + w > WIDTH - 4 or y + h > HEIGHT - 4)

    chosen = sorted(order.tolist(), key=outside)[:count]
    return [(str(400002 + i), views[i]) for i in chosen]


def _pixel_box(points: np.ndarray, camera: Camera) -> tuple[float, float, float, float]:
    flat = points[..., :2] / points[..., 2:] * camera.focal + camera.centre
    low, high = flat.reshape(-1, 2).min(0), flat.reshape(-1, 2).max(0)
    return (*low, *(high - low))


def _box(points: np.ndarray, camera: Camera) -> list[float]:
    """x, y, width, height of the hands in the image, pixels."""
    x, y, w, h = _pixel_box(points, camera)
    left, top = max(x, 0.0), max(y, 0.0)
    right, bottom = min(x + w, WIDTH - 1.0), min(y + h, HEIGHT - 1.0)
    return [round(float(v), 3) for v in (left, top, right - left, bottom - top)]


def _jpeg(image: np.ndarray, quality: int) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def _camera_label(views: tuple[View, ...]) -> dict[str, dict[str, list]]:
    """A capture's entry of the camera file; millimetres."""
    fields: dict[str, dict[str, list]] = {
        name: {} for name in ("campos", "camrot", "focal", "princpt")
    }
    for i, view in enumerate(views):
        name = str(400002 + i)
        fields["campos"][name] = (1000 * view.position).round(3).tolist()
        fields["camrot"][name] = view.rotation.tolist()
        fields["focal"][name] = view.camera.focal.tolist()
        fields["princpt"][name] = view.camera.centre.tolist()
    return fields


def _first_subject(split: str) -> int:
    """Subjects are numbered through the splits, so that nobody is in two."""
    names = list(SUBJECTS)
    return sum(SUBJECTS[name] for name in names[: names.index(split)])


def subject_text() -> str:
    """InterHand2.6M's subject.txt: subject, folder, gender (which rendered hands have not)."""
    lines = [
        f"{_first_subject(split) + i} {split}/Capture{i} none"
        for split, count in SUBJECTS.items()
        for i in range(count)
    ]
    return "\n".join(["# subject_id subject_directory gender", *lines]) + "\n"


def skeleton_text() -> str:
    """InterHand2.6M's skeleton.txt: joint, number, parent; tips first, the wrist last."""
    lines = ["# joint_name joint_id joint_parent_id"]
    fingers = ("thumb", "index", "middle", "ring", "pinky")
    for side in range(2):
        base, letter = 21 * side, "rl"[side]
        for k in range(20):
            parent = 20 if k % 4 == 3 else k + 1
            lines.append(f"{letter}_{fingers[k // 4]}{4 - k % 4} {base + k} {base + parent}")
        lines.append(f"{letter}_wrist {base + 20} -1")
    return "\n".join(lines) + "\n"
