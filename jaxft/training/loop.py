"""Trains: performs a run from its settings to its summary, from top to bottom."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax
from rich.console import Console

from jaxft.config.durations import duration_steps, total_steps
from jaxft.config.sections import Settings
from jaxft.config.settings import replace
from jaxft.data.batching.batch import Batch, Shape
from jaxft.data.batching.choice import make_loader
from jaxft.data.batching.prefetch import prefetch
from jaxft.data.batching.sharded import shards_of_rows
from jaxft.errors import NonFiniteLoss, Preempted, UserError
from jaxft.hub.tensors import checksum_weights
from jaxft.io.files import write_json
from jaxft.layers.stacked_parameters import map_parameter_dicts, stack
from jaxft.models.pretrained_model import resolve_head_dropout, resolve_model
from jaxft.parallel import processes
from jaxft.parallel.chips import peak_flops
from jaxft.parallel.memory import release_memory
from jaxft.parallel.mesh import (
    check_rows,
    describe_local_devices,
    describe_unsharded,
    local_rows,
    make_mesh,
    place_batch,
)
from jaxft.parallel.preemption import StopRequest
from jaxft.tasks.base import cache_folder
from jaxft.tasks.registry import task_class
from jaxft.training import optimizer
from jaxft.training.batch_rows import (
    check_batch,
    choose_step_size,
    rows_unit,
    warn_of_few_steps,
    warn_of_other_size,
    with_rows,
)
from jaxft.training.evaluation import evaluate, write_evaluation
from jaxft.training.log.ending import ending_lines
from jaxft.training.log.instruments import Clock, CompileCounter, Profile, peak_rss_bytes
from jaxft.training.log.run_log import RunLog
from jaxft.training.log.train_log import TrainLog
from jaxft.training.log.waits import announced
from jaxft.training.network import Network, initial_parameters, make_network
from jaxft.training.prepare import make_train_loader, open_base_model, prune_outputs
from jaxft.training.run_folder.best import BestTracker, choose_selection_metric, load_best, make_best_meta
from jaxft.training.run_folder.checkpoint import RunCheckpoints, digest_tree
from jaxft.training.run_folder.finished import (
    describe_disk_use,
    describe_finished,
    keep_best_only,
    read_finished,
)
from jaxft.training.run_folder.identity import (
    check_identity,
    describe_changed_versions,
    installed_versions,
    make_identity,
)
from jaxft.training.run_folder.remote_folder import fetch_run, local_folder
from jaxft.training.run_folder.workdir import claim, save_batch, save_model_files, save_tuned
from jaxft.training.splits import collect_labels, encode_splits, join_examples, read_run_splits
from jaxft.training.step import TrainState
from jaxft.training.trainer import check_memory, compile_eval, make_trainer, predict_bytes

QUEUED_STEPS = 2  # the number of steps by which the host may be ahead of the device


def train(config: Settings, workdir: Path, profile_steps: range = range(0)) -> dict[str, Any]:
    """Trains, evaluates and reports according to `config`. Resumes if `workdir` holds an unfinished run of it.

    With several processes, each calls this function and feeds its rows of every batch. Process 0 reports.

    Args:
      config: the run's settings.
      workdir: the run's folder, or its address in an object store, such as gs://bucket/run.
      profile_steps: the steps to trace; the trace is written into `workdir`/profile.

    Returns:
      The content of `summary.json`.

    Raises:
      UserError: the settings, data or checkpoint are unusable, or `workdir` holds another run.
      NonFiniteLoss: the loss was NaN or infinite. The batch is in `workdir`.
      Preempted: SIGTERM arrived. The state is saved, and the same call resumes. Before the first step SIGTERM ends
        the process, with EXIT_PREEMPTED.
    """
    with StopRequest() as stop_request, local_folder(workdir) as folder:
        return _train(config, folder, profile_steps, stop_request)


def _train(
    config: Settings, workdir: Path, profile_steps: range, stop_request: StopRequest
) -> dict[str, Any]:
    """Trains in the local folder `workdir`; see `train`."""
    began = time.perf_counter()
    compiles = CompileCounter()
    claim(workdir, config)
    run_log = RunLog(workdir, config, quiet=not processes.is_main_process())
    log = run_log.log
    if summary := read_finished(workdir, config):
        log(describe_finished(workdir, summary))
        keep_best_only(workdir)
        return summary
    if processes.count() > 1 and config.data.cache_dir is None:  # in the folder that all processes share
        config = replace(config, {"data.cache_dir": str(workdir / "cache")})

    mesh = make_mesh(config)
    check_batch(config, mesh)
    check_rows(mesh, config.eval.rows, "config.eval.rows")

    # ---------------------------------------------------------------- data, base model and tokenizer
    task_type = task_class(config)
    unit = rows_unit(config, mesh)  # which shards feed a process's rows doesn't depend on how many there are
    local_shards = shards_of_rows(local_rows(mesh, unit), unit, config.data.shards)
    with announced("reading the data", log):
        train_shards, splits = read_run_splits(task_type, config, local_shards, log)
    with announced(f"opening {config.model.checkpoint}", log):
        base_model = open_base_model(config, lambda: task_type.iterate_texts(train_shards[0].examples))
    labels = collect_labels(task_type, train_shards)
    task = task_type(labels, head_dropout=resolve_head_dropout(config, base_model.hf_config), config=config)
    with announced("encoding the data", log):
        train_shards, splits = encode_splits(task, train_shards, splits, base_model.tokenizer, config, log)
    selection_metric = choose_selection_metric(config, task, task.metric_names(splits["dev"]))
    length, pad_id = config.data.max_length, base_model.tokenizer.pad_token_id
    options = {"max_length": length, "seed": config.seed, "pad_id": pad_id}
    options |= task.batch_spec._asdict()
    windows = {number: shard.windows for number, shard in train_shards.items()}
    run_checkpoints = RunCheckpoints(workdir / "checkpoints", keep=config.checkpoint.keep, log=log)
    size = choose_step_size(
        config, mesh, windows, task.batch_spec.max_segments, run_checkpoints.newest_meta(), workdir
    )
    asked_config, config = config, with_rows(config, size)
    loader = make_train_loader(windows, config, only=local_rows(mesh, size.rows), **options)
    loaders = {
        name: make_loader(
            split.windows,
            rows=config.eval.rows,
            only=local_rows(mesh, config.eval.rows),
            pack=config.data.pack,
            shuffle=False,
            **options,
        )
        for name, split in splits.items()
    }
    examples_per_step = loader.window_count / loader.steps_per_epoch
    scale = {"steps_per_epoch": loader.steps_per_epoch, "examples_per_step": examples_per_step}
    total = total_steps(
        steps=config.train.steps, examples=config.train.examples, epochs=config.train.epochs, **scale
    )
    warmup = duration_steps(config.optim.warmup, "optim.warmup", total=total, **scale)
    eval_every = config.eval.every_steps or loader.steps_per_epoch
    save_every = config.checkpoint.every_steps or eval_every
    log(
        f"a step: {size.rows:,} {'row' if size.rows == 1 else 'rows'} of {length}, {size.examples:,.1f} examples on "
        f"average, {loader.padding_fraction:.1%} padding; {loader.steps_per_epoch:,} steps an epoch, {total:,} in all, "
        f"{warmup:,} of them warmup"
    )
    for warning in (
        warn_of_other_size(asked_config, size),
        warn_of_few_steps(asked_config, size, total=total, steps_per_epoch=loader.steps_per_epoch),
    ):
        if warning:
            log(warning)
    if config.data.shards > 1 and (warning := loader.uneven_warning()):
        log(warning)

    # ---------------------------------------------------------------- model, optimizer and initial state
    model_config, runtime = resolve_model(config, base_model.hf_config)
    net = make_network(task, model_config, runtime, mesh)
    loader, output_share = prune_outputs(
        net, loader, windows, steps=total, microbatches=config.batch.accumulate
    )
    trainer = make_trainer(net, config, total=total, warmup=warmup)
    check_memory(trainer)
    fingerprints = processes.gather_by_shard(
        {number: shard_windows.fingerprint for number, shard_windows in windows.items()}
    )
    fingerprints.append(splits["dev"].windows.fingerprint)
    identity = make_identity(config, fingerprints, task.labels, base_model.tokenizer, loader.order())
    processes.assert_same(identity | describe_local_devices())
    best_checkpoints = RunCheckpoints(workdir / "best", keep=1, log=log)

    def check_fit(meta: dict) -> TrainState:
        check_identity(meta, identity, workdir)
        return trainer.stacked

    with announced(f"looking for a checkpoint in {run_checkpoints.folder}", log):
        restored = run_checkpoints.restore(check_fit)
    if restored:
        step, state, meta = restored
        state = trainer.restored_state(state)
        progress = meta["progress"]
        log(f"going on at step {step:,} of {total:,}, from {run_checkpoints.folder / str(step)}")
        if step == total and (workdir / "summary.json").exists():
            log("the run is finished: its best weights are only measured again")
        if warning := describe_changed_versions(meta):
            log(warning)
    else:
        step, progress = 0, {"sums": {}, "totals": {}}
        if config.init_from:
            with announced(f"loading the weights of {config.init_from}", log):
                parameters = load_best(fetch_run(Path(config.init_from)), net.abstract, task.labels, log)
            log(f"weights: {config.init_from}")
        else:
            if config.model.init == "pretrained" and processes.count() > 1:
                processes.assert_same({"pretrained weights": checksum_weights(base_model.folder)})
            with announced("loading and making the first weights", log):
                parameters, line = initial_parameters(net, config, base_model)
            log(line)
        with announced("making the optimizer's state", log):
            state = trainer.new_state(parameters)
        del parameters  # frees memory, because the state may have copies
        save_model_files(workdir, base_model, task.labels)
    tracker = BestTracker(selection_metric, config.eval.patience, progress)
    trained = sum(leaf.size for leaf in jax.tree.leaves(trainer.abstract.trainable))
    log(
        f"{net.parameter_count:,} parameters, {trained:,} of them trained; "
        f"devices: {', '.join(f'{axis} {size}' for axis, size in mesh.shape.items())} ({jax.devices()[0].device_kind})"
        f"; attention: {runtime.attention}"
    )
    if line := describe_unsharded(net.abstract, mesh, model_config.num_heads):
        log(line)

    if profile_steps and not step <= profile_steps.start < profile_steps.stop < total:
        raise UserError(
            f"--profile_steps {profile_steps.start}:{profile_steps.stop}: the run goes from step {step} to {total}; "
            "name steps between them"
        )
    profile = Profile(workdir / "profile", profile_steps)

    # ---------------------------------------------------------------- compilation, ahead of the loop
    compile_began = time.perf_counter()
    hyperparameters = trainer.place_hyperparameters()
    train_steps, eval_steps = {}, {}
    eval_shapes = {shape for eval_loader in loaders.values() for shape in eval_loader.shapes}
    for number, shape in enumerate(loader.shapes, 1):
        with announced(f"compiling the train step {_describe(shape, number, len(loader.shapes))}", log):
            train_steps[shape] = trainer.compile(shape)
    for number, shape in enumerate(sorted(eval_shapes), 1):
        with announced(f"compiling the evaluation {_describe(shape, number, len(eval_shapes))}", log):
            eval_steps |= compile_eval(net, [shape])
    with announced("compiling the checksum of checkpoints", log):
        # Done here, so that a save in the loop compiles nothing. The optimizer's moments have their parameters' shapes.
        digest_tree((stack(state.trainable | state.frozen), state.step))
    compile_s = time.perf_counter() - compile_began
    release_memory()
    flops_per_token = net.train_flops_per_token(length, output_share)
    log(
        f"compiled in {compile_s:.1f} s ({compiles.cache_hits:,} of {compiles.count:,} programs from the cache); "
        f"a step of {config.batch.rows} x {length}: "
        f"{flops_per_token * config.batch.rows * length / 1e9:,.1f} GFLOP, "
        f"{predict_bytes(train_steps) / 2**20:,.0f} MiB; ready {time.perf_counter() - began:.1f} s after start"
    )

    # ---------------------------------------------------------------- the loop
    stop_request.save_first()
    run_log.start(step, total, selection_metric)
    clock = Clock()
    made_before, compiled_before, loaded_before = compiles.count, compiles.compiled, compiles.cache_hits
    batches = prefetch(loader, step, total)
    device_peak = peak_flops(jax.devices()[0])

    def on_non_finite(at: int, batch: Batch, metrics: Mapping[str, float]) -> NoReturn:
        path = save_batch(workdir, at, batch)
        run_checkpoints.wait()
        raise NonFiniteLoss(
            f"step {at}: loss {metrics['loss']}, gradient norm {metrics['grad_norm']}; the batch is in {path}, "
            f"the last good checkpoint is {run_checkpoints.steps()[-1] if run_checkpoints.steps() else 'the start'} in "
            f"{run_checkpoints.folder}; lower config.optim.lr or raise config.optim.warmup"
        )

    train_log = TrainLog(
        run_log,
        batches,
        clock,
        total=total,
        every_steps=config.log.every_steps,
        steps_per_epoch=loader.steps_per_epoch,
        flops_per_token=flops_per_token,
        peak_flops=device_peak * jax.device_count() if device_peak else None,
        sums=progress["sums"],
        totals=progress["totals"],
        on_non_finite=on_non_finite,
    )
    with (
        contextlib.closing(run_log),
        batches,
        _close_on_error(run_checkpoints, best_checkpoints),
        jax.transfer_guard("disallow"),
    ):
        for _, batch in batches:
            if tracker.stopped_early:
                break
            if profile.is_due(step):
                train_log.drain(keep=0)
                with clock:
                    log(profile.toggle())
            arrays = place_batch(batch.arrays, mesh)
            with jax.profiler.StepTraceAnnotation("train", step_num=step):  # marks the step for profilers
                state, metrics = train_steps[batch.shape](state, arrays, hyperparameters)
            step += 1
            train_log.add(step, batch, metrics)
            train_log.drain(keep=QUEUED_STEPS)
            run_log.advance(step)

            if step % eval_every == 0 or step == total:
                train_log.drain(keep=0)
                with clock:
                    parameters = _parameters_to_keep(net, state)
                    with announced("measuring dev", log):
                        measured, _ = evaluate(net, eval_steps, parameters, splits["dev"], loaders["dev"])
                    values = processes.broadcast(measured.compute())
                    run_log.write(step, "dev", values)
                    run_log.show(dev=f"dev {selection_metric} {values[selection_metric]:.4f}")
                    if tracker.update(values[selection_metric]):
                        with compiles.ignored():
                            meta = make_best_meta(net.abstract, task.labels, values)
                            best_checkpoints.save(step, parameters, meta)
                        best_checkpoints.wait()  # a checkpoint of the run must not name missing weights
                        # A failed save, for example on a full disk, only warns.
                        if step in best_checkpoints.steps():
                            tracker.record(values[selection_metric], step)
                    del parameters  # frees memory, because averaged or stacked parameters are copies
                    log(
                        f"step {step}/{total}  dev: {task.summarize(values)}"
                        + ("  (best so far)" if tracker.best_step == step else "")
                    )
                if tracker.stopped_early:
                    log(f"no better {selection_metric} in {tracker.worse} evaluations: stopping early")
            stopping = stop_request.is_stopping()
            if step % save_every == 0 or step == total or tracker.stopped_early or stopping:
                train_log.drain(keep=0)
                progress = tracker.progress() | train_log.progress()
                with clock, compiles.ignored():
                    meta = {"identity": identity, "progress": progress, "versions": installed_versions()}
                    run_checkpoints.save(step, map_parameter_dicts(stack, state), meta)
            if stopping:
                raise _preempted(step, run_checkpoints)
        train_log.drain(keep=0)
        train_s, stall_s = train_log.train_seconds(), train_log.stall_seconds()
    late_compiles = compiles.count - made_before
    if late_compiles:
        log(
            f"warning: {late_compiles} compilations after the start; each made the devices wait, and is a bug"
        )
    run_checkpoints.wait()

    # ---------------------------------------------------------------- the best weights, measured and kept
    parameters, best_step = _parameters_to_keep(net, state), tracker.best_step
    if best_step != step:
        try:
            parameters = load_best(workdir, net.abstract, task.labels, log)
        except UserError as error:  # hours of training must not be lost
            log(f"warning: {error}. The weights of the last step take their place")
            best_step = step
            best_checkpoints.save(step, parameters, make_best_meta(net.abstract, task.labels, {}))
    best_checkpoints.close()
    results = {}
    for name in [n for n in ("dev", "test") if n in splits]:
        if stop_request.is_stopping():
            raise _preempted(step, run_checkpoints)
        has_tables = name == "test" or "test" not in splits  # a screen holds the tables of a single set
        with announced(f"measuring {name}", log):
            results[name] = write_evaluation(
                net,
                eval_steps,
                parameters,
                splits[name],
                loaders[name],
                folder=workdir,
                train=join_examples(train_shards),
                tokenizer=base_model.tokenizer,
                config=config,
                console=run_log.console if has_tables else Console(quiet=True),
                tune=name == "dev",
            )
    save_tuned(workdir, task.tuned)
    run_checkpoints.close()
    summary = {
        "steps": step,
        "best_step": best_step,
        "selected_by": selection_metric,
        "train_s": train_s,
        "compile_s": compile_s,
        "compiles": compiled_before,
        "compile_cache_hits": loaded_before,
        "late_compiles": late_compiles,
        "real_tokens_per_s": train_log.tokens / train_s,
        "train_flops_per_token": flops_per_token,
        "rows_per_step": size.rows,
        "examples_per_step": size.examples,
        "padding_fraction": train_log.padding_fraction,
        "input_stall_fraction": stall_s / train_s,
        **results,
        "peak_rss_bytes": peak_rss_bytes(),
    }
    if processes.is_main_process():
        write_json(workdir / "summary.json", summary)
    if config.checkpoint.best_only:
        keep_best_only(workdir)
    log(
        f"{step:,} steps in {train_s:.1f} s: {summary['real_tokens_per_s']:,.0f} tokens/s, "
        f"padding {summary['padding_fraction']:.1%}, input stall {summary['input_stall_fraction']:.2%}; "
        f"peak memory {summary['peak_rss_bytes'] / 2**20:,.0f} MiB; everything is in {workdir}"
    )
    log(describe_disk_use(workdir, cache_folder(config.data.cache_dir)))
    if processes.is_main_process():
        facts = {"selection_metric": selection_metric, "steps": step, "best_step": best_step}
        for line in ending_lines(config, workdir, task, results, **facts):
            log(line)
    return summary


def _describe(shape: Shape, number: int, count: int) -> str:
    """Returns the rows and length of a batch shape, the `number`-th of `count`, for the log."""
    return f"of {shape.rows} x {shape.length}" + (f" ({number} of {count})" if count > 1 else "")


def _parameters_to_keep(net: Network, state: TrainState) -> dict[str, jax.Array]:
    """Returns the parameters to measure and keep: their average if the run keeps one, else the last ones."""
    trained = optimizer.averaged_parameters(state.opt_state) or state.trainable
    return stack({name: (trained | state.frozen)[name] for name in net.abstract})


def _preempted(step: int, run_checkpoints: RunCheckpoints) -> Preempted:
    """Returns the exception that ends a run after SIGTERM. Waits for the current save first."""
    run_checkpoints.wait()
    newest = run_checkpoints.steps()[-1] if run_checkpoints.steps() else "none, so the start"
    return Preempted(
        f"SIGTERM at step {step}: the last checkpoint in {run_checkpoints.folder} is {newest}; "
        "the same command goes on from there"
    )


@contextlib.contextmanager
def _close_on_error(*folders: RunCheckpoints) -> Iterator[None]:
    """Finishes current saves if the block raises an exception."""
    try:
        yield
    except BaseException as error:
        if not processes.fails_alone(error):
            for folder_checkpoints in folders:
                folder_checkpoints.close()
        raise
