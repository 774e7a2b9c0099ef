"""Programs are compiled once in a process, whatever the rates, limits, seed and length of the run."""

import jax
import numpy as np
import pytest

from jaxft.data.batching.batch import Shape
from jaxft.training import programs
from jaxft.training.log.instruments import CompileCounter
from jaxft.training.trainer import compile_eval, make_trainer
from tests.training.test_step import LENGTH, ROWS, SMOOTH, batch, config_with, network, parameters_of

OTHER = {"optim.lr": 0.3, "optim.weight_decay": 0.4, "optim.clip": 0.0, "seed": 3}
SHAPE = Shape(ROWS, LENGTH)


def steps_of(trainer, compiled) -> tuple[list[np.ndarray], list[float]]:
    """Returns the parameters and losses of three steps."""
    state, losses = trainer.new_state(parameters_of(trainer.net)), []
    for number in range(3):
        state, metrics = compiled(state, batch(number), trainer.hyperparameters)
        losses += [float(metrics["loss"]), float(metrics["lr"]), float(metrics["grad_norm"])]
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)], losses


@pytest.mark.parametrize("schedule", ["linear", pytest.param("cosine", marks=pytest.mark.sweep)])
def test_another_rate_decay_limit_seed_and_length_compile_nothing(schedule):
    """A second run makes its own network, optimizer and functions; its step is that of a fresh compilation."""
    course = {"optim.schedule": schedule}

    def prepare(values, **lengths):
        trainer = make_trainer(network(), config_with(**values | course), **lengths)
        return trainer, trainer.compile(SHAPE), compile_eval(trainer.net, [SHAPE])[SHAPE]

    first, compiled, evaluated = prepare(SMOOTH, total=10, warmup=0)
    first_results = steps_of(first, compiled)
    compiles = CompileCounter()
    second, same, same_evaluated = prepare(SMOOTH | OTHER, total=30, warmup=2)
    results = steps_of(second, same)
    assert compiles.count == 0 and same is compiled and same_evaluated is evaluated
    fresh = steps_of(second, second.lower(SHAPE).compile())
    assert compiles.count == 1
    for ours, theirs in zip(results[0], fresh[0], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert results[1] == fresh[1] != first_results[1]
    assert results[1][1::3] == pytest.approx([0.0, 0.15, 0.3])  # two steps of warmup


def test_what_changes_the_program_compiles_another():
    trainer = make_trainer(network(), config_with(**SMOOTH), total=10, warmup=0)
    compiled = trainer.compile(SHAPE)
    for values in ({"optim.b1": 0.8}, {"optim.schedule": "constant"}, {"batch.accumulate": 2}):
        other = make_trainer(network(), config_with(**SMOOTH | values), total=10, warmup=0)
        assert other.compile(SHAPE) is not compiled


def test_large_batches_do_without_ynnpack_on_cpu():
    if not programs._has_ynnpack():
        pytest.skip("this version of XLA has no YNNPACK")
    trainer = make_trainer(network(), config_with(**SMOOTH), total=10, warmup=0)
    small, large = Shape(2, LENGTH), Shape(programs.LARGE_BATCH // LENGTH, LENGTH)
    for shape, fuses in ((small, True), (large, False)):
        for compiled in (trainer.compile(shape), compile_eval(trainer.net, [shape])[shape]):
            assert ("ynn_fusion" in compiled.as_text()) == fuses


def test_few_programs_are_kept(monkeypatch):
    monkeypatch.setattr(programs, "_programs", {})
    monkeypatch.setattr(programs, "KEPT", 2)
    mesh = network().mesh

    def compile_sum(length):
        function = jax.jit(lambda x: x.sum(), keep_unused=True)
        return programs.compile_once(function.lower(np.zeros(length)), mesh)

    first, second, third = (compile_sum(length) for length in (1, 2, 3))
    assert compile_sum(3) is third and compile_sum(2) is second and compile_sum(1) is not first


def test_the_counter_tells_compilations_from_loads(tmp_path):
    """Each program is made by jax from a new function, so that only the cache on disk knows it."""
    counter, cache = CompileCounter(), jax.config.jax_compilation_cache_dir
    seconds = jax.config.jax_persistent_cache_min_compile_time_secs
    from jax.experimental.compilation_cache import compilation_cache

    def compute():
        jax.block_until_ready(jax.jit(lambda x: x * 3.25 + 1)(np.float32(2)))

    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        compilation_cache.reset_cache()
        compute()
        assert counter.counts() == {"compiles": 1, "compile_cache_hits": 0}
        compute()
        assert counter.counts() == {"compiles": 1, "compile_cache_hits": 1}
        with counter.ignored():
            compute()
        assert counter.count == 2
    finally:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)
        compilation_cache.reset_cache()
