import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trimesh

from dne_lib.mano import HandModel
from dne_lib.model.graph import (
    GraphAttention,
    RingBlock,
    attend,
    linear_on_parts,
    mutual_slots,
    one_ring,
)

OCTAHEDRON = np.array(
    [[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]]
)
FAN = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 4]])  # degrees 4, 2, 3, 3, 2: rows need filling up


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def hands():
    return HandModel()


def mask_of(ring):
    """Which vertex attends to which, as a square of booleans."""
    mask = torch.zeros(len(ring), len(ring), dtype=torch.bool)
    return mask.scatter(1, torch.from_numpy(ring), True)


def stirred(ring, inputs=(4, 3), outputs=2):
    torch.manual_seed(0)
    graph = GraphAttention(list(inputs), outputs, ring)
    torch.nn.init.normal_(graph.last.weight)
    return graph


def test_the_ring_is_that_of_the_mesh(hands):
    ring = one_ring(hands.faces)
    for faces in hands.faces:  # both hands have the same edges
        mesh = trimesh.Trimesh(hands.template[0].numpy(), faces, process=False)
        for vertex, neighbours in enumerate(mesh.vertex_neighbors):
            assert set(ring[vertex]) == {vertex, *neighbours}
            assert ring[vertex, 0] == vertex
            listed = ring[vertex, 1 : 1 + len(neighbours)].tolist()
            assert listed == sorted(neighbours)
            assert (ring[vertex, 1 + len(neighbours) :] == vertex).all()
    assert ring.shape == (778, 10)
    assert torch.equal(mask_of(ring), mask_of(ring).T)


def test_mutual_slots_lead_there_and_back(hands):
    for ring in (one_ring(FAN), one_ring(hands.faces)):
        mutual = mutual_slots(ring)
        own = np.broadcast_to(np.arange(len(ring))[:, None], ring.shape)
        assert (ring.ravel()[mutual] == own).all()
        assert (mutual // ring.shape[1] == ring).all()
        back = mutual.ravel()[mutual]
        assert (back == np.arange(ring.size).reshape(ring.shape)).all()


@pytest.mark.parametrize("faces", [FAN, OCTAHEDRON])
def test_attention_is_torchs_with_the_ring_as_its_mask(faces, generator):
    ring = one_ring(faces)
    q, k, v = (torch.randn(2, len(ring), 4, 8, generator=generator) for _ in range(3))
    qkv = [x.requires_grad_() for x in (q, k, v)]
    got = attend(*qkv, torch.from_numpy(ring), torch.from_numpy(mutual_slots(ring)))
    heads_first = [x.transpose(1, 2) for x in qkv]
    expected = F.scaled_dot_product_attention(*heads_first, attn_mask=mask_of(ring)).transpose(1, 2)
    torch.testing.assert_close(got, expected)
    weights = torch.randn(got.shape, generator=generator)
    for ours, theirs in zip(
        torch.autograd.grad(got, qkv, weights),
        torch.autograd.grad(expected, qkv, weights),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_a_vertex_hears_of_its_ring_and_of_no_one_else(hands, generator):
    """One block reaches one step on the mesh, and every vertex of the ring matters."""
    torch.manual_seed(0)
    ring = one_ring(hands.faces)
    graph, block = GraphAttention([1], 1, ring), RingBlock(16, 4)
    x = torch.randn(1, 778, 16, generator=generator)
    for vertex in (0, 333, 744):
        x = x.detach().requires_grad_()
        block(x, graph.ring, graph.mutual)[0, vertex].square().sum().backward()
        heard = x.grad[0].abs().sum(dim=-1).nonzero().flatten()
        assert set(heard.tolist()) == set(ring[vertex])
        x.grad = None


def test_renumbering_the_vertices_renumbers_the_result(hands, generator):
    order = torch.randperm(778, generator=generator)
    number = torch.argsort(order).numpy()  # the new number of an old vertex
    graph = stirred(one_ring(hands.faces))
    renumbered = stirred(one_ring(number[hands.faces]))
    parts = [torch.randn(2, 778, d, generator=generator) for d in (4, 3)]
    expected = graph(parts)[:, order]
    got = renumbered([part[:, order] for part in parts])
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(graph([part[:, order] for part in parts]), expected, atol=1e-2)


def test_gradients_are_right(generator):
    torch.manual_seed(0)
    graph, block = GraphAttention([1], 1, one_ring(FAN)), RingBlock(4, 2).double()
    x = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    names, weights = zip(*block.named_parameters(), strict=True)

    def run(x, *values):
        arguments = (x, graph.ring, graph.mutual)
        return torch.func.functional_call(block, dict(zip(names, values, strict=True)), arguments)

    assert torch.autograd.gradcheck(run, (x, *weights))


def test_a_linear_layer_on_parts_is_one_on_the_concatenation(generator):
    layer = torch.nn.Linear(8, 5)
    parts = [torch.randn(2, 6, d, generator=generator) for d in (4, 1)]
    parts.append(torch.randn(1, 6, 3, generator=generator))
    whole = torch.cat([*parts[:2], parts[2].expand(2, -1, -1)], dim=-1)
    torch.testing.assert_close(linear_on_parts(layer, parts), layer(whole))


def test_a_fresh_one_moves_nothing_and_learns(generator):
    graph = GraphAttention([4], 3, one_ring(OCTAHEDRON))
    x = torch.randn(2, 6, 4, generator=generator)
    assert not graph([x]).any()
    graph([x]).sum().backward()
    assert graph.last.weight.grad.any()


def test_the_result_is_float32_under_autocast(generator):
    graph = stirred(one_ring(OCTAHEDRON))
    parts = [torch.randn(2, 6, d, generator=generator) for d in (4, 3)]
    with torch.autocast("cpu", torch.bfloat16):
        half = graph(parts)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, graph(parts), atol=0.2, rtol=0.05)


def test_the_mesh_is_not_among_the_weights(hands):
    state = GraphAttention([1], 1, one_ring(hands.faces)).state_dict()
    assert not [name for name in state if name in ("ring", "mutual")]
