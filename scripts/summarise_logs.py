"""Means over the first and the last three lines of training logs: what a leg changed.

python scripts/summarise_logs.py results/tiny_coarse/*/log.jsonl
"""

import json
import sys
from pathlib import Path

from dne_lib.evaluate import format_table

FIELDS = ("mpvpe_coarse", "mpvpe_last", "parts_accuracy", "images_per_second")


def main() -> None:
    """Print a Markdown table, two rows a log."""
    rows = []
    runs = sorted(map(Path, sys.argv[1:]), key=lambda path: (len(path.parent.name), str(path)))
    for path in runs:  # run2 before run10
        log = [json.loads(line) for line in path.read_text().splitlines()]
        for part in (log[:3], log[-3:]):
            means = [f"{sum(entry[f] for entry in part) / len(part):.2f}" for f in FIELDS]
            steps = f"{part[0]['step']} to {part[-1]['step']}"
            rows.append([path.parent.name, steps, *means])
    print(format_table(("run", "steps", *FIELDS), rows, markdown=True))


if __name__ == "__main__":
    main()
