"""Put a trained network into the package, with the record of how it came.

    python scripts/ship_weights.py shipped[-coarse|-varied] RUN [RUN ...] --device "two CPU cores"

The runs are the legs of its training, in order; the last one's weights are shipped, at half
precision, in dne_lib/assets, or those of --made. results/ gets what `record_runs.py` keeps (and
that says of --made), from which model_card.py makes the card.
"""

from record_runs import ROOT, put, record, training_parser

from dne_lib.weights import SHIPPED


def main() -> None:
    """Copy weights and records."""
    options = training_parser(__doc__, choices=sorted(SHIPPED)).parse_args()
    target = SHIPPED[options.name]
    weights, evaluation = options.made or (options.runs[-1], None)
    put(weights, target)
    folder = ROOT / "results" / target.stem
    record(options.runs, folder, options.device, options.commit, options.thin, evaluation)
    print(f"{target}: {target.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
