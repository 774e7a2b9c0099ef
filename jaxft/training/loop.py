"""Trains: performs a run from its settings to its summary, from top to bottom.

- A run that resumes first does what it did at its start: it reads and encodes its data and plans its batches. Then it
  restores the newest undamaged checkpoint, if that belongs to the same settings, data, labels and order of batches, and
  goes on with the next step.
- The best weights are written right after the evaluation that found them, before the checkpoint that names them. A run
  killed in between resumes from the checkpoint before, whose best weights are gone from the folder. It repeats the
  steps since, and writes the better weights again.
- Whoever calls `train` may ask it to stop, as the command does after a SIGTERM. The loop asks after each step; it then
  saves a checkpoint and raises `Preempted`.
- A callback that asks to end the run ends it as early stopping does: the loop measures the current weights, saves a
  checkpoint, and goes on to the finish.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from jaxft.config.sections import Settings
from jaxft.config.settings import replace
from jaxft.data.batching.prefetch import prefetch
from jaxft.errors import Preempted, UserError
from jaxft.parallel import processes
from jaxft.parallel.chips import peak_flops
from jaxft.parallel.memory import release_memory
from jaxft.parallel.mesh import describe_local_devices, make_mesh, place_batch
from jaxft.tasks.base import AnyEvaluator, Log
from jaxft.tasks.custom_metrics import CustomMetrics, ExtendedEvaluator
from jaxft.training.batch_rows import rows_begun_with
from jaxft.training.evaluation import evaluate, write_evaluation
from jaxft.training.log.callbacks import Callback, Callbacks
from jaxft.training.log.ending import report_ending
from jaxft.training.log.instruments import CompileCounter, Profile, peak_rss_bytes
from jaxft.training.log.run_log import RunLog
from jaxft.training.log.train_log import TrainLog
from jaxft.training.log.waits import announced
from jaxft.training.prepare import PreparedRun, prepare_data, prepare_run
from jaxft.training.run_folder.abandoned_work import orbax_quieted
from jaxft.training.run_folder.best import BestTracker, choose_selection_metric, name_base
from jaxft.training.run_folder.checkpoint import RunCheckpoints
from jaxft.training.run_folder.finished import describe_finished, keep_best_only, read_finished
from jaxft.training.run_folder.identity import installed_versions, make_identity
from jaxft.training.run_folder.remote_folder import local_folder
from jaxft.training.run_folder.workdir import claimed, save_tuned
from jaxft.training.splits import join_examples
from jaxft.training.starting_state import make_first_state, restore_state
from jaxft.training.train_state import TrainState
from jaxft.training.trainer import Programs, compile_programs, predict_bytes

QUEUED_STEPS = 2  # the number of steps by which the host may be ahead of the device


def train(
    config: Settings,
    workdir: Path,
    *,
    profile_steps: range = range(0),
    should_stop: Callable[[], bool] = lambda: False,
    callbacks: Sequence[Callback] = (),
    metrics: CustomMetrics | None = None,
) -> dict[str, Any]:
    """Trains, evaluates and reports according to `config`. Resumes if `workdir` holds an unfinished run of it.

    With several processes, each calls this function and feeds its rows of every batch. Process 0 reports.

    Args:
      config: the run's settings.
      workdir: the run's folder, or its address in an object store, such as gs://bucket/run.
      profile_steps: the steps to trace; the trace is written into `workdir`/profile.
      should_stop: returns whether to save and to stop. It is asked after each step, and before each evaluation of the
        finished weights. A first call right before the first step tells it that from then on there is a checkpoint to
        rely on; the answer is ignored.
      callbacks: hear of the progress, and may ask to end the run.
      metrics: functions that compute further metrics of what the evaluator has measured, by name of the metric.

    Returns:
      The content of `summary.json`.

    Raises:
      UserError: the settings, data or checkpoint are unusable, or `workdir` holds another run.
      NonFiniteLoss: the loss was NaN or infinite. The batch is in `workdir`.
      Preempted: `should_stop` returned True. The state is saved, and the same call resumes.
    """
    listeners = Callbacks(callbacks)
    with (
        contextlib.closing(CompileCounter()) as compiles,
        orbax_quieted(),
        local_folder(workdir) as folder,
        claimed(folder, config),
    ):
        summary = _train(config, folder, profile_steps, should_stop, compiles, listeners, metrics or {})
    listeners.end(summary)
    return summary


def _train(
    config: Settings,
    workdir: Path,
    profile_steps: range,
    should_stop: Callable[[], bool],
    compiles: CompileCounter,
    callbacks: Callbacks,
    metrics: CustomMetrics,
) -> dict[str, Any]:
    """Trains in the local folder `workdir`; see `train`."""
    began = time.perf_counter()
    run_log = RunLog(workdir, config, callbacks, quiet=not processes.is_main_process())
    log = run_log.log
    if summary := read_finished(workdir, config):
        log(describe_finished(workdir, summary))
        keep_best_only(workdir)
        return summary

    # ---------------------------------------------------------------- prepare: data, batches, network, train step
    if processes.count() > 1 and config.data.cache_dir is None:  # in the folder that all processes share
        config = replace(config, {"data.cache_dir": str(workdir / "cache")})
    mesh = make_mesh(config)
    data = prepare_data(config, mesh, log)
    labels, splits = data.task.labels, data.splits
    evaluator = ExtendedEvaluator(data.evaluator, metrics) if metrics else data.evaluator
    metric = choose_selection_metric(config, evaluator, evaluator.metric_names(splits["dev"]))
    checkpoints = RunCheckpoints(workdir / "checkpoints", keep=config.checkpoint.keep, log=log)
    begun_with = rows_begun_with(config, mesh, checkpoints.newest_meta(), workdir)
    run = prepare_run(config, mesh, data, log, begun_with)
    total, unit = run.total, data.task.batch_spec.unit
    identity = make_identity(
        run.config, data.fingerprints(), labels, data.base_model.processor, run.batches.order()
    )
    processes.assert_same(identity | describe_local_devices())

    # ---------------------------------------------------------------- restore the newest checkpoint, or start
    restored = restore_state(run, checkpoints, identity, workdir, log)
    if restored is None:
        step, (state, base) = 0, make_first_state(run, workdir, log)
        progress: dict[str, Any] = {}
    else:
        step, state, progress, base = restored
    best_checkpoints = RunCheckpoints(workdir / "best", keep=1, log=log)
    best = BestTracker(
        best_checkpoints, metric, config.eval.patience, labels, run.net.kept, base.digest, progress
    )
    for line in run.describe():
        log(line)
    profile = Profile(workdir / "profile", profile_steps, first=step, total=total)

    # ---------------------------------------------------------------- compile, so that the loop compiles nothing
    programs = compile_programs(run.trainer, state, run.batches.shapes, run.eval_shapes, log)
    release_memory()
    slots = run.size.rows * run.size.length
    log(
        f"compiled in {programs.seconds:.1f} s ({compiles.cache_hits:,} of {compiles.count:,} programs from the "
        f"cache); a step of {run.size.rows} x {run.size.length}: {run.flops_per_unit * slots / 1e9:,.1f} "
        f"GFLOP, {predict_bytes(programs.train) / 2**20:,.0f} MiB; ready {time.perf_counter() - began:.1f} s after "
        "start"
    )
    compiled = compiles.counts()

    # ---------------------------------------------------------------- the loop
    should_stop()  # until this first call a SIGTERM ends the command at once; from here on the loop saves first
    run_log.start(step, total, metric)
    hyperparameters = run.trainer.place_hyperparameters()
    batches = prefetch(run.batches, step, total)
    # A run that was stopped or killed after its early end, during the finish, trains no further.
    has_ended = best.stopped_early or progress.get("has_ended", False)
    device_peak = peak_flops(jax.devices()[0])
    train_log = TrainLog(
        run_log,
        batches,
        checkpoints,
        total=total,
        every_steps=config.log.every_steps,
        steps_per_epoch=run.batches.steps_per_epoch,
        unit=unit,
        flops_per_unit=run.flops_per_unit,
        peak_flops=device_peak * jax.device_count() if device_peak else None,
        progress=progress,
    )
    with (
        contextlib.closing(run_log),
        batches,
        _close_on_error(checkpoints, best_checkpoints),
        jax.transfer_guard("disallow"),
    ):
        for _, batch in batches:
            if has_ended:
                break
            if profile.is_due(step):
                train_log.drain(keep=0)
                with train_log.paused():
                    log(profile.toggle())
            arrays = place_batch(batch.arrays, mesh)
            with jax.profiler.StepTraceAnnotation("train", step_num=step):  # marks the step for profilers
                state, step_metrics = programs.train[batch.shape](state, arrays, hyperparameters)
            step += 1
            train_log.add(step, batch, step_metrics)
            train_log.drain(keep=QUEUED_STEPS)
            run_log.advance(step)

            # Callbacks hear what `run_log` writes: the lines of `train_log`, and the values of dev below.
            if step % run.eval_every == 0 or step == total or callbacks.ask_to_end():
                train_log.drain(keep=0)
                with train_log.paused():
                    _evaluate_dev(run, evaluator, programs, step, state, best, run_log, compiles)
                if best.stopped_early:
                    log(f"no better {metric} in {best.worse} evaluations: stopping early")

            has_ended = best.stopped_early or callbacks.ask_to_end()
            stopping = should_stop()
            if step % run.save_every == 0 or step == total or has_ended or stopping:
                train_log.drain(keep=0)
                meta = {
                    "identity": identity,
                    "progress": best.progress() | train_log.progress() | {"has_ended": has_ended},
                    "versions": installed_versions(),
                } | name_base(base.digest)
                with train_log.paused(), compiles.ignored():
                    checkpoints.save(step, run.trainer.to_saved(state), meta)
            if stopping:
                raise _preempted(step, checkpoints)
        train_log.drain(keep=0)
        train_log.end()
    if late_compiles := compiles.count - sum(compiled.values()):
        log(
            f"warning: {late_compiles} compilations after the start; each made the devices wait, and is a bug"
        )
    checkpoints.wait()

    # ---------------------------------------------------------------- finish: measure and keep the best weights
    # If this start has made no step, the best weights in the folder are of an earlier one.
    is_new = restored is None or step > restored[0]
    parameters = _best_parameters(run, best, step, state, workdir, log, is_new=is_new)
    best_checkpoints.close()
    results: dict[str, dict[str, float]] = {}
    for name in [name for name in ("dev", "test") if name in splits]:
        if should_stop():
            raise _preempted(step, checkpoints)
        results[name] = _measure(name, run, evaluator, programs, parameters, run_log)
    save_tuned(workdir, evaluator.tuned)
    checkpoints.close()
    summary = {
        "steps": step,
        "best_step": best.step,
        "selected_by": metric,
        "compile_s": programs.seconds,
        **compiled,
        "late_compiles": late_compiles,
        **train_log.summary(),
        f"train_flops_per_{unit}": run.flops_per_unit,
        "rows_per_step": run.size.rows,
        "examples_per_step": run.size.examples,
        **results,
        "peak_rss_bytes": peak_rss_bytes(),
        "devices": f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
    }
    report_ending(run, evaluator, best, summary, results, workdir, log)
    return summary


def _evaluate_dev(
    run: PreparedRun,
    evaluator: AnyEvaluator,
    programs: Programs,
    step: int,
    state: TrainState,
    best: BestTracker,
    run_log: RunLog,
    compiles: CompileCounter,
) -> None:
    """Measures the weights of `step` on dev, and keeps them if they are the best so far."""
    # Averaged or stacked parameters are copies, which are freed at the end.
    parameters = run.trainer.parameters_to_keep(state)
    with announced("measuring dev", run_log.log):
        dev, batches = run.data.splits["dev"], run.eval_batches["dev"]
        measured, _ = evaluate(run.net, evaluator, programs.eval, parameters, dev, batches)
    values = processes.broadcast(measured.compute())
    run_log.write(step, "dev", values)
    run_log.show(dev=f"dev {best.metric} {values[best.metric]:.4f}")
    with compiles.ignored():
        best.keep_if_better(step, parameters, values)
    is_best = "  (best so far)" if best.step == step else ""
    run_log.log(f"step {step}/{run.total}  dev: {evaluator.summarize(values)}{is_best}")


def _best_parameters(
    run: PreparedRun,
    best: BestTracker,
    step: int,
    state: TrainState,
    workdir: Path,
    log: Log,
    *,
    is_new: bool,
) -> dict[str, jax.Array]:
    """Returns the best weights of a run that has ended at `step`; `is_new` if this start has made this step.

    If they cannot be read, those of the last step take their place, because hours of training must not be lost.
    """
    parameters = run.trainer.parameters_to_keep(state)
    if best.step == step and is_new:
        return parameters
    try:
        loaded = best.load(workdir, run.net.kept, log)
        return {name: loaded.get(name, value) for name, value in parameters.items()}
    except UserError as error:
        reason, last = str(error).partition(";")[0], "The weights of the last step"
        log(f"warning: {reason}. {last} {'are the best' if best.step == step else 'take their place'}")
        best.replace(step, parameters)
        return parameters


def _measure(
    name: str,
    run: PreparedRun,
    evaluator: AnyEvaluator,
    programs: Programs,
    parameters: dict[str, jax.Array],
    run_log: RunLog,
) -> dict[str, float]:
    """Measures the best weights on a data set, writes what was found, and returns the metrics.

    Values that are chosen, such as thresholds, are chosen on dev.
    """
    data = run.data
    has_tables = name == "test" or "test" not in data.splits  # a screen holds the tables of a single set
    with announced(f"measuring {name}", run_log.log):
        return write_evaluation(
            run.net,
            evaluator,
            programs.eval,
            parameters,
            data.splits[name],
            run.eval_batches[name],
            folder=run_log.workdir,
            train=join_examples(data.train),
            processor=data.base_model.processor,
            config=run.config,
            console=run_log.console if has_tables else Console(quiet=True),
            tune=name == "dev",
        )


def _preempted(step: int, checkpoints: RunCheckpoints) -> Preempted:
    """Returns the exception that ends a run that was asked to stop. Waits for the current save first."""
    checkpoints.wait()
    newest = checkpoints.steps()[-1] if checkpoints.steps() else "none, so the start"
    return Preempted(
        f"SIGTERM at step {step}: the last checkpoint in {checkpoints.folder} is {newest}; "
        "the same command goes on from there"
    )


@contextlib.contextmanager
def _close_on_error(*folders: RunCheckpoints) -> Iterator[None]:
    """Finishes current saves if the block raises an exception, unless other processes may not have raised it."""
    try:
        yield
    except BaseException as error:
        if not processes.fails_alone(error):
            for checkpoints in folders:
                checkpoints.close()
        raise
