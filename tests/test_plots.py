import json
from itertools import pairwise

import cv2
import numpy as np
import pytest

from dne_lib import plots
from dne_lib.camera import ndc_to_pixels
from dne_lib.config import HAND_UNIT
from dne_lib.files import InputError
from dne_lib.mano import HandModel
from tests.samples import make_sample


@pytest.fixture(scope="module")
def hands():
    return HandModel()


@pytest.fixture(scope="module")
def sample(hands):
    return {k: v.numpy() for k, v in make_sample(hands, 3, (True, True)).items()}


def test_placed_hands_project_to_where_their_cameras_put_them(sample):
    vertices, camera = sample["vertices"], sample["camera"]
    placed = plots.placed(vertices, camera)
    # A pinhole of the nominal focal length sees each wrist at its camera's translation.
    wrist = placed[:, 0] - vertices[:, 0]
    seen = plots.FOCAL * wrist[:, :2] / wrist[:, 2:]
    np.testing.assert_allclose(seen, camera[..., 1], atol=1e-5)
    assert (placed[..., 2] > 0).all()
    assert np.isfinite(plots.placed(vertices, np.zeros((2, 2, 2), np.float32))).all()


def test_the_drawing_covers_the_part_map(hands, sample):
    size = sample["parts"].shape[-1]
    black = np.zeros((3, size, size), np.float32)
    picture = plots.draw_crop(
        black, sample["vertices_2d"], sample["vertices"], sample["camera"], hands.faces,
        sample["present"], size=size * 8,
    )  # fmt: skip
    drawn = cv2.resize((picture.sum(-1) > 0).astype(np.float32), (size, size), None, 0, 0, 3) > 0.5
    hand = sample["parts"] > 0
    assert (drawn & hand).sum() / (drawn | hand).sum() > 0.85


def test_large_photographs_are_drawn_in_place(hands, sample):
    """The drawing is made smaller than the photograph and enlarged."""
    points = ndc_to_pixels(sample["vertices_2d"], 300)
    placed = plots.placed(sample["vertices"], sample["camera"])
    black = np.zeros((300, 300, 3), np.float32)
    small = plots.draw_hands(black, points, placed, hands.faces, sample["present"])
    large = plots.draw_hands(
        np.zeros((1500, 1800, 3), np.float32),
        (points + 0.5) * 5 - 0.5,
        placed,
        hands.faces,
        sample["present"],
    )
    shrunk = cv2.resize(large[:, :1500], (300, 300), None, 0, 0, cv2.INTER_AREA)
    assert np.abs(shrunk - small).mean() < 0.01
    assert small.max() > 0.5


def test_only_hands_present_are_drawn_and_the_nearer_one_is_in_front(hands):
    one = make_sample(hands, 3, (True, True))
    points = np.tile(one["vertices_2d"].numpy()[:1] * 30 + 32, (2, 1, 1))
    vertices = np.tile(one["vertices"].numpy()[:1], (2, 1, 1)) + np.float32([0, 0, 10])
    vertices[0, :, 2] -= 1
    faces = np.tile(hands.faces[:1], (2, 1, 1))
    image = np.zeros((64, 64, 3), np.float32)
    colours = np.zeros((2, 778, 3), np.float32)
    colours[0, :, 0] = colours[1, :, 2] = 1
    both = plots.draw_hands(image, points, vertices, faces, np.array([True, True]), colours)
    assert both[..., 0].max() > 0.3
    assert both[..., 2].max() == 0
    left = plots.draw_hands(image, points, vertices, faces, np.array([False, True]), colours)
    assert left[..., 2].max() > 0.3
    none = plots.draw_hands(image, points, vertices, faces, np.array([False, False]), colours)
    assert (none == image).all()


def test_error_colours_follow_the_distance(sample):
    truth = sample["vertices"]
    moved = truth.copy()
    moved[0, 0, 0] += plots.WORST / 1000 / HAND_UNIT
    moved[0, 1, 0] += 1e3
    colours = plots.error_colours(moved, truth)
    np.testing.assert_allclose(colours[0, 0], plots.ERROR_COLOURS(1.0)[:3], atol=1e-2)
    np.testing.assert_allclose(colours[0, 1], plots.ERROR_COLOURS(1.0)[:3], atol=1e-6)
    np.testing.assert_allclose(colours[1, 0], plots.ERROR_COLOURS(0.0)[:3], atol=1e-6)


def test_error_colours_in_words():
    assert plots.ERROR_SCALE == "error: blue 0, red 30 mm"
    assert plots.WORST == 30
    none, worst = (np.array(plots.ERROR_COLOURS(end)[:3]) for end in (0.0, 1.0))
    assert none.argmax() == 2
    assert worst.argmax() == 0


def test_parts_have_33_colours():
    colours = plots.part_colours(np.arange(33)[None])
    assert len(np.unique(colours[0], axis=0)) == 33
    assert (colours[0, 0] == 0).all()


# What eyes without the one or the other cone see of linear RGB: Machado, Oliveira and Fernandes,
# 2009, severity 1.
EYES = {
    "normal": np.eye(3),
    "deuteranopic": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "protanopic": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
}


@pytest.mark.parametrize("eyes", EYES)
def test_parts_can_be_told_apart(eyes):
    """Right from left, and what touches, by the distance in CIELAB (2.3 is just noticeable)."""
    colours = plots.part_colours(np.arange(33)[None])
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.transpose(EYES[eyes]), 0, 1).astype(np.float32)
    lab = cv2.cvtColor(seen, cv2.COLOR_LRGB2LAB)[0]
    apart = np.linalg.norm(lab[:, None] - lab, axis=-1)
    assert apart[1:17, 17:].min() > 35
    assert apart[0, 1:].min() > 25
    bases = (13, 1, 4, 10, 7)  # thumb to pinky
    touching = [(0, base) for base in bases] + [*pairwise(bases)]
    touching += [(base + bone, base + bone + 1) for base in bases for bone in (0, 1)]
    for hand in (1, 17):
        assert min(apart[hand + a, hand + b] for a, b in touching) > 20
    yellow = lab[1:, 2] > 0  # as against blue: warm as against cool, to these eyes too
    assert yellow.tolist() == [True] * 16 + [False] * 16


def test_maps_are_blank_where_there_is_no_hand(sample):
    pictures = plots.map_pictures(**{name: sample[name] for name in plots.MAPS})
    background = sample["parts"] == 0
    for picture in pictures[:4]:
        assert picture.min() >= 0
        assert picture.max() <= 1
        assert (picture[background] == 0).all()
        assert picture[~background].max() > 0.3


def test_contact_sheet_is_an_opaque_png():
    images = [[np.full((8, 8, 3), 0.5, np.float32)] * 2] * 3
    figure = plots.contact_sheet(images, ["a", "b"], ["one", "two", "three"], error_bar=True)
    data = np.frombuffer(plots.png(figure), np.uint8)
    decoded = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    assert decoded is not None
    assert decoded.shape[2] == 3 or decoded[..., 3].min() == 255


def test_training_curves(tmp_path):
    log = tmp_path / "log.jsonl"
    entries = [{"step": i, "loss": 1 / (i + 1), "rate": 0.0, "note": "x"} for i in range(30)]
    log.write_text("\n".join(map(json.dumps, entries)))
    figure = plots.training_curves(log)
    axes = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title() for axis in axes] == ["loss", "rate"]
    assert axes[0].get_yscale() == "log"
    np.testing.assert_allclose(axes[0].lines[0].get_ydata(), [e["loss"] for e in entries])
    plots.save_figure(figure, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("text", [None, "", '{"step": 1, "lo'])
def test_bad_logs_are_explained(tmp_path, text):
    log = tmp_path / "log.jsonl"
    if text is not None:
        log.write_text(text)
    with pytest.raises(InputError, match=r"log\.jsonl"):
        plots.training_curves(log)
