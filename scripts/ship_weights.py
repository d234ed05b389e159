"""Put a trained network into the package, with the record of how it came.

    python scripts/ship_weights.py shipped[-coarse|-varied] RUN [RUN ...] --device "two CPU cores"

The runs are the legs of its training, in order; the last one's weights are shipped, at half
precision, in dne_lib/assets, or those that --made names: by join_weights.py or average_weights.py,
which no run has trained as they are, with the folder of their evaluation. results/ gets what
`record_runs.py` keeps, from which model_card.py makes the card.
"""

from pathlib import Path

from record_runs import ROOT, record, training_parser

from dne_lib.weights import SHIPPED, load_network, save_network


def main() -> None:
    """Copy weights and records."""
    parser = training_parser(__doc__, choices=sorted(SHIPPED))
    parser.add_argument("--made", type=Path, nargs=2, metavar=("WEIGHTS", "EVALUATION"))
    options = parser.parse_args()
    target = SHIPPED[options.name]
    last, evaluation = options.made or (options.runs[-1], None)
    network, config = load_network(last)
    if network.refiners and not network.calibration:
        raise SystemExit(f"{last} is not calibrated: dne calibrate {last} --data DATA-WITH-VAL")
    config.data.root = type(config.data)().root
    config.train.initial = None
    save_network(network, config, target, half=True)
    folder = ROOT / "results" / target.stem
    record(options.runs, folder, options.device, options.commit, options.thin, evaluation)
    print(f"{target}: {target.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
