"""Defines the verb `export`: writes a run as a folder that transformers loads."""

import argparse
from pathlib import Path

from jaxft.cli.command import command
from jaxft.errors import UserError
from jaxft.export.writer import export_run
from jaxft.parallel import processes


def main(argv: list[str] | None = None) -> None:
    """Parses the flags and exports."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxft export",
        description="Writes a run's best weights as a folder that transformers' AutoModel loads.",
        allow_abbrev=False,
    )
    parser.add_argument("--run", required=True, help="the --workdir of a run")
    parser.add_argument("--output", required=True, help="new or empty folder")
    parser.add_argument(
        "--verify", action="store_true", help="reload in torch and compare logits on dev data"
    )
    with command(parser, argv) as flags:
        if processes.count() > 1:
            raise UserError("an export is written by one process: start it once, without --coordinator")
        export_run(Path(flags.run), Path(flags.output), verify=flags.verify)
