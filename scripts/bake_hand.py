"""Bake the built-in hand: a model in MANO's format, made of MakeHuman's CC0 assets.

    pip install -e '.[bake]'
    python scripts/bake_hand.py [--out dne_lib/assets] [--seed 0]

The package `anny` ships the assets and samples hands of many people; this script flattens them,
thins the mesh to MANO's 778 vertices, and learns the shape components, the joint regressor and
the pose correctives. For maintainers only: users get the two files it writes. The same seed and
versions give the same bytes.
"""

import argparse
import heapq
import importlib.metadata
import io
import itertools
import logging
import sys
from pathlib import Path
from typing import NamedTuple

import anny  # pyright: ignore[reportMissingImports]
import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from scipy.optimize import nnls
from scipy.spatial.transform import Rotation

from dne_lib.files import write_bytes
from dne_lib.mano import FINGERTIPS, MANO_TO_JOINTS
from dne_lib.mano_files import PARENTS
from dne_lib.synthetic.poses import (
    LIMITS,
    anatomy,
    rotations_from_angles,
    sample_angles,
    template_pose,
)

log = logging.getLogger("bake_hand")

# Of the tips, thumb to pinky, the joint before each (MANO's order).
TIP_JOINTS = [15, 3, 6, 12, 9]
# anny's bones: root, wrist, thumb 1-3, then (metacarpal, 1-3) of index, middle, ring, pinky.
ANNY_JOINTS = [1, 6, 7, 8, 10, 11, 12, 18, 19, 20, 14, 15, 16, 2, 3, 4]
ANNY_PALM = [0, 1, 5, 9, 13, 17]  # MANO has no metacarpals: they go with the wrist
HAND_LENGTH = 0.188  # metres, wrist to middle tip, mean of adults
FLAT_ELEVATION = -4.0  # degrees: the fingers of MANO's rest pose point slightly down ...
FLAT_BENDS = (6.0, 4.0)  # ... and are not quite straight
JOINT_DEPTH = 0.45  # a joint's depth below the back of the finger, of its thickness
KNUCKLE_DEPTH = 0.009  # metres: the same for the joints at the base of the fingers
GRID = 2.0**-20  # metres: coordinates are rounded to a micrometre, so that they compress


class Hands(NamedTuple):
    """Many people's right hands in one pose and one topology, metres."""

    vertices: Float[np.ndarray, "sample vertex 3"]
    joints: Float[np.ndarray, "sample 16 3"]
    weights: Float[np.ndarray, "vertex 16"]
    faces: Int[np.ndarray, "face 3"]
    nails: Float[np.ndarray, "point 4"]  # face and barycentric coordinates of points on nails


def _truncated_normal(rng, mean, deviation, low, high, count):
    values = rng.normal(mean, deviation, 4 * count)
    return values[(values >= low) & (values <= high)][:count]


def sample_people(seed: int, count: int = 1000, batch: int = 100) -> Hands:
    """Adult hands from anny, every one scaled towards a plausible length."""
    model = anny.Anny(rig="anny-hand.R", topology="hand.R", local_changes="all").float()
    rng = np.random.default_rng(seed)
    people = {
        "gender": rng.uniform(0, 1, count),
        "age": rng.uniform(2 / 3, 1, count),  # anny's scale: adult to old
        "muscle": _truncated_normal(rng, 0.5, 0.2, 0.05, 0.95, count),
        "weight": _truncated_normal(rng, 0.5, 0.15, 0.05, 0.95, count),
        "height": _truncated_normal(rng, 0.5, 0.12, 0.05, 0.95, count),
        "proportions": _truncated_normal(rng, 0.5, 0.2, 0.05, 0.95, count),
    }
    changes = {
        label: _truncated_normal(rng, 0, 0.35, -0.9, 0.9, count)
        for label in sorted(model.local_change_labels)
        if label.startswith("r-hand") and "trans" not in label
    }
    pose = torch.eye(4).repeat(batch, model.bone_count, 1, 1)
    vertices, joints = [], []
    for start in range(0, count, batch):
        part = slice(start, start + batch)
        with torch.no_grad():
            out = model(
                pose_parameters=pose,
                phenotype_kwargs={
                    label: torch.tensor(people[label][part]).float()
                    for label in model.phenotype_labels
                },
                local_changes_kwargs={
                    label: torch.tensor(values[part]).float() for label, values in changes.items()
                },
            )
        vertices.append(out["vertices"].numpy())
        joints.append(out["bone_poses"][:, ANNY_JOINTS, :3, 3].numpy())
    vertices = np.concatenate(vertices).astype(float)
    joints = np.concatenate(joints).astype(float)

    bones = np.zeros((vertices.shape[1], model.bone_count))
    rows = np.arange(len(bones))[:, None]
    np.add.at(bones, (rows, model.vertex_bone_indices.numpy()), model.vertex_bone_weights.numpy())
    weights = np.column_stack([bones[:, ANNY_PALM].sum(1), bones[:, ANNY_JOINTS[1:]]])
    weights /= weights.sum(1, keepdims=True)

    # The square root halves the spread, which anny draws too wide for adults.
    middle = tip_vertex(vertices.mean(0), joints.mean(0), weights, 6)
    length = np.linalg.norm(vertices[:, middle] - joints[:, 0], axis=1)
    scale = (HAND_LENGTH / length * np.sqrt(length / length.mean()))[:, None, None]
    faces = model.faces.numpy().astype(int)
    return Hands(vertices * scale, joints * scale, weights, faces, nail_points(model, faces))


def nail_points(model, faces: Int[np.ndarray, "face 3"]) -> Float[np.ndarray, "point 4"]:
    """Points of the mesh that MakeHuman's nail texture paints: face, three barycentrics."""
    folder = Path(str(anny.__file__)).parent / "data/mpfb2/textures"
    image = np.asarray(Image.open(folder / "mpfb_fingernails.jpg").convert("L")) / 255
    steps = [(i, j, 6 - i - j) for i in range(7) for j in range(7 - i)]
    barycentric = np.array(steps) / 6
    corners = model.texture_coordinates.numpy()[model.face_texture_coordinate_indices.numpy()]
    size = np.array(image.shape[::-1])
    points = np.einsum("pc,fcx->fpx", barycentric, corners)
    points[..., 1] = 1 - points[..., 1]
    x, y = np.moveaxis(np.clip(points * size, 0, size - 1).astype(int), -1, 0)
    face, point = np.nonzero(image[y, x] > 0.5)
    return np.column_stack([face, barycentric[point]])


def tip_vertex(vertices, joints, weights, joint: int) -> int:
    """The vertex of a last phalanx that lies farthest along the finger."""
    direction = joints[joint] - joints[joint - 1]
    along = (vertices - joints[joint]) @ (direction / np.linalg.norm(direction))
    return int(np.where(weights[:, joint] >= 0.5, along, -np.inf).argmax())


def canonical_frame(joints: Float[np.ndarray, "16 3"]) -> Float[np.ndarray, "3 3"]:
    """The rotation into MANO's frame: fingers along -x, back of the hand +y, thumb +z."""
    x = joints[0] - joints[4]
    x /= np.linalg.norm(x)
    across = joints[1] - joints[7]  # pinky to index
    y = np.cross(across, x)
    y -= y @ x * x
    y /= np.linalg.norm(y)
    return np.stack([x, y, np.cross(x, y)])


def kinematics(rotations, joints):
    """Rotations and translations (16 each) that take rest points to posed ones."""
    world, place = np.empty((16, 3, 3)), np.empty((16, 3))
    world[0], place[0] = rotations[0], joints[0]
    for j in range(1, 16):
        parent = PARENTS[j]
        world[j] = world[parent] @ rotations[j]
        place[j] = place[parent] + world[parent] @ (joints[j] - joints[parent])
    return world, place - np.einsum("jab,jb->ja", world, joints)


def skin(vertices, weights, rotations, joints):
    """Linear blend skinning: posed vertices and joints."""
    world, shift = kinematics(rotations, joints)
    blend = np.einsum("nj,jab->nab", weights, world)
    posed = np.einsum("nab,nb->na", blend, vertices) + weights @ shift
    return posed, np.einsum("jab,jb->ja", world, joints) + shift


def _quaternion_product(a, b):
    w, v, x, u = a[..., :1], a[..., 1:], b[..., :1], b[..., 1:]
    scalar = w * x - (v * u).sum(-1, keepdims=True)
    return np.concatenate([scalar, w * u + x * v + np.cross(v, u)], axis=-1)


def dual_quaternion_skin(vertices, weights, rotations, joints):
    """Kavan et al. 2007: keeps the volume at a bent joint that linear blending loses."""
    world, shift = kinematics(rotations, joints)
    real = Rotation.from_matrix(world).as_quat()[:, [3, 0, 1, 2]]
    for j in range(1, 16):
        if real[j] @ real[PARENTS[j]] < 0:
            real[j] *= -1
    dual = 0.5 * _quaternion_product(np.column_stack([np.zeros(16), shift]), real)
    real, dual = weights @ real, weights @ dual
    norm = np.linalg.norm(real, axis=1, keepdims=True)
    real, dual = real / norm, dual / norm
    turn = Rotation.from_quat(real[:, [1, 2, 3, 0]]).as_matrix()
    move = 2 * _quaternion_product(dual, real * [1, -1, -1, -1])[:, 1:]
    return np.einsum("nab,nb->na", turn, vertices) + move


def centre_joints(hands: Hands) -> Hands:
    """Move the finger joints, which anny's rig has just below the knuckles' skin, inwards."""
    vertices, joints = hands.vertices.mean(0), hands.joints.mean(0)
    frames = anatomy(_joints_21(vertices, joints, hands.weights)).frames
    unit = hands.vertices.std(axis=(1, 2))
    moved = hands.joints.copy()
    for finger, tip in enumerate(TIP_JOINTS):
        for k in range(3):
            if finger == 0 and k == 0:
                continue  # the base of the thumb lies inside the palm
            joint, back = tip - 2 + k, frames[finger, k, :, 1]
            up = _ray(vertices, hands.faces, joints[joint], back)
            down = _ray(vertices, hands.faces, joints[joint], -back)
            depth = JOINT_DEPTH * (up + down) if k else KNUCKLE_DEPTH
            shift = min(up - depth, 0.0) * back
            log.debug("joint %d: %.1f mm deep, now %.1f", joint, up * 1e3, depth * 1e3)
            moved[:, joint] += shift * (unit / unit.mean())[:, None]
    return hands._replace(joints=moved)


def _ray(vertices, faces, origin, direction) -> float:
    """Distance to the first face a ray meets (Moller and Trumbore 1997)."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    ab, ac, p = b - a, c - a, np.cross(direction, c - a)
    determinant = (ab * p).sum(1)
    s = origin - a
    u = (s * p).sum(1) / determinant
    q = np.cross(s, ab)
    v = q @ direction / determinant
    t = (ac * q).sum(1) / determinant
    return float(t[(u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)].min())


def _joints_21(vertices, joints, weights):
    tips = [vertices[tip_vertex(vertices, joints, weights, j)] for j in TIP_JOINTS]
    return np.concatenate([joints, tips])[MANO_TO_JOINTS]


def flatten(hands: Hands) -> Hands:
    """Straighten everyone's fingers by the angles that make the mean hand flat; centre it."""
    vertices, joints = hands.vertices.mean(0), hands.joints.mean(0)
    rotations = np.tile(np.eye(3), (16, 1, 1))
    for joint in TIP_JOINTS[1:]:
        tip = vertices[tip_vertex(vertices, joints, hands.weights, joint)]
        bones = np.diff(np.vstack([joints[joint - 2 : joint + 1], tip]), axis=0)
        bones /= np.linalg.norm(bones, axis=1, keepdims=True)
        axis = np.cross([0.0, 1.0, 0.0], bones.sum(0))  # turning about it bends the finger
        axis /= np.linalg.norm(axis)
        bends = np.degrees(
            [np.arctan2(np.cross(a, b) @ axis, a @ b) for a, b in itertools.pairwise(bones)]
        )
        elevation = np.degrees(np.arcsin(bones[0, 1]))
        turns = [elevation - FLAT_ELEVATION, *(np.array(FLAT_BENDS) - bends)]
        rotations[joint - 2 : joint + 1] = Rotation.from_rotvec(
            np.radians(turns)[:, None] * axis
        ).as_matrix()
    posed = [
        skin(v, hands.weights, rotations, j)
        for v, j in zip(hands.vertices, hands.joints, strict=True)
    ]
    flat, flat_joints = (np.array(part) for part in zip(*posed, strict=True))
    middle = (flat.mean(0).min(0) + flat.mean(0).max(0)) / 2
    return hands._replace(vertices=flat - middle, joints=flat_joints - middle)


class _Mesh:
    """A triangle mesh that shrinks by half-edge collapses, seen in several poses at once."""

    def __init__(self, poses, pose_weights, faces):
        self.poses, self.faces = poses, [tuple(face) for face in faces.tolist()]
        self.around: list[set[int]] = [set() for _ in range(poses.shape[1])]
        for i, face in enumerate(self.faces):
            for v in face:
                self.around[v].add(i)
        sides = {(f[i], f[(i + 1) % 3]) for f in self.faces for i in range(3)}
        self.rim_next = {a: b for b, a in sides if (a, b) not in sides}
        self.homogeneous = np.concatenate([poses, np.ones((*poses.shape[:2], 1))], axis=2)
        a, b, c = (poses[:, faces[:, i]] for i in range(3))
        normal = np.cross(b - a, c - a)
        double_area = np.linalg.norm(normal, axis=-1, keepdims=True)
        normal = normal / double_area
        plane = np.concatenate([normal, -(normal * a).sum(-1, keepdims=True)], axis=-1)
        area = double_area[..., None] / 2 * np.array(pose_weights)[:, None, None, None]
        quadric = plane[..., :, None] * plane[..., None, :] * area
        self.quadrics = np.zeros((*poses.shape[:2], 4, 4))
        for pose in range(len(poses)):
            for i in range(3):
                np.add.at(self.quadrics[pose], faces[:, i], quadric[pose])

    def neighbours(self, v: int) -> set[int]:
        return {u for face in self.around[v] for u in self.faces[face]} - {v}

    def _legal(self, v: int, u: int, ring: set[int]) -> bool:
        """Whether v may move onto u: stays manifold, flips no face, leaves no sliver."""
        other = self.neighbours(u)
        if len(ring & other) != (1 if v in self.rim_next else 2) or len(ring | other) - 2 > 8:
            return False
        old = np.array([self.faces[f] for f in sorted(self.around[v]) if u not in self.faces[f]])
        if not len(old):
            return False
        before, after = self.poses[:, old], self.poses[:, np.where(old == v, u, old)]
        n0, n1 = (
            np.cross(t[:, :, 1] - t[:, :, 0], t[:, :, 2] - t[:, :, 0]) for t in (before, after)
        )
        l0, l1 = np.linalg.norm(n0, axis=-1), np.linalg.norm(n1, axis=-1)
        if ((n0 * n1).sum(-1) < 0.3 * l0 * l1).any():
            return False
        edges = ((after[0] - np.roll(after[0], 1, axis=1)) ** 2).sum((1, 2))
        return bool((2 * np.sqrt(3) * l1[0] / edges).min() > 0.12)

    def cheapest(self, v: int) -> tuple[float, int] | None:
        """The legal neighbour that v may move onto at least cost."""
        ring = self.neighbours(v)
        rim = self.rim_next
        onto = [u for u in sorted(ring) if v not in rim or rim[v] == u or rim.get(u) == v]
        if not onto:
            return None
        quadric = self.quadrics[:, v][:, None] + self.quadrics[:, onto]
        points = self.homogeneous[:, onto]
        cost = np.einsum("pui,puij,puj->u", points, quadric, points)
        # A little cost for length keeps flat regions from emptying.
        cost += 2e-3 * ((self.poses[0, onto] - self.poses[0, v]) ** 2).sum(-1) ** 2
        for i in np.argsort(cost, kind="stable"):
            if self._legal(v, onto[i], ring):
                return float(cost[i]), onto[i]
        return None

    def collapse(self, v: int, u: int) -> None:
        for i in list(self.around[v]):
            face = self.faces[i]
            if u in face:
                for w in face:
                    self.around[w].discard(i)
            else:
                self.faces[i] = tuple(u if w == v else w for w in face)
                self.around[u].add(i)
        self.around[v] = set()
        self.quadrics[:, u] += self.quadrics[:, v]
        if v in self.rim_next:
            before = next(a for a, b in self.rim_next.items() if b == v)
            after = self.rim_next.pop(v)
            self.rim_next[before if after == u else u] = u if after == u else after


def decimate(
    poses: Float[np.ndarray, "pose vertex 3"],
    pose_weights: tuple[float, ...],
    faces: Int[np.ndarray, "face 3"],
    keep: set[int],
    vertices: int = 778,
    rim: int = 16,
) -> tuple[Int[np.ndarray, "kept"], Int[np.ndarray, "smaller 3"]]:
    """Thin a mesh with one rim to a given size, by quadric error (Garland and Heckbert 1997).

    Errors are summed over poses, so that skin which only folds in a fist keeps its vertices.
    Half-edge collapses keep a subset of the vertices: weights and shapes are plain indexing.

    Returns:
        Kept vertices, and faces over the old numbering.
    """
    mesh = _Mesh(poses, pose_weights, faces)
    while len(mesh.rim_next) > rim:
        options = [(mesh.cheapest(v), v) for v in sorted(mesh.rim_next)]
        (_, u), v = min((best, v) for best, v in options if best)
        mesh.collapse(v, u)
    left = sum(1 for around in mesh.around if around)
    version = [0] * len(mesh.around)
    heap: list[tuple[float, int, int, int]] = []

    def push(v: int) -> None:
        if v in keep or v in mesh.rim_next or not mesh.around[v]:
            return
        version[v] += 1
        if best := mesh.cheapest(v):
            heapq.heappush(heap, (best[0], v, best[1], version[v]))

    for v in range(len(mesh.around)):
        push(v)
    while left > vertices:
        _, v, u, stamp = heapq.heappop(heap)
        if version[v] != stamp or not mesh.around[v]:
            continue
        changed = mesh.neighbours(v)
        mesh.collapse(v, u)
        left -= 1
        for w in sorted(changed):
            push(w)
    alive = sorted(set().union(*mesh.around))
    kept = np.array([v for v, around in enumerate(mesh.around) if around])
    return kept, np.array([mesh.faces[i] for i in alive])


def thin(hands: Hands) -> tuple[Hands, Float[np.ndarray, "5 14"]]:
    """The hands with MANO's numbers of vertices and faces, tips where smplx wants them; nails."""
    vertices, joints = hands.vertices.mean(0), hands.joints.mean(0)
    nails = fit_nails(vertices, joints, hands)
    hand = anatomy(_joints_21(vertices, joints, hands.weights))
    bends = np.zeros((4, 5, 3, 3))
    bends[1, 1:, :, 0], bends[1, 0, :, 0] = (45, 50, 35), (9, 30, 30)
    bends[2, 1:, :, 0], bends[2, 0, :, 0] = (80, 100, 70), (15, 50, 50)
    bends[3, 1:, 0, 0], bends[3, 0, :, 0] = -15, (-3, -10, -10)
    poses = np.stack(
        [skin(vertices, hands.weights, r, joints)[0] for r in rotations_from_angles(bends, hand)]
    )
    tips = [tip_vertex(vertices, joints, hands.weights, j) for j in TIP_JOINTS]
    kept, faces = decimate(poses, (2, 1, 1, 0.5), hands.faces, set(tips))
    order = kept.tolist()
    for tip, place in zip(tips, FINGERTIPS, strict=True):
        now = order.index(tip)
        order[now], order[place] = order[place], order[now]
    number = np.full(len(vertices), -1)
    number[order] = np.arange(len(order))
    weights = hands.weights[order]
    small = hands._replace(
        vertices=hands.vertices[:, order], weights=tidy_weights(weights), faces=number[faces]
    )
    return small, nails


def tidy_weights(weights: Float[np.ndarray, "vertex 16"], most: int = 4):
    """At most four joints a vertex, none under 1 %, summing to one."""
    smallest = np.sort(weights, axis=1)[:, -most, None]
    weights = np.where((weights >= smallest) & (weights >= 0.01), weights, 0)
    return weights / weights.sum(1, keepdims=True)


def fit_nails(vertices, joints, hands: Hands) -> Float[np.ndarray, "5 14"]:
    """Nails, thumb to pinky, as ellipses at rest: centre, two axes, normal, two radii (metres)."""
    face = hands.faces[hands.nails[:, 0].astype(int)]
    points = np.einsum("pcx,pc->px", vertices[face], hands.nails[:, 1:])
    owner = hands.weights[face].mean(1).argmax(1)
    frames = anatomy(_joints_21(vertices, joints, hands.weights)).frames
    rows = []
    for finger, joint in enumerate(TIP_JOINTS):
        nail = points[owner == joint]
        centre = nail.mean(0)
        axes = np.linalg.svd(nail - centre, full_matrices=False)[2]
        axes[:2] *= np.sign(axes[:2] @ frames[finger, 2].sum(1))[:, None]
        normal = axes[2] * np.sign(axes[2] @ frames[finger, 2, :, 1])
        radii = np.percentile(np.abs((nail - centre) @ axes[:2].T), 97, axis=0)
        rows.append(np.concatenate([centre, *axes[:2], normal, radii]))
    return np.array(rows)


def shape_components(vertices, count: int = 10):
    """Mean shape and principal directions, each one standard deviation long."""
    mean = vertices.mean(0)
    flat = (vertices - mean).reshape(len(vertices), -1)
    _, scale, axes = np.linalg.svd(flat, full_matrices=False)
    axes = axes[:count] * np.sign(axes[:count].sum(1))[:, None]
    log.info("shape: %.4f of the variance", (scale[:count] ** 2).sum() / (scale**2).sum())
    components = axes * (scale[:count] / np.sqrt(len(vertices) - 1))[:, None]
    return mean, components.T.reshape(*mean.shape, count)


def joint_regressor(hands: Hands) -> Float[np.ndarray, "16 778"]:
    """Joints as convex combinations of nearby vertices, by non-negative least squares."""
    mean, joints = hands.vertices.mean(0), hands.joints.mean(0)
    regressor = np.zeros((16, mean.shape[0]))
    for j in range(16):
        distance = np.linalg.norm(mean - joints[j], axis=1)
        near = hands.weights[:, j] + (hands.weights[:, PARENTS[j]] if j else 0) > 0.5
        chosen = np.argsort(np.where(near, distance, np.inf))[:40]
        a = hands.vertices[::10, chosen].transpose(0, 2, 1).reshape(-1, len(chosen))
        b = hands.joints[::10, j].ravel()
        spread = 0.004 * np.eye(len(chosen))  # prefers many vertices to one
        a = np.concatenate([a, np.full((1, len(chosen)), 10.0), spread])
        b = np.concatenate([b, [10.0], np.full(len(chosen), 0.004 / len(chosen))])
        solution = nnls(a, b)[0]
        regressor[j, chosen] = solution / solution.sum()
    error = np.linalg.norm(regressor @ hands.vertices - hands.joints, axis=-1)
    log.info("joint regressor: mean %.2f, worst %.2f mm", error.mean() * 1e3, error.max() * 1e3)
    return regressor


def training_poses(hand, rng: np.random.Generator, count: int):
    """Half natural poses, half each joint bent at random within its limits."""
    angles = sample_angles(rng, count)
    low, high = LIMITS[..., 0, 0], LIMITS[..., 0, 1]
    angles[1::2, :, :, 0] = rng.uniform(low, high, (len(angles[1::2]), 5, 3))
    return rotations_from_angles(angles, hand)


def pose_correctives(
    template, weights, joints, hand, rng, count: int = 1500, strength: float = 1.0
):
    """`posedirs` that turn linear blend skinning into dual quaternion skinning, nearly.

    Ridge regression of the difference, taken back to the rest pose, on the entries of the local
    rotations minus identity; a vertex listens only to joints that move it.

    Returns:
        (778, 3, 135), metres.
    """
    rotations = training_poses(hand, rng, count)
    features = (rotations[:, 1:] - np.eye(3)).reshape(count, 135)
    targets = np.empty((count, *template.shape))
    for i, r in enumerate(rotations):
        world, _ = kinematics(r, joints)
        blend = np.einsum("nj,jab->nab", weights, world)
        gap = dual_quaternion_skin(template, weights, r, joints)
        gap = strength * (gap - skin(template, weights, r, joints)[0])
        targets[i] = np.linalg.solve(blend, gap[..., None])[..., 0]
    directions = np.zeros((*template.shape, 135))
    for pattern in np.unique(weights[:, 1:] > 0, axis=0):
        members = np.flatnonzero(((weights[:, 1:] > 0) == pattern).all(1))
        if not pattern.any():
            continue
        columns = np.flatnonzero(np.repeat(pattern, 9))
        a = features[:, columns]
        b = targets[:, members].reshape(count, -1)
        solution = np.linalg.solve(a.T @ a + 0.5 * np.eye(len(columns)), a.T @ b)
        solution = solution.reshape(len(columns), len(members), 3).transpose(1, 2, 0)
        directions[np.ix_(members, np.arange(3), columns)] = solution
    return directions


def pose_components(hand, rng: np.random.Generator, count: int = 4000):
    """`hands_components` (45 x 45), `hands_mean` (45) of natural poses, as axis-angle vectors."""
    rotations = rotations_from_angles(sample_angles(rng, count), hand)[:, 1:]
    vectors = Rotation.from_matrix(rotations.reshape(-1, 3, 3)).as_rotvec().reshape(count, 45)
    mean = vectors.mean(0)
    axes = np.linalg.svd(vectors - mean, full_matrices=True)[2]
    axes *= np.sign(axes.sum(1))[:, None]
    return axes, mean, (vectors - mean) @ axes.T


def _rounded(values, grid: float = GRID):
    return (np.round(np.asarray(values) / grid) * grid).astype(np.float32)


def bake(seed: int) -> dict[str, np.ndarray]:
    """The right hand, under MANO's key names; `nails` is an extra of ours."""
    people = sample_people(seed)
    turn = canonical_frame(people.joints.mean(0)).T
    people = people._replace(vertices=people.vertices @ turn, joints=people.joints @ turn)
    hands, nails = thin(flatten(centre_joints(people)))
    rng = np.random.default_rng(seed)
    template, shapes = shape_components(hands.vertices)
    template = _rounded(template).astype(float)
    regressor = joint_regressor(hands).astype(np.float32)
    joints = regressor.astype(float) @ template
    hand = anatomy(np.concatenate([joints, template[FINGERTIPS]])[MANO_TO_JOINTS])
    weights = hands.weights
    directions = pose_correctives(template, weights, joints, hand, rng)
    components, mean, coefficients = pose_components(hand, rng)
    fist = template_pose("fist", hand)
    corrected = template + directions @ (fist[1:] - np.eye(3)).ravel()
    log.info(
        "volume: flat %.0f ml, fist %.0f linear, %.0f corrected, %.0f dual quaternions",
        *(
            1e6 * volume(v, hands.faces)
            for v in (
                template,
                skin(template, weights, fist, joints)[0],
                skin(corrected, weights, fist, joints)[0],
                dual_quaternion_skin(template, weights, fist, joints),
            )
        ),
    )
    parents = np.array(PARENTS)
    parents = np.where(parents < 0, 2**32 - 1, parents)
    return {
        "v_template": template.astype(np.float32),
        "f": hands.faces.astype(np.uint32),
        "weights": weights.astype(np.float32),
        "J_regressor": regressor,
        "J": joints.astype(np.float32),
        "kintree_table": np.stack([parents, np.arange(16)]).astype(np.int64),
        "shapedirs": _rounded(shapes),
        "posedirs": _rounded(directions),
        "hands_components": components.astype(np.float32),
        "hands_mean": mean.astype(np.float32),
        "hands_coeffs": _rounded(coefficients[:100], 2.0**-12),
        "nails": nails.astype(np.float32),
        "bs_style": np.array("lbs"),
        "bs_type": np.array("lrotmin"),
    }


def volume(vertices, faces) -> float:
    """Volume of a mesh whose one hole is closed by a fan, cubic metres."""
    sides = {(f[i], f[(i + 1) % 3]) for f in faces.tolist() for i in range(3)}
    rim = np.array([(b, a) for a, b in sorted(sides) if (b, a) not in sides])
    centre = vertices[rim[:, 0]].mean(0)
    a, b, c = (vertices[faces[:, i]] - centre for i in range(3))
    return float((a * np.cross(b, c)).sum() / 6)  # the fan's own pyramids are flat


def mirror(right: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The left hand: mirrored in x, faces turned over so that they still face outwards."""
    flip = np.array([-1, 1, 1], np.float32)
    vector = -flip  # an axis-angle vector keeps x and loses the signs of y and z
    left = dict(right)
    for key in ("v_template", "J"):
        left[key] = right[key] * flip
    left["f"] = right["f"][:, ::-1].copy()
    left["shapedirs"] = right["shapedirs"] * flip[:, None]
    entries = np.tile(np.outer(flip, flip).ravel(), 15)
    left["posedirs"] = right["posedirs"] * flip[:, None] * entries
    left["hands_mean"] = (right["hands_mean"].reshape(15, 3) * vector).ravel()
    left["hands_components"] = (right["hands_components"].reshape(45, 15, 3) * vector).reshape(
        45, 45
    )
    nails = right["nails"].copy()
    nails[:, :12] = (nails[:, :12].reshape(5, 4, 3) * flip).reshape(5, 12)
    left["nails"] = nails
    return left


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    default = Path(__file__).parents[1] / "dne_lib" / "assets"
    parser.add_argument("--out", type=Path, default=default, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    right = bake(arguments.seed)
    for side, arrays in (("right", right), ("left", mirror(right))):
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]  # members carry a fixed date: same bytes every time
        path = arguments.out / f"hand_{side}.npz"
        write_bytes(path, buffer.getvalue())
        log.info("%s: %d kB", path, len(buffer.getvalue()) // 1000)
    versions = [
        f"{name} {importlib.metadata.version(name)}" for name in ("anny", "numpy", "scipy", "torch")
    ]
    log.info("python %s, %s", sys.version.split()[0], ", ".join(versions))


if __name__ == "__main__":
    main()
