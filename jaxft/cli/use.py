"""Defines the verbs that use a run: `evaluate`, `predict`, `generate` and `export`.

`generate --prompt` prints the continuation while it is generated. `generate --input` reads prompts, and writes JSON
lines; see `inference/generate.py`.
"""

import argparse
import dataclasses
from pathlib import Path

from jaxft.cli.command import command, log_to_stderr
from jaxft.cli.flags import FlagParser, add_input_flags, add_process_flags, add_run_flag, make_parser
from jaxft.config.sections import Data
from jaxft.config.settings import declarations
from jaxft.data.encoding.documents import LAYOUTS
from jaxft.data.sources import files
from jaxft.data.sources.formats import DOCUMENTS, IMAGES, QUESTIONS, SENTENCES, TEXTS
from jaxft.errors import UserError
from jaxft.generation.options import PROMPT_ROWS, GenerationOptions
from jaxft.tasks.settings import make_file_format

# Flags of `evaluate` that replace a setting of the run's data.
DATA_FLAGS = ("format", "encoding", "delimiter", "word_column", "tag_column", "layout", "stride")
PREDICT_FORMATS = tuple(
    dict.fromkeys(name for kind in (SENTENCES, TEXTS, QUESTIONS, IMAGES) for name in kind.formats)
)
# The help of the flags that are fields of `GenerationOptions`.
GENERATION_HELP = {
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


def evaluate_parser() -> FlagParser:
    """Returns the parser of the flags of `evaluate`."""
    parser = make_parser(
        "evaluate", "Measures a run's best weights on data of the kind that it was trained on."
    )
    add_run_flag(parser)
    parser.add_argument(
        "--data", required=True, help="file, pattern of files, -, demo:NAME/SPLIT or hub:NAME/SPLIT"
    )
    parser.add_argument("--output", help="folder of what is found; default RUN/evaluations/NAME_OF_THE_DATA")
    parser.add_argument(
        "--format", choices=declarations(Data)["format"].choices, help="of the data; default the run's"
    )
    parser.add_argument("--encoding", help="of the data, such as cp1252; default the run's")
    parser.add_argument(
        "--delimiter", help="between values of a table, such as ';' or tab; default the run's"
    )
    parser.add_argument("--word_column", type=int, help="of CoNLL data, from 0; default the run's")
    parser.add_argument("--tag_column", type=int, help="of CoNLL data, from 0; default the run's")
    parser.add_argument("--layout", choices=LAYOUTS, help="of a language model's text; default the run's")
    parser.add_argument("--stride", type=int, help="tokens of context that windows share; default the run's")
    add_process_flags(parser)
    return parser


def evaluate(argv: list[str] | None = None) -> None:
    """Evaluates the run that the arguments name."""
    with command(evaluate_parser(), argv) as flags:
        run_evaluate(flags)


def run_evaluate(flags: argparse.Namespace) -> dict[str, float]:
    """Evaluates the run that the flags name; see `Run.evaluate`."""
    from jaxft.run import Run  # slow: after --help has been answered

    changes = {name: value for name in DATA_FLAGS if (value := vars(flags).get(name)) is not None}
    return Run(flags.run).evaluate(flags.data, output=flags.output, **changes)


def predict_parser() -> FlagParser:
    """Returns the parser of the flags of `predict`."""
    parser = make_parser(
        "predict",
        "Tags or classifies text, or answers questions, with a run's best weights or with adapters.",
    )
    parser.add_argument("--run", help="the --workdir of a run")
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="[NAME=]FOLDER",
        help="adapter in PEFT's files or of a run; may be repeated: a record names the adapter that answers it, and "
        "--run or an adapter without a name answers the others",
    )
    parser.add_argument(
        "--adapter_field",
        default="adapter",
        help="the record's key with the name of its adapter; default adapter",
    )
    parser.add_argument("--model", help="base of the adapters, folder or hub id; default: what they name")
    parser.add_argument("--input", default="-", help="file, - for stdin (default), or a folder of images")
    parser.add_argument("--output", default="-", help="file, or - for stdout (default)")
    add_input_flags(parser, [name for name in PREDICT_FORMATS if name != "hub"])
    parser.add_argument("--word_column", type=int, help="of CoNLL input, from 0; default the run's")
    add_process_flags(parser)
    return parser


def predict(argv: list[str] | None = None) -> None:
    """Predicts for the input that the arguments name. Messages go to stderr, because stdout may be the output."""
    with command(predict_parser(), argv) as flags:
        # Slow imports come after --help has been answered.
        from jaxft.inference.adapters.sources import parse_adapters
        from jaxft.inference.predict import predict_file

        predict_file(
            Path(flags.run) if flags.run else None,
            flags.input,
            flags.output,
            adapters=parse_adapters(flags.adapter, flags.model, flags.adapter_field),
            format=make_file_format(flags),
            word_column=flags.word_column,
            on_error=flags.on_error,
            log=log_to_stderr,
        )


def generate_parser() -> FlagParser:
    """Returns the parser of the flags of `generate`."""
    parser = make_parser("generate", "Continues text with a run's best weights, or with a checkpoint's.")
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
        flag = f"--{field.name}"
        if field.type is bool:
            parser.add_argument(flag, action="store_true", help=GENERATION_HELP[field.name])
        else:
            parser.add_argument(
                flag,
                type=field.type,
                default=field.default,
                help=f"{GENERATION_HELP[field.name]}; default {field.default}",
            )
    add_process_flags(parser)
    return parser


def generate(argv: list[str] | None = None) -> None:
    """Generates text as the arguments say. Messages go to stderr, because stdout may be the output."""
    with command(generate_parser(), argv) as flags:
        _run_generate(flags)


def _run_generate(flags: argparse.Namespace) -> None:
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


def export_parser() -> FlagParser:
    """Returns the parser of the flags of `export`."""
    parser = make_parser(
        "export", "Writes a run's best weights as a folder that transformers' AutoModel loads."
    )
    add_run_flag(parser)
    parser.add_argument("--output", required=True, help="new or empty folder")
    parser.add_argument(
        "--format",
        choices=("transformers", "peft"),
        default="transformers",
        help="peft writes the adapter and the head alone, for PEFT or, if it lacks the method, next to a loader; by "
        "default adapters are merged into the weights",
    )
    parser.add_argument(
        "--verify", action="store_true", help="reload in torch and compare logits on dev data"
    )
    parser.add_argument("--license", help="for the model card, such as apache-2.0; default the base model's")
    parser.add_argument("--language", help="for the model card, such as en,de; default the base model's")
    parser.add_argument("--tags", help="for the model card, such as legal,ner; added to the task's")
    add_process_flags(parser)
    return parser


def export(argv: list[str] | None = None) -> None:
    """Exports the run that the arguments name."""
    with command(export_parser(), argv) as flags:
        # Slow imports come after --help has been answered.
        from jaxft.parallel import processes
        from jaxft.run import Run

        if processes.count() > 1:
            raise UserError("an export is written by one process: start it once, without --coordinator")
        language, tags = (
            [item for item in (text or "").split(",") if item] for text in (flags.language, flags.tags)
        )
        Run(flags.run).export(
            flags.output,
            format=flags.format,
            verify=flags.verify,
            license=flags.license,
            language=language,
            tags=tags,
        )
