"""Kills commands at each of their writes, and counts what happens: `python -m tests.crash`.

A command is killed (SIGKILL) at a write, and runs again. The trial survives if nothing half-written was taken for
whole in between, and if the end is, to the bit, the same as when nobody kills. Failures are kept in `--folder`, each
with its files and its trace.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"
REPOSITORY = Path(__file__).resolve().parents[2]


def main() -> int:
    """Parses the flags, tries, and prints figures; returns 1 if a trial failed, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--targets", nargs="+", help="train, resume, export, predict, convert; default all")
    parser.add_argument("--first", type=int, default=1, help="the number of the first write; default 1")
    parser.add_argument("--every", type=int, default=1, help="try every n-th write; default 1")
    parser.add_argument("--folder", type=Path, help="where failures are kept; default a temporary folder")
    flags = parser.parse_args()

    from tests.crash.targets import make_targets, try_target
    from tests.trials import print_figures
    from tests.warm_python import warm_python

    failures = flags.folder or Path(tempfile.mkdtemp(prefix="crash-"))
    with tempfile.TemporaryDirectory() as name:
        programs = os.environ.get("JAX_COMPILATION_CACHE_DIR", f"{name}/programs")
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_COMPILATION_CACHE_DIR": programs}
        with warm_python(f"{name}/socket", environment) as python:
            targets = make_targets(Path(name), python, environment, flags.targets or ())
            figures = {
                verb: try_target(target, Path(name, "trial"), failures / verb, flags.first, flags.every)
                for verb, target in targets.items()
            }
    return print_figures(figures)


if __name__ == "__main__":
    sys.exit(main())
