"""The two estimators of phi and varphi, MLP and graph attention: parameters and time a hand.

And the two ways to attend to the 1-ring: gathered neighbours, as the library does, and attention
to all vertices with a mask.
"""

import torch
import torch.nn.functional as F
from speed import median_seconds

from dne_lib import HandModel, preset
from dne_lib.model.graph import HEADS, WIDTH, GraphAttention, attend, one_ring
from dne_lib.model.refine import ConcatMLP
from dne_lib.train import usable_precision

HANDS = 16
BF16 = usable_precision("bf16") == "bf16"


def seconds(estimator: torch.nn.Module, inputs: list[int], backward: bool) -> float:
    """Time of a call on a batch of hands, in the precision that training has here."""
    parts = [torch.randn(HANDS, 778, d, requires_grad=backward) for d in inputs]

    def run() -> None:
        with torch.set_grad_enabled(backward), torch.autocast("cpu", torch.bfloat16, enabled=BF16):
            out = estimator(parts)
        if backward:
            out.sum().backward()

    return median_seconds(run)


def attention(graph: GraphAttention) -> tuple[float, float]:
    """Seconds of masked and of gathered attention, backward included."""
    dtype = torch.bfloat16 if BF16 else torch.float32
    shape = (HANDS, 778, HEADS, WIDTH // HEADS)
    qkv = [torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3)]
    mask = torch.zeros(778, 778, dtype=torch.bool).scatter(1, graph.ring, True)

    def masked() -> None:
        q, k, v = (x.transpose(1, 2) for x in qkv)
        F.scaled_dot_product_attention(q, k, v, attn_mask=mask).sum().backward()

    def gathered() -> None:
        q, k, v = qkv
        attend(q, k, v, graph.ring, graph.mutual).sum().backward()

    return median_seconds(masked), median_seconds(gathered)


def main() -> None:
    """Print parameters, times and ratios."""
    c = preset("tiny").model.channels
    ring = one_ring(HandModel().faces)
    for name, inputs, outputs in (("phi", [c, c], 2), ("varphi", [c, c, c], 3)):
        estimators = {
            "MLP": ConcatMLP(inputs, 2 * c, outputs),
            "graph attention": GraphAttention(inputs, outputs, ring),
        }
        base = None
        for kind, estimator in estimators.items():
            count = sum(p.numel() for p in estimator.parameters())
            forward, both = (seconds(estimator, inputs, backward) for backward in (False, True))
            base = base or both
            print(f"{name}, {kind}: {count:,} parameters", end="")
            print(f", {forward / HANDS * 1e3:.2f} ms a hand", end="")
            print(f", with backward {both / HANDS * 1e3:.2f} ms, {both / base:.1f} x the MLP")
    masked, gathered = attention(GraphAttention([c], 3, ring))
    print(f"1-ring attention: masked / gathered = {masked / gathered:.1f}", end="")
    print(f" ({masked / HANDS * 1e3:.1f} / {gathered / HANDS * 1e3:.1f} ms a hand)")


if __name__ == "__main__":
    main()
