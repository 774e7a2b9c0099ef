"""Makes the train step of a run, the shapes of its state, and its evaluation step; compiles what its loop computes."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxft.config.sections import Settings
from jaxft.data.batching.batch import Shape
from jaxft.errors import UserError
from jaxft.parallel.memory import device_memory, shard_bytes
from jaxft.parallel.mesh import BATCH_SPEC, put_array, with_shardings
from jaxft.tasks.base import Log
from jaxft.training import step
from jaxft.training.log.waits import announced
from jaxft.training.network import Network, make_abstract_batch
from jaxft.training.optimizer.chain import averaged_parameters, make_optimizer
from jaxft.training.optimizer.parameter_rules import split_frozen
from jaxft.training.optimizer.schedules import Hyperparameters, make_hyperparameters
from jaxft.training.programs import compile_once, find_options
from jaxft.training.run_folder.tree_digest import digest_tree
from jaxft.training.train_state import SavedState, StateForm, TrainState, choose_form, to_kept, to_saved


@dataclasses.dataclass(frozen=True)
class Trainer:
    """The train step of a run, and the shapes and shardings of its state.

    Attributes:
      net: the model that is trained.
      hyperparameters: the numbers of the run that the train step takes.
      form: the form of the state that the train step takes.
      abstract: that state.
      saved: the state in checkpoints, where each parameter's layers are one array. With adapters it lacks the base.
      init_optimizer: returns the optimizer's first state for the trainable parameters and the first `model_state`.
      train_step: the jitted step, (state, batch, hyperparameters) -> (state, metrics). The state is donated.
      is_deterministic: whether the step shall give the same bits in each run on a GPU too.
    """

    net: Network
    hyperparameters: Hyperparameters
    form: StateForm
    abstract: TrainState
    saved: SavedState
    init_optimizer: Callable[[dict[str, Any], dict[str, Any]], Any]
    train_step: Any
    is_deterministic: bool

    @property
    def _replicated(self) -> NamedSharding:
        """The sharding of a scalar, which every device holds."""
        return NamedSharding(self.net.mesh, PartitionSpec())

    def lower(self, shape: Shape) -> jax.stages.Lowered:
        """Lowers `train_step` for batches of `shape`."""
        hyper = jax.tree.map(
            lambda value: jax.ShapeDtypeStruct((), value.dtype, sharding=self._replicated),
            self.hyperparameters,
        )
        batch = make_abstract_batch(self.net, shape)
        graphdef = self.net.graphdef_for(shape)
        return self.train_step.lower(self.abstract, batch, hyper, graphdef=graphdef)

    def compile(self, shape: Shape) -> Any:
        """Compiles `train_step` for batches of `shape`, once in a process."""
        return compile_once(self.lower(shape), self.net.mesh, self.find_options(shape))

    def find_options(self, shape: Shape) -> dict[str, Any]:
        """Returns the compiler's options of `train_step` for batches of `shape`."""
        batch = make_abstract_batch(self.net, shape)
        return find_options(batch, self.net.mesh, is_deterministic=self.is_deterministic)

    def place_hyperparameters(self) -> Hyperparameters:
        """Returns the hyperparameters as arrays on the devices, in the form that `train_step` takes."""
        return jax.tree.map(lambda value: put_array(value, self._replicated), self.hyperparameters)

    def new_state(self, parameters: dict[str, jax.Array]) -> TrainState:
        """Returns the state at step 0, in the form that `train_step` takes."""
        arranged = self.form.arrange(parameters)
        trainable, frozen, model_state = (
            {name: arranged[name] for name in names}
            for names in (self.abstract.trainable, self.abstract.frozen, self.abstract.model_state)
        )
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract.opt_state)
        init = jax.jit(self.init_optimizer, out_shardings=shardings, keep_unused=True)
        opt_state = compile_once(init.lower(trainable, model_state), self.net.mesh)(trainable, model_state)
        start = put_array(np.zeros((), np.int32), self._replicated)
        return TrainState(start, trainable, frozen, model_state, opt_state)

    def to_saved(self, state: TrainState) -> SavedState:
        """Returns a state in the form of checkpoints."""
        saved = to_saved(state)
        return saved._replace(frozen={name: saved.frozen[name] for name in self.saved.frozen})

    def other_leaves(self) -> list[jax.Array]:
        """Returns an array of zeros for each shape and dtype in the optimizer's saved state that no parameter has."""
        known = {(leaf.shape, leaf.dtype) for leaf in self.net.abstract.values()}
        others = {(leaf.shape, leaf.dtype): leaf.sharding for leaf in jax.tree.leaves(self.saved.opt_state)}
        return [
            put_array(np.zeros(*kind), sharding) for kind, sharding in others.items() if kind not in known
        ]

    def parameters_to_keep(self, state: TrainState) -> dict[str, jax.Array]:
        """Returns the parameters to measure and keep: their average if the run keeps one, else the last ones."""
        moved = averaged_parameters(state.opt_state) or state.trainable | state.model_state
        return to_kept({name: (moved | state.frozen)[name] for name in self.net.abstract})


def make_trainer(
    net: Network,
    config: Settings,
    *,
    total: int,
    warmup: int,
    cooldown: int = 0,
    tinit: int = 0,
    tfinal: int = 0,
    microbatches: int | None = None,
) -> Trainer:
    """Makes the optimizer and the train step of `config`. Computes nothing.

    Args:
      net: the model that is trained.
      config: the run's settings.
      total: the steps of the run.
      warmup, cooldown: the first and the last steps, over which the learning rate rises and falls.
      tinit, tfinal: the first and the last steps, in which AdaLoRA keeps its ranks.
      microbatches: the number of microbatches in a step; default: `config.batch.accumulate`.
    """
    trainable, frozen, statistics = split_frozen(config, net.roles, net.fixed_names)
    hyperparameters = make_hyperparameters(
        config, total=total, warmup=warmup, cooldown=cooldown, tinit=tinit, tfinal=tfinal
    )
    trainable_roles = {name: net.roles[name] for name in trainable}
    make = functools.partial(
        make_optimizer,
        config,
        trainable=trainable_roles,
        num_layers=net.model_config.num_layers,
        adapters=net.adapters,
    )

    def init_optimizer(parameters: dict[str, Any], statistics: dict[str, Any]) -> Any:
        return make(hyperparameters, statistics=statistics).init(parameters)

    replicated = NamedSharding(net.mesh, PartitionSpec())
    parameters = {name: net.abstract[name] for name in trainable}
    form = choose_form(net.runtime, net.mesh, statistics)
    saved = SavedState(
        jax.ShapeDtypeStruct((), jnp.int32),
        parameters,
        {name: net.abstract[name] for name in frozen + statistics},
        jax.eval_shape(init_optimizer, parameters, {name: net.abstract[name] for name in statistics}),
    )
    abstract, saved = (
        with_shardings(state, net.axes, net.mesh, net.abstract)
        for state in (jax.eval_shape(form.from_saved, saved), saved)
    )
    saved = saved._replace(frozen={name: leaf for name, leaf in saved.frozen.items() if name in net.kept})
    function = functools.partial(
        step.train_step,
        task=net.task,
        graphdef=net.graphdef,
        make_optimizer=make,
        schedule=config.optim.schedule,
        accumulate=microbatches or config.batch.accumulate,
        microbatch_sharding=NamedSharding(net.mesh, PartitionSpec(None, *BATCH_SPEC)),
        gradient_shardings=jax.tree.map(lambda leaf: leaf.sharding, abstract.trainable),
        gradient_dtypes={
            name: jnp.dtype(config.optim.gradients if role.is_matrix else jnp.float32)
            for name, role in trainable_roles.items()
        },
        penalize=None if net.adapters is None else net.adapters.penalize,
    )
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    train_step = jax.jit(
        function,
        donate_argnums=0,
        out_shardings=(shardings, replicated),
        static_argnames="graphdef",
        keep_unused=True,
    )
    deterministic = config.train.deterministic
    return Trainer(net, hyperparameters, form, abstract, saved, init_optimizer, train_step, deterministic)


def check_memory(trainer: Trainer) -> None:
    """Raises `UserError` if the state of training and its gradients need more memory than a device has.

    Activations are not counted, so a model that passes may still be too large; `jaxft plan` tells.
    """
    state, gradients = trainer.abstract, trainer.abstract.trainable
    needed, memory = shard_bytes((state, gradients)), device_memory()
    if memory is not None and needed > memory:
        raise UserError(
            f"the model has {trainer.net.parameter_count:,} parameters: weights, optimizer and gradients take "
            f"{needed / 2**30:,.1f} GiB on each device, which has {memory / 2**30:,.1f} GiB; choose a smaller model, "
            "spread it over more devices (config.mesh.fsdp), or freeze layers (config.optim.freeze)"
        )


def compile_eval(
    net: Network, shapes: Iterable[Shape], *, is_deterministic: bool = False
) -> dict[Shape, Any]:
    """Compiles `eval_step` for each batch shape, once in a process. All devices, and so processes, receive all results.

    With `is_deterministic`, the step gives the same bits in each run on a GPU too.

    Returns:
      The compiled functions by shape.
    """
    replicated = NamedSharding(net.mesh, PartitionSpec())

    def compile_for(shape: Shape) -> Any:
        function = functools.partial(step.eval_step, task=net.task, graphdef=net.graphdef_for(shape))
        jitted = jax.jit(function, out_shardings=replicated, keep_unused=True)
        batch = make_abstract_batch(net, shape)
        options = find_options(batch, net.mesh, is_deterministic=is_deterministic)
        return compile_once(jitted.lower(net.abstract, batch), net.mesh, options)

    return {shape: compile_for(shape) for shape in shapes}


@dataclasses.dataclass(frozen=True)
class Programs:
    """The compiled steps of a run.

    Attributes:
      train: the train steps by batch shape.
      eval: the evaluation steps by batch shape.
      seconds: the time that compiling them has taken.
    """

    train: dict[Shape, Any]
    eval: dict[Shape, Any]
    seconds: float


def compile_programs(
    trainer: Trainer, state: TrainState, train_shapes: Sequence[Shape], eval_shapes: Sequence[Shape], log: Log
) -> Programs:
    """Compiles everything that the loop computes, once for each shape of batches.

    Args:
      trainer: the train step.
      state: a state of it.
      train_shapes: the shapes of the training batches.
      eval_shapes: the shapes of the other splits' batches.
      log: prints a line.
    """
    began = time.perf_counter()
    train_steps: dict[Shape, Any] = {}
    eval_steps: dict[Shape, Any] = {}
    for number, shape in enumerate(train_shapes, 1):
        with announced(f"compiling the train step {_describe(shape, number, len(train_shapes))}", log):
            train_steps[shape] = trainer.compile(shape)
    for number, shape in enumerate(eval_shapes, 1):
        with announced(f"compiling the evaluation {_describe(shape, number, len(eval_shapes))}", log):
            eval_steps |= compile_eval(trainer.net, [shape], is_deterministic=trainer.is_deterministic)
    with announced("compiling the checksum of checkpoints", log):
        digest_tree((trainer.parameters_to_keep(state), state.step, trainer.other_leaves()))
    return Programs(train_steps, eval_steps, time.perf_counter() - began)


def _describe(shape: Shape, number: int, count: int) -> str:
    """Returns the rows and length of a batch shape, the `number`-th of `count`, for the log."""
    return f"of {shape.rows} x {shape.length}" + (f" ({number} of {count})" if count > 1 else "")


def predict_bytes(compiled: Mapping[Any, Any]) -> int:
    """Returns the bytes per device that the largest `compiled` step needs: arguments, results and temporaries."""
    sizes = [compiled_step.memory_analysis() for compiled_step in compiled.values()]
    return max(
        size.argument_size_in_bytes
        + size.output_size_in_bytes
        - size.alias_size_in_bytes
        + size.temp_size_in_bytes
        for size in sizes
    )
