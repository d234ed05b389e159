import json
import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dne_lib import evaluate as evaluation
from dne_lib.config import PARTS, Config, DataConfig
from dne_lib.data.interhand import InterHand
from dne_lib.evaluate import evaluate, evenly_spaced, format_table, report, summary, table_rows
from dne_lib.files import InputError
from dne_lib.mano import HandModel
from dne_lib.metrics import GROUPS, MILLIMETRES, PROTOCOLS
from dne_lib.model import DualNoiseNetwork
from tests.samples import CONFIG, make_batch, make_sample


@pytest.fixture(scope="module")
def hands():
    return HandModel()


@pytest.fixture(scope="module")
def batch(hands):
    return make_batch(hands)


class Oracle(nn.Module):
    """Knows the truth; its coarse vertices and projections are off by a known amount."""

    def __init__(self, batch):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.batch = batch

    def forward(self, image, present=None):
        assert not self.training
        b = self.batch
        off = torch.tensor([0.1, 0.0, 0.0])
        parts = nn.functional.one_hot(b["parts"], PARTS).permute(0, 3, 1, 2).float()
        coarse = SimpleNamespace(
            vertices=b["vertices"] + off,
            joints=b["joints"],
            projections=b["vertices_2d"] + torch.tensor([0.0, 2 / 128]),
        )
        exact = SimpleNamespace(
            vertices=b["vertices"], joints=b["joints"], projections=b["vertices_2d"]
        )
        return SimpleNamespace(auxiliary=SimpleNamespace(parts=parts), stages=(coarse, exact))


def test_known_errors_are_reported(batch):
    network = Oracle(batch).train()
    results = evaluate(network, [batch])
    assert network.training
    coarse, exact = results["stages"]["coarse"], results["stages"]["module 1"]
    for group in GROUPS:
        # The wrong vertices are shifted, the joints that give the root are not.
        assert coarse["mpvpe"]["wrist"][group] == pytest.approx(0.1 * MILLIMETRES, rel=1e-4)
        assert coarse["mpvpe"]["procrustes"][group] < 1e-2
        assert coarse["mpjpe"]["wrist"][group] == 0
        # Off by 0.021 along all three axes at all joints but the wrist.
        triangulated = 0.02 * 3**0.5 * MILLIMETRES
        assert coarse["mpjpe_triangulated"]["wrist"][group] == pytest.approx(triangulated, rel=1e-4)
        assert coarse["mpvpe_2d"][group] == pytest.approx(2, rel=1e-4)
        assert exact["mpvpe_2d"][group] == 0
        assert all(exact[m][p][group] < 1e-2 for m in ("mpjpe", "mpvpe") for p in PROTOCOLS)
        assert 0.1 < results["floor"][group] < 15
    assert results["images"] == {"SH": 2, "IH": 1, "All": 3}
    assert results["hands"] == {"SH": 2, "IH": 2, "All": 4}
    assert results["weights"] == {"SH": 0.5, "IH": 0.5}
    assert results["parts"]["iou"] == 1
    assert results["breakdown"] == {}


def test_parts_of_a_hand_without_labels_are_not_called_wrong(batch):
    both, left = batch["interacting"], batch["parts"] > 16
    assert left[both].any()
    unknown = both[:, None, None] & left
    present = batch["present"] & (~both[:, None] | torch.tensor([True, False]))
    blind = {**batch, "present": present, "parts": batch["parts"].masked_fill(unknown, 0)}
    results = evaluate(Oracle(batch), [blind])
    assert results["parts"]["iou"] == results["parts"]["accuracy"] == 1


def test_errors_are_broken_down(batch):
    # Three images: a right hand, a left hand, both; known by their index 0, 1, 2.
    groups = {"sequences": ["one", "two", "one", "never seen"]}
    results = evaluate(Oracle(batch), [batch, batch], groups)
    sequences = results["breakdown"]["sequences"]
    assert list(sequences) == ["one", "two"]
    assert [s["floor"]["hands"] for s in sequences.values()] == [6, 2]
    for entry in sequences.values():
        assert set(entry) == {
            f"{stage} {error}"
            for stage in ("coarse", "module 1")
            for error in ("mpjpe wrist", "mpvpe wrist", "mpvpe_2d")
        } | {"floor"}
        assert entry["coarse mpvpe wrist"]["mean"] == pytest.approx(0.1 * MILLIMETRES, rel=1e-4)
        assert entry["coarse mpvpe_2d"]["mean"] == pytest.approx(2, rel=1e-4)
    whole = sum(s["floor"]["mean"] * s["floor"]["hands"] for s in sequences.values()) / 8
    assert whole == pytest.approx(results["floor"]["All"], rel=1e-6)
    assert sequences["one"]["floor"]["mean"] != sequences["two"]["floor"]["mean"]


def test_evaluation_is_deterministic(hands, batch):
    network = DualNoiseNetwork(CONFIG, hands)
    first, second = evaluate(network, [batch]), evaluate(network, [batch])
    assert first == second
    assert list(first["stages"]) == ["coarse", "module 1", "module 2"]


def test_tables(batch):
    results = evaluate(Oracle(batch), [batch])
    lines = summary(results).splitlines()
    assert len({len(line) for line in lines[:2]}) == 1
    assert lines[2].split()[-3:] == ["2.00"] * 3
    assert "floor" in lines[4]
    assert "0.50 SH + 0.50 IH" in lines[6]
    assert "known root" not in lines[6]
    unknown = {**batch, "joint_valid": batch["joint_valid"].clone()}
    unknown["joint_valid"][0, 0, 0] = False  # a wrist
    told = summary(evaluate(Oracle(batch), [unknown])).splitlines()[6]
    counted = int(batch["present"].sum()) - 1
    singles, pairs = (int(n) for n in re.findall(r"(\d+) (?:hands SH|IH, those)", told))
    assert singles + pairs == counted
    (row,) = table_rows(results, prefix="shipped ", last=True)
    assert row[0] == "shipped module 1"
    markdown = format_table(["a", "b"], [["x", "1.0"]], markdown=True)
    assert markdown == "| a |   b |\n| :- | --: |\n| x | 1.0 |"
    protocols = evaluation.protocol_summary(results).splitlines()
    assert [line.split("  ")[0] for line in protocols[2:]] == [
        f"{metric}, {stage}"
        for metric in ("MPJPE", "MPJPE, triangulated", "MPVPE")
        for stage in ("coarse", "module 1")
    ]
    plain = evaluate(Oracle(batch), [{k: v for k, v in batch.items() if k != "triangulated"}])
    assert "triangulated" not in evaluation.protocol_summary(plain)
    assert max(map(len, protocols)) < 80
    assert evaluation.number(None) == "-"


def test_indices_are_spread_evenly():
    assert evenly_spaced(5, None) == [0, 1, 2, 3, 4]
    assert evenly_spaced(5, 9) == [0, 1, 2, 3, 4]
    assert evenly_spaced(101, 3) == [0, 50, 100]


class Tree(InterHand):
    """Stands in for the data on disk."""

    digest = "0123456789abcdef"

    def __init__(self, root, split, config, data, augment):
        assert not augment
        self.hands = HandModel()

    def __len__(self):
        return 3

    def groups(self):
        return {"sequences": ["Capture0/a", "Capture0/b", "Capture0/a"], "cameras": ["1"] * 3}

    def require_fit(self):
        pass

    def record(self):
        return {"release": "made up", "labels": Tree.digest}

    def __getitems__(self, indices):
        return [make_sample(self.hands, i, (True, i == 1)) for i in indices]


def test_report_writes_numbers_and_pictures(hands, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "InterHand", Tree)
    config = Config(model=CONFIG, data=DataConfig(root=tmp_path / "tree"))
    network = DualNoiseNetwork(CONFIG, hands)
    output = tmp_path / "out"
    results = report(network, config, output, limit=2, pictures=2, name="mine")
    written = json.loads((output / "metrics.json").read_bytes())
    assert written["stages"] == results["stages"]
    assert written["images"] == {"SH": 2, "IH": 0, "All": 2}
    assert written["stages"]["coarse"]["mpvpe_2d"]["IH"] is None
    assert written["network"] == "mine"
    assert written["images_of"] == {"release": "made up", "labels": Tree.digest}
    sequences, cameras = (written["breakdown"][way] for way in ("sequences", "cameras"))
    assert {name: entry["floor"]["hands"] for name, entry in sequences.items()} == {
        "Capture0/a": 2  # images 0 and 2 were evaluated
    }
    everything = written["stages"]["coarse"]["mpvpe_2d"]["All"]
    assert cameras["1"]["coarse mpvpe_2d"]["mean"] == pytest.approx(everything)
    assert written["data"] == str(tmp_path / "tree")
    assert written["config"]["model"]["channels"] == CONFIG.channels
    for name in ("grid.png", "maps.png"):
        assert (output / name).read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(Tree, "digest", "fedcba9876543210")  # other data by the same name
    with pytest.raises(InputError, match="holds the evaluation of test, labels 0123456789ab, the"):
        report(network, config, output, limit=2, pictures=2, name="mine")
    assert json.loads((output / "metrics.json").read_bytes()) == written

    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="other"):
        report(network, config, other, limit=1)
    assert [p.name for p in other.iterdir()] == ["thesis.tex"]
