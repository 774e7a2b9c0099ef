"""Trains: `python -m jaxft.main --config configs/ner.py --workdir runs/ner` is `jaxft train ...`."""

import sys

from jaxft.cli.verbs import run_verb

if __name__ == "__main__":
    run_verb("train", sys.argv[1:])
