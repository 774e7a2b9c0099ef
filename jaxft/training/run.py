"""One run from settings to summary, told from top to bottom."""

import collections
import contextlib
import math
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxft.config.durations import duration_steps, total_steps
from jaxft.data.batching import mixed
from jaxft.data.batching.prefetch import prefetch
from jaxft.data.batching.sharded import shards_of_rows
from jaxft.errors import NonFiniteLoss, Preempted, UserError
from jaxft.hub.tensors import weights_checksum
from jaxft.io import write_json
from jaxft.layers.layer_stacks import map_parameter_dicts, stack
from jaxft.models.pretrained_model import backbone_sizes, head_dropout
from jaxft.parallel import heartbeat, processes
from jaxft.parallel.chips import peak_flops
from jaxft.parallel.memory import release_memory
from jaxft.parallel.mesh import (
    check_rows,
    describe_local_devices,
    describe_unsharded,
    local_rows,
    make_mesh,
    place_batch,
    put_array,
)
from jaxft.tasks import TASKS
from jaxft.training import optimizer
from jaxft.training.best import choose_selection_metric, is_better
from jaxft.training.checkpoint import RunCheckpoints, digest_tree
from jaxft.training.evaluation import evaluate, write_evaluation
from jaxft.training.finished_run import load_best, make_best_meta
from jaxft.training.identity import (
    check_identity,
    describe_changed_versions,
    installed_versions,
    make_identity,
)
from jaxft.training.log import Clock, CompileCounter, Profile, RunLog, format_train_line, peak_rss_bytes
from jaxft.training.setup import (
    compile_eval,
    initial_parameters,
    make_network,
    make_train_loader,
    make_trainer,
    open_base_model,
    predict_bytes,
    prune_outputs,
)
from jaxft.training.splits import collect_labels, encode_splits, join_examples, read_run_splits
from jaxft.training.workdir import claim, save_batch, save_model_files, save_tuned

QUEUED_STEPS = 2  # steps that the host may be ahead of the device


def train(config: ConfigDict, workdir: Path, profile_steps: range = range(0)) -> dict[str, Any]:
    """Trains, evaluates and reports as `config` says; goes on where `workdir` holds an unfinished run of it.

    Several processes each call it, and feed a part of every batch; process 0 reports. profile_steps: those that
    `workdir`/profile gets a trace of.

    Returns the content of `summary.json`.

    Raises:
      UserError: bad settings, data or checkpoint; a workdir of another run.
      NonFiniteLoss: the loss was NaN or infinite; the batch is in `workdir`.
      Preempted: SIGTERM came; the state is saved, and the same call goes on.
    """
    began = time.perf_counter()
    compiles = CompileCounter()
    stop_asked = heartbeat.on_sigterm()
    claim(workdir, config)
    report = RunLog(
        workdir,
        tensorboard=config.log.tensorboard,
        wandb=config.log.wandb,
        config=config.to_dict(),
        quiet=not processes.is_main_process(),
    )
    log = report.log
    if processes.count() > 1 and config.data.cache_dir is None:  # in the folder that all processes share
        config = config.copy_and_resolve_references()
        config.data.cache_dir = str(workdir / "cache")

    mesh = make_mesh(config)
    check_rows(mesh, config.batch.rows // config.batch.accumulate, "config.batch.rows / accumulate")
    check_rows(mesh, config.eval.rows, "config.eval.rows")

    # ---------------------------------------------------------------- data, checkpoint and tokenizer
    kind = TASKS[config.task]
    train_rows = local_rows(mesh, config.batch.rows)
    here = shards_of_rows(train_rows, config.batch.rows, config.data.shards)
    train, splits = read_run_splits(kind, config, here, log)
    checkpoint = open_base_model(config, lambda: kind.iterate_texts(train[0].examples))
    labels = collect_labels(kind, train)
    task = kind(labels, head_dropout=head_dropout(config, checkpoint.hf_config), config=config)
    train, splits = encode_splits(task, train, splits, checkpoint.tokenizer, config, log)
    selected_by = choose_selection_metric(config, task, task.metric_names(splits["dev"]))
    length, pad_id = config.data.max_length, checkpoint.tokenizer.pad_token_id
    options = {"max_length": length, "seed": config.seed, "pad_id": pad_id}
    options |= {"arrays": task.arrays, "segments": task.max_segments}
    windows = {number: part.windows for number, part in train.items()}
    loader = make_train_loader(windows, config, only=train_rows, **options)
    loaders = {
        name: mixed.make_loader(
            split.windows,
            mixed.Mix(),
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
    total = total_steps(config, **scale)
    warmup = duration_steps(config.optim.warmup, "optim.warmup", total=total, **scale)
    eval_every = config.eval.every_steps or loader.steps_per_epoch
    save_every = config.checkpoint.every_steps or eval_every
    log(
        f"rows of {length}: {examples_per_step / config.batch.rows:.1f} windows a row, "
        f"{loader.padding_fraction:.1%} padding; {loader.steps_per_epoch:,} steps an epoch, {total:,} in all, "
        f"{warmup:,} of them warmup"
    )
    if config.data.shards > 1 and (warning := loader.uneven()):
        log(warning)

    # ---------------------------------------------------------------- model, optimizer and initial state
    sizes = backbone_sizes(config, checkpoint.hf_config)
    net = make_network(task, sizes, mesh)
    given = prune_outputs(net, loader, windows, steps=total, parts=config.batch.accumulate)
    trainer = make_trainer(net, config, total=total, warmup=warmup)
    data = processes.gather_by_shard({number: own.fingerprint for number, own in windows.items()})
    data.append(splits["dev"].windows.fingerprint)
    identity = make_identity(config, data, task.labels, checkpoint.tokenizer, loader.order())
    processes.assert_same(identity | describe_local_devices())
    last = RunCheckpoints(workdir / "checkpoints", keep=config.checkpoint.keep, log=log)
    best = RunCheckpoints(workdir / "best", keep=1, log=log)
    restored = last.restore(lambda meta: check_identity(meta, identity, workdir) or trainer.stacked)
    if restored:
        step, state, meta = restored
        state = trainer.restored_state(state)
        progress = meta["progress"]
        log(f"going on at step {step:,} of {total:,}, from {last.folder / str(step)}")
        if warning := describe_changed_versions(meta):
            log(warning)
    else:
        step, progress = 0, {"best": None, "best_step": None, "worse": 0, "sums": {}, "totals": {}}
        if config.init_from:
            parameters, said = (
                load_best(Path(config.init_from), net.abstract, task.labels, log),
                f"weights: {config.init_from}",
            )
        else:
            if config.model.init == "pretrained" and processes.count() > 1:
                processes.assert_same({"pretrained weights": weights_checksum(checkpoint.folder)})
            parameters, said = initial_parameters(net, config, checkpoint)
        log(said)
        state = trainer.new_state(parameters)
        del parameters  # memory: the state may have copies
        save_model_files(workdir, checkpoint, task.labels)
    trained = sum(leaf.size for leaf in jax.tree.leaves(trainer.abstract.trainable))
    log(
        f"{net.parameter_count:,} parameters, {trained:,} of them trained; "
        f"devices: {', '.join(f'{axis} {size}' for axis, size in mesh.shape.items())} ({jax.devices()[0].device_kind})"
        f"; attention: {sizes['attention']}"
    )
    if said := describe_unsharded(net.abstract, mesh, sizes["num_heads"]):
        log(said)

    if profile_steps and not step <= profile_steps.start < profile_steps.stop < total:
        raise UserError(
            f"--profile_steps {profile_steps.start}:{profile_steps.stop}: the run goes from step {step} to {total}; "
            "name steps between them"
        )
    profile = Profile(workdir / "profile", profile_steps)

    # ---------------------------------------------------------------- compilation, ahead of the loop
    compile_began = time.perf_counter()
    seed = put_array(np.uint32(config.seed), trainer.abstract.step.sharding)
    train_steps = {shape: trainer.compile(shape) for shape in loader.shapes}
    eval_steps = compile_eval(net, {shape for one in loaders.values() for shape in one.shapes})
    # Compiled here, so that saving does not compile in the loop; an optimizer's moments are like their parameters.
    digest_tree((stack(state.trainable | state.frozen), state.step))
    compile_s = time.perf_counter() - compile_began
    release_memory()
    flops_per_token = net.train_flops_per_token(length, given)
    log(
        f"compiled in {compile_s:.1f} s; a step of {config.batch.rows} x {length}: "
        f"{flops_per_token * config.batch.rows * length / 1e9:,.1f} GFLOP, "
        f"{predict_bytes(train_steps) / 2**20:,.0f} MiB; ready {time.perf_counter() - began:.1f} s after start"
    )

    # ---------------------------------------------------------------- the loop
    peak = peak_flops(jax.devices()[0])
    pending: collections.deque = collections.deque()  # (step, batch, metrics on the device)
    window = collections.Counter(progress["sums"])  # sums since the last log line
    timed = collections.Counter()  # the same for what depends on the clock: this process only
    totals = collections.Counter(progress["totals"])  # of the whole run, over all its starts
    earlier = {"seconds": totals["seconds"], "stall": totals["stall"]}
    report.start(step, total)
    clock, mark, stall_mark = Clock(), 0.0, 0.0
    compiled_before = compiles.count

    def settle(keep: int) -> None:
        """Reads the metrics of queued steps, all but the newest `keep`, and logs where a line is due."""
        nonlocal mark, stall_mark
        while len(pending) > keep:
            at, batch, metrics = pending.popleft()
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}
            if not math.isfinite(values["loss"]) or not math.isfinite(values["grad_norm"]):
                path = save_batch(workdir, at, batch)
                last.wait()
                raise NonFiniteLoss(
                    f"step {at}: loss {values['loss']}, gradient norm {values['grad_norm']}; the batch is in {path}, "
                    f"the last good checkpoint is {last.steps()[-1] if last.steps() else 'the start'} in "
                    f"{last.folder}; lower config.optim.lr or raise config.optim.warmup"
                )
            window.update(
                steps=1,
                loss=values["loss"] * values["weight"],
                weight=values["weight"],
                grad_norm=values["grad_norm"],
            )
            for counter in (window, timed, totals):
                counter.update(tokens=int(values["tokens"]), slots=batch.shape.slots)
            if at % config.log.every_steps == 0 or at == total:
                now, stall = clock.seconds(), batches.stall
                seconds = max(now - mark, 1e-9)
                line = {
                    "loss": window["loss"] / max(window["weight"], 1e-6),
                    "grad_norm": window["grad_norm"] / window["steps"],
                    "lr": values["lr"],
                    "epoch": at / loader.steps_per_epoch,
                    "real_tokens_per_s": timed["tokens"] / seconds,
                    "padding_fraction": 1 - window["tokens"] / window["slots"],
                    "input_stall_fraction": (stall - stall_mark) / seconds,
                }
                if peak:
                    rate = flops_per_token * timed["tokens"] / seconds
                    line["mfu"] = rate / (peak * jax.device_count())
                log(format_train_line(at, total, line))
                report.write(at, "train", line)
                window.clear()
                timed.clear()
                mark, stall_mark = now, stall

    def save() -> None:
        saved = progress | {"sums": dict(window), "totals": {**totals, **spent()}}
        with clock, compiles.ignored():
            meta = {"identity": identity, "progress": saved, "versions": installed_versions()}
            last.save(step, map_parameter_dicts(stack, state), meta)

    def spent() -> dict[str, float]:
        return {"seconds": earlier["seconds"] + clock.seconds(), "stall": earlier["stall"] + batches.stall}

    def preempted() -> Preempted:
        last.wait()
        kept = last.steps()[-1] if last.steps() else "none, so the start"
        return Preempted(
            f"SIGTERM at step {step}: the last checkpoint in {last.folder} is {kept}; "
            "the same command goes on from there"
        )

    def parameters_now() -> dict[str, jax.Array]:
        """What is measured and kept: the average, where there is one."""
        trained = optimizer.averaged_parameters(state.opt_state) or state.trainable
        return stack({name: (trained | state.frozen)[name] for name in net.abstract})

    batches = prefetch(loader, step, total)
    with contextlib.closing(report), batches, _close_on_error(last, best), jax.transfer_guard("disallow"):
        stopped_early = progress.get("stopped_early", False)
        for _, batch in batches:
            if stopped_early:
                break
            if profile.is_due(step):
                settle(0)
                with clock:
                    log(profile.toggle())
            arrays = place_batch(batch.arrays, mesh)
            with jax.profiler.StepTraceAnnotation("train", step_num=step):  # profilers tell steps apart by it
                state, metrics = train_steps[batch.shape](state, arrays, seed)
            step += 1
            pending.append((step, batch, metrics))
            settle(QUEUED_STEPS)
            report.advance(step)

            if step % eval_every == 0 or step == total:
                settle(0)
                with clock:
                    measured, _ = evaluate(net, eval_steps, parameters_now(), splits["dev"], loaders["dev"])
                    values = processes.broadcast(measured.compute())
                    report.write(step, "dev", values)
                    metric = values[selected_by]
                    if is_better(selected_by, metric, progress["best"]):
                        progress["worse"] = 0
                        with compiles.ignored():
                            best.save(
                                step, parameters_now(), make_best_meta(net.abstract, task.labels, values)
                            )
                        best.wait()  # before a checkpoint of the run speaks of it
                        if step in best.steps():
                            progress |= {"best": metric, "best_step": step}
                    else:
                        progress["worse"] += 1
                    log(
                        f"step {step}/{total}  dev: {task.summarize(values)}"
                        + ("  (best so far)" if progress["best_step"] == step else "")
                    )
                if config.eval.patience and progress["worse"] >= config.eval.patience:
                    stopped_early = progress["stopped_early"] = True
                    log(f"no better {selected_by} in {progress['worse']} evaluations: stopping early")
            stopping = stop_asked()
            if step % save_every == 0 or step == total or stopped_early or stopping:
                settle(0)
                save()
            if stopping:
                raise preempted()
        settle(0)
        train_s, stall_s = spent().values()
    late_compiles = compiles.count - compiled_before
    if late_compiles:
        log(
            f"warning: {late_compiles} compilations after the start; each made the devices wait, and is a bug"
        )
    last.wait()

    # ---------------------------------------------------------------- the best weights, measured and kept
    parameters, best_step = parameters_now(), progress["best_step"]
    if best_step != step:
        try:
            parameters = load_best(workdir, net.abstract, task.labels, log)
        except UserError as error:  # hours of training are not lost for it
            log(f"warning: {error}. The weights of the last step take their place")
            best_step = step
            best.save(step, parameters, make_best_meta(net.abstract, task.labels, {}))
    best.close()
    results = {}
    for name in [n for n in ("dev", "test") if n in splits]:
        if stop_asked():
            raise preempted()
        results[name] = write_evaluation(
            net,
            eval_steps,
            parameters,
            splits[name],
            loaders[name],
            folder=workdir,
            train=join_examples(train),
            tokenizer=checkpoint.tokenizer,
            config=config,
            console=report.console,
            tune=name == "dev",
        )
    save_tuned(workdir, task.tuned)
    last.close()
    summary = {
        "steps": step,
        "best_step": best_step,
        "selected_by": selected_by,
        "train_s": train_s,
        "compile_s": compile_s,
        "compiles": compiled_before,
        "late_compiles": late_compiles,
        "real_tokens_per_s": totals["tokens"] / train_s,
        "train_flops_per_token": flops_per_token,
        "padding_fraction": 1 - totals["tokens"] / totals["slots"],
        "input_stall_fraction": stall_s / train_s,
        **results,
        "peak_rss_bytes": peak_rss_bytes(),
    }
    if processes.is_main_process():
        write_json(workdir / "summary.json", summary)
    log(
        f"{step:,} steps in {train_s:.1f} s: {summary['real_tokens_per_s']:,.0f} tokens/s, "
        f"padding {summary['padding_fraction']:.1%}, input stall {summary['input_stall_fraction']:.2%}; "
        f"peak memory {summary['peak_rss_bytes'] / 2**20:,.0f} MiB; everything is in {workdir}"
    )
    return summary


@contextlib.contextmanager
def _close_on_error(*checkpoints: RunCheckpoints):
    """Finishes the saves under way where the block fails, by whatever it fails."""
    try:
        yield
    except BaseException as error:
        if not processes.fails_alone(error):
            for one in checkpoints:
                one.close()
        raise
