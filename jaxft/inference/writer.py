"""Continues text with a run's best weights or a checkpoint's: `python -m jaxft generate --run RUN --prompt TEXT`.

`--prompt` prints what follows as it is made; `--input` takes a prompt a line, or JSON lines or CSV with a key
`prompt`, and gives JSON lines: the record, and `generated`, a text, or with `--samples` a list of them. A run
trained on pairs fills its template, so that a prompt is the value of its field (records have one key a field).
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from jaxft.data.encoding.documents import encode_prompts
from jaxft.data.encoding.tokenizer import find_boundary_tokens
from jaxft.data.sources import documents, files, records
from jaxft.errors import UserError
from jaxft.generation.generator import Generator, Output
from jaxft.generation.options import GenerationOptions
from jaxft.hub.addresses import resolve_address
from jaxft.hub.files import read_config
from jaxft.hub.tensors import open_tensors
from jaxft.hub.tokenizers import load_tokenizer
from jaxft.hub.weights import load_weights
from jaxft.inference.model import open_model
from jaxft.layers import parameter_paths
from jaxft.models.gpt2 import config as gpt2_config
from jaxft.models.gpt2 import weights as gpt2_weights
from jaxft.models.gpt2.network import GPT2
from jaxft.parallel import processes
from jaxft.parallel.mesh import replicate_locally
from jaxft.tasks.causal_lm.task import LanguageModel
from jaxft.training import step
from jaxft.training.workdir import open_run

ROWS = 8  # prompts of a batch


@dataclasses.dataclass(frozen=True)
class Generated:
    """A text that follows a prompt; `ended` says whether by itself or a stop, `score` is that of a beam."""

    text: str
    ended: bool
    score: float | None


class StopStrings:
    """Finds the first of `strings` in generated text; a `Stop` of decoding/generator.py."""

    def __init__(self, tokenizer: Any, strings: Sequence[str]):
        if not all(strings):
            raise UserError("a stop string is empty; give the text to stop at")
        self._decode, self._strings = _decoder(tokenizer), strings

    def __call__(self, ids: list[int], seen: int) -> int | None:
        """The number of tokens until a string is complete, None where there is none."""
        if self.cut(self._decode(ids)) is None:
            return None
        return next(n for n in range(1, len(ids) + 1) if self.cut(self._decode(ids[:n])) is not None)

    def cut(self, found: str) -> str | None:
        """The text before the first string, None where there is none."""
        places = [found.index(string) for string in self._strings if string in found]
        return found[: min(places)] if places else None

    def held(self, found: str) -> int:
        """How many of the last characters may be the beginning of a string."""
        return max((n for s in self._strings for n in range(1, len(s)) if found.endswith(s[:n])), default=0)


def _decoder(tokenizer: Any):
    return lambda ids: tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


class Writer:
    """A language model with its tokenizer, from prompts to texts.

    template: of a run trained on pairs; prompts are then records, shortened to `room` tokens where they must be.
    start: what is put before each prompt, as texts begin in the run's training.
    """

    def __init__(
        self,
        backbone: GPT2,
        tokenizer: Any,
        *,
        template: str | None = None,
        start: Sequence[int] = (),
        room: int | None = None,
    ):
        self.special = find_boundary_tokens(tokenizer)
        self.tokenizer = tokenizer
        self.template = documents.Template(template) if template else None
        self._generator = Generator(backbone, eos=self.special.end)
        self._start, self._room = list(start), room
        self._decode = _decoder(tokenizer)

    def encode(
        self, prompts: Sequence[str | dict], options: GenerationOptions, *, where: str = "prompt"
    ) -> list[list[int]]:
        """Token ids of prompts: texts, or records of the template's keys (a text is the value of its only one)."""
        if self.template is None:
            ids = self.tokenizer(list(prompts), add_special_tokens=False, verbose=False)["input_ids"]
            return [self._start + one or [self.special.start] for one in ids]
        filled = []
        for number, prompt in enumerate(prompts, 1):
            keys = self.template.prompt_keys
            if isinstance(prompt, str) and len(keys) > 1:
                raise UserError(
                    f"the run's template has the fields {', '.join(keys)}; give them as JSON lines with --input"
                )
            record = {keys[0]: prompt} if isinstance(prompt, str) else prompt
            whole, cut = self.template.fill_prompt(record, f"{where} {number}")
            filled.append(documents.Document("", number, "", whole, cut))
        room = min(self._room or self._generator.max_positions, self._generator.max_positions)
        if room <= options.max_new_tokens:
            raise UserError(
                f"--max-new-tokens {options.max_new_tokens} leaves no room for a prompt in the {room} positions "
                "that the run was trained on; ask for fewer"
            )
        return encode_prompts(filled, self.tokenizer, room - options.max_new_tokens)

    def generate(
        self,
        prompts: Iterable[str | dict],
        options: GenerationOptions,
        *,
        stop: Sequence[str] = (),
        rows: int = ROWS,
    ) -> Iterator[list[Generated]]:
        """`options.samples` texts for each prompt, in order, `rows` prompts at a time; without the stop string.

        A sample depends on the prompt's number among `prompts`, not on `rows`. Several processes each make a
        part of the texts, and all get all.
        """
        stops = StopStrings(self.tokenizer, stop) if stop else None
        prompts, first = iter(prompts), 0
        while batch := list(itertools.islice(prompts, rows * processes.count())):
            own = processes.index() * rows
            ids = self.encode(batch, options, where=f"after prompt {first}, prompt")[own : own + rows]
            outputs = (
                self._generator.generate(ids, options, first_number=first + own, stop=stops) if ids else []
            )
            made = [[dataclasses.astuple(self._finished(one, stops)) for one in texts] for texts in outputs]
            for texts in itertools.chain.from_iterable(processes.gather(made)):
                yield [Generated(*one) for one in texts]
            first += len(batch)

    def stream(
        self, prompt: str | dict, options: GenerationOptions, *, stop: Sequence[str] = ()
    ) -> Iterator[str]:
        """Pieces of the one text that follows a prompt, as they are made; beam search gives it at the end."""
        if options.samples != 1:
            raise UserError(f"samples is {options.samples}, but only one text can be streamed")
        stops = StopStrings(self.tokenizer, stop) if stop else None
        ids, given = self.encode([prompt], options), 0
        found = ""
        for [[output]] in self._generator.stream(ids, options, stop=stops):
            found = self._finished(output, stops).text
            # Bytes of a character that is not whole yet, and what may become a stop, wait.
            sure = found.rstrip("\N{REPLACEMENT CHARACTER}")
            sure = sure[: len(sure) - (stops.held(sure) if stops and not output.ended else 0)]
            if len(sure) > given:
                yield sure[given:]
                given = len(sure)
        if len(found) > given:
            yield found[given:]

    def _finished(self, output: Output, stops: StopStrings | None) -> Generated:
        found = self._decode(output.ids)
        cut = stops.cut(found) if stops else None
        return Generated(found if cut is None else cut, output.ended, output.score)


def writer_from_run(folder: Path, log: Callable[[str], None]) -> Writer:
    """The best weights of a run. Raises `UserError` where it is no run of a language model."""
    run = open_run(folder)
    if run.config.task != "causal_lm":
        raise UserError(f"--run {folder}: its task is {run.config.task}; only language models generate text")
    model = open_model(run, log)
    template = run.config.data.template
    tokenizer = run.checkpoint.tokenizer
    return Writer(
        step.merge_model(model.net.graphdef, replicate_locally(model.parameters, model.net.mesh)).backbone,
        tokenizer,
        template=template,
        start=[] if template else [find_boundary_tokens(tokenizer).start],
        room=run.config.data.max_length,
    )


def writer_from_checkpoint(address: str) -> Writer:
    """A pretrained checkpoint, `address` as in config.model.checkpoint; computes in float32 on CPU, else bfloat16."""
    folder = resolve_address(address)
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    sizes = gpt2_config.read_sizes(read_config(folder)) | {"dtype": dtype}
    tokenizer = load_tokenizer(folder)
    graph, state = nnx.split(nnx.eval_shape(lambda: LanguageModel(GPT2(**sizes, rngs=nnx.Rngs(0)))))
    abstract = parameter_paths.flatten(nnx.to_pure_dict(state))
    parameters, _ = load_weights(gpt2_weights.TABLE, open_tensors(folder), abstract, source=str(folder))
    return Writer(nnx.merge(graph, parameter_paths.unflatten(parameters)).backbone, tokenizer)


def read_prompts(source: str, writer: Writer) -> Iterator[tuple[dict, str | dict]]:
    """(record, prompt) of each line of text, `{"prompt": LINE}`, or of each record of JSON lines or CSV.

    Raises `UserError` with the line where a record lacks what the prompt is made of.
    """
    reader = records.read_csv if source.endswith(".csv") else records.read_jsonl
    if not source.endswith((".jsonl", ".ndjson", ".json", ".csv")):
        for _, line in files.read_lines(source):
            if line := line.rstrip("\r\n"):
                yield {"prompt": line}, line
        return
    for where, _, record in reader(source):
        if writer.template is not None:
            writer.template.fill_prompt(record, where)
            yield record, record
            continue
        if "prompt" not in record:
            raise UserError(
                f"{where}: no key 'prompt' in {sorted(map(str, record))}; it holds what is to be continued"
            )
        records.check_string(record["prompt"], where, "prompt")
        yield record, record["prompt"]
