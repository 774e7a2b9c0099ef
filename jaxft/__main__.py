"""Runs a verb: `python -m jaxft predict --run runs/ner --input text.txt`."""

import sys

from jaxft.cli.verbs import VERBS, run_verb
from jaxft.errors import EXIT_USER_ERROR

if __name__ == "__main__":
    verb, *argv = sys.argv[1:] or ["none"]
    if verb in ("-h", "--help"):
        print(
            f"usage: python -m jaxft VERB ...; verbs: {', '.join(VERBS)}; python -m jaxft VERB --help explains one"
        )
        sys.exit()
    if verb not in VERBS:
        print(f"python -m jaxft {verb}: expected a verb, one of {', '.join(VERBS)}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    run_verb(verb, argv)
