"""Defines the verb `export`: writes a run as a folder that transformers loads."""

import argparse
from pathlib import Path

from jaxft.cli.command import command
from jaxft.errors import UserError


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
    parser.add_argument("--license", help="for the model card, such as apache-2.0; default the base model's")
    parser.add_argument("--language", help="for the model card, such as en,de; default the base model's")
    parser.add_argument("--tags", help="for the model card, such as legal,ner; added to the task's")
    with command(parser, argv) as flags:
        # Slow imports come after --help has been answered.
        from jaxft.export.card import CardFields
        from jaxft.export.writer import export_run
        from jaxft.parallel import processes

        if processes.count() > 1:
            raise UserError("an export is written by one process: start it once, without --coordinator")
        language, tags = (
            [item for item in (text or "").split(",") if item] for text in (flags.language, flags.tags)
        )
        fields = CardFields(flags.license, tuple(language), tuple(tags))
        export_run(Path(flags.run), Path(flags.output), verify=flags.verify, card_fields=fields)
