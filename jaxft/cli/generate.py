"""Defines the verb `generate`: continues text.

`--prompt` prints the continuation while it is generated. `--input` reads one prompt per line, or JSON lines or CSV with
a key `prompt`. It writes JSON lines: each record with `generated`, a text, or with `--samples` a list of texts. A run
that was trained on pairs fills its template. A prompt is then the value of the template's field, and records have a key
for each field.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import time
from pathlib import Path

from jaxft.cli.command import command, log_to_stderr
from jaxft.data.sources import files
from jaxft.errors import UserError
from jaxft.generation.options import GenerationOptions
from jaxft.inference.output_file import open_output
from jaxft.inference.writer import ROWS, Writer, make_checkpoint_writer, make_run_writer, read_prompts
from jaxft.parallel import processes

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
    source.add_argument("--input", help="file of prompts (text, .jsonl, .csv), or - for lines of stdin")
    parser.add_argument(
        "--output", default="-", help="JSON lines of --input: a file, or - for stdout (default)"
    )
    parser.add_argument("--rows", type=int, default=ROWS, help=f"prompts of a batch; default {ROWS}")
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
    options = GenerationOptions(
        **{field.name: getattr(flags, field.name) for field in dataclasses.fields(GenerationOptions)}
    )
    if flags.rows < 1:
        raise UserError(f"--rows {flags.rows}: expected 1 or more")
    writer = (
        make_run_writer(Path(flags.run), log_to_stderr)
        if flags.run
        else make_checkpoint_writer(flags.checkpoint)
    )
    if flags.prompt is not None:
        _answer_prompt(writer, flags, options)
        return
    files.check_single_file(flags.input)
    files.check_readable(flags.input, "- for stdin")
    began, count = time.perf_counter(), 0
    with open_output(flags.output) as put:
        records, records_for_prompts = itertools.tee(read_prompts(flags.input, writer))
        prompts = (prompt for _, prompt in records_for_prompts)
        texts = writer.generate(prompts, options, stop=flags.stop, rows=flags.rows)
        for (record, _), generated in zip(records, texts, strict=True):
            samples = [sample.text for sample in generated]
            value = samples if options.samples > 1 else samples[0]
            put([json.dumps(record | {"generated": value}, ensure_ascii=False).encode() + b"\n"])
            count += 1
    log_to_stderr(f"{count:,} prompts in {time.perf_counter() - began:.1f} s")


def _answer_prompt(writer: Writer, flags: argparse.Namespace, options: GenerationOptions) -> None:
    """Prints the continuation of `--prompt`: a single text while it is generated, or several with a line between."""
    if flags.output != "-":
        raise UserError("--output takes the JSON lines of --input; a --prompt is answered on stdout")
    if options.samples == 1:
        if not processes.is_main_process():
            return
        with contextlib.closing(writer.stream(flags.prompt, options, stop=flags.stop)) as pieces:
            for piece in pieces:
                print(piece, end="", flush=True)
        print()
        return
    for [*texts] in writer.generate([flags.prompt], options, stop=flags.stop):
        processes.log("\n----\n".join(sample.text for sample in texts))
