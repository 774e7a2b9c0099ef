"""Eight virtual devices, as several meshes, train as one device does, and a run moves from mesh to mesh."""

import pathlib
import re

import pytest

from jaxft.tasks.registry import TASKS

# All tasks over several meshes, in the same steps; with what each device then holds of the state.
SCRIPT = """
import dataclasses
import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

sys.path.insert(0, sys.argv[1] + "/training")
import test_step

from jaxft.adapters.plan import plan_adapters
from jaxft.config.optim import OPTIMIZERS

from jaxft.data.batching.output_positions import select_positions
from jaxft.models.pretrained_model import resolve_model
from jaxft.models.registry import FAMILIES
from jaxft.training.network import make_network
from jaxft.training.optimizer.chain import make_optimizer
from jaxft.training.trainer import make_trainer
from jaxft.parallel.mesh import place_batch, AXES, put_array
from jaxft.layers.heads.kinds import HeadKind
from jaxft.layers.runtime import Runtime
from jaxft.tasks.question_answering.data import OUTPUTS
from jaxft.tasks.registry import TASKS, make_task

assert jax.device_count() == 8
ROWS, SEGMENTS = 16, 2
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16, "vocab_size": 51, "initializer_range": 0.1}
STARTS = {}  # parameters of each task, one and the same on all meshes
# Adapters of every kind, in the fused projections of a GPT-2 too.
ADAPTERS = {
    "lora": {"method": "lora", "r": 4, "dropout": 0.2, "target_modules": ("all-linear",), "use_dora": True},
    "lora gpt2": {"method": "lora", "r": 4, "dropout": 0.2},
    "lora int8": {"method": "lora", "r": 4, "base_dtype": "int8"},
    "lora bfloat16": {"method": "lora", "r": 4, "base_dtype": "bfloat16"},
    "adalora gpt2": {"method": "adalora", "init_r": 4, "target_r": 1},
    "ia3": {"method": "ia3"},
    "bottleneck": {"method": "bottleneck", "r": 4, "dropout": 0.2},
    "prefix": {"method": "prefix", "num_virtual_tokens": 3, "prefix_projection": True},
    "prompt gpt2": {"method": "prompt", "num_virtual_tokens": 2},
}
PARTS = {"words": "token_classification", "texts": "sequence_classification"}  # of multi_task


def family_shape(name):
    config_class = FAMILIES[name].config_class
    sizes = dataclasses.asdict(test_step.SHAPE) | {"embedding_size": 8}
    sizes |= {"has_distance_embeddings": True, "products": ("c2p", "p2c"), "bucket_count": 6, "conv_size": 3}
    sizes |= {"normalizes_distances": True, "shares_projections": True}
    sizes |= {"embedding_dropout": 0.2, "mlp_dropout": 0.2, "local_attention": 6}
    names = getattr(config_class, "hf_keys", config_class.__dataclass_fields__)
    return config_class(**{key: size for key, size in sizes.items() if key in names})


def task_values(name):
    if name in FAMILIES:
        return {"task": "sequence_classification"}  # whose head may have more than one layer
    if name in ADAPTERS:
        settings = {f"adapter.{key}": value for key, value in ADAPTERS[name].items()}
        return {"task": "token_classification"} | settings
    if name == "crf":
        return {"task": "token_classification", "model.crf": True}
    return {"task": name}


def network(name, config, mesh):
    labels = test_step.LABELS
    if name == "question_answering":
        labels = OUTPUTS
    if name == "multi_task":
        labels = [f"{part}/{label}" for part in PARTS for label in labels]
    task = make_task(labels, config, head_dropout=0.2)
    shape, (_, runtime) = test_step.SHAPE, resolve_model(config, test_step.SHAPE.to_hf())
    if name == "causal_lm" or name.endswith("gpt2"):
        gpt2, runtime = resolve_model(config, GPT2 | {"model_type": "gpt2"})
        shape = dataclasses.replace(gpt2, hidden_dropout=0.2, attention_dropout=0.2)
    if name in FAMILIES:
        shape = family_shape(name)
    if name == "prefix":  # after which texts begin at its end
        shape = dataclasses.replace(shape, max_positions=32)
    plan = None
    if config.adapter.is_used:
        family = FAMILIES["gpt2" if name.endswith("gpt2") else "bert"]
        table = family.table_with_head(HeadKind.TOKEN, shape)
        plan = functools.partial(plan_adapters, config.adapter, family.adapter_targets, table)
    return make_network(task, shape, runtime, mesh, plan)


def batch(name, number):
    arrays = test_step.batch(number, ROWS)
    starts = np.zeros((ROWS, SEGMENTS), np.int32)
    starts[:, 1] = (arrays["segment_ids"] == 2).argmax(1)
    # Of the segments' first tokens.
    texts = {key: np.take_along_axis(arrays[key], starts, 1) for key in ("labels", "weights")}
    if name == "sequence_classification" or name in FAMILIES:
        return arrays | texts | {"starts": starts}
    if name == "question_answering":  # the first two tokens of each segment
        spans = np.zeros((ROWS, SEGMENTS, 2), np.int32) + np.arange(2, dtype=np.int32)
        return arrays | {"labels": spans, "weights": texts["weights"], "starts": starts}
    if name == "multi_task":
        words = {key: arrays.pop(key) for key in ("labels", "weights")}
        of = [(words["weights"] * (arrays["segment_ids"] == k + 1)).sum(1) for k in range(SEGMENTS)]
        weights = np.stack([np.stack(of, 1), texts["weights"], np.ones((ROWS, SEGMENTS))], -1)
        arrays |= {"starts": starts, "task_weights": weights.astype(np.float32)}
        for part, labelled in (("words", words), ("texts", texts)):
            arrays |= {f"{part}/{key}": value for key, value in labelled.items()}
        return arrays
    if name.startswith("prompt"):
        is_slot = (arrays["positions"] < 2) & (arrays["segment_ids"] > 0)
        arrays["input_ids"] = np.where(is_slot, -1 - arrays["positions"], arrays["input_ids"])
    arrays["weights"][:, 0] = 0  # of each row the loss reads less than all
    return arrays


def train(name, sizes, **more):
    devices = np.asarray(jax.devices())[: int(np.prod(sizes))].reshape(sizes)
    mesh = jax.sharding.Mesh(devices, AXES)
    values = task_values(name) | test_step.SMOOTH | {"batch.accumulate": 2, "data.max_length": 16}
    values |= {"model.unroll": "no"} | more
    if name == "multi_task":
        values["tasks"] = tuple((part, (("task", kind),)) for part, kind in PARTS.items())
    config = test_step.config_with(**values)
    net = network(name, config, mesh)
    trainer = make_trainer(net, config, total=20, warmup=0)
    if name not in STARTS:
        STARTS[name] = jax.tree.map(np.asarray, jax.jit(net.new_parameters)(np.uint32(0)))
    state = trainer.new_state({n: put_array(v, net.abstract[n].sharding) for n, v in STARTS[name].items()})
    hyperparameters = trainer.place_hyperparameters()
    steps = []
    for number in range(20):
        arrays = batch(name, number)
        if net.prunes_outputs:  # each device computes the last layer for those of its positions that are read
            mask = (arrays["weights"] > 0).reshape(2 * sizes[0] * sizes[1], -1)
            arrays["output_positions"] = select_positions(mask, mask.shape[1] - 1)
        state, metrics = trainer.train_step(state, place_batch(arrays, mesh), hyperparameters)
        steps.append([float(metrics["loss"]), float(metrics["grad_norm"])])
    held = jax.tree.leaves((state.trainable, state.opt_state))
    share = sum(x.addressable_shards[0].data.nbytes for x in held) / sum(x.nbytes for x in held)
    return {"steps": steps, "share": share}


# Parameters after two updates, and the share of the optimizer's state that a device holds.
def update(name, sizes):
    mesh = jax.sharding.Mesh(np.asarray(jax.devices())[: int(np.prod(sizes))].reshape(sizes), AXES)
    values = {"optim.name": name, "optim.lr": 0.01, "optim.pull_to_start": 0.1}
    config = test_step.config_with(**values)
    shape = dataclasses.replace(test_step.SHAPE, hidden_size=128, intermediate_size=128)  # Adafactor keeps sums
    net = make_network(make_task(test_step.LABELS, config, head_dropout=0.2), shape, Runtime(), mesh)
    trainer = make_trainer(net, config, total=20, warmup=0)
    rng = np.random.default_rng(0)

    def draw():
        return {
            n: put_array(rng.normal(size=leaf.shape).astype("float32"), leaf.sharding)
            for n, leaf in net.abstract.items()
        }

    state = trainer.new_state(draw())
    shardings = jax.tree.map(lambda leaf: leaf.sharding, (trainer.abstract.trainable, trainer.abstract.opt_state))
    optimizer = make_optimizer(config, trainer.hyperparameters, net.roles, shape.num_layers)

    @functools.partial(jax.jit, out_shardings=shardings)
    def step(parameters, opt_state, gradients):
        updates, opt_state = optimizer.update(gradients, opt_state, parameters)
        return optax.apply_updates(parameters, updates), opt_state

    parameters, opt_state = state.trainable, state.opt_state
    for _ in range(2):
        parameters, opt_state = step(parameters, opt_state, draw())
    held = [x for x in jax.tree.leaves(opt_state) if x.ndim]
    share = sum(x.addressable_shards[0].data.nbytes for x in held) / sum(x.nbytes for x in held)
    return jax.tree.map(np.asarray, parameters), share


# The largest difference of a parameter on eight devices, and the share of the state that each holds.
def compare_updates(name):
    (one, _), (eight, share) = update(name, (1, 1, 1)), update(name, (2, 2, 2))
    return {"difference": max(float(np.abs(one[n] - eight[n]).max()) for n in one), "share": share}


NETWORKS = ("token_classification", "causal_lm")  # a BERT and a GPT-2
HALF = {"model.dtype": "bfloat16", "optim.gradients": "bfloat16"}
# Encoders that are more than BERT's layers; electra's projection and mpnet's bias are split like nothing else.
ENCODERS = tuple(
    name
    for name, family in FAMILIES.items()
    if name not in ("bert", "xlm-roberta", "camembert") and HeadKind.QUESTION in family.heads
)
TASKS = [name for name, entry in TASKS.items() if entry.head is not HeadKind.IMAGE]  # tests/models/test_image_meshes.py
names = (*TASKS, "crf", *ENCODERS, *ADAPTERS) if sys.argv[2] == "sweep" else (*NETWORKS, "mpnet")
runs = [(name, sizes, {}) for name in names for sizes in ((1, 1, 1), (2, 2, 2))]
if sys.argv[2] == "sweep":
    runs += [(name, (1, 8, 1), {}) for name in (*TASKS, "crf")]
    runs += [(name, sizes, {}) for name in (*NETWORKS, *ENCODERS) for sizes in ((8, 1, 1), (1, 1, 8))]
    runs += [(name, (1, 8, 1), {"model.unroll": "yes"}) for name in (*NETWORKS, "masked_lm")]
    runs += [(name, (2, 2, 2), {"model.remat": "dots"}) for name in NETWORKS]
    runs += [(name, sizes, HALF) for name in NETWORKS for sizes in ((1, 1, 1), (2, 2, 2))]
else:
    runs += [("token_classification", (1, 8, 1), {"model.unroll": "yes"})]
results = {}
for name, sizes, more in runs:
    label = "x".join(map(str, sizes))
    if more:
        label = f"bfloat16 {label}" if more == HALF else f"{label} {more}"
    results.setdefault(name, {})[label] = train(name, sizes, **more)
updated = OPTIMIZERS if sys.argv[2] == "sweep" else ("adafactor", "muon")  # which read entire arrays, as lamb does
optimizers = {name: compare_updates(name) for name in updated}
print(json.dumps({"tasks": results, "optimizers": optimizers}))
"""


@pytest.mark.parametrize("extent", ["short", pytest.param("sweep", marks=pytest.mark.sweep)])
def test_eight_devices_train_as_one_does(on_eight_devices, extent):
    """Losses and gradient norms of 20 steps, with packing, dropout and accumulation on; fsdp splits the state.

    Two updates of optimizers that read entire arrays are those of one device too, and devices share their states.

    The sweep has every optimizer, every task, adapters, pure fsdp too, every family over pure data and tensor, and a
    BERT and a GPT-2 unrolled, recomputed and in bfloat16 too.
    """
    results = on_eight_devices(SCRIPT, extent)
    runs = results["tasks"]
    for name, run in results["optimizers"].items():
        assert run["difference"] < 1e-5 and run["share"] < 0.5, (name, run)
    if extent == "sweep":
        assert runs.keys() > {*TASKS, "crf", "roberta", "distilbert"} - {"image_classification"}
    for task, meshes in runs.items():
        has_adapters = task.startswith(("lora", "adalora", "ia3", "bottleneck", "prefix", "prompt"))
        if "bfloat16 1x1x1" in meshes:
            halves = [meshes.pop(f"bfloat16 {mesh}")["steps"] for mesh in ("1x1x1", "2x2x2")]
            for expected, eight in zip(*halves, strict=True):  # which round each at other places
                assert eight == pytest.approx(expected, rel=0.05), task
        expected = meshes["1x1x1"]["steps"]
        for mesh, run in meshes.items():
            for ours, theirs in zip(run["steps"], expected, strict=True):
                assert ours[0] == pytest.approx(theirs[0], abs=1e-5, rel=1e-6), (task, mesh)
                assert ours[1] == pytest.approx(theirs[1], rel=1e-4), (task, mesh)
        # Adapters are small: of some of them only the axis tensor splits anything, of others nothing.
        assert meshes["2x2x2"]["share"] < (1.0 if has_adapters else 0.5), task
        if "1x8x1" in meshes:
            assert meshes["1x8x1"]["share"] < 0.3, task
    if extent == "sweep":
        assert runs["token_classification"]["8x1x1"]["share"] == 1


# Makes a state from a checkpoint, and one from nothing, over eight devices. Prints where its arrays are, and how large
# the arrays on the host were.
MADE = """
import json
import sys

import jax
import numpy as np

from jaxft.models.pretrained_model import resolve_model
from jaxft.training.network import initial_parameters, make_network
from jaxft.training.trainer import make_trainer
from jaxft.parallel.mesh import make_mesh, put_array
from jaxft.training import network
from jaxft.config.settings import replace
from jaxft.tasks.registry import make_data, make_task
from jaxft.training.settings import load_settings

config = load_settings(sys.argv[2], sys.argv[3:] + ["--config.mesh.data=1", "--config.mesh.fsdp=8"])
mesh, put, host_bytes = make_mesh(config), put_array, []


def recorded(value, place):
    host_bytes.append(value.nbytes)  # in this host's memory
    return put(value, place)


def share(tree):
    leaves = jax.tree.leaves(tree)
    return sum(x.addressable_shards[0].data.nbytes for x in leaves) / sum(x.nbytes for x in leaves)


network.put_array, results = recorded, {}
for start in ("pretrained", "scratch"):
    config = replace(config, {"model.init": start})
    checkpoint = make_data(config).open_model(())
    task = make_task(["O", "B-X"], config, head_dropout=0.1)
    net = make_network(task, *resolve_model(config, checkpoint.hf_config), mesh)
    trainer = make_trainer(net, config, total=9, warmup=0)
    parameters, _ = initial_parameters(net, config, checkpoint)
    shares = [share(parameters)]
    state = trainer.new_state(parameters)
    as_asked = jax.tree.map(lambda x, y: x.sharding.is_equivalent_to(y.sharding, x.ndim), state, trainer.abstract)
    making = jax.jit(net.new_parameters, out_shardings={n: x.sharding for n, x in net.abstract.items()})
    made = making.lower(np.uint32(0)).compile().memory_analysis()
    size = {n: x.size * 4 for n, x in net.abstract.items()}
    results[start] = {
        "shares": [*shares, share(state.opt_state), made.output_size_in_bytes / sum(size.values())],
        "as_asked": all(jax.tree.leaves(as_asked)),
        "largest": max(host_bytes) / max(size.values()),
    }
print(json.dumps(results))
"""


def test_a_state_is_made_in_its_shards(on_eight_devices, tiny_flags):
    """From a checkpoint or nothing: an eighth on each device, no more than one parameter whole on the host."""
    results = on_eight_devices(MADE, *tiny_flags[1:])
    for start, made in results.items():
        assert made["as_asked"] and made["largest"] <= 1, start
        assert all(0.12 < share < 0.2 for share in made["shares"]), (start, made)  # vectors are on all


# One run after the other: undisturbed, and moved from mesh to mesh each time that it is told to stop.
MOVES = """
import contextlib
import dataclasses
import io
import json
import pathlib
import sys

import jax

from jaxft.config.settings import replace
from jaxft.training.run_folder import checkpoint
from jaxft.training.settings import load_settings
from jaxft.training import loop as training
from jaxft.errors import Preempted

checkpoint.FILE_SIZE = 1 << 14  # cuts arrays
make_mesh = training.make_mesh


def make_mesh_as_configured(config):
    return make_mesh(config, jax.devices()[: 8 if -1 in dataclasses.astuple(config.mesh) else 1])


training.make_mesh = make_mesh_as_configured
folder, recipe, *overrides = sys.argv[2:]
output = io.StringIO()


def run(name, steps, **mesh):
    questions = iter(range(1000))  # the first one comes before the first step
    sizes = dict(data=1, fsdp=1, tensor=1) | mesh
    config = replace(load_settings(recipe, overrides), {f"mesh.{axis}": size for axis, size in sizes.items()})
    if name == "still":
        config = replace(config, {"batch.examples": None, "batch.rows": 16})
    with contextlib.suppress(Preempted), contextlib.redirect_stdout(output):
        training.train(config, pathlib.Path(folder) / name, should_stop=lambda: next(questions) == steps)


def losses(name):
    rows = map(json.loads, (pathlib.Path(folder) / name / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows]


run("still", None)
for mesh in ({"fsdp": -1}, {}, {"data": -1, "tensor": 4}, {}):
    run("moved", 3, **mesh)
print(json.dumps({"still": losses("still"), "moved": losses("moved"), "said": output.getvalue()}))
"""


@pytest.mark.parametrize("kind", ["bert", pytest.param("gpt2", marks=pytest.mark.sweep)])
def test_a_run_goes_on_over_another_mesh(on_eight_devices, tiny_flags, tmp_path, kind):
    """From eight devices that split parameters to one, to eight by tensor axis, and back: losses and dev's agree.

    Two microbatches over eight devices take 16 rows for 20 examples; one device, which would take fewer, keeps them.
    """
    flags = tiny_flags[1:]
    if kind == "gpt2":
        flags = [
            str(pathlib.Path(flags[0]).with_name("lm.py")),
            "--config.model.sizes=(('n_layer',2),('n_embd',32),('n_head',4))",
            "--config.model.vocab_size=301",
            "--config.model.dropout=0.1",
            "--config.data.max_length=32",
            "--config.batch.accumulate=2",
            "--config.log.tensorboard=False",
        ]
    values = {
        "batch.rows": "none",
        "batch.examples": 20,
        "train.steps": 11,
        "optim.lr": 1e-3,
        "data.test": "none",
        "log.every_steps": 1,
    }
    # Unrolled, states of one device have their layers apart, those of eight stacked.
    values |= {"eval.every_steps": 11, "checkpoint.every_steps": 11, "model.unroll": "yes"}
    flags = [*flags, *(f"--config.{key}={value}" for key, value in values.items())]
    results = on_eight_devices(MOVES, tmp_path, *flags)
    assert len(results["still"]) == 12
    assert results["moved"] == pytest.approx(results["still"], abs=1e-5)
    for step, mesh in ((3, "data 1, fsdp 1"), (6, "data 2, fsdp 1, tensor 4"), (9, "data 1, fsdp 1")):
        assert re.search(rf"going on at step {step} of 11.*\n(.*\n)?.*devices: {mesh}", results["said"]), (
            results["said"]
        )
    told, *_ = re.findall(r"not split along that axis of the mesh: (.*)", results["said"])
    assert re.match(r"tensor 4 doesn't divide [\d,]+ of backbone/embeddings/word/embedding", told)
