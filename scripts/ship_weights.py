"""Put a trained network into the package, with the record of how it came.

    python scripts/ship_weights.py shipped[-coarse|-varied] RUN [RUN ...] --device "two CPU cores"

The runs are the legs of its training, in order; the last one's weights are shipped, at half
precision, in dne_lib/assets. results/ gets what `record_runs.py` keeps, from which model_card.py
makes the card.
"""

from record_runs import ROOT, parse_training, record

from dne_lib.weights import SHIPPED, load_network, save_network


def main() -> None:
    """Copy weights and records."""
    options = parse_training(__doc__, choices=sorted(SHIPPED))
    target, last = SHIPPED[options.name], options.runs[-1]
    network, config = load_network(last)
    if network.refiners and not network.calibration:
        raise SystemExit(f"{last} is not calibrated: dne calibrate {last} --data DATA-WITH-VAL")
    config.data.root = type(config.data)().root
    config.train.initial = None
    save_network(network, config, target, half=True)
    folder = ROOT / "results" / target.stem
    record(options.runs, folder, options.device, options.commit, options.thin)
    print(f"{target}: {target.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
