"""Every callback over the whole range of every control; the two ways to draw; the lessons' data."""

import inspect
from functools import partial

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from dne_lib import widgets
from dne_lib.camera import project, ridge_camera
from dne_lib.config import HAND_UNIT, DataConfig, preset
from dne_lib.data.interhand import InterHand
from dne_lib.files import InputError
from dne_lib.lessons import attempt, few_samples, stand_in
from dne_lib.mano import HandModel
from dne_lib.model import Stage
from dne_lib.plots import png
from dne_lib.synthetic.synthesize import synthesize
from dne_lib.widgets import Choice, Panel, Picture, Points, Slider, Surface, hand
from dne_lib.widgets import panels as drawing
from dne_lib.widgets.losses import Pull, Snapshot
from tests.test_widgets_maps import many, pairs, small_network
from tests.test_widgets_welcome import welcomed

CONTROLS = {
    "welcome": widgets.welcome_controls(images=3, modules=2),
    "augment": widgets.AUGMENT_CONTROLS,
    "hand": widgets.HAND_CONTROLS,
    "noise": widgets.NOISE_CONTROLS,
    "learning": widgets.LEARNING_CONTROLS,
    "balance": widgets.BALANCE_CONTROLS,
    "schedule": widgets.SCHEDULE_CONTROLS,
    "errors": widgets.ERRORS_CONTROLS,
    "camera": widgets.CAMERA_CONTROLS,
    "maps": widgets.MAPS_CONTROLS,
    "attention": widgets.ATTENTION_CONTROLS,
    "coordinates": widgets.COORDINATE_CONTROLS,
    "views": widgets.VIEWS_CONTROLS,
}


@pytest.mark.parametrize("controls", CONTROLS.values(), ids=CONTROLS)
def test_labels_leave_room_for_the_slider(controls):
    # JupyterLab gives label, slider and readout 300 pixels together.
    assert max(len(control.label) for control in controls.values()) <= 20


@pytest.fixture(scope="module")
def hands():
    return HandModel()


@pytest.fixture(scope="module")
def samples():
    return few_samples(3, image_size=64)


@pytest.fixture(scope="module")
def scene(hands, samples):
    return widgets.noise_scene(samples[0], stand_in(hands, samples[0]), hands, 0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A right hand, two hands, a left hand."""
    root = tmp_path_factory.mktemp("data") / "tree"
    synthesize(root, train=3, test=0, seed=1, workers=1, progress=False)
    return InterHand(root, "train", preset("tiny").model, DataConfig(root=root), augment=False)


@pytest.fixture(scope="module")
def learnt(hands, samples):
    """Four images, their meshes at three steps on the way to the truth."""
    batch = torch.utils.data.default_collate([samples[i] for i in (0, 1, 2, 1)])
    two = {name: torch.stack(2 * [batch[name]]) for name in ("vertices", "vertices_2d", "camera")}
    kept = [
        Snapshot(step, size * two["vertices"], size * two["vertices_2d"], two["camera"])
        for step, size in ((0, 2.0), (5, 1.5), (10, 1.0))
    ]
    kept[1].vertices[0] += 0.1  # the coarse ones are worse
    kept[0].vertices[0] += 0.1
    return widgets.learning_scene(batch, hands.faces, kept)


@pytest.fixture(scope="module")
def measured(hands, samples):
    """Twelve hands and two guesses at each."""
    batch = torch.utils.data.default_collate(3 * samples)

    def stage(seed):
        guess = [stand_in(hands, each, seed + i) for i, each in enumerate(3 * samples)]
        vertices, camera = (torch.stack(each) for each in zip(*guess, strict=True))
        points, joints = project(vertices, camera), hands.regress_joints(vertices)
        scores = torch.zeros(1, len(guess), 2)
        return Stage(vertices, joints, camera, points, vertices[None], points[None], scores)

    return widgets.error_scene(batch, (stage(20), stage(0)), hands.faces)


@pytest.fixture(scope="module")
def callbacks(hands, samples, scene, data, learnt, measured):
    pulls = Pull(np.array([1.0, 2.0, 3.0, 4.0]), np.eye(4)), Pull(np.ones(4), np.eye(4))
    coarse = stand_in(hands, samples[0])
    views = widgets.views_scene(samples[0], coarse, 0)
    points = project(coarse.vertices[0], coarse.camera[0])
    features = torch.rand(8, 16, 16, generator=torch.Generator().manual_seed(0))
    coordinates = widgets.coordinate_scene(samples[0], features, points, points + 0.1, 0)
    network = small_network()
    return {
        "welcome": partial(widgets.welcome_panels, welcomed(hands, samples)),
        "augment": partial(widgets.augment_panels, data, 1),
        "hand": partial(widgets.hand_panels, hands),
        "noise": partial(widgets.noise_panels, scene),
        "learning": partial(widgets.learning_panels, learnt),
        "balance": partial(widgets.balance_panels, pulls),
        "schedule": partial(widgets.schedule_panels),
        "errors": partial(widgets.errors_panels, measured),
        "camera": partial(widgets.camera_panels, widgets.camera_scene(samples[0], 0)),
        "maps": partial(widgets.maps_panels, widgets.maps_scene(many(samples), network)),
        "attention": partial(
            widgets.attention_panels, widgets.attention_scene(pairs(samples), network)
        ),
        "coordinates": partial(widgets.coordinate_panels, coordinates),
        "views": partial(widgets.views_panels, views),
    }


def arrays(panels):
    """All that is drawn, as plain arrays."""
    found = []
    for panel in panels:
        for layer in panel.layers:
            if isinstance(layer, Picture):
                found.append(layer.image)
            elif isinstance(layer, Surface):
                found += [layer.vertices, np.asarray(drawing._rgb(layer))]
            else:
                found.append(layer.places)
    return found


def structure(panels):
    return [(panel.solid, [type(layer) for layer in panel.layers]) for panel in panels]


@pytest.mark.parametrize("name", CONTROLS)
def test_every_value_of_every_control_can_be_drawn_and_shows(name, callbacks):
    callback, controls = callbacks[name], CONTROLS[name]
    start = drawing.start_values(controls)
    first = callback(**start)
    figure = drawing.live_figure(first)
    for field, control in controls.items():
        seen = []
        for value in control.values:
            panels = callback(**start | {field: value})
            assert structure(panels) == structure(first)
            shown = arrays(panels)
            # Only lines may be broken, by NaN.
            assert all(np.isfinite(each).all() or each.shape[0] == 60 for each in shown)
            seen.append((shown, [panel.title for panel in panels]))
        (low, _), (high, _) = seen[0], seen[-1]
        pairs = zip(low, high, strict=True)
        same = [a.shape == b.shape and np.array_equal(a, b, True) for a, b in pairs]
        assert not all(same), f"{field} does nothing visible"
        drawing.redraw(figure, callback(**start | {field: control.values[-1]}))


@pytest.mark.parametrize("name", CONTROLS)
def test_starts_are_the_callbacks_own_and_within_range(name, callbacks):
    controls = CONTROLS[name]
    parameters = inspect.signature(callbacks[name].func).parameters.values()
    defaults = [p.default for p in parameters if p.default is not p.empty]
    assert defaults == list(drawing.start_values(controls).values())
    for control in controls.values():
        assert control.start in control.values


def test_slider_values():
    assert Slider("x", 0.0, 1.0, 0.25, 0.5).values == [0, 0.25, 0.5, 0.75, 1]
    whole = Slider("x", 1, 4, 1, 2).values
    assert whole == [1, 2, 3, 4]
    assert all(isinstance(value, int) for value in whole)
    assert Choice("x", ("a", "b")).start == "a"


@pytest.mark.parametrize("name", [name for name in CONTROLS if name != "welcome"])
def test_a_name_that_is_not_offered_is_not_taken_for_another(name, callbacks):
    for field, control in CONTROLS[name].items():
        if isinstance(control, Choice):
            with pytest.raises(InputError, match=f"{field} is 'palm': give one of"):
                callbacks[name](**{field: "palm"})


@pytest.mark.parametrize("name", CONTROLS)
def test_a_still_picture_has_the_panels(name, callbacks):
    panels = callbacks[name]()
    figure = widgets.still(panels)
    assert [axis.get_title() for axis in figure.axes] == [panel.title for panel in panels]
    assert png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize("name", CONTROLS)
def test_moving_a_slider_redraws(name, callbacks):
    box = widgets.explore(callbacks[name], CONTROLS[name])
    inputs, figure = box.children[0].children, box.children[1]
    assert len(inputs) == len(CONTROLS[name])
    assert isinstance(figure, go.FigureWidget)
    start = drawing.start_values(CONTROLS[name])
    for i, (field, control) in enumerate(CONTROLS[name].items()):
        assert inputs[i].value == control.start
        inputs[i].value = start[field] = control.values[-1]
        expected = drawing.live_figure(callbacks[name](**start))
        for a, b in zip(figure.data, expected.data, strict=True):
            keys = {"image": ["source"], "scatter": ["x", "y"]}.get(a.type, ["x", "y", "z"])
            for key in keys:
                np.testing.assert_array_equal(np.array(a[key]), np.array(b[key]))
            assert a.name == b.name


def test_a_mesh_keeps_its_cube_while_it_fits():
    """So that growing can be seen; and nothing is ever cut off, nor lost in an empty cube."""
    corners = np.indices((2, 2, 2)).reshape(3, 8).T.astype(float)

    def cube(size):
        drawing.redraw(figure, [Panel("", [Points(size * corners)])])
        scene = figure.layout.scene
        return np.array([scene.xaxis.range, scene.yaxis.range, scene.zaxis.range])

    figure = drawing.live_figure([Panel("", [Points(corners)])])
    start = cube(1.0)
    np.testing.assert_allclose(start, [[-0.05, 1.05], [-0.05, 1.05], [-1.05, 0.05]])
    assert (cube(1.04) == start).all()
    assert (cube(0.6) == start).all()
    np.testing.assert_allclose(cube(2.0), 2 * start)
    np.testing.assert_allclose(cube(0.5), 0.5 * start)


def test_axes_and_legends_follow_their_panel(scene):
    figure = drawing.live_figure(widgets.noise_panels(scene))
    assert figure.layout.yaxis2.title.text == "mean vertex error, mm"
    drawing.redraw(figure, widgets.noise_panels(scene, space="2D"))
    assert figure.layout.yaxis2.title.text == "mean vertex error, pixels"
    legends = {trace.name: trace.legend for trace in figure.data if trace.name}
    assert legends["samples"] == "legend"
    assert legends["the mean"] == "legend3"


def test_sliders_say_every_value_they_take(callbacks):
    gamma, delta, samples = (
        widgets.explore(callbacks["noise"], CONTROLS["noise"]).children[0].children[:3]
    )
    assert [x.readout_format for x in (gamma, delta, samples)] == [".2f", ".3f", "d"]


def test_surfaces_are_upright():
    """The reader looks along the camera's z, with its y down."""
    corners = drawing.upright(np.eye(3))
    assert corners.tolist() == [[1, 0, 0], [0, 0, -1], [0, 1, 0]]
    plain = Panel("", [Points(np.zeros((2, 2)))])
    assert not plain.solid
    assert not plain.pictured


def test_half_a_gesture_is_half_the_angle(hands):
    turn = torch.tensor([[[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]], dtype=torch.float64)
    half = hand._part_way(turn, 0.5)
    torch.testing.assert_close(half @ half, turn)
    torch.testing.assert_close(hand._part_way(turn, 0.0)[0], torch.eye(3, dtype=torch.float64))


def test_volume_of_a_tetrahedron_and_what_correctives_do(hands):
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    assert widgets.volume(corners, faces) == pytest.approx(1 / 6)
    rest = torch.eye(3).expand(16, 3, 3)
    plain = widgets.without_correctives(hands, 1, rest, torch.ones(10))
    torch.testing.assert_close(plain, hands.single(1, rest, torch.ones(10)).vertices)
    titles = [widgets.hand_panels(hands, correctives=each)[0].title for each in ("on", "off")]
    assert ["no correctives" in title for title in titles] == [False, True]


def test_draws_are_nested_and_measured(scene):
    few = widgets.draw_noise(scene, 0.3, 0.02, 5, 1, "3D")
    many = widgets.draw_noise(scene, 0.3, 0.02, 20, 1, "3D")
    torch.testing.assert_close(few.samples, many.samples[:5])
    errors = [(each - scene.truth).norm(dim=-1).mean() * HAND_UNIT * 1000 for each in many.samples]
    assert many.best_error[-1] == pytest.approx(float(min(errors)), abs=1e-4)
    assert many.best_error[0] == pytest.approx(float(errors[0]), abs=1e-4)
    assert (many.vertex_error <= many.best_error + 1e-4).all()
    assert (np.diff(many.best_error) <= 0).all()


@pytest.mark.parametrize("space", ["3D", "2D"])
def test_without_spread_every_sample_is_the_mean(scene, space):
    draws = widgets.draw_noise(scene, 0.0, 0.0, 3, 0, space)
    np.testing.assert_allclose(draws.best_error, draws.mean_error, rtol=1e-5)
    start = (scene.points - scene.true_points) * 128 if space == "2D" else (
        (scene.vertices - scene.truth) * HAND_UNIT * 1000
    )  # fmt: skip
    # The mean goes 60 % of the way.
    assert draws.mean_error == pytest.approx(0.4 * float(start.norm(dim=-1).mean()), rel=1e-4)


def test_2d_samples_lie_under_their_image_points(scene):
    """On the mesh, a 2D sample is where the camera would see it."""
    panels = widgets.noise_panels(scene, 0.3, 0.03, 4, space="2D")
    flat, solid = panels[0].layers[1].places, panels[1].layers[1].places
    seen = drawing.pixels(project(torch.from_numpy(solid), scene.camera))
    np.testing.assert_allclose(seen, flat, atol=1e-2)


def test_disturbed_points():
    points = torch.zeros(1000, 2)
    noisy = widgets.disturbed(points, 6.4, 0, 0)
    assert noisy.std() * 128 == pytest.approx(6.4, rel=0.05)
    strayed = widgets.disturbed(points, 0.0, 30, 0)
    assert int((strayed != 0).any(1).sum()) == 300
    assert strayed.abs().max() <= 1


def test_absent_hands_are_refused(hands, samples):
    single = next(each for each in samples if not each["present"].all())
    absent = int(single["present"].logical_not().nonzero()[0])
    with pytest.raises(InputError, match="choose another side"):
        widgets.camera_scene(single, absent)
    with pytest.raises(InputError, match="choose another side"):
        widgets.noise_scene(single, stand_in(hands, single), hands, absent)


def test_few_samples_show_the_same_hands_in_other_pictures(samples):
    for plain, varied in zip(samples, few_samples(3, image_size=64, varied=True), strict=True):
        assert torch.equal(plain["vertices"], varied["vertices"])
        assert not torch.equal(plain["image"], varied["image"])


def test_few_samples_are_the_same_each_time(samples):
    again = few_samples(3, image_size=64)
    assert len(again) == 3
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(samples, again, strict=True))


def test_the_stand_in_is_the_truth_disturbed(hands, samples):
    for sample in samples:
        there = sample["present"]
        truth = sample["vertices"]
        exact = stand_in(hands, sample, size=0.0)
        torch.testing.assert_close(exact.vertices[there], truth[there], atol=1e-4, rtol=0)
        torch.testing.assert_close(exact.camera[there], sample["camera"][there])
        coarse = stand_in(hands, sample, seed=1)
        error = (coarse.vertices - truth)[there].norm(dim=-1).mean() * HAND_UNIT * 1000
        assert 3 < error < 40
        assert torch.isfinite(coarse.vertices).all()
        assert not torch.equal(coarse.camera, stand_in(hands, sample, seed=2).camera)
    assert (
        ridge_camera(exact.vertices, project(exact.vertices, exact.camera), 1e-6).isfinite().all()
    )


def test_attempts(capsys):
    def check(answer):  # pytest would add to what an assert says
        if answer() > 2:
            raise AssertionError("it is too large")
        if answer() > 1:
            raise AssertionError

    def unwritten():
        raise NotImplementedError

    def right():
        return 1

    def wrong():
        return 2

    def large():
        return 3

    for answer in (unwritten, right, wrong, large):
        attempt(check, answer)
    assert capsys.readouterr().out.splitlines() == [
        "unwritten is yours to write: replace the raise, then run both cells again.",
        "right: correct.",
        "wrong: not yet. This does not hold: raise AssertionError",
        "large: not yet. it is too large",
    ]


def test_a_changed_samples_joints_lie_where_the_formula_says(data):
    """Turn about the middle, resize, shift, mirror: written out for the points of the crop."""
    for index in range(3):
        plain = data[index]["joints_2d"].numpy() * 128 + 127.5  # pixels of 256
        for mirror in ("no", "yes"):
            panels = widgets.augment_panels(data, index, -70, 1.2, 12, -6, mirror)
            cos, sin = np.cos(np.radians(-70)), np.sin(np.radians(-70))
            x, y = np.moveaxis(plain - 127.5, -1, 0)
            moved = np.stack([cos * x - sin * y, sin * x + cos * y], -1) / 1.2 + [139.5, 121.5]
            there = data[index]["present"].numpy()
            if mirror == "yes":
                moved, there = moved[::-1] * [-1, 1] + [255, 0], there[::-1]
            for side in range(2):
                line = panels[0].layers[1 + side].places
                expected = moved[side] if there[side] else np.full((21, 2), np.nan)
                np.testing.assert_allclose(line, drawing.bones(expected), atol=1e-3)
            np.testing.assert_allclose(panels[0].layers[3].places, np.concatenate(moved[there]),
                                       atol=1e-3)  # fmt: skip


def test_shift_and_scale_leave_the_joints_in_space_alone(data):
    def solid(**values):
        return [layer.places for layer in widgets.augment_panels(data, 1, **values)[2].layers]

    plain = solid(rotation=0)
    moved = solid(rotation=0, scale=1.5, right=-40, down=40, gain=0.4, noise=0.3)
    assert all(np.array_equal(a, b, True) for a, b in zip(plain, moved, strict=True))
    turned = solid(rotation=90)  # clockwise: right becomes down
    np.testing.assert_allclose(turned[1][:, 1], plain[1][:, 0], atol=1e-3)
    np.testing.assert_allclose(turned[1][:, 2], plain[1][:, 2], atol=1e-3)


def test_mirrored_normals_point_the_other_way(data):
    plain, mirrored = (
        widgets.augment_panels(data, 1, 0, mirror=mirror)[1].layers[0].image
        for mirror in ("no", "yes")
    )
    hand = plain.any(-1)
    expected = np.where(hand[..., None], plain * [-1, 1, 1] + [1, 0, 0], 0)[:, ::-1]
    same = np.abs(expected - mirrored).max(-1) < 1e-3
    assert hand.mean() > 0.1
    assert same.mean() > 0.995  # which face an edge pixel sees is a matter of rounding
