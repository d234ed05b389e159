import dataclasses

import pytest
import torch
from torch.nn import functional as F

from dne_lib.camera import project
from dne_lib.config import LossConfig, ModelConfig
from dne_lib.losses import (
    auxiliary_loss,
    coordinate_loss,
    mano_loss,
    masked_l1,
    score_loss,
    total_loss,
    vertex_loss,
)
from dne_lib.mano import HandModel
from dne_lib.model import DualNoiseNetwork

CONFIG = ModelConfig(
    backbone="resnet18",
    stages=2,
    pretrained=False,
    image_size=32,
    feature_size=8,
    channels=8,
    modules=2,
    samples=3,
)
LOSS = LossConfig()


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(0)
    vertices = torch.randn(2, 2, 778, 3, generator=g) * 0.4
    camera = torch.tensor([[0.5, 0.1], [0.5, -0.2]]).expand(2, 2, 2, 2)
    present = torch.tensor([[True, False], [True, True]])
    parts = torch.randint(0, 33, (2, 8, 8), generator=g)
    return {
        "present": present,
        "interacting": torch.tensor([False, True]),
        "joint_valid": present[..., None].expand(2, 2, 21),
        "vertices": vertices * present[..., None, None],
        "vertices_2d": project(vertices, camera) + 0.01,
        "pose": torch.randn(2, 2, 16, 6, generator=g),
        "betas": torch.randn(2, 2, 10, generator=g),
        "camera": camera,
        "depth": torch.randn(2, 1, 8, 8, generator=g),
        "normals": torch.randn(2, 3, 8, 8, generator=g),
        "heatmaps": torch.rand(2, 42, 8, 8, generator=g),
        "densepose": torch.rand(2, 3, 8, 8, generator=g),
        "parts": parts,
    }


@pytest.fixture
def output():
    torch.manual_seed(0)
    network = DualNoiseNetwork(CONFIG, HandModel()).train()
    return network(torch.rand(2, 3, 32, 32))


def test_masked_l1_by_hand():
    predicted = torch.tensor([[1.0, 2.0], [9.0, 9.0]])
    loss = masked_l1(predicted, torch.zeros(2, 2), torch.tensor([True, False]))
    assert loss.item() == 1.5


def test_masked_l1_of_nothing_is_zero():
    assert masked_l1(torch.ones(2, 2), torch.zeros(2, 2), torch.zeros(2).bool()).item() == 0


def test_auxiliary_loss_by_hand(output, batch):
    terms = auxiliary_loss(output.auxiliary, batch, LOSS)
    total, count = 0.0, 0
    for b in range(2):
        for row in range(8):
            for column in range(8):
                if batch["parts"][b, row, column] > 0:
                    pixel = output.auxiliary.depth - batch["depth"]
                    total += pixel[b, 0, row, column].abs().item()
                    count += 1
    assert terms["depth"].item() == pytest.approx(LOSS.depth * total / count, rel=1e-5)
    for name, weight in (("normals", LOSS.normals), ("densepose", LOSS.densepose)):
        error = (getattr(output.auxiliary, name) - batch[name]).abs().mean(dim=1)
        error = error[batch["parts"] > 0].mean().item()
        assert terms[name].item() == pytest.approx(weight * error, rel=1e-5)
    heat = (output.auxiliary.heatmaps - batch["heatmaps"]).abs().mean()
    assert terms["heatmaps"].item() == pytest.approx(LOSS.heatmaps * heat.item(), rel=1e-5)
    parts = F.cross_entropy(output.auxiliary.parts, batch["parts"])
    assert terms["parts"].item() == pytest.approx(LOSS.parts * parts.item(), rel=1e-5)


def test_squared_heat_maps(output, batch):
    terms = auxiliary_loss(output.auxiliary, batch, LossConfig(squared_heatmaps=True, heatmaps=2.0))
    expected = 2 * F.mse_loss(output.auxiliary.heatmaps, batch["heatmaps"])
    torch.testing.assert_close(terms["heatmaps"], expected)


def test_mano_loss_by_hand(output, batch):
    terms = mano_loss(output.parameters, batch, LOSS)
    error = (output.parameters.pose - batch["pose"]).abs().flatten(2).mean(-1)
    expected = (error[0, 0] + error[1, 0] + error[1, 1]) / 3
    torch.testing.assert_close(terms["pose"], LOSS.pose * expected)
    error = (output.parameters.betas - batch["betas"]).abs().mean(-1)
    expected = (error[0, 0] + error[1, 0] + error[1, 1]) / 3
    torch.testing.assert_close(terms["betas"], LOSS.betas * expected)


def test_vertex_loss_counts_every_stage_and_sample(output, batch):
    terms = vertex_loss(output.stages, batch, LOSS)
    assert sorted(terms) == [f"{n}_{m}" for n in ("projections", "vertices") for m in range(3)]
    stage, hands = output.stages[2], [(0, 0), (1, 0), (1, 1)]
    each = [
        (stage.samples[r, b, h] - batch["vertices"][b, h]).abs().mean()
        for r in range(3)
        for b, h in hands
    ]
    torch.testing.assert_close(terms["vertices_2"], LOSS.vertices * torch.stack(each).mean())
    each = [
        (
            project(stage.samples[r, b, h], stage.camera[b, h])
            - project(batch["vertices"][b, h], batch["camera"][b, h])
        )
        .abs()
        .mean()
        for r in range(3)
        for b, h in hands
    ]
    torch.testing.assert_close(terms["projections_2"], LOSS.projections * torch.stack(each).mean())


def test_as_printed_the_coarse_mesh_is_not_in_eq_11(output, batch):
    printed = LossConfig(coarse_mesh=False)
    every = vertex_loss(output.stages, batch, LOSS)
    terms = vertex_loss(output.stages, batch, printed)
    assert every.keys() - terms.keys() == {"vertices_0", "projections_0"}
    for name, value in terms.items():
        torch.testing.assert_close(value, every[name])
    alone = vertex_loss(output.stages[:1], batch, printed)
    torch.testing.assert_close(alone, vertex_loss(output.stages[:1], batch, LOSS))


def test_the_truth_costs_nothing(output, batch):
    perfect = tuple(
        stage._replace(samples=batch["vertices"].expand_as(stage.samples), camera=batch["camera"])
        for stage in output.stages
    )
    for value in vertex_loss(perfect, batch, LOSS).values():
        assert value.item() == 0


def test_coordinate_loss_by_hand(output, batch):
    mask = batch["present"]
    true = batch["vertices_2d"]
    expected = (output.regressed[..., :2] - true).abs()[mask].mean()
    for stage in output.stages[1:]:
        expected = expected + (stage.coordinates - true).abs()[:, mask].mean()
    torch.testing.assert_close(coordinate_loss(output, batch, LOSS), LOSS.coordinates * expected)


def test_score_loss_is_least_for_the_true_order(output, batch):
    errors = [
        (s.samples - batch["vertices"]).abs().mean((-1, -2))
        + (s.coordinates - batch["vertices_2d"]).abs().mean((-1, -2))
        for s in output.stages
    ]

    def loss(sign):
        stages = tuple(
            stage._replace(scores=sign * (e - e.mean(0)) / e.std(0, correction=0))
            for stage, e in zip(output.stages, errors, strict=True)
        )
        return score_loss(stages, batch, LOSS).item()

    assert loss(-1.0) < loss(0.0) < loss(1.0)


def test_an_absent_hand_changes_no_loss(output, batch):
    _, before = total_loss(output, batch, LOSS)
    changed = dict(batch)
    for name in ("vertices", "vertices_2d", "pose", "betas", "camera"):
        changed[name] = batch[name].clone()
        changed[name][0, 1] = 1e3  # the left hand of image 0 is absent
    _, after = total_loss(output, changed, LOSS)
    for name in before:
        torch.testing.assert_close(before[name], after[name])


def test_a_hand_without_labels_is_not_called_background(output, batch):
    """Image 1 shows two hands, and only the right one is labelled."""
    maps, parts = output.auxiliary, torch.zeros(2, 8, 8, dtype=torch.int64)
    parts[1, :4] = 5
    present = torch.tensor([[True, False], [True, False]])
    valid = present[..., None] & (torch.arange(21) != 3)
    labels = {**batch, "present": present, "joint_valid": valid, "parts": parts}
    terms = auxiliary_loss(maps, labels, LOSS)
    each = F.cross_entropy(maps.parts, parts, reduction="none")
    expected = (each[0].sum() + each[1, :4].sum()) / (64 + 32)
    torch.testing.assert_close(terms["parts"], LOSS.parts * expected)
    heat = (maps.heatmaps - batch["heatmaps"]).abs().mean(dim=(-1, -2))
    known = [j for j in range(21) if j != 3]  # whether joint 3 is there nobody knows
    # The left hand is known not to be in image 0.
    expected = (heat[:, known].sum() + heat[0, 21:].sum()) / (2 * 20 + 21)
    torch.testing.assert_close(terms["heatmaps"], LOSS.heatmaps * expected)


def test_one_sample_has_nothing_to_rank_but_a_gradient(output, batch):
    score = torch.randn(1, 2, 2, requires_grad=True)
    stages = tuple(s._replace(samples=s.samples[:1], scores=score) for s in output.stages)
    loss = score_loss(tuple(s._replace(coordinates=s.coordinates[:1]) for s in stages), batch, LOSS)
    assert loss.item() == 0
    (gradient,) = torch.autograd.grad(loss, score)
    assert not gradient.any()


WEIGHTS = [f.name for f in dataclasses.fields(LossConfig) if not isinstance(f.default, bool)]


@pytest.mark.parametrize("weight", WEIGHTS)
def test_a_weight_weighs_its_own_terms_and_no_others(output, batch, weight):
    twice = dataclasses.replace(LOSS, **{weight: 2 * getattr(LOSS, weight)})
    (total, once), (new_total, terms) = (total_loss(output, batch, c) for c in (LOSS, twice))
    own = [name for name in once if name.split("_")[0] == weight]
    assert own
    assert all(once[name] > 0 for name in own)
    for name, value in terms.items():
        torch.testing.assert_close(value, (2 if name in own else 1) * once[name])
    torch.testing.assert_close(new_total, total + sum(once[name] for name in own))


def test_every_term_has_its_weight(output, batch):
    _, terms = total_loss(output, batch, LOSS)
    assert {name.split("_")[0] for name in terms} == set(WEIGHTS)
