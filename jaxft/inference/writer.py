"""Continues text with the best weights of a run or with a checkpoint, for `jaxft generate`.

A prompt is a text. For a run trained on pairs, a prompt is the values of its template's fields.
"""

import collections.abc
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.adapters.plan import merge_adapters
from jaxft.data.encoding.documents import encode_prompts
from jaxft.data.encoding.text_tokens import tokenize_texts
from jaxft.data.encoding.tokenizer import find_boundary_tokens
from jaxft.data.sources import documents
from jaxft.data.sources.records.record_values import JsonObject
from jaxft.errors import UserError
from jaxft.generation.generator import Generator, Output
from jaxft.generation.options import PROMPT_ROWS, GenerationOptions
from jaxft.hub.addresses import resolve_address
from jaxft.hub.files import read_config
from jaxft.hub.tensors import open_tensors
from jaxft.hub.tokenizers import load_tokenizer
from jaxft.hub.weights import load_weights
from jaxft.inference.model import open_model
from jaxft.inference.stop_strings import StopStrings, decode_text
from jaxft.layers import parameter_paths
from jaxft.layers.heads.backbone import Backbone, LanguageBackbone
from jaxft.layers.heads.next_token import LanguageModel
from jaxft.layers.runtime import Runtime
from jaxft.models.model_config import ModelConfig
from jaxft.models.registry import family_of, make_backbone, make_decoder, read_model_config
from jaxft.parallel import processes
from jaxft.parallel.mesh import replicate_locally
from jaxft.tasks.registry import generates_text
from jaxft.training import step
from jaxft.training.run_folder.workdir import open_run


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


class Prompt(NamedTuple):
    """A prompt's number, from 0, which decides what is drawn at random for it; and its token ids."""

    number: int
    ids: list[int]


class Writer:
    """A language model with its tokenizer, which turns prompts into texts."""

    def __init__(
        self,
        backbone: Backbone,
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
        self, prompt: str | JsonObject, options: GenerationOptions, *, where: str = "the prompt"
    ) -> list[int]:
        """Returns the token ids of a prompt.

        Args:
          prompt: a text, or with a template a record with its keys. With a template of one key, a text is its value.
          options: the options of generation; `max_new_tokens` are kept free for the text.
          where: the name of the prompt in errors.

        Raises:
          UserError: the prompt does not fit the template, or the room for prompts.
        """
        room = self.prompt_room(options)
        if self.template is None:
            assert isinstance(prompt, str)
            [tokens] = tokenize_texts(self.tokenizer, [prompt])
            ids = [*self._start, *tokens.ids] or [self._boundary_tokens.start]
            if len(ids) > room:
                raise UserError(
                    f"{where} has {len(ids):,} tokens, which with --max_new_tokens {options.max_new_tokens} is more "
                    f"than the model's {self._generator.max_positions:,} positions; shorten either"
                )
            return ids
        keys = self.template.prompt_keys
        if isinstance(prompt, str) and len(keys) > 1:
            raise UserError(
                f"the run's template has the fields {', '.join(keys)}; give them as JSON lines with --input"
            )
        record = {keys[0]: prompt} if isinstance(prompt, str) else prompt
        text, cut = self.template.fill_prompt(record, where)
        filled = [documents.Document("", 0, "", text, cut)]
        [ids] = encode_prompts(filled, self.tokenizer, room)
        return ids

    def prompt_room(self, options: GenerationOptions) -> int:
        """Returns the most tokens of a prompt. Raises `UserError` if the new tokens leave no room for one."""
        max_length, whose = self._generator.max_positions, "of the model"
        if self.template is not None and self._max_length:
            max_length, whose = min(self._max_length, max_length), "that the run was trained on"
        if max_length <= options.max_new_tokens:
            raise UserError(
                f"--max_new_tokens {options.max_new_tokens} leaves no room for a prompt in the {max_length} positions "
                f"{whose}; ask for fewer"
            )
        return max_length - options.max_new_tokens

    def generate(
        self,
        prompts: Iterable[str | JsonObject],
        options: GenerationOptions,
        *,
        stop: Sequence[str] = (),
        rows: int = PROMPT_ROWS,
    ) -> Iterator[list[GeneratedText]]:
        """Yields `options.samples` texts for each prompt, in order; see `generate_batches`."""
        encoded = (
            Prompt(number, self.encode(prompt, options, where=f"prompt {number + 1}"))
            for number, prompt in enumerate(prompts)
        )
        for batch in self.generate_batches(encoded, options, stop=stop, rows=rows):
            yield from (texts for _, texts in batch)

    def generate_batches(
        self,
        prompts: Iterable[Prompt | None],
        options: GenerationOptions,
        *,
        stop: Sequence[str] = (),
        rows: int = PROMPT_ROWS,
    ) -> Iterator[list[tuple[Prompt, list[GeneratedText]]]]:
        """Yields batches of (prompt, `options.samples` texts), in order.

        A sample depends on the prompt's number but not on `rows`. Several processes share the work, and each process
        gets all texts.

        Args:
          prompts: the prompts by ascending number; None where the next one may take long to arrive.
          options: the options of generation.
          stop: texts that end a text.
          rows: the most prompts in a process's batch.
        """
        stops = StopStrings(self.tokenizer, stop) if stop else None
        first_row = processes.index() * rows  # the first row of this process
        for batch in _group_prompts(prompts, rows * processes.count()):
            texts = []
            if local_prompts := batch[first_row : first_row + rows]:
                outputs = self._generator.generate(
                    [prompt.ids for prompt in local_prompts],
                    options,
                    first_number=local_prompts[0].number,
                    stop=stops,
                )
                texts = [
                    [dataclasses.astuple(self._finish(output, stops)) for output in samples]
                    for samples in outputs
                ]
            gathered = itertools.chain.from_iterable(processes.gather(texts))
            yield [
                (prompt, [GeneratedText(*fields) for fields in samples])
                for prompt, samples in zip(batch, gathered, strict=True)
            ]

    def stream(
        self, prompt: str | JsonObject, options: GenerationOptions, *, stop: Sequence[str] = ()
    ) -> collections.abc.Generator[str, None, None]:
        """Yields the text after a prompt in pieces, while it is generated. Beam search yields all of it at the end."""
        if options.samples != 1:
            raise UserError(f"samples is {options.samples}, but only one text can be streamed")
        stops = StopStrings(self.tokenizer, stop) if stop else None
        text, sent = "", 0
        for [[output]] in self._generator.stream([self.encode(prompt, options)], options, stop=stops):
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


@runtime_checkable
class _HasTemplate(Protocol):
    """The settings of the data of a task whose texts may be made of records."""

    template: str | None


def make_run_writer(folder: Path, log: Callable[[str], None]) -> Writer:
    """Opens the best weights of a run for writing. Raises `UserError` if the run's model is not a language model."""
    run = open_run(folder)
    if not generates_text(run.config.task):
        raise UserError(f"--run {folder}: its task is {run.config.task}; only language models generate text")
    model = open_model(run, log)
    data, tokenizer = run.config.data, run.checkpoint.tokenizer
    template = data.template if isinstance(data, _HasTemplate) else None
    network = step.merge_model(model.net.graphdef, replicate_locally(model.parameters, model.net.mesh))
    assert isinstance(network, LanguageModel)
    merge_adapters(network)
    return Writer(
        network.backbone,
        tokenizer,
        template=template,
        start=[] if template else [find_boundary_tokens(tokenizer).start],
        max_length=run.config.text_length,
    )


def make_checkpoint_writer(address: str) -> Writer:
    """Opens a pretrained language model for writing. It computes in float32 on CPU and in bfloat16 elsewhere.

    Args:
      address: the address of the checkpoint, as in `config.model.checkpoint`.

    Raises:
      UserError: the checkpoint is missing, damaged, or of a family that does not generate text.
    """
    folder = resolve_address(address)
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    hf_config = read_config(folder)
    config, runtime = read_model_config(hf_config), Runtime(dtype=jnp.dtype(dtype))
    make_decoder(config)  # raises an error before the weights are read
    tokenizer = load_tokenizer(folder)
    graph, state = nnx.split(nnx.eval_shape(lambda: _make_language_model(config, runtime)))
    abstract = parameter_paths.flatten(nnx.to_pure_dict(state))
    table = family_of(hf_config).table
    parameters, _ = load_weights(table, open_tensors(folder), abstract, source=str(folder))
    return Writer(nnx.merge(graph, parameter_paths.unflatten(parameters)).backbone, tokenizer)


def _make_language_model(config: ModelConfig, runtime: Runtime) -> LanguageModel:
    # A family that generates text predicts words by their embeddings.
    return LanguageModel(cast(LanguageBackbone, make_backbone(config, runtime, rngs=nnx.Rngs(0))))


def _group_prompts(prompts: Iterable[Prompt | None], size: int) -> Iterator[list[Prompt]]:
    """Yields groups of at most `size` prompts with consecutive numbers. None among the prompts ends a group."""
    group: list[Prompt] = []
    for prompt in prompts:
        is_next = prompt is not None and (not group or prompt.number == group[-1].number + 1)
        if group and (len(group) == size or not is_next):
            yield group
            group = []
        if prompt is not None:
            group.append(prompt)
    if group:
        yield group
