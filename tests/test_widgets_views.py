"""Lesson 7's widget against the library's three views and brute force."""

import numpy as np
import pytest
import torch

from dne_lib import widgets
from dne_lib.files import InputError
from dne_lib.lessons import few_samples, stand_in
from dne_lib.mano import FINGERTIPS, HandModel
from dne_lib.model.refine import three_views
from dne_lib.widgets.views import PLANES, TIPS


@pytest.fixture(scope="module")
def sample():
    return few_samples(1, image_size=64)[0]


@pytest.fixture(scope="module")
def coarse(sample):
    return stand_in(HandModel(), sample)


@pytest.fixture(scope="module")
def side(sample):
    return int(sample["present"].nonzero()[0])


@pytest.fixture(scope="module")
def scene(sample, coarse, side):
    return widgets.views_scene(sample, coarse, side)


@pytest.mark.parametrize("grid", [2, 5, 16, 32])
def test_each_vertex_finds_in_the_picture_what_the_library_reads(scene, grid):
    cells = widgets.voxels(scene.vertices, grid)
    read = three_views(scene.colours[None], scene.vertices[None], grid)
    for (view, plane), expected in zip(PLANES.items(), read, strict=True):
        image = widgets.view_image(scene.colours, cells, view, grid)
        column, row = ((cells[:, plane] + 0.5) / grid * 256).long().unbind(1)
        np.testing.assert_array_equal(image[row, column], expected[0])


def test_colours_are_the_densepose_of_the_pixel(sample, coarse, side, scene):
    """A camera that sees every vertex in the middle of the pixel of row 3, column 5."""
    place = (torch.tensor([5.0, 3.0]) + 0.5) / 16 * 2 - 1
    camera = torch.stack([torch.zeros(2), place], dim=1).expand(2, 2, 2)
    found = widgets.views_scene(sample, coarse._replace(camera=camera), side).colours
    torch.testing.assert_close(found, sample["densepose"][:, 3, 5].expand(778, 3))
    assert scene.colours.std() > 0.1


@pytest.mark.parametrize("grid", [3, 16])
def test_boxes_hold_the_vertices_and_face_outwards(scene, grid):
    boxes = widgets.views_panels(scene, grid)[0].layers[0]
    corners = boxes.vertices.reshape(-1, 8, 3)
    low, high = corners.min(1), corners.max(1)
    places = scene.vertices.numpy()[:, None]
    inside = ((places >= low - 1e-5) & (places <= high + 1e-5)).all(-1)
    assert inside.any(1).all()
    assert inside.any(0).all()
    side = np.ptp(scene.vertices.numpy(), axis=0).max() / grid
    # Tetrahedra of a face that looked inwards would count against the others.
    assert widgets.volume(boxes.vertices, boxes.faces) == pytest.approx(
        len(corners) * side**3, rel=1e-3
    )


def test_a_box_has_the_largest_colour_of_its_vertices(scene):
    boxes = widgets.views_panels(scene, 8)[0].layers[0]
    cells = widgets.voxels(scene.vertices, 8)
    for cell, colour in zip(cells.unique(dim=0), boxes.colour[::8], strict=True):
        np.testing.assert_array_equal(colour, scene.colours[(cells == cell).all(1)].amax(0))


@pytest.mark.parametrize("view", PLANES)
def test_the_column_and_who_is_alone(scene, view):
    panels = widgets.views_panels(scene, 16, view, "ring tip")
    cells = widgets.voxels(scene.vertices, 16)
    plane = list(PLANES[view])
    same = (cells[:, None, plane] == cells[None, :, plane]).all(-1)
    vertex = FINGERTIPS[TIPS.index("ring tip")]
    torch.testing.assert_close(
        torch.from_numpy(panels[0].layers[2].places), scene.vertices[same[vertex]]
    )
    assert f" {int(same[vertex].sum())} vertices" in panels[1].title
    (line,) = np.unique(np.diff(panels[0].layers[1].places, axis=0) != 0, axis=0)
    assert line.nonzero()[0].tolist() == [({0, 1, 2} - set(plane)).pop()]
    whole = (cells[:, None] == cells[None]).all(-1)
    for layer, kind in zip(panels[2].layers[:2], (whole, same), strict=True):
        share = float((kind.sum(1) == 1).float().mean()) * 100
        assert layer.places[14].tolist() == pytest.approx([16, share])


def test_an_absent_hand_is_refused(sample, coarse):
    single = sample | {"present": torch.tensor([True, False])}
    with pytest.raises(InputError, match="choose another side"):
        widgets.views_scene(single, coarse, 1)
