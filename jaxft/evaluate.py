"""Evaluates a model on a split; as a command, a run's best weights on any data: `python -m jaxft.evaluate`."""

import argparse
import contextlib
import copy
import dataclasses
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console

from jaxft import inference, startup, workdir
from jaxft.build import Network
from jaxft.config.validation import CHOICES
from jaxft.data.batching.batch import Shape
from jaxft.data.batching.loader import Loader
from jaxft.data.encoding.documents import LAYOUTS
from jaxft.errors import UserError
from jaxft.generation.generator import Generator
from jaxft.generation.options import GenerationOptions
from jaxft.parallel import processes
from jaxft.parallel.mesh import describe_local_devices, replicate_locally
from jaxft.step import model_of
from jaxft.tasks import TASKS, splits
from jaxft.tasks.base import Split


def evaluate(
    net: Network, compiled: Mapping[Shape, Any], parameters: dict, split: Split, loader: Loader
) -> tuple[Any, Any]:
    """(metric state, predictions) of a whole split; see `Task.measure` and `Task.collect`."""
    totals = {"loss_sum": 0.0, "weight_sum": 0.0}

    def batches():
        for batch, predictions, sums in inference.outputs(net, compiled, parameters, loader):
            for name, value in sums.items():
                totals[name] += value
            yield batch, predictions

    predictions = net.task.collect(split, batches())
    return net.task.measure(split, predictions, **totals), predictions


def write(
    net: Network,
    compiled: Mapping[Shape, Any],
    parameters: dict,
    split: Split,
    loader: Loader,
    *,
    folder: Path,
    train: Sequence[Any],
    tokenizer: Any,
    config: ConfigDict,
    console: Console,
    tune: bool = False,
) -> dict[str, float]:
    """Evaluates, writes what there is to read into `folder`, prints the report, and returns the metrics.

    Of several processes the first writes and prints.

    train: examples of the training data, or of parts of it, for tasks that compare with it. Targets of prompts are
    generated too, as `config.eval.generate` says. tune: lets the task choose on this split what it does not learn.
    """
    measured, predictions = evaluate(net, compiled, parameters, split, loader)
    if tune:
        net.task.tune(split, predictions)
    if prompts := net.task.prompts(split.examples[: config.eval.generate], tokenizer, config):
        texts = generate(net, parameters, prompts, tokenizer, config)
        predictions = dataclasses.replace(predictions, generated=texts)
    compared = []
    if net.task.compares_with_train:
        compared = itertools.chain(*processes.gather(net.task.compared(split, predictions, train)))
    if not processes.is_main_process():
        return measured.compute()
    return net.task.write_evaluation(
        folder,
        split,
        measured,
        predictions,
        compared=list(compared),
        samples=config.eval.bootstrap,
        seed=config.seed,
        console=console,
    )


def generate(
    net: Network, parameters: dict, prompts: list[list[int]], tokenizer: Any, config: ConfigDict
) -> list[str]:
    """The text that follows each prompt of token ids, up to its end: greedy, or the best of `config.eval.beams`."""
    options = GenerationOptions(max_new_tokens=config.eval.max_new_tokens, beams=config.eval.beams)
    here = replicate_locally(parameters, net.mesh)
    generator = Generator(model_of(net.graphdef, here).body, eos=tokenizer.eos_token_id)
    rows = config.eval.rows
    texts = []  # of each batch; the processes take turns
    for first in range(processes.index() * rows, len(prompts), processes.count() * rows):
        outputs = generator.generate(prompts[first : first + rows], options, first=first)
        texts.append([tokenizer.decode(output.ids, skip_special_tokens=True) for [output] in outputs])
    dealt = itertools.chain.from_iterable(itertools.zip_longest(*processes.gather(texts), fillvalue=()))
    return list(itertools.chain.from_iterable(dealt))


def main(argv: list[str] | None = None) -> None:
    """Parses the flags and evaluates."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxft.evaluate",
        description="Measures a run's best weights on data of the kind that it was trained on.",
        allow_abbrev=False,
    )
    parser.add_argument("--run", required=True, help="the --workdir of a run")
    parser.add_argument(
        "--data", required=True, help="file, pattern of files, -, demo:NAME/SPLIT or hub:NAME/SPLIT"
    )
    parser.add_argument("--output", help="folder of what is found; default RUN/evaluations/NAME_OF_THE_DATA")
    parser.add_argument("--format", choices=CHOICES["data.format"], help="of the data; default the run's")
    parser.add_argument("--word-column", type=int, help="of CoNLL data, from 0; default the run's")
    parser.add_argument("--tag-column", type=int, help="of CoNLL data, from 0; default the run's")
    parser.add_argument("--layout", choices=LAYOUTS, help="of a language model's text; default the run's")
    parser.add_argument("--stride", type=int, help="tokens of context that windows share; default the run's")
    with inference.command(parser, argv) as flags:
        run_evaluate(flags)


def run_evaluate(flags: argparse.Namespace) -> dict[str, float]:
    """Writes metrics, predictions and errors, prints the report, and gives the metrics."""
    run = workdir.open_run(Path(flags.run))
    original, config = run.config, copy.deepcopy(run.config)
    for name in ("format", "word_column", "tag_column", "layout", "stride"):
        if getattr(flags, name) is not None:
            config.data[name] = getattr(flags, name)
    if config.task == "causal_lm" and flags.layout == "blocks" and flags.stride is None:
        config.data.stride = None  # the run's, which blocks have none of
    address = flags.data.rstrip("/").removeprefix("./")
    if ":" not in address:
        address = re.sub(r"[^;=]*/", "", address)  # of each of several files
    file = re.sub(r"[^\w.-]+", "-", address).strip("-") or "stdin"
    if not set(":?;=*#") & set(flags.data) and flags.data != "-":
        file = Path(flags.data).name
    name = Path(file).stem
    folder = Path(flags.output) if flags.output else run.workdir / "evaluations" / file
    _check_folder(folder, name, flags.data)

    run = dataclasses.replace(run, config=config)
    task = inference.task_of(run)
    examples = task.read(config, name, flags.data, processes.log)
    train = _training_examples(original) if task.compares_with_train else []
    split = Split(name, flags.data, examples, task.encode(examples, run.checkpoint.tokenizer, config))
    processes.assert_same({"data": split.windows.fingerprint} | describe_local_devices())
    task.check(split, train, processes.log)
    with _errors_named(folder):
        folder.mkdir(parents=True, exist_ok=True)  # found out before the work, not after
    model = inference.open_model(run, processes.log)
    loader = model.loader(split.windows, pack=config.data.pack)
    compiled = model.compile(loader.shapes)
    with _errors_named(folder):
        metrics = write(
            model.net,
            compiled,
            model.parameters,
            split,
            loader,
            folder=folder,
            train=train,
            tokenizer=run.checkpoint.tokenizer,
            config=config,
            console=Console(soft_wrap=True, highlight=False, quiet=not processes.is_main_process()),
        )
    processes.log(f"everything is in {folder}")
    return metrics


@contextlib.contextmanager
def _errors_named(folder: Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # of stdout
        raise
    except OSError as error:
        raise UserError(f"--output {folder}: cannot be written: {error}") from None


def _check_folder(folder: Path, name: str, data: str) -> None:
    """Raises `UserError` where another source's evaluation would be written over."""
    path = folder / "eval" / f"{name}.json"
    found = workdir.read_json(path).get("data") if path.exists() else data
    if os.path.abspath(found) != os.path.abspath(data):
        raise UserError(
            f"{path} is the evaluation of {found}, not of {data}; name another folder with --output"
        )


def _training_examples(config: ConfigDict) -> Sequence[Any]:
    """The run's training data, against which entities count as seen; none, which is said, if it is gone."""
    try:
        return splits.read(TASKS[config.task], config, processes.log, ["train"])["train"].examples
    except UserError as error:
        processes.log(f"warning: without the training data every entity counts as unseen ({error})")
        return []


if __name__ == "__main__":
    startup.leave_torch_out()
    main()
