"""Prepares a run: from its settings to data, task, batches, network and train step. Makes no weights yet."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxft.adapters.plan import plan_adapters
from jaxft.adapters.registry import METHODS
from jaxft.config.durations import EpochScale, duration_steps, total_steps
from jaxft.config.sections import NEW, RUN, Settings
from jaxft.config.settings import flatten
from jaxft.data.batching.batch import Batches, BatchSpec, Shape
from jaxft.data.batching.choice import make_loader
from jaxft.data.batching.chunked import ChunkedLoader
from jaxft.data.batching.loader import Loader
from jaxft.data.batching.mixed import Mix
from jaxft.data.batching.output_positions import prune_batches
from jaxft.data.batching.sharded import ShardedLoader, make_sharded_loader, shards_of_rows
from jaxft.data.encoding.encoded import Encoded
from jaxft.data.encoding.windows import Windows
from jaxft.errors import UserError
from jaxft.models.pretrained_model import (
    PretrainedModel,
    describe_pretrained_model,
    resolve_head_dropout,
    resolve_model,
)
from jaxft.models.registry import family_of, list_families
from jaxft.parallel import processes
from jaxft.parallel.mesh import describe_unsharded, local_rows
from jaxft.tasks.base import AnyEvaluator, AnySplit, Log, Task
from jaxft.tasks.registry import TASKS, generates_text, head_kind, make_data, make_evaluator, make_task
from jaxft.training.batch_rows import (
    StepSize,
    check_batch,
    choose_eval_rows,
    choose_microbatches,
    choose_step_size,
    rows_unit,
    warn_of_few_steps,
    warn_of_other_size,
    with_rows,
)
from jaxft.training.log.waits import announced
from jaxft.training.network import Network, make_network
from jaxft.training.run_folder.base_run import open_base_run
from jaxft.training.splits import collect_labels, encode_splits, read_run_splits
from jaxft.training.trainer import Trainer, check_memory, make_trainer

# The last layer is pruned if the loss reads at most this share of the tokens. This is an estimate: beyond it, at most a
# tenth of one layer's time could be saved. At a share of 0.58 a step of WNUT-17 took 0.955 of its time.
MAX_OUTPUT_SHARE = 0.9


@dataclasses.dataclass(frozen=True)
class RunData:
    """The encoded data of a run, and what follows from it.

    Attributes:
      base_model: the model that the run starts from, without its weights.
      task: the run's task, for the labels of the training data.
      evaluator: measures the other splits.
      train: this process's shards of the training data, by number from 0.
      splits: the other splits by name: dev, and perhaps test.
    """

    base_model: PretrainedModel
    task: Task
    evaluator: AnyEvaluator
    train: dict[int, AnySplit]
    splits: dict[str, AnySplit]

    @property
    def windows(self) -> dict[int, Encoded]:
        """The windows of the shards, by number."""
        return {number: shard.windows for number, shard in self.train.items()}

    def fingerprints(self) -> list[str]:
        """Returns the fingerprints of all shards and of dev. With several processes, each calls this."""
        shards = {number: windows.fingerprint for number, windows in self.windows.items()}
        return [*processes.gather_by_shard(shards), self.splits["dev"].windows.fingerprint]


def prepare_data(config: Settings, mesh: Mesh, log: Log) -> RunData:
    """Reads and encodes the data of a run, and opens the model that it starts from.

    Args:
      config: the run's settings.
      mesh: the devices, which decide the shards that this process reads.
      log: prints a line.

    Raises:
      UserError: the settings, the data or the model are unusable.
    """
    check_batch(config, mesh)
    check_adapters(config)
    data = make_data(config)
    unit = rows_unit(config, mesh)  # which shards feed a process's rows doesn't depend on how many there are
    local_shards = shards_of_rows(local_rows(mesh, unit), unit, config.data.shards)
    with announced("reading the data", log):
        examples, other_examples = read_run_splits(data, config, local_shards, log)
    with announced(f"opening {config.model.checkpoint}", log):
        base_model = data.open_model(next(iter(examples.values())).examples)
        if base_model.address.startswith(RUN):
            base_model = open_base_run(base_model, log)
    labels = collect_labels(data, examples)
    task = prepare_task(config, base_model.hf_config, labels)
    if config.adapter.is_used:  # to name modules that are not there before all is encoded
        prepare_network(task, config, base_model.hf_config, mesh)
    with announced("encoding the data", log):
        train, splits = encode_splits(
            data, labels, examples, other_examples, base_model.processor, config, log
        )
    return RunData(base_model, task, make_evaluator(labels, config), train, splits)


def check_adapters(config: Settings) -> None:
    """Raises `UserError` if a run cannot have its adapters. A plan may have adapters of a new model."""
    method = config.adapter.method
    if not config.adapter.is_used:
        return
    if config.model.checkpoint.startswith(NEW):
        raise UserError(
            f"config.adapter.method={method!r}: adapters change a pretrained model, and "
            f"config.model.checkpoint={config.model.checkpoint!r} is a new one; give a checkpoint"
        )
    if generates_text(config.task) and not METHODS[method].generates:
        generating = [name for name, entry in METHODS.items() if entry.generates]
        raise UserError(
            f"config.adapter.method={method!r}: text is generated with adapters that are merged into the weights, and "
            f"these cannot be; expected one of {', '.join(generating)}"
        )


@dataclasses.dataclass(frozen=True)
class PreparedRun:
    """A run that is ready to be compiled.

    Attributes:
      config: the settings, with the rows of a step.
      data: the data, the task and the base model.
      batches: the training batches.
      eval_batches: the batches of the other splits, by name.
      size: the size of an optimizer step.
      total: the steps of the run.
      eval_every, save_every: the steps between evaluations, and between checkpoints.
      trainer: the train step, with the network.
      flops_per_unit: the model FLOPs per unit (token, image), forward and backward.
    """

    config: Settings
    data: RunData
    batches: Batches
    eval_batches: dict[str, Batches]
    size: StepSize
    total: int
    eval_every: int
    save_every: int
    trainer: Trainer
    flops_per_unit: float

    @property
    def net(self) -> Network:
        """The network."""
        return self.trainer.net

    @property
    def eval_shapes(self) -> list[Shape]:
        """The shapes of the batches of all splits that are measured."""
        return sorted({shape for batches in self.eval_batches.values() for shape in batches.shapes})

    def describe(self) -> Iterator[str]:
        """Yields lines about the parameters and the devices that hold them."""
        net, mesh = self.net, self.net.mesh
        trained = sum(leaf.size for leaf in jax.tree.leaves(self.trainer.abstract.trainable))
        axes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
        attention = f"; attention: {net.runtime.attention_line}" if net.model_config.num_heads else ""
        yield (
            f"{net.parameter_count:,} parameters, {trained:,} of them trained; devices: {axes} "
            f"({jax.devices()[0].device_kind}){attention}"
        )
        if net.adapters is not None:
            yield net.adapters.describe()
        if line := describe_unsharded(net.abstract, net.axes, mesh, net.model_config.num_heads):
            yield line


def prepare_run(
    config: Settings, mesh: Mesh, data: RunData, log: Log, begun_with: int | None = None
) -> PreparedRun:
    """Plans the batches and steps of a run, and makes its network and train step.

    Args:
      config: the run's settings.
      mesh: the devices.
      data: the run's data.
      log: prints a line.
      begun_with: the rows of a run that resumes; see `rows_begun_with`.

    Raises:
      UserError: the settings do not fit the data or the devices.
    """
    task, windows = data.task, data.windows
    asked_config = config
    size = choose_step_size(config, mesh, windows, task.batch_spec, begun_with)
    options = {"max_length": size.length, "seed": config.seed, **task.batch_spec.loader_options()}
    config = with_rows(config, size)
    loader = make_train_loader(windows, config, only=local_rows(mesh, size.rows), **options)
    eval_rows = choose_eval_rows(config, task.batch_spec, mesh.shape["data"] * mesh.shape["fsdp"])
    eval_batches: dict[str, Batches] = {
        name: make_eval_loader(split.windows, task.batch_spec, config, mesh, rows=eval_rows)
        for name, split in data.splits.items()
    }

    per_epoch = loader.steps_per_epoch
    scale = EpochScale(steps_per_epoch=per_epoch, examples_per_step=loader.window_count / per_epoch)
    length = config.train
    total = total_steps(steps=length.steps, examples=length.examples, epochs=length.epochs, **scale)
    durations = flatten(config)
    warmup, cooldown, tinit, tfinal = (
        duration_steps(durations[key], key, total=total, **scale)
        for key in ("optim.warmup", "optim.cooldown", "adapter.tinit", "adapter.tfinal")
    )
    rows = (
        f"{size.rows:,} examples"
        if config.rows_are_examples
        else f"{size.rows:,} {'row' if size.rows == 1 else 'rows'} of {size.length}, {size.examples:,.1f} examples on "
        f"average, {loader.padding_fraction:.1%} padding"
    )
    log(f"a step: {rows}; {per_epoch:,} steps an epoch, {total:,} in all, {warmup:,} of them warmup")
    warnings = [
        warn_of_other_size(asked_config, size),
        warn_of_few_steps(asked_config, size, total=total, steps_per_epoch=per_epoch),
        loader.uneven_warning() if isinstance(loader, ShardedLoader) else None,
    ]
    for warning in filter(None, warnings):
        log(warning)

    net = prepare_network(task, config, data.base_model.hf_config, mesh)
    longest = max(shape.length for shape in loader.shapes)
    microbatches = choose_microbatches(config, net, size.rows, longest)
    batches, output_share = prune_outputs(net, loader, windows, steps=total, microbatches=microbatches)
    trainer = make_trainer(
        net,
        config,
        total=total,
        warmup=warmup,
        cooldown=cooldown,
        tinit=tinit,
        tfinal=tfinal,
        microbatches=microbatches,
    )
    check_memory(trainer)
    eval_every = config.eval.every_steps or per_epoch
    return PreparedRun(
        config=config,
        data=data,
        batches=batches,
        eval_batches=eval_batches,
        size=size,
        total=total,
        eval_every=eval_every,
        save_every=config.checkpoint.every_steps or eval_every,
        trainer=trainer,
        flops_per_unit=net.train_flops_per_token(size.length, output_share, trainer.abstract.frozen),
    )


def prepare_task(config: Settings, hf_config: Mapping[str, Any], labels: list[str]) -> Task:
    """Returns the task of a run.

    Args:
      config: the run's settings.
      hf_config: the config.json of the model that it trains.
      labels: the names of the head's outputs.
    """
    head = TASKS[config.task].head
    return make_task(labels, config, 0.0 if head is None else resolve_head_dropout(config, hf_config, head))


def prepare_network(
    task: Task, config: Settings, hf_config: Mapping[str, Any], mesh: Mesh, *, dtype: str | None = None
) -> Network:
    """Describes the network of a run on a mesh, whose devices need not exist.

    Args:
      task: the run's task.
      config: the run's settings.
      hf_config: the config.json of the model that it trains.
      mesh: the devices.
      dtype: the dtype of the computation; by default that of `config`.

    Raises:
      UserError: the settings contradict each other on these devices.
    """
    model_config, runtime = resolve_model(config, hf_config, mesh.devices.flat[0].platform)
    if dtype is not None:
        runtime = dataclasses.replace(runtime, dtype=jnp.dtype(dtype))
    plan = None
    if config.adapter.is_used:
        family = family_of(hf_config)
        table = family.table_with_head(head_kind(config.task), model_config)
        plan = functools.partial(plan_adapters, config.adapter, family.adapter_targets, table)
    return make_network(task, model_config, runtime, mesh, plan)


def make_eval_loader(
    windows: Encoded, spec: BatchSpec, config: Settings, mesh: Mesh, *, rows: int
) -> Loader | ChunkedLoader:
    """Returns the batches of `rows` rows of a data set that is measured, in a fixed order.

    Args:
      windows: the encoded data set.
      spec: the arrays of a batch.
      config: the run's settings.
      mesh: the devices, which divide the rows.
      rows: the number of rows.
    """
    return make_loader(
        windows,
        rows=rows,
        only=local_rows(mesh, rows),
        max_length=spec.row_length or config.data.max_length,
        pack=config.data.pack,
        shuffle=False,
        **spec.loader_options(),
    )


def describe_base_model(config: Settings) -> dict[str, Any]:
    """Returns the config.json of the model that `config` trains; see `describe_pretrained_model`."""
    return describe_pretrained_model(config, list_families(head_kind(config.task)))


def make_train_loader(
    windows: Mapping[int, Encoded], config: Settings, *, only: np.ndarray, **options: Any
) -> Loader | ChunkedLoader | ShardedLoader:
    """Returns the batches of the training data.

    Args:
      windows: the windows of the shards that feed the rows `only`, by shard number from 0.
      config: the run's settings.
      only: the rows that this process feeds.
      options: the arguments of `make_loader` that are not in `config`.
    """
    data, rows = config.data, config.batch.rows
    assert rows is not None  # see `with_rows`
    if data.shards > 1:
        gather = processes.gather_by_shard
        return make_sharded_loader(
            windows, shards=data.shards, gather=gather, rows=rows, only=only, **options
        )
    mix = Mix(**config.mix_options())
    return make_loader(windows[0], mix=mix, rows=rows, only=only, pack=data.pack, **options)


def prune_outputs(
    net: Network,
    loader: Loader | ChunkedLoader | ShardedLoader,
    windows: Mapping[int, Encoded],
    *,
    steps: int,
    microbatches: int,
) -> tuple[Batches, float]:
    """Lets the last layer compute only the positions that the loss reads.

    It does so if the network can, no device has rows of several shards in a microbatch, and the loss skips enough
    positions.

    Args:
      net: the network.
      loader: the training batches.
      windows: the loader's windows, by shard.
      steps: the steps of the run.
      microbatches: the number of microbatches in a batch.

    Returns:
      The batches, with the positions that the loss reads, and the share of tokens that the last layer computes.
    """
    rule = net.task.output_rule(net.model_config)
    groups = microbatches * net.mesh.shape["data"] * net.mesh.shape["fsdp"]
    shards = len(loader.shard_steps) if isinstance(loader, ShardedLoader) else 1
    if rule is None or not net.prunes_outputs or groups % shards:
        return loader, 1.0
    texts = {number: cast(Windows, shard) for number, shard in windows.items()}  # rules are those of texts
    counted = {
        number: (int(rule.count_positions(shard).sum()), int(shard.lengths.sum()))
        for number, shard in texts.items()
    }
    outputs, tokens = map(sum, zip(*processes.gather_by_shard(counted), strict=True))
    share = outputs / tokens
    if share > MAX_OUTPUT_SHARE:
        return loader, 1.0
    return prune_batches(loader, rule, texts, steps=steps, groups=groups), share
