"""Defines the verb `generate`: continues text.

`--prompt` prints the continuation while it is generated. `--input` reads prompts, and writes JSON lines; see
`inference/generate.py`.
"""

import argparse
import dataclasses
from pathlib import Path

from jaxft.cli.command import command, log_to_stderr
from jaxft.cli.flags import add_input_flags
from jaxft.data.sources import files
from jaxft.data.sources.formats import DOCUMENTS
from jaxft.errors import UserError
from jaxft.generation.options import PROMPT_ROWS, GenerationOptions
from jaxft.tasks.settings import make_file_format

# The help of the flags that are fields of `GenerationOptions`.
HELP = {
    "max_new_tokens": "most tokens of a text",
    "temperature": "0: the likeliest token; above 0: tokens are drawn, their scores divided by it",
    "top_k": "draw from so many of the likeliest tokens, 0 for all",
    "top_p": "draw from the likeliest tokens that have this probability together",
    "min_p": "draw from tokens at least this fraction as likely as the likeliest",
    "repetition_penalty": "divides the scores of tokens that were there, 1 for none",
    "no_repeat_ngram": "no n-gram of this many tokens occurs twice, 0 for no limit",
    "beams": "texts that are followed in beam search",
    "length_penalty": "a beam's score is divided by its length to this power",
    "early_stopping": "end beam search with as many finished texts as beams",
    "samples": "texts a prompt",
    "seed": "of chance; the same seed draws the same",
}


def main(argv: list[str] | None = None) -> None:
    """Parses the flags and generates. Messages go to stderr, because stdout may be the output."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxft generate",
        description="Continues text with a run's best weights, or with a checkpoint's.",
        allow_abbrev=False,
    )
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--run", help="the --workdir of a run")
    model.add_argument("--checkpoint", help="folder, hub id or package:NAME/path of a GPT-2")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompt", help="the text to be continued")
    source.add_argument("--input", help="file of prompts, one a line or in records, or - for stdin")
    parser.add_argument(
        "--output", default="-", help="JSON lines of --input: a file, or - for stdout (default)"
    )
    add_input_flags(parser, [name for name in DOCUMENTS.formats if name != "hub"])
    parser.add_argument(
        "--rows", type=int, default=PROMPT_ROWS, help=f"prompts of a batch; default {PROMPT_ROWS}"
    )
    parser.add_argument("--stop", action="append", default=[], help="text to stop before; may be repeated")
    for field in dataclasses.fields(GenerationOptions):
        flag = "--" + field.name.replace("_", "-")
        if field.type is bool:
            parser.add_argument(flag, action="store_true", help=HELP[field.name])
        else:
            parser.add_argument(
                flag,
                type=field.type,
                default=field.default,
                help=f"{HELP[field.name]}; default {field.default}",
            )
    with command(parser, argv) as flags:
        run_generate(flags)


def run_generate(flags: argparse.Namespace) -> None:
    """Generates text with the model, prompts and options that the flags name.

    Raises:
      UserError: the model, a prompt or an option is unusable.
    """
    from jaxft.inference.generate import (  # slow: after --help has been answered
        generate_file,
        open_writer,
        print_continuation,
    )

    options = GenerationOptions(
        **{field.name: getattr(flags, field.name) for field in dataclasses.fields(GenerationOptions)}
    )
    if flags.rows < 1:
        raise UserError(f"--rows {flags.rows}: expected 1 or more")
    if flags.prompt is not None and flags.output != "-":
        raise UserError("--output takes the JSON lines of --input; a --prompt is answered on stdout")
    if flags.input is not None:
        files.check_single_file(flags.input)
        files.check_readable(flags.input, "- for stdin")
    writer = open_writer(Path(flags.run) if flags.run else None, flags.checkpoint, log_to_stderr)
    if flags.prompt is not None:
        print_continuation(writer, flags.prompt, options, stop=flags.stop, log=log_to_stderr)
        return
    generate_file(
        writer,
        flags.input,
        flags.output,
        options,
        format=make_file_format(flags),
        stop=flags.stop,
        rows=flags.rows,
        on_error=flags.on_error,
        log=log_to_stderr,
    )
