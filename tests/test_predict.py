import json
import struct
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image, ImageOps
from torch import nn

from dne_lib.camera import project
from dne_lib.config import HAND_UNIT, PARTS, Config
from dne_lib.data.augment import crop_image
from dne_lib.files import InputError
from dne_lib.mano import HandModel
from dne_lib.model import DualNoiseNetwork
from dne_lib.model.noise import Calibration
from dne_lib.predict import (
    certainty,
    check_box,
    check_pixels,
    find_hands,
    hands_present,
    overlay,
    parse_box,
    predict,
    read_photo,
    save,
    spread_overlay,
)
from tests.samples import CONFIG

BOX = (100.0, 40.0, 40.0, 40.0)


class ColourNetwork(DualNoiseNetwork):
    """Calls red a right hand and blue a left one, and puts the rest pose in the middle."""

    def __init__(self):
        nn.Module.__init__(self)
        self.weight = nn.Parameter(torch.zeros(1))
        self.hands = HandModel()
        self.seen = []

    def forward(self, image, present=None):
        self.seen.append(image)
        small = nn.functional.interpolate(image, size=CONFIG.feature_size, mode="area")
        parts = torch.zeros(1, PARTS, *small.shape[2:])
        parts[:, 0] = 0.5
        parts[:, 1], parts[:, 17] = small[:, 0], small[:, 2]
        eye = torch.eye(3).expand(1, 2, 16, 3, 3)
        mesh = self.hands(eye, torch.zeros(1, 2, 10))
        vertices = mesh.vertices / HAND_UNIT
        camera = torch.tensor([[0.4, 0.0], [0.4, 0.0]]).expand(1, 2, 2, 2)
        stage = SimpleNamespace(
            vertices=vertices,
            joints=mesh.joints / HAND_UNIT,
            camera=camera,
            projections=project(vertices, camera),
        )
        return SimpleNamespace(auxiliary=SimpleNamespace(parts=parts), stages=(stage,))


@pytest.fixture(scope="module")
def config():
    return Config(model=CONFIG)


@pytest.fixture
def photo():
    image = np.zeros((120, 200, 3), np.uint8)
    image[40:80, 100:140, 0] = 255
    return image


def test_the_whole_image_is_searched_and_the_find_is_looked_at_twice(config, photo):
    network = ColourNetwork()
    found = predict(network, config, photo)
    assert found.present.tolist() == [True, False]
    whole, rough, close = network.seen
    assert 0.02 < whole[0, 0].mean() < 0.06
    # The crops have the red square in their middle, and are 1.25 times as wide, give or take a
    # cell of the part map before: 12.5 pixels, then some 4.
    assert 0.25 < rough[0, 0].mean() < close[0, 0].mean()
    assert close[0, 0].mean() > 0.45
    centre = np.linalg.solve(found.crop[:, :2], np.full(2, 31.5) - found.crop[:, 2])
    np.testing.assert_allclose(centre, [119.5, 59.5], atol=3)


@pytest.mark.parametrize("factor", [7, 30])
def test_a_large_photo_is_averaged_not_sampled(config, factor):
    """As while training, where large images are shrunk as they are decoded."""
    network, side = ColourNetwork(), factor * CONFIG.image_size
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    noise[..., 0] = 255  # red: a hand
    predict(network, config, noise)
    whole = network.seen[0]
    assert whole[0, 1].std() < 1.5 * (256 / 12**0.5 / 255) / factor
    spot = np.zeros((side, side, 3), np.uint8)
    spot[: side // 2, : side // 4, 0] = 255
    found = network.seen.clear() or predict(network, config, spot)
    assert network.seen[0][0, 0].mean().item() == pytest.approx(1 / 8, rel=0.05)
    middle = (found.points[0].min(0) + found.points[0].max(0)) / 2
    assert middle == pytest.approx([side / 8, side / 4], abs=side / 8)


def test_a_box_fixes_the_crop(config, photo):
    network = ColourNetwork()
    found = predict(network, config, photo, BOX)
    assert len(network.seen) == 1
    side = CONFIG.image_size / found.crop[0, 0]
    assert side == pytest.approx(50)
    # The wrist, at the origin with translation 0, is in the middle of the box.
    wrist = found.points[0] - found.vertices[0, :, :2] * 0.4 / HAND_UNIT * side / 2
    np.testing.assert_allclose(wrist, np.tile([119.5, 59.5], (778, 1)), atol=1e-3)
    # Nothing of the image is lost or moved by half a pixel: the square is where it was.
    red = network.seen[0][0, 0] > 0.5
    assert red.sum().item() == pytest.approx((40 / 50 * 64) ** 2, rel=0.05)
    assert red.nonzero().float().mean().item() == pytest.approx(31.5, abs=0.1)


def test_both_hands_and_none(config, photo):
    photo[40:80, 60:100, 2] = 255
    assert predict(ColourNetwork(), config, photo).present.all()
    blank = np.zeros_like(photo)
    with pytest.raises(InputError, match="no hand found in the image"):
        predict(ColourNetwork(), config, blank)
    with pytest.raises(InputError, match="no hand found in the box"):
        predict(ColourNetwork(), config, blank, (0.0, 0.0, 50.0, 50.0))


def test_presence_needs_a_share_of_the_map():
    parts = np.zeros((20, 20), np.int64)
    parts[0, :3] = 5
    parts[1, :4] = 17
    parts[2, :2] = 32
    assert hands_present(parts).tolist() == [False, True]
    parts[0, 3] = 16
    assert hands_present(parts).tolist() == [True, True]
    # A few parts of the other hand are mistakes, not a hand.
    parts[10:12] = 17
    assert hands_present(parts).tolist() == [False, True]
    parts[0, 4] = 5
    assert hands_present(parts).tolist() == [True, True]


def test_found_box_is_that_of_the_parts():
    parts = np.zeros((8, 8), np.int64)
    parts[2:4, 1:6] = 20
    crop = np.array([[0.5, 0, 3.0], [0, 0.5, 1.0]])
    x, y, width, height = find_hands(parts, crop, 16)
    # Cells 1 to 6 and 2 to 4 are crop pixels 2 to 12 and 4 to 8 by their edges.
    edges = np.array([[2, 4], [12, 8]]) - 0.5
    low, high = (edges - crop[:, 2]) / 0.5 + 0.5
    np.testing.assert_allclose([x, y, x + width, y + height], [*low, *high])
    assert find_hands(np.zeros((8, 8), np.int64), crop, 16) is None


def test_specks_far_from_the_hands_do_not_widen_the_box():
    parts, crop = np.zeros((32, 32), np.int64), np.eye(2, 3)
    parts[10:20, 10:20] = 3
    hand = find_hands(parts, crop, 32)
    assert hand == (10, 10, 10, 10)
    parts[0, :4], parts[31, 31] = 3, 20
    assert find_hands(parts, crop, 32) == hand
    # Which hand's they are is not asked: here it may be wrong. Corner to corner is together.
    parts[20:24, 20:24] = 20
    assert find_hands(parts, crop, 32) == (10, 10, 14, 14)
    parts[24:30, 0:4] = 20  # a hand further away
    assert find_hands(parts, crop, 32) == (0, 10, 24, 20)
    alone = np.zeros((32, 32), np.int64)
    alone[5, 5:7] = 1
    assert find_hands(alone, crop, 32) is None


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_an_image_of_more_than_8_bits_is_refused_not_clipped(mode, tmp_path):
    path = tmp_path / "deep.tiff"
    Image.new(mode, (8, 8)).save(path)
    with pytest.raises(InputError, match=r"deep.tiff has more than 8 bits a pixel"):
        read_photo(path)


def test_files_hold_the_hands(config, photo, tmp_path):
    found = predict(ColourNetwork(), config, photo, BOX)
    halves = np.zeros_like(photo)
    halves[:, :120, 0] = halves[:, 120:, 2] = 255
    both = predict(ColourNetwork(), config, halves, BOX)
    output = tmp_path / "out"
    save(both, output)
    assert (output / "left.obj").exists()
    assert set(trimesh.load_scene(output / "hands.glb").geometry) == {"right", "left"}

    names = [path.name for path in save(found, output)]
    assert names == ["overlay.png", "right.obj", "hands.glb", "hands.json"]
    said = json.loads((output / "hands.json").read_text())
    assert list(said) == ["right"]
    np.testing.assert_allclose(said["right"]["joints"], found.joints[0], atol=1e-5)
    np.testing.assert_allclose(said["right"]["joints_2d"], found.joint_points[0], atol=0.01)
    # Joints lie among the vertices, in the image too.
    low, high = found.points[0].min(axis=0), found.points[0].max(axis=0)
    assert ((found.joint_points[0] > low - 1) & (found.joint_points[0] < high + 1)).all()
    assert not (output / "left.obj").exists()
    right = trimesh.load_mesh(output / "right.obj", process=False)
    assert right.vertices.shape == (778, 3)
    assert right.faces.shape == (1538, 3)
    expected = found.vertices[0] * [1, -1, -1]
    moved = np.asarray(right.vertices) - expected
    np.testing.assert_allclose(moved, moved[:1].repeat(778, 0), atol=1e-6)
    assert moved[0, 2] < -0.5  # before the camera, which looks along -z in glTF
    picture = np.array(Image.open(output / "overlay.png"))
    assert (picture == overlay(found)).all()
    assert (picture[0, 0] == 0).all()
    assert (picture[50:70, 110:130] != photo[50:70, 110:130]).any()

    other = tmp_path / "other"
    other.mkdir()
    (other / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="other"):
        save(found, other)


def test_photos_are_read_upright_in_rgb(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.full((4, 6), 7, np.uint8)).save(path)
    assert read_photo(path).shape == (4, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    path = tmp_path / "photo.jpg"
    Image.fromarray(np.zeros((8, 16, 3), np.uint8)).save(path, exif=exif)
    assert read_photo(path).shape == (16, 8, 3)


def test_a_photo_is_turned_whatever_else_its_exif_says(tmp_path):
    turn = struct.pack("<HHIHxx", 0x0112, 3, 1, 6)
    odd = struct.pack("<HHI4s", 0x0213, 2, 4, b"odd")  # YCbCrPositioning, which is a number
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + turn + odd + bytes(4)
    path, pixels = tmp_path / "odd.jpg", np.zeros((16, 32, 3), np.uint8)
    pixels[:, :16] = 255
    Image.fromarray(pixels).save(path, exif=exif)
    read = read_photo(path)
    assert read.shape == (32, 16, 3)
    assert read[:14].min() > 200
    assert read[18:].max() < 50


@pytest.mark.parametrize("kind", ["png", "webp", "tif"])
def test_every_orientation_is_turned_as_pillow_does(tmp_path, kind):
    pixels = np.random.default_rng(0).integers(0, 255, (4, 6, 3)).astype(np.uint8)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.{kind}"
        tags = {"tiffinfo": {0x0112: orientation}} if kind == "tif" else {"exif": exif}
        Image.fromarray(pixels).save(path, **tags)
        expected = np.array(ImageOps.exif_transpose(Image.open(path)))
        np.testing.assert_array_equal(read_photo(path), expected)


def test_unreadable_photos_are_explained(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    for kind in ("jpg", "png"):
        whole = tmp_path / f"whole.{kind}"
        Image.fromarray(noise).save(whole)
        short = tmp_path / f"short.{kind}"
        short.write_bytes(whole.read_bytes()[:-3000])
        with pytest.raises(InputError, match="cut short"):
            read_photo(short)
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    with pytest.raises(InputError, match="is not an image"):
        read_photo(text)
    with pytest.raises(InputError, match="does not exist"):
        read_photo(tmp_path / "missing.jpg")
    with pytest.raises(InputError, match=r"Is a directory.*: give an image file"):
        read_photo(tmp_path)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_arrays_that_are_no_rgb_are_refused(pixels):
    with pytest.raises(InputError, match="give RGB as uint8"):
        check_pixels(pixels)


def test_boxes_are_checked(photo):
    assert parse_box("1,2.5,30,4") == (1.0, 2.5, 30.0, 4.0)
    for text in ("1,2,3", "a,b,c,d", "", "1,2,3,4,5"):
        with pytest.raises(InputError, match="four numbers"):
            parse_box(text)
    check_box((-10.0, -10.0, 20.0, 20.0), photo)
    for box in ((0.0, 0.0, 0.0, 5.0), (0.0, 0.0, 5.0, -1.0), (float("nan"), 0.0, 5.0, 5.0)):
        with pytest.raises(InputError, match="empty"):
            check_box(box, photo)
    for box in ((200.0, 0.0, 5.0, 5.0), (0.0, -9.0, 5.0, 9.0)):
        with pytest.raises(InputError, match="outside the image"):
            check_box(box, photo)
    with pytest.raises(InputError, match="far larger than the image"):
        check_box((0.0, 0.0, 1e300, 1e300), photo)


def test_a_network_with_modules_says_how_sure_it_is(config, photo, monkeypatch, tmp_path):
    monkeypatch.setattr("dne_lib.predict.hands_present", lambda *_: np.array([True, False]))
    torch.manual_seed(0)
    network = DualNoiseNetwork(CONFIG, HandModel())
    for module in network.refiners:
        torch.nn.init.constant_(module.varphi.last.bias, 0.1)
    found = predict(network, config, photo, BOX)
    crop = torch.from_numpy(crop_image(photo, found.crop, CONFIG.image_size)) / 255
    with torch.inference_mode():
        coarse, one, two = (s.vertices[0, 0] for s in network(crop.permute(2, 0, 1)[None]).stages)
    way = HAND_UNIT * np.hypot(
        *((b - a).norm(dim=-1).numpy() for a, b in ((coarse, one), (one, two)))
    )
    assert way.min() > 0.001
    # Eq. 2 as it was while training, two modules of it; half of a Gaussian is within 1.538 of it.
    expected = 1.538 * (CONFIG.gamma / 3**0.5 * way + CONFIG.delta * 2**0.5 * HAND_UNIT)
    np.testing.assert_allclose(found.spread[0], expected, rtol=1e-3)
    first, second = certainty(found).split("\n")
    millimetres = 1000 * expected.mean()
    assert first == f"right hand: half of its vertices within {millimetres:.1f} mm of the truth"
    assert "never held against errors" in second
    assert "spread.png" in [path.name for path in save(found, tmp_path / "out")]
    # Of a network that says nothing, nothing is left over either.
    plain = predict(ColourNetwork(), config, photo, BOX)
    assert plain.spread is None
    assert "unknown" in certainty(plain)
    with pytest.raises(InputError, match="no spread"):
        spread_overlay(plain)
    save(plain, tmp_path / "out")
    assert not (tmp_path / "out" / "spread.png").exists()


@pytest.mark.parametrize("hands", [1, 2])
def test_a_calibrated_network_says_how_far_errors_go(config, photo, monkeypatch, hands):
    monkeypatch.setattr("dne_lib.predict.hands_present", lambda *_: np.array([True, hands == 2]))
    torch.manual_seed(0)
    network = DualNoiseNetwork(CONFIG, HandModel())  # fresh modules move nothing by themselves
    for module in network.refiners:
        torch.nn.init.constant_(module.varphi.last.weight, 0)
        torch.nn.init.constant_(module.varphi.last.bias, 0)
        torch.nn.init.constant_(module.varphi.last.bias[3:], -1000)  # nor by Eq. 1
    delta = 0.01 / HAND_UNIT
    network.calibration = {"SH": Calibration(2, delta, 4), "IH": Calibration(2, 3 * delta, 4)}
    found = predict(network, config, photo, BOX)
    assert found.calibration == network.calibration["SH" if hands == 1 else "IH"]
    # Student's t of four degrees in space, 10 or 30 mm wide: F of 3 and 4 from a table.
    half, most = (10 * (2 * hands - 1) * (3 * f) ** 0.5 for f in (0.9406, 4.1909))
    np.testing.assert_allclose(1000 * found.spread, half, rtol=1e-3)
    *lines, last = certainty(found).split("\n")
    if hands == 2:  # half of them within 50 mm
        assert "or no hand at all" in last
        *lines, last = lines
    assert len(lines) == hands
    assert "calibrated on" in last
    line = (
        f"half of its vertices within {half:.1f} mm of the truth, nine in ten within {most:.1f} mm"
    )
    assert all(each.endswith(line) for each in lines)


def test_the_spread_is_drawn_in_colours(config, photo):
    found = predict(ColourNetwork(), config, photo, BOX)
    spread = np.full((2, 778), 0.002, np.float32)
    tip = found.vertices[0, 320] - found.vertices[0]
    spread[0, np.linalg.norm(tip, axis=1) < 0.02] = 0.02
    spread[1] = 9  # of a hand that is not there
    picture = spread_overlay(replace(found, spread=spread)).astype(int)
    unsure = spread[0] > 0.01
    pixels = found.points[0].round().astype(int)
    red = picture[pixels[:, 1], pixels[:, 0]]
    warmth = red[:, 0] - red[:, 2]
    assert np.median(warmth[unsure]) > 40
    assert np.median(warmth[~unsure]) < 0
    untouched = (picture == photo).all(2)
    assert untouched.mean() > 0.5


def test_the_image_camera_leads_from_metres_to_pixels(config, photo):
    for box in (None, BOX):
        found = predict(ColourNetwork(), config, photo, box)
        hand = int(found.present.argmax())
        scale, shift = found.image_camera[hand].T
        seen = found.vertices[hand, :, :2] * scale + shift
        np.testing.assert_allclose(seen, found.points[hand], atol=1e-3)
        np.testing.assert_allclose(
            found.joints[hand, :, :2] * scale + shift, found.joint_points[hand], atol=1e-3
        )
