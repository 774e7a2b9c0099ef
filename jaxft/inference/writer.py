"""Continues text with the best weights of a run or with a checkpoint, for `python -m jaxft generate`.

A prompt is a text. For a run trained on pairs, a prompt is the values of its template's fields.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.data.encoding.documents import encode_prompts
from jaxft.data.encoding.tokenizer import find_boundary_tokens
from jaxft.data.sources import documents, files, formats
from jaxft.data.sources.formats import FileFormat
from jaxft.data.sources.records import record_values
from jaxft.data.sources.records.reader import read_records
from jaxft.errors import UserError
from jaxft.generation.generator import Generator, Output
from jaxft.generation.options import GenerationOptions
from jaxft.hub.addresses import resolve_address
from jaxft.hub.files import read_config
from jaxft.hub.tensors import open_tensors
from jaxft.hub.tokenizers import load_tokenizer
from jaxft.hub.weights import load_weights
from jaxft.inference.model import open_model
from jaxft.inference.stop_strings import StopStrings, decode_text
from jaxft.layers import parameter_paths
from jaxft.models.gpt2 import weights as gpt2_weights
from jaxft.models.gpt2.config import GPT2Config
from jaxft.models.gpt2.network import GPT2
from jaxft.models.runtime import Runtime
from jaxft.parallel import processes
from jaxft.parallel.mesh import replicate_locally
from jaxft.tasks.causal_lm.task import LanguageModel
from jaxft.training import step
from jaxft.training.run_folder.workdir import open_run

ROWS = 8  # default number of prompts in a batch


@dataclasses.dataclass(frozen=True)
class GeneratedText:
    """A text that follows a prompt.

    Attributes:
      text: the text, without the stop string.
      ended: True if the text ended by itself or at a stop string; False if it reached the limit of tokens.
      score: the score of beam search; None without beam search.
    """

    text: str
    ended: bool
    score: float | None


class Writer:
    """A language model with its tokenizer, which turns prompts into texts."""

    def __init__(
        self,
        backbone: GPT2,
        tokenizer: Any,
        *,
        template: str | None = None,
        start: Sequence[int] = (),
        max_length: int | None = None,
    ):
        """Prepares a network for writing.

        Args:
          backbone: the network.
          tokenizer: its tokenizer.
          template: the template of a run trained on pairs. Prompts are then records, and are shortened if too long.
          start: token ids at the beginning of each prompt, as at the beginning of texts in training.
          max_length: the most tokens of prompt and text together, for a template; by default all positions.
        """
        self.tokenizer = tokenizer
        self.template = documents.Template(template) if template else None
        self._boundary_tokens = find_boundary_tokens(tokenizer)
        self._generator = Generator(backbone, eos=self._boundary_tokens.end)
        self._start, self._max_length = list(start), max_length

    def encode(
        self, prompts: Sequence[str | dict], options: GenerationOptions, *, where: str = "prompt"
    ) -> list[list[int]]:
        """Returns the token ids of prompts.

        Args:
          prompts: texts, or with a template records with its keys. With a template of one key, a text is its value.
          options: the options of generation; `max_new_tokens` are kept free for the text.
          where: the name of prompts in errors, which is followed by their number.

        Raises:
          UserError: a prompt does not fit the template, or the template leaves no room for one.
        """
        if self.template is None:
            encoded = self.tokenizer(list(prompts), add_special_tokens=False, verbose=False)["input_ids"]
            return [self._start + ids or [self._boundary_tokens.start] for ids in encoded]
        filled, keys = [], self.template.prompt_keys
        for number, prompt in enumerate(prompts, 1):
            if isinstance(prompt, str) and len(keys) > 1:
                raise UserError(
                    f"the run's template has the fields {', '.join(keys)}; give them as JSON lines with --input"
                )
            record = {keys[0]: prompt} if isinstance(prompt, str) else prompt
            text, cut = self.template.fill_prompt(record, f"{where} {number}")
            filled.append(documents.Document("", number, "", text, cut))
        max_length = self._generator.max_positions
        if self._max_length:
            max_length = min(self._max_length, max_length)
        if max_length <= options.max_new_tokens:
            raise UserError(
                f"--max-new-tokens {options.max_new_tokens} leaves no room for a prompt in the {max_length} positions "
                "that the run was trained on; ask for fewer"
            )
        return encode_prompts(filled, self.tokenizer, max_length - options.max_new_tokens)

    def generate(
        self,
        prompts: Iterable[str | dict],
        options: GenerationOptions,
        *,
        stop: Sequence[str] = (),
        rows: int = ROWS,
    ) -> Iterator[list[GeneratedText]]:
        """Yields `options.samples` texts for each prompt, in order, from batches of `rows` prompts.

        A sample depends on the prompt's number among `prompts` but not on `rows`. Several processes share the work, and
        each process gets all texts.
        """
        stops = StopStrings(self.tokenizer, stop) if stop else None
        prompts, read_count = iter(prompts), 0
        while batch := list(itertools.islice(prompts, rows * processes.count())):
            first_row = processes.index() * rows  # the first row of this process
            encoded = self.encode(batch, options, where=f"after prompt {read_count}, prompt")
            texts = []
            if local_prompts := encoded[first_row : first_row + rows]:
                outputs = self._generator.generate(
                    local_prompts, options, first_number=read_count + first_row, stop=stops
                )
                texts = [
                    [dataclasses.astuple(self._finish(output, stops)) for output in samples]
                    for samples in outputs
                ]
            for samples in itertools.chain.from_iterable(processes.gather(texts)):
                yield [GeneratedText(*fields) for fields in samples]
            read_count += len(batch)

    def stream(
        self, prompt: str | dict, options: GenerationOptions, *, stop: Sequence[str] = ()
    ) -> Iterator[str]:
        """Yields the text after a prompt in pieces, while it is generated. Beam search yields all of it at the end."""
        if options.samples != 1:
            raise UserError(f"samples is {options.samples}, but only one text can be streamed")
        stops = StopStrings(self.tokenizer, stop) if stop else None
        text, sent = "", 0
        for [[output]] in self._generator.stream(self.encode([prompt], options), options, stop=stops):
            text = self._finish(output, stops).text
            # Hold back incomplete characters, and text that may become a stop string.
            settled = text.rstrip("\N{REPLACEMENT CHARACTER}")
            if stops and not output.ended:
                settled = settled[: len(settled) - stops.count_pending(settled)]
            if len(settled) > sent:
                yield settled[sent:]
                sent = len(settled)
        if len(text) > sent:
            yield text[sent:]

    def _finish(self, output: Output, stops: StopStrings | None) -> GeneratedText:
        """Decodes an output, and cuts its text before the first stop string."""
        text = decode_text(self.tokenizer, output.ids)
        before_stop = stops.cut(text) if stops else None
        return GeneratedText(text if before_stop is None else before_stop, output.ended, output.score)


def make_run_writer(folder: Path, log: Callable[[str], None]) -> Writer:
    """Opens the best weights of a run for writing. Raises `UserError` if the run's model is not a language model."""
    run = open_run(folder)
    if run.config.task != "causal_lm":
        raise UserError(f"--run {folder}: its task is {run.config.task}; only language models generate text")
    model = open_model(run, log)
    template, tokenizer = run.config.data.template, run.checkpoint.tokenizer
    parameters = replicate_locally(model.parameters, model.net.mesh)
    return Writer(
        step.merge_model(model.net.graphdef, parameters).backbone,
        tokenizer,
        template=template,
        start=[] if template else [find_boundary_tokens(tokenizer).start],
        max_length=run.config.data.max_length,
    )


def make_checkpoint_writer(address: str) -> Writer:
    """Opens a pretrained GPT-2 for writing. It computes in float32 on CPU and in bfloat16 elsewhere.

    Args:
      address: the address of the checkpoint, as in `config.model.checkpoint`.
    """
    folder = resolve_address(address)
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    config, runtime = GPT2Config.from_hf(read_config(folder)), Runtime(dtype=jnp.dtype(dtype))
    tokenizer = load_tokenizer(folder)
    graph, state = nnx.split(nnx.eval_shape(lambda: LanguageModel(GPT2(config, runtime, rngs=nnx.Rngs(0)))))
    abstract = parameter_paths.flatten(nnx.to_pure_dict(state))
    parameters, _ = load_weights(gpt2_weights.TABLE, open_tensors(folder), abstract, source=str(folder))
    return Writer(nnx.merge(graph, parameter_paths.unflatten(parameters)).backbone, tokenizer)


def read_prompts(
    source: str, writer: Writer, log: files.Log = files.log_nothing
) -> Iterator[tuple[dict, str | dict]]:
    """Yields (record, prompt) for each line of a text file, or for each record of JSON lines or CSV.

    The record of a line is `{"prompt": LINE}`. With a template, the prompt of a record is the record itself.

    Raises:
      UserError: a record lacks a key of the prompt; the message names its line.
    """
    keys = ["prompt"] if writer.template is None else writer.template.prompt_keys
    [resolved] = formats.resolve_source(source, formats.DOCUMENTS, FileFormat(), log, keys=keys)
    if resolved.format.name == "text":
        for _, line in files.read_lines(source, resolved.format.encoding):
            if line := line.rstrip("\r\n"):
                yield {"prompt": line}, line
        return
    for where, _, record in read_records(resolved, formats.DOCUMENTS, log)[0]:
        if writer.template is not None:
            writer.template.fill_prompt(record, where)
            yield record, record
            continue
        if "prompt" not in record:
            raise UserError(
                f"{where}: no key 'prompt' in {sorted(map(str, record))}; it holds what is to be continued"
            )
        record_values.check_string(record["prompt"], where, "prompt")
        yield record, record["prompt"]
