"""The most memory that a command and its processes take together.

    python scripts/memory.py make train

Linux only. Memory that processes share is split among them (Pss), so the sum counts it once.
"""

import subprocess
import sys

import psutil

SECONDS = 2.0  # between two looks


def taken(process: psutil.Process) -> int:
    """Bytes of a process and of all it started."""
    total = 0
    for each in [process, *process.children(recursive=True)]:
        try:
            total += each.memory_full_info().pss
        except psutil.NoSuchProcess:  # ended since it was listed
            continue
    return total


def main() -> None:
    """Run the command; print the largest of the looks; exit as it exits."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    most, code = 0, None
    with subprocess.Popen(sys.argv[1:]) as command:
        while code is None:
            most = max(most, taken(psutil.Process(command.pid)))
            try:
                code = command.wait(SECONDS)
            except subprocess.TimeoutExpired:
                continue
    print(f"{most / 2**30:.2f} GiB at most, all processes together")
    sys.exit(code)


if __name__ == "__main__":
    main()
