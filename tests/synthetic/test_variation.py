"""Varied pictures: the labels still fit, and each variation changes what it says."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from dne_lib.data.index import read_index
from dne_lib.data.subsets import release
from dne_lib.files import InputError, read_json
from dne_lib.mano import HandModel
from dne_lib.synthetic import synthesize as module
from dne_lib.synthetic import variation
from dne_lib.synthetic.props import HIDDEN
from dne_lib.synthetic.render import GAMMA, Camera, Cuff, Layer, Light, sample_skin
from dne_lib.synthetic.synthesize import synthesize
from dne_lib.synthetic.variation import (
    blur,
    cast_shadow,
    colour_cast,
    develop,
    disc_kernel,
    in_light,
    line_kernel,
    move,
    render_varied,
    sample_quality,
)
from tests.synthetic.test_render import CAMERA, silhouette
from tests.synthetic.test_synthesize import files

COUNT = 18  # more than one chunk


def make(root, count=COUNT, workers=1, **options):
    synthesize(root, train=count, test=0, seed=8, workers=workers, progress=False, **options)
    return root


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    """A varied tree, and of each image the hands and camera it was drawn from, and the picture."""
    drawn = []

    def record(*arguments):
        drawn.append((*arguments, render_varied(*arguments)))
        return drawn[-1][-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "render_varied", record)
        root = make(tmp_path_factory.mktemp("varied") / "tree", varied=True)
    return root, drawn


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A plain tree, and of each image what it was drawn from."""
    drawn, render = [], module.render

    def record(*arguments):
        *others, rng = arguments
        drawn.append((*others, rng.bit_generator.state))
        return render(*arguments)

    def never(*_):
        raise AssertionError("a plain picture was varied")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "render", record)
        patch.setattr(module, "render_varied", never)
        root = make(tmp_path_factory.mktemp("plain") / "tree")
    return root, drawn


def pictures(root):
    """RGB, in the order of the labels."""
    labels = read_json(root / "annotations/train/InterHand2.6M_train_data.json")
    paths = [root / "images" / "train" / image["file_name"] for image in labels["images"]]
    return [cv2.imread(str(path))[..., ::-1].astype(float) for path in paths]


def test_same_bytes_whatever_the_number_of_workers(varied, tmp_path):
    assert files(make(tmp_path / "tree", workers=2, varied=True)) == files(varied[0])


def test_labels_are_those_of_the_plain_pictures(varied, plain):
    one, other = files(varied[0]), files(plain[0])
    differ = {name for name in one if one[name] != other[name]}
    assert one.keys() == other.keys()
    assert differ == {"recipe.json"} | {name for name in one if name.endswith(".jpg")}
    recipe = read_json(varied[0] / "recipe.json")
    assert recipe.pop("varied") == variation.VERSION
    assert recipe == read_json(plain[0] / "recipe.json")
    plain_name, name = (release(root, read_index(root, "train")) for root in (plain[0], varied[0]))
    assert name == f"varied {plain_name}"


def test_plain_pictures_are_those_of_the_studio(plain):
    """As they were before there were others: nothing is drawn from another source of chance."""
    names = [name for name in files(plain[0]) if name.endswith(".jpg")]
    assert len(names) == len(plain[1]) == COUNT
    found = set()
    for index, (hands, sides, camera, skin, state) in enumerate(plain[1]):
        rng = np.random.default_rng((8, 0, 4, index))
        assert rng.bit_generator.state == state
        found.add(module._jpeg(module.render(hands, sides, camera, skin, rng).image, 92))
    assert found == {(plain[0] / name).read_bytes() for name in names}


def test_a_plain_tree_is_not_made_varied(plain):
    before = files(plain[0])
    with pytest.raises(InputError, match="choose another folder"):
        make(plain[0], varied=True)
    assert files(plain[0]) == before


# ------------------------------------------------------------------------ hands and labels


def of_colour(red, green):
    """Unnatural skin, to find the hands in a picture by."""
    skin = sample_skin(np.random.default_rng(0), 0.3)
    colour = np.array([red, green, 0.15], np.float32)
    return dataclasses.replace(skin, base=colour, palm=colour, nail=colour, redness=0.0)


def projected(hands, sides, camera):
    faces = module._hand_model().faces
    drawn = [silhouette(h, faces[s], camera) for h, s in zip(hands, sides, strict=True)]
    return np.max(drawn, axis=0)


@pytest.mark.parametrize("alone", [True, False])
def test_only_labelled_pixels_have_the_colour_of_hands(varied, tmp_path, monkeypatch, alone):
    """The pixels that change with the colour of the skin are the hands that the labels say."""
    monkeypatch.setattr(variation, "pass_before", lambda *_: None)
    monkeypatch.setattr(variation, "sample_cuff", lambda _: Cuff(0.0, np.ones(3)))
    sample, arms = module.sample_props, sample_skin(np.random.default_rng(1), 0.3)
    monkeypatch.setattr(
        module,
        "sample_props",
        lambda hands, sides, _, rng: [] if alone else sample(hands, sides, arms, rng),
    )
    seen, covered = [], []

    def record(*arguments):
        picture = render_varied(*arguments)
        covered.append(picture.coverage)
        return picture

    monkeypatch.setattr(module, "render_varied", record)
    for name, colour in (("red", (0.5, 0.1)), ("green", (0.1, 0.5))):
        monkeypatch.setattr(module, "varied_skin", lambda *_, colour=colour: of_colour(*colour))
        seen.append(pictures(make(tmp_path / name, 8, varied=True)))
    overlaps = []
    for red, green, visible, (hands, sides, camera, *_) in zip(
        *seen, covered[:8], varied[1][:8], strict=True
    ):
        ratios = [np.log((image[..., 0] + 8) / (image[..., 1] + 8)) for image in (red, green)]
        changed = ratios[0] - ratios[1]
        changed = changed > 0.5 * np.quantile(changed, 0.995)
        mask = (projected(hands, sides, camera) if alone else visible) > 0.5
        overlaps.append((changed & mask).sum() / (changed | mask).sum())
    assert np.median(overlaps) > 0.95
    assert min(overlaps) > 0.88  # some are blurred


def test_what_is_covered_is_hand_and_most_of_it(varied):
    shares = []
    for hands, sides, camera, *_, picture in varied[1]:
        expected = projected(hands, sides, camera)
        assert not ((picture.coverage > 0.5) & (expected < 0.01)).any()
        shares.append(picture.coverage.sum() / expected.sum())
    # Each prop hides at most that part of a hand as far as coarse rays can tell.
    assert min(shares) > 1 - HIDDEN - 0.05
    assert max(shares) > 0.99
    assert np.mean(np.array(shares) < 0.97) > 0.15  # and some do hide something


# ------------------------------------------------------------------------------------ skin


def typology_angle(skin):
    """Degrees, from the albedo by the definitions of sRGB and CIELAB (D65)."""
    display = skin.base.astype(float) ** (1 / GAMMA)
    light = np.where(display > 0.04045, ((display + 0.055) / 1.055) ** 2.4, display / 12.92)
    matrix = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = matrix @ light / [0.9505, 1, 1.089]
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.degrees(np.arctan2(116 * f[1] - 16 - 50, 200 * (f[1] - f[2])))


def test_skin_is_spread_evenly_over_the_classes_of_the_typology_angle():
    angles = [typology_angle(module.varied_skin("train", 0, capture)) for capture in range(96)]
    limits = [-90, -30, 10, 28, 41, 55, 90]  # dark, brown, tan, intermediate, light, very light
    counts = np.histogram(angles, limits)[0]
    assert counts.sum() == 96
    assert 15 <= counts.min() <= counts.max() <= 17
    first = np.histogram(angles[:12], limits)[0]
    assert 1 <= first.min() <= first.max() <= 3
    assert -62 < min(angles) < -50
    assert 60 < max(angles) < 67


# -------------------------------------------------------------------------------- the lens


@pytest.mark.parametrize("angle", [0.0, 0.6, 2.2])
def test_motion_is_a_line_around_its_middle(angle):
    kernel = line_kernel(9.0, angle)
    y, x = np.mgrid[: len(kernel), : len(kernel)] - len(kernel) // 2
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert (kernel * x).sum() == pytest.approx(0, abs=1e-4)
    assert (kernel * y).sum() == pytest.approx(0, abs=1e-4)
    along = np.cos(angle) * x + np.sin(angle) * y
    across = np.cos(angle) * y - np.sin(angle) * x
    # A box of length 9 has the variance 81 / 12; sharing between pixels adds at most 1 / 4.
    assert 81 / 12 - 0.1 < (kernel * along**2).sum() < 81 / 12 + 0.35
    assert (kernel * across**2).sum() < 0.3


def test_defocus_is_a_disc():
    kernel = disc_kernel(6.0)
    y, x = np.mgrid[: len(kernel), : len(kernel)] - len(kernel) // 2
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert (kernel * (x**2 + y**2)).sum() == pytest.approx(18, rel=0.06)  # r^2 / 2
    assert kernel[np.hypot(x, y) < 5].std() < 1e-7


def test_blur_keeps_what_is_even_and_the_sum_of_what_is_not():
    even = np.full((40, 50, 3), 0.3, np.float32)
    kernel = disc_kernel(3.0)
    np.testing.assert_allclose(blur(even, kernel), even, atol=1e-6)
    np.testing.assert_allclose(in_light(even, kernel), even, atol=1e-6)
    point = np.zeros((40, 50, 3), np.float32)
    point[20, 25] = 1
    assert blur(point, kernel)[..., 0].sum() == pytest.approx(1, abs=1e-4)
    # In light a bright point stays bright: its disc has the root of its share.
    assert in_light(point, kernel)[20, 25, 0] == pytest.approx(np.sqrt(kernel[3, 3]), abs=1e-5)


def test_motion_of_hands_leaves_the_background():
    alpha = np.zeros((40, 60), np.float32)
    alpha[10:30, 20:40] = 1
    layer = Layer(alpha[..., None] * np.ones(3), alpha, alpha)
    background = np.random.default_rng(0).uniform(size=(40, 60, 3)).astype(np.float32)
    image = move(layer, line_kernel(9.0, 0.0)).over(background)
    np.testing.assert_array_equal(image[:, :13], background[:, :13])
    np.testing.assert_allclose(image[20, 25:35], 1, atol=1e-5)
    half = background[20, 20] + 0.5 * (1 - background[20, 20])
    np.testing.assert_allclose(image[20, 20], half, atol=0.1)


def test_shadow_falls_away_from_the_light():
    alpha = np.zeros((334, 512), np.float32)
    alpha[150:180, 250:280] = 1
    light = Light(np.array([0.6, 0, -0.8], np.float32), np.ones(3), 0.05)
    grey = np.full((334, 512, 3), 0.5, np.float32)
    dark = grey - cast_shadow(grey, alpha, light, np.random.default_rng(0))
    assert dark.min() >= 0
    assert 0.08 < dark.max() < 0.31
    rows, columns = np.nonzero(dark[..., 0] > 0.04)
    assert rows.mean() == pytest.approx(164.5, abs=1)
    assert 225 < columns.mean() < 262


def test_colour_casts_and_the_rest_of_a_camera():
    image = np.random.default_rng(0).uniform(0.1, 0.8, (5, 6, 3)).astype(np.float32)
    np.testing.assert_array_equal(colour_cast(image, 0.0, 0.0), image)
    warm = (colour_cast(image, 0.2, 0.1) / image) ** GAMMA  # gains of light
    np.testing.assert_allclose(warm, np.exp([0.2, 0.1, -0.2]) * np.ones((5, 6, 1)), rtol=1e-5)
    np.testing.assert_allclose(develop(image, 1.0, 1.0, 1.0), image, atol=1e-6)
    grey = develop(image, 1.0, 0.0, 1.0)
    np.testing.assert_allclose(grey.std(2), 0, atol=1e-6)
    contrast = develop(image, 1.2, 1.0, 1.0)
    assert contrast.std() == pytest.approx(1.2 * image.std(), rel=1e-4)
    np.testing.assert_allclose(develop(image, 1.0, 1.0, 0.8), 0.8 * image, atol=1e-6)


def test_jpegs_are_of_many_qualities(varied, plain):
    tables = []
    for root in (varied[0], plain[0]):
        found = set()
        for path in root.rglob("*.jpg"):
            with Image.open(path) as image:
                found.add(tuple(image.quantization[0]))
        tables.append(found)
    assert len(tables[0]) > COUNT / 2
    assert len(tables[1]) == 1
    qualities = [sample_quality(np.random.default_rng(seed)) for seed in range(300)]
    assert min(qualities) < 40 < 90 < max(qualities) < 98


def test_pictures_differ_in_sharpness_colour_and_light(varied, plain):
    """Over the hands alone, so that backgrounds do not count."""
    spreads = []
    for root, drawn in (varied, plain):
        values = []
        for image, (hands, sides, camera, *_) in zip(pictures(root), drawn, strict=True):
            mask = cv2.erode((projected(hands, sides, camera) > 0.9).astype(np.uint8), np.ones(3))
            inside = image[mask > 0]
            edges = np.abs(cv2.Laplacian(image, cv2.CV_64F)).mean(2)[mask > 0]
            values.append([np.log(edges.mean()), np.log(inside[:, 2].mean() / inside[:, 0].mean())])
        spreads.append(np.std(values, 0))
    assert (spreads[0] > 1.25 * spreads[1]).all()


def test_hands_out_of_the_picture():
    rest = torch.eye(3).expand(2, 16, 3, 3)
    hands = HandModel()(rest, torch.zeros(2, 10)).vertices.double().numpy()[:1]
    skin = sample_skin(np.random.default_rng(0))
    camera = Camera(CAMERA.focal, CAMERA.centre)
    picture = render_varied(
        hands + [[[3.0, 0, 0.9]]], (0,), camera, skin, [], np.random.default_rng(0)
    )
    assert picture.coverage.max() == 0
    assert picture.image.std() > 1
