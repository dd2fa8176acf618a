"""Runs every benchmark in a process of its own and writes the figures: `make bench`.

Figures are ratios within one run on one machine, or have their machine beside them; nothing is asserted.
"""

import argparse
import datetime
import os
import pathlib
import platform
import subprocess
import sys

BENCHMARKS = (
    "mel_front_end",
    "examples_job",
    "embed_job",
    "triplets_job",
    "triplet_reader",
    "many_shards",
    "classifier_reader",
    "triplet_loss",
    "coincidence_loss",
    "cluster_loss",
    "instance_loss",
    "long_file_memory",
    "evaluation_scale",
    "served_graph",
)
REPORT = pathlib.Path(__file__).parents[2] / "notebooks" / "reports" / "benchmarks.md"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", default=BENCHMARKS, help="which to run; all by default")
    names = parser.parse_args().names
    sections = []
    for name in names:
        print(f"running {name} ...", file=sys.stderr)
        command = [sys.executable, "-m", f"tests.benchmarks.{name}"]
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "TQDM_DISABLE": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{name} failed:\n{done.stderr[-2000:]}")
        sections.append(f"## {name}\n\n{done.stdout.strip()}\n")
        print(sections[-1])
    if tuple(names) == BENCHMARKS:
        head = (
            f"# Benchmarks\n\n`make bench`, {datetime.date.today()}, {os.cpu_count()} cores "
            f"({platform.machine()}), Python {platform.python_version()}.\n\n"
        )
        REPORT.write_text(head + "\n".join(sections))


if __name__ == "__main__":
    main()
