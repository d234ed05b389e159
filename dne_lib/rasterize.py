"""From meshes to pixels: which face each pixel sees, and the auxiliary maps that follow.

Plain NumPy, for one sample at a time: the data loader draws its targets with it.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from dne_lib.camera import ndc_to_pixels
from dne_lib.config import HAND_UNIT, VERTICES
from dne_lib.mano import HandTopology

HEATMAP_SIGMA = 2 / 64  # of the side of the map; IntagHand: 2 pixels of 64


def rasterize(
    points: Float[np.ndarray, "vertex 2"],
    depth: Float[np.ndarray, "vertex"],
    faces: Int[np.ndarray, "face 3"],
    height: int,
    width: int,
) -> tuple[Int[np.ndarray, "height width"], Float[np.ndarray, "height width 3"]]:
    """The face seen through the centre of each pixel, whichever way the face is turned.

    Args:
        points: projected vertices in pixels, x right, y down; the centre of the first pixel is 0.
        depth: z of the vertices in the camera frame, any unit. Faces that reach to or behind the
            camera (z <= 0) are left out.
        faces: indices of vertices.

    Returns:
        The index of the nearest face, int32, -1 where there is none; and the perspective-correct
        barycentric coordinates of the point seen, float32, 0 where there is none: a weighted sum
        of any vertex attribute, depth included, is its exact value at that point.
    """
    x, y = points.T.astype(np.float64)[:, faces.T]  # (corner, face)
    inverse = 1 / np.where(depth > 0, depth, np.nan)[faces.T]  # 1/z is linear in the image
    area = (x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])

    # Every pixel in the bounding box of every face, as one flat list of candidates.
    left, right = _pixels_between(x.min(0), x.max(0), width)
    top, bottom = _pixels_between(y.min(0), y.max(0), height)
    columns = right - left
    count = columns * (bottom - top)
    count[(area == 0) | np.isnan(inverse).any(0)] = 0
    face = np.repeat(np.arange(len(faces)), count)
    offset = np.arange(len(face)) - np.repeat(np.cumsum(count) - count, count)
    row, column = np.divmod(offset, columns[face])
    row, column = row + top[face], column + left[face]

    # A pixel is inside where all three signed areas have the sign of the face's own.
    x, y = x[:, face] - column, y[:, face] - row
    screen = np.stack([x[i] * y[j] - x[j] * y[i] for i, j in ((1, 2), (2, 0), (0, 1))])
    screen /= area[face]
    inside = (screen >= 0).all(0)
    face, pixel = face[inside], (row * width + column)[inside]

    weights = screen[:, inside] * inverse[:, face]
    nearness = weights.sum(0)
    order = np.argsort(nearness, kind="stable")  # of those for one pixel the last written stays
    face_id = np.full(height * width, -1, np.int32)
    face_id[pixel[order]] = face[order]
    barycentric = np.zeros((height * width, 3), np.float32)
    barycentric[pixel[order]] = (weights / nearness).T[order]
    return face_id.reshape(height, width), barycentric.reshape(height, width, 3)


def _pixels_between(
    low: Float[np.ndarray, "face"], high: Float[np.ndarray, "face"], size: int
) -> tuple[Int[np.ndarray, "face"], Int[np.ndarray, "face"]]:
    """First, and one past the last, pixel centre of an axis in [low, high]."""
    first = np.clip(np.ceil(low), 0, size).astype(np.int64)
    last = np.clip(np.floor(high) + 1, 0, size).astype(np.int64)
    return first, np.maximum(first, last)


def vertex_normals(
    vertices: Float[np.ndarray, "vertex 3"], faces: Int[np.ndarray, "face 3"]
) -> Float[np.ndarray, "vertex 3"]:
    """Sums of the normals of the faces around each vertex, weighted by area; not of unit length."""
    a, b, c = np.moveaxis(vertices[faces], 1, 0)
    normals = np.repeat(np.cross(b - a, c - a), 3, axis=0)
    sums = [np.bincount(faces.ravel(), normals[:, i], len(vertices)) for i in range(3)]
    return np.stack(sums, axis=-1).astype(vertices.dtype)


def heatmaps(
    joints_2d: Float[np.ndarray, "joint 2"], valid: Bool[np.ndarray, "joint"], size: int
) -> Float[np.ndarray, "joint size size"]:
    """Gaussians of height 1 at the joints (NDC), 2 / 64 of the map wide; 0 for invalid joints."""
    centres = ndc_to_pixels(np.where(valid[:, None], joints_2d, 0), size)
    squares = (np.arange(size) - centres[..., None]) ** 2
    columns, rows = np.moveaxis(np.exp(-squares / (2 * (HEATMAP_SIGMA * size) ** 2)), 1, 0)
    maps = (rows * valid[:, None])[:, :, None] * columns[:, None, :]
    return maps.astype(np.float32)


def auxiliary_maps(
    vertices_2d: Float[np.ndarray, "2 778 2"],
    joints_2d: Float[np.ndarray, "2 21 2"],
    vertices: Float[np.ndarray, "2 778 3"],
    root_depth: Float[np.ndarray, "2"],
    present: Bool[np.ndarray, "2"],
    joint_valid: Bool[np.ndarray, "2 21"],
    topology: HandTopology,
    size: int,
) -> dict[str, np.ndarray]:
    """The truth for the five auxiliary tasks, as the camera sees it: near hands hide far ones.

    Args:
        vertices_2d: perspective projections, NDC of the crop.
        joints_2d: likewise.
        vertices: metres, camera frame, relative to the wrist of their own hand.
        root_depth: z of each wrist in the camera frame, metres.
        present: hands to draw; what is passed for an absent hand is ignored.
        joint_valid: joints to draw a heat map for.
        topology: of both hands.
        size: side of the maps.

    Returns:
        Maps that are 0 where no hand is seen, float32 but for `parts`:

        - depth (1, size, size): z relative to the wrist of the hand seen, hand units;
        - normals (3, size, size): unit, camera frame, turned to the camera;
        - heatmaps (42, size, size): 21 right joints, then 21 left, hidden or not;
        - densepose (3, size, size): place on the right hand's rest pose, [0, 1] over its bounding
          box, for both hands: a vertex has one value, and `parts` tells the side;
        - parts (size, size) int64: 0 background, 1 + joint on the right hand, 17 + joint on the
          left, by the joint of largest skinning weight of the nearest corner of the face.
    """
    faces = np.concatenate([topology.faces[0], topology.faces[1] + VERTICES])
    faces = faces[np.repeat(present, len(topology.faces[0]))]
    points = ndc_to_pixels(vertices_2d, size).reshape(-1, 2)
    xyz = vertices.reshape(-1, 3)
    z = (vertices[..., 2] + root_depth[:, None]).ravel()
    face_id, barycentric = rasterize(points, z, faces, size, size)

    densepose = np.tile(topology.places, (2, 1))
    attributes = np.hstack([xyz[:, 2:] / HAND_UNIT, vertex_normals(xyz, faces), densepose])

    seen = face_id >= 0
    corners, weights = faces[face_id[seen]], barycentric[seen]
    values = np.einsum("pk,pkc->cp", weights, attributes[corners])
    a, b, c = np.moveaxis(points[corners], 1, 0)
    (x1, y1), (x2, y2) = (b - a).T, (c - a).T
    inside_out = x1 * y2 > x2 * y1  # the inner side of a face, seen through the open wrist
    length = np.linalg.norm(values[1:4], axis=0)
    values[1:4] *= np.where(inside_out, -1, 1) / np.maximum(length, 1e-12)
    maps = np.zeros((7, size, size), np.float32)
    maps[:, seen] = values

    label = np.concatenate([1 + topology.part, 17 + topology.part])
    nearest = np.take_along_axis(corners, weights.argmax(1)[:, None], axis=1)[:, 0]
    parts = np.zeros((size, size), np.int64)
    parts[seen] = label[nearest]
    return {
        "depth": maps[:1],
        "normals": maps[1:4],
        "heatmaps": heatmaps(joints_2d.reshape(-1, 2), joint_valid.ravel(), size),
        "densepose": maps[4:],
        "parts": parts,
    }
