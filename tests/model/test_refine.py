import dataclasses
import math

import pytest
import torch

from dne_lib.camera import pixels_to_ndc, project, ridge_camera
from dne_lib.config import ModelConfig
from dne_lib.mano import HandModel
from dne_lib.model.refine import (
    STEP,
    AttentionRegressor,
    ConcatMLP,
    CoordinateRegressor,
    DualNoiseModule,
    _MaxOverCell,
    asked_step,
    interpolate,
    three_views,
)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def bilinear(features, x, y):
    """Features of one image at one NDC point, from the four pixels around it."""
    _, height, width = features.shape
    column = (x + 1) / 2 * width - 0.5
    row = (y + 1) / 2 * height - 0.5
    left, top = math.floor(column), math.floor(row)
    total = torch.zeros(len(features))
    for r in (top, top + 1):
        for c in (left, left + 1):
            weight = (1 - abs(column - c)) * (1 - abs(row - r))
            inside = features[:, min(max(r, 0), height - 1), min(max(c, 0), width - 1)]
            total += weight * inside
    return total


def test_interpolation_is_bilinear_between_pixel_centres(generator):
    features = torch.rand(2, 5, 6, 6, generator=generator)
    points = torch.rand(2, 7, 2, generator=generator) * 2 - 1
    expected = torch.stack(
        [
            torch.stack([bilinear(f, x.item(), y.item()) for x, y in p])
            for f, p in zip(features, points, strict=True)
        ]
    )
    torch.testing.assert_close(interpolate(features, points), expected)


def dense_views(features, vertices, grid):
    """Fig. 2 word by word: fill a voxel volume, max-pool along each axis, read back."""
    views = [torch.zeros_like(features) for _ in range(3)]
    for n, (f, v) in enumerate(zip(features, vertices, strict=True)):
        low = v.min(0).values
        side = (v.max(0).values - low).max()
        cells = ((v - low) / side * grid).long().clamp(max=grid - 1)
        volume = torch.full((grid, grid, grid, f.shape[1]), -torch.inf)
        for (x, y, z), row in zip(cells.tolist(), f, strict=True):
            volume[x, y, z] = torch.maximum(volume[x, y, z], row)
        x, y, z = cells.unbind(1)
        views[0][n] = volume.amax(2)[x, y]
        views[1][n] = volume.amax(0)[y, z]
        views[2][n] = volume.amax(1)[x, z]
    return views


@pytest.mark.parametrize("grid", [1, 4, 16])
def test_three_views_equal_a_dense_volume(generator, grid):
    features = torch.randn(2, 60, 5, generator=generator)
    vertices = torch.randn(2, 60, 3, generator=generator) * torch.tensor([1.0, 0.3, 2.0])
    expected = dense_views(features, vertices, grid)
    for got, want in zip(three_views(features, vertices, grid), expected, strict=True):
        torch.testing.assert_close(got, want)


def test_three_views_of_a_collapsed_mesh_are_finite(generator):
    features = torch.randn(1, 9, 2, generator=generator)
    for view in three_views(features, torch.ones(1, 9, 3), 8):
        torch.testing.assert_close(view, features.amax(1, keepdim=True).expand_as(features))


def test_gradient_of_the_maximum_over_a_cell(generator):
    rows = torch.randn(12, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    cell = torch.randint(0, 5, (12,), generator=generator)
    assert torch.autograd.gradcheck(lambda r: _MaxOverCell.apply(r, cell, 5), (rows,))


def test_concat_mlp_is_an_mlp_on_the_concatenation(generator):
    mlp = ConcatMLP([4, 1, 3], 8, 2)
    torch.nn.init.normal_(mlp.last.weight, generator=generator)
    parts = [torch.randn(2, 6, d, generator=generator) for d in (4, 1, 3)]
    x = torch.nn.functional.gelu(mlp.first(torch.cat(parts, dim=-1)))
    torch.testing.assert_close(mlp(parts), mlp.last(torch.nn.functional.gelu(mlp.second(x))))


TOPOLOGY = HandModel().topology
PLACES = torch.from_numpy(TOPOLOGY.places).float()
WHERE = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])


@pytest.mark.parametrize(
    "regressor",
    [CoordinateRegressor(16, 8), AttentionRegressor(8, PLACES)],
    ids=["mlp", "attention"],
)
def test_regressors_give_three_numbers_for_every_vertex_of_the_hands_that_are_there(
    generator, regressor
):
    features = torch.randn(2, 8, 16, 16, generator=generator)
    coarse = torch.randn(2, 16, 8, 8, generator=generator)
    points = regressor.eval()(features, coarse, WHERE)
    assert points.shape == (3, 778, 3)
    _, _, second = regressor(features, torch.zeros_like(coarse), WHERE).unbind(0)
    where = torch.tensor([0]), WHERE[1][2:]
    alone = regressor(features[1:], torch.zeros_like(coarse[1:]), where)
    torch.testing.assert_close(alone[0], second)


PLACE = pixels_to_ndc(torch.tensor([5.0, 2.0]), 8)


def found(key, generator):
    """Where vertices are whose queries are ones, with `key` in one pixel of 64 and zeros around."""
    regressor = AttentionRegressor(8, PLACES).eval()
    coarse = torch.zeros(1, 16, 8, 8)
    coarse[0, :, 2, 5] = 1
    torch.nn.init.zeros_(regressor.down[0].weight)
    for layer, weight, bias in ((regressor.keys, key / 16, 0.0), (regressor.query[-1], 0.0, 1.0)):
        torch.nn.init.constant_(layer.weight, weight)
        torch.nn.init.constant_(layer.bias, bias)
    features = torch.randn(1, 8, 16, 16, generator=generator)
    return regressor(features, coarse, (torch.tensor([0]), torch.tensor([1])))[0, :, :2]


def test_attention_finds_the_place_where_its_features_are(generator):
    """With one pixel that answers to every query, all vertices are there."""
    points = found(100.0, generator)
    torch.testing.assert_close(points, PLACE.expand(778, 2), atol=1e-4, rtol=0)


def test_attention_is_as_sharp_at_every_width(generator):
    """Eight products of one and one, over the root of eight."""
    there = math.exp(8 / math.sqrt(8))
    # All pixels together are centred at zero, so the other 63 are at the opposite of this one.
    expected = (there - 1) / (there + 63) * PLACE
    torch.testing.assert_close(found(1.0, generator), expected.expand(778, 2))


@pytest.fixture
def inputs(generator):
    n = 3
    return {
        "features": torch.randn(n, 8, 16, 16, generator=generator),
        "vertices": torch.randn(n, 778, 3, generator=generator) * 0.5,
        "camera": torch.tensor([[0.5, 0.1], [0.5, -0.1]]).expand(n, 2, 2),
        "regressed": torch.rand(n, 778, 3, generator=generator) - 0.5,
        "side": torch.tensor([0, 1, 0]),
    }


def build(**changes):
    torch.manual_seed(0)
    module = DualNoiseModule(ModelConfig(channels=8, feature_size=16, **changes), TOPOLOGY)
    for name, parameter in module.named_parameters():
        if "last" in name:  # a fresh module moves nothing: stir it
            torch.nn.init.normal_(parameter, std=0.1)
    return module


@pytest.mark.parametrize("estimator", ["mlp", "graph"])
def test_a_fresh_module_keeps_the_mesh_or_goes_a_quarter_of_the_way_that_eq_1_asks(
    inputs, estimator
):
    v, config = inputs["vertices"], ModelConfig(channels=8, estimator=estimator)
    paper = DualNoiseModule(dataclasses.replace(config, consistency=False), TOPOLOGY)
    torch.testing.assert_close(paper(**inputs).vertices[0], v)
    out = DualNoiseModule(config, TOPOLOGY)(**inputs)
    asked = v.clone()  # the vertex that the old camera sees at u
    scale, translation = inputs["camera"][:, None].unbind(-1)
    asked[..., :2] = (out.coordinates[0] - translation) / scale
    part = 1 / (1 + math.e)
    torch.testing.assert_close(out.vertices[0], (1 - part) * v + part * asked)


@pytest.mark.parametrize("logit", [-100.0, 0.0, 100.0])
def test_u_is_the_regressed_point_as_far_as_the_regressor_trusts_it(inputs, logit):
    inputs["regressed"][..., 2] = logit
    fresh = DualNoiseModule(ModelConfig(channels=8), TOPOLOGY)
    projected = project(inputs["vertices"], inputs["camera"])
    trust = {-100.0: 0.0, 0.0: 0.5, 100.0: 1.0}[logit]
    expected = torch.lerp(projected, inputs["regressed"][..., :2], trust)
    torch.testing.assert_close(fresh(**inputs).coordinates[0], expected)


@pytest.mark.parametrize("scale", [0.1, 0.01, 0.0, -0.5])
def test_a_tiny_or_mirrored_camera_asks_for_no_more_than_ten_times_the_way(generator, scale):
    projected, points = torch.randn(2, 3, 778, 2, generator=generator)
    camera = torch.tensor([[scale, 0.3], [scale, -0.3]]).expand(3, 2, 2)
    asked = asked_step(projected, points, camera)
    torch.testing.assert_close(asked, 10 * (points - projected))


def test_without_samples_the_means_are_taken(inputs):
    module = build()
    assert torch.equal(module(**inputs).vertices, module(**inputs).vertices)
    draws = [module(**inputs, samples=64).vertices.mean(0) for _ in range(2)]
    assert not torch.equal(*draws)


def test_samples_scatter_as_eq_2_says(inputs, generator):
    module = build(noise_2d=False, gamma=0.2, delta=0.05)
    inputs["regressed"] = None
    mean = module(**inputs).vertices[0] - inputs["vertices"]
    draws = module(**inputs, samples=400, generator=generator).vertices
    spread = (draws - inputs["vertices"]).std(0)
    torch.testing.assert_close(spread.mean(), (0.2 * mean.abs() + 0.05).mean(), rtol=0.02, atol=0)


def test_the_number_of_samples(inputs):
    out = build()(**inputs, samples=5)
    assert out.vertices.shape == (5, 3, 778, 3)
    assert out.scores.shape == (5, 3)


def test_2d_noise_off_keeps_the_projection_as_u(inputs):
    inputs["regressed"] = None
    out = build(noise_2d=False)(**inputs, samples=2)
    assert torch.equal(out.camera, inputs["camera"])  # there are no image points to fit it to
    projected = inputs["camera"][:, :, 0][:, None] * inputs["vertices"][..., :2]
    projected = projected + inputs["camera"][:, :, 1][:, None]
    torch.testing.assert_close(out.coordinates, projected.expand(2, -1, -1, -1))


def test_3d_noise_off_keeps_the_vertices(inputs):
    out = build(noise_3d=False)(**inputs, samples=2)
    torch.testing.assert_close(out.vertices, inputs["vertices"].expand(2, -1, -1, -1))
    assert not torch.allclose(out.coordinates[0], out.coordinates[1])


def test_camera_correction_off_keeps_the_camera(inputs):
    on, off = build()(**inputs), build(camera_correction=False)(**inputs)
    assert torch.equal(off.camera, inputs["camera"])
    assert not torch.allclose(on.camera, off.camera)
    assert torch.equal(on.vertices, off.vertices)


def test_selection_takes_the_best_score_or_the_first(inputs, generator):
    module = build()
    out = module(**inputs, samples=6, generator=generator)
    assert torch.equal(out.best, out.scores.argmax(0))
    assert build(selection=False)(**inputs, samples=6).best.tolist() == [0, 0, 0]


def test_the_camera_is_fitted_to_the_best_sample(inputs, generator):
    module = build()
    out = module(**inputs, samples=6, generator=generator)
    assert out.best.any()  # the first one would do otherwise
    n = torch.arange(3)
    best = out.vertices[out.best, n], out.coordinates[out.best, n]
    torch.testing.assert_close(out.camera, ridge_camera(*best, module.config.ridge))


def test_the_score_teaches_nothing_but_the_score(inputs, generator):
    """Learning to rank samples does not bend what they are made of."""
    module = build()
    for name in ("features", "vertices", "regressed"):
        inputs[name].requires_grad_()
    out = module(**inputs, samples=2, generator=generator)
    out.scores.sum().backward()
    assert all(inputs[name].grad is None for name in ("features", "vertices", "regressed"))
    taught = {name.split(".")[0] for name, p in module.named_parameters() if p.grad is not None}
    assert taught == {"score"}


def test_3d_noise_is_estimated_where_2d_noise_has_moved_the_points(inputs, generator):
    """F is read at u + eps_2d, not at u."""
    module, heard = build(), []
    module.varphi.register_forward_hook(lambda _, given, __: heard.append(given[0]))
    out = module(**inputs, samples=2, generator=generator)
    for points, parts in zip(out.coordinates, heard, strict=True):
        aligned = interpolate(inputs["features"], points)
        views = three_views(aligned, inputs["vertices"], module.config.voxel_grid)
        for got, want in zip(parts[:4], [*views, aligned], strict=True):
            torch.testing.assert_close(got, want)


def test_an_estimator_is_told_the_point_that_it_starts_from_and_the_step_in_tenths(
    inputs, generator
):
    """For phi that is u, for varphi u + eps_2d."""
    module, heard = build(), []
    for estimator in (module.phi, module.varphi):
        estimator.register_forward_hook(lambda _, given, __: heard.append(given[0][-1]))
    out = module(**inputs, samples=2, generator=generator)
    projected = project(inputs["vertices"], inputs["camera"])
    u = torch.lerp(projected, inputs["regressed"][..., :2], inputs["regressed"][..., 2:].sigmoid())
    for told, point in zip(heard, [u, *out.coordinates], strict=True):
        step = (point - projected) / 0.5  # the scale of the camera
        expected = torch.cat([inputs["vertices"], projected, point, step / STEP], dim=-1)
        torch.testing.assert_close(told, expected)


@pytest.mark.parametrize("off", ["noise_2d", "noise_3d"])
def test_the_score_hears_how_far_a_sample_strayed_from_the_mean(inputs, generator, off):
    """All that sets samples apart where there are no features; summed up by this head."""
    module = build(**{off: False})
    module.score = torch.nn.Linear(module.score[0].in_features, 1, bias=False)
    torch.nn.init.ones_(module.score.weight)
    inputs["features"].zero_()
    if off == "noise_2d":
        inputs["regressed"] = None
    mean, out = module(**inputs), module(**inputs, samples=3, generator=generator)
    away = [
        (getattr(out, name) - getattr(mean, name)).abs().mean(dim=(-1, -2))
        for name in ("coordinates", "vertices")
    ]
    torch.testing.assert_close(out.scores, sum(away))


@pytest.mark.parametrize(
    "change",
    [
        {"vertex_embedding": 0},
        {"vertex_coordinates": False},
        {"voxel_grid": 4},
        {"estimator": "graph"},
    ],
)
def test_other_switches_change_the_result(inputs, change):
    assert not torch.allclose(build()(**inputs).vertices, build(**change)(**inputs).vertices)
