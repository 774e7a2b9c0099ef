"""Runs a verb: `python -m jaxft predict --run runs/ner` is `jaxft predict --run runs/ner`."""

from jaxft.cli.verbs import main

if __name__ == "__main__":
    main()
