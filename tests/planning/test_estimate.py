"""Estimates of steps on devices that don't exist agree with the sharding rules and with the compiled program."""

import importlib.util
import json

import pytest

from jaxft.models.pretrained_model import resolve_model
from jaxft.parallel import chips
from jaxft.parallel.mesh import make_mesh
from jaxft.tasks.token_classification.task import TokenClassification
from jaxft.training.network import make_network
from jaxft.training.prepare import describe_base_model
from tests.planning.conftest import CPU, LIBTPU, tiny_config

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None and not LIBTPU.is_dir(),
    reason=f"libtpu, which compiles for TPUs, is neither installed nor in {LIBTPU} (pip install --target)",
)


# The products of an image in the first layer: places x inputs of a place x outputs.
FIRST_LAYERS = {"vit": 4**2 * (16 * 16 * 3) * 128, "resnet": 24**2 * (7 * 7 * 3) * 8}


@pytest.mark.parametrize("name", FIRST_LAYERS)
def test_the_compiler_counts_the_flops_of_pictures_as_the_model_does(name, estimates):
    """But for the gradient of pixels, which nothing needs: for new:resnet of 224 pixels it is 3%.

    The rows are not set: each holds an image, so they are as many as the examples.
    """
    plan = estimates[name]
    assert plan["rows"] == 24 and plan["unknown_loops"] == 0
    needed = plan["model_flops_per_step"] - plan["rows"] * 2 * FIRST_LAYERS[name]
    assert plan["flops_per_step"] == pytest.approx(needed, rel=0.02)


def test_fsdp_splits_parameters_and_their_state(estimates):
    config = tiny_config()
    task = TokenClassification([f"label {i}" for i in range(9)], config, head_dropout=0.1)
    net = make_network(task, *resolve_model(config, describe_base_model(config)), make_mesh(config))
    names = [name for name in net.abstract if name.endswith(("kernel", "embedding"))]
    split = sum(net.abstract[name].size for name in names)
    data, fsdp = estimates["data"], estimates["fsdp"]
    assert data["parameters"] == fsdp["parameters"] == net.parameter_count
    assert data["param_bytes_per_device"] == 4 * data["parameters"]
    assert fsdp["param_bytes_per_device"] == 4 * (split // 8 + net.parameter_count - split)
    assert data["optimizer_bytes_per_device"] == pytest.approx(2 * data["param_bytes_per_device"], abs=16)
    assert fsdp["optimizer_bytes_per_device"] == pytest.approx(2 * fsdp["param_bytes_per_device"], abs=16)
    assert data["mesh"] == {"data": 8, "fsdp": 1, "tensor": 1}
    assert data["fits"] is True and fsdp["fits"] is None and fsdp["roofline_s"] is None
    assert data["hbm_bytes_per_device"] == 16 * 2**30
    assert 0 < data["activation_bytes_per_device"] < data["temporary_bytes_per_device"]
    assert data["peak_bytes_per_device"] > data["param_bytes_per_device"] + data["optimizer_bytes_per_device"]


def test_data_parallel_gradients_are_reduced_once(estimates):
    """A ring sends twice 7/8 of the gradients; the loss and its weight are scalars."""
    plan = estimates["data"]
    assert set(plan["collectives"]) == {"all-reduce"}
    assert plan["collectives"]["all-reduce"]["bytes"] == pytest.approx(7 * plan["parameters"], rel=0.01)
    assert plan["collective_bytes_per_device"] == plan["collectives"]["all-reduce"]["bytes"]
    assert plan["collective_bytes_needed"] == pytest.approx(7 * plan["parameters"], rel=0.01)
    v5e = next(chip for chip in chips.CHIPS if chip.name == "v5e")
    assert plan["interconnect_s"] == pytest.approx(plan["collective_bytes_per_device"] / v5e.interconnect)
    assert plan["compute_s"] == pytest.approx(plan["flops_per_step"] / 8 / v5e.flops)
    assert plan["roofline_s"] == max(plan[f"{name}_s"] for name in ("compute", "memory", "interconnect"))
    assert plan["roofline_s"] == plan[f"{plan['bound']}_s"]
    assert plan["mfu"] == pytest.approx(plan["model_flops_per_step"] / (plan["roofline_s"] * v5e.flops * 8))


def test_fsdp_gathers_layer_by_layer(estimates):
    """Each layer's kernels in the loop, never a stack of them; the largest is the MLP's [32, 64] of float32."""
    plan = estimates["fsdp"]
    gathers = plan["collectives"]["all-gather"]
    assert gathers["largest_bytes"] <= 4 * 32 * 64 and gathers["count"] >= 2 * 6 * 3
    assert plan["unknown_loops"] == 0
    # What was looked up, and its gradient, changes from columns to rows: no table [1000, 32] travels.
    assert plan["collectives"]["all-to-all"]["count"] == 2
    assert max(kind["largest_bytes"] for kind in plan["collectives"].values()) < 4 * 1000 * 32
    # XLA:CPU has no reduce-scatter: it reduces gradients whole, and then slices them.
    assert plan["collective_bytes_per_device"] < 1.4 * plan["collective_bytes_needed"]


@pytest.mark.sweep
def test_products_over_devices_are_computed_again_as_remat_says(plans):
    """Not at all by "dots", which computes less again than "full" and holds more; nor what tensor adds up."""
    mesh = ["--config.mesh.data=1", "--config.mesh.fsdp=4", "--config.mesh.tensor=2"]
    none, dots, full = (
        json.loads(plan["out"])
        for plan in plans(
            *([*CPU, *mesh, f"--config.model.remat={name}"] for name in ("none", "dots", "full"))
        )
    )
    assert none["flops_per_step"] < dots["flops_per_step"] < 0.95 * full["flops_per_step"]
    held = [plan["temporary_bytes_per_device"] for plan in (none, dots, full)]
    assert held == sorted(held, reverse=True)
    sums = [plan["collectives"]["all-reduce"]["count"] for plan in (none, dots)]
    assert sums[0] == sums[1]


def test_a_loop_counts_as_its_trips(estimates):
    unrolled, scan = estimates["unrolled"], estimates["fsdp"]
    assert scan["flops_per_step"] == pytest.approx(unrolled["flops_per_step"], rel=0.01)
    assert scan["memory_bytes_per_device"] == pytest.approx(unrolled["memory_bytes_per_device"], rel=0.5)
    # Layers, heads and their gradients; the formula leaves the softmax and norms out.
    assert scan["flops_per_step"] == pytest.approx(scan["model_flops_per_step"], rel=0.1)


@pytest.mark.parametrize("name", ["distances", "windows"])
def test_attention_counts_as_each_layer_computes_it(estimates, name):
    """Products with distances, and the keys of windows; chunks compute scores again, which the model does not need."""
    plan = estimates[name]
    assert plan["unknown_loops"] == 0 and plan["peak_bytes_per_device"] > plan["param_bytes_per_device"]
    assert plan["flops_per_step"] == pytest.approx(plan["model_flops_per_step"], rel=0.1)


@pytest.mark.sweep
def test_every_task_has_a_plan(plans):
    """With a gradient that is sent once, whatever the loss."""
    words = '("words",(("task","token_classification"),("model.crf",True)))'
    tasks = f'(("texts",(("task","sequence_classification"),)),{words})'
    flags = {
        "token_classification": ["--config.model.crf=True"],
        "sequence_classification": ["--config.model.pool=mean"],
        "question_answering": [],
        "multi_task": [f"--config.tasks={tasks}"],
        "causal_lm": ["--config.model.checkpoint=new:gpt2"],
        "masked_lm": [],
    }
    sizes = "(('n_layer', 2), ('n_embd', 32), ('n_head', 2))"
    flags["causal_lm"] += [f"--config.model.sizes={sizes}", "--config.model.vocab_size=300"]
    done = plans(*([*CPU, "--chip", "v5e", f"--config.task={task}", *more] for task, more in flags.items()))
    for task, plan in zip(flags, done, strict=True):
        assert plan["code"] == 0, (task, plan["err"])
        estimate = json.loads(plan["out"])
        assert estimate["fits"] and estimate["devices"] == 8 and estimate["flops_per_step"] > 0
        # A language model reads its table once more, which is most of so small a model; the masked one is smaller.
        most = {"causal_lm": 1.4, "masked_lm": 1.6}.get(task, 1.2)
        assert estimate["collective_bytes_per_device"] < most * estimate["collective_bytes_needed"], task


@needs_libtpu
@pytest.mark.parametrize("extent", ["short", pytest.param("sweep", marks=pytest.mark.sweep)])
def test_a_slice_of_tpus(plans, extent):
    """FSDP on 4 chips, and with tensor parallelism.

    The sweep has a vocabulary, 16 and 64 chips, unrolled layers, the splash kernel's long rows, and more rows than a
    chip holds.
    """
    fsdp = ["--config.mesh.data=1", "--config.mesh.fsdp=-1", "--json", "--rows_per_device", 16]
    sizes = "('hidden_size', 256), ('num_hidden_layers', 4), ('num_attention_heads', 4),"
    sizes += " ('intermediate_size', 1024), ('vocab_size', 1000), ('max_position_embeddings', 64)"
    fsdp += [f"--config.model.sizes=({sizes})"]
    long = [*fsdp[:-1], "--config.model.attention=splash", "--config.data.max_length=512"]
    long += [fsdp[-1].replace("64))", "512))")]
    words = [
        "--config.task=causal_lm",
        "--config.model.checkpoint=new:gpt2",
        "--config.model.vocab_size=5000",
    ]
    words += [*fsdp[:-1], "--config.model.sizes=(('n_embd', 256), ('n_layer', 4), ('n_head', 4))"]
    causal = [*words, "--config.model.attention=splash", "--config.data.max_length=512"]
    slices = {
        "four": ("topology", "v5e:2x2", fsdp),
        "heads": ("topology", "v5e:2x2", [*fsdp, "--config.mesh.tensor=2"]),
    }
    if extent == "sweep":
        slices |= {
            "vocabulary": ("topology", "v5e:2x2", words),
            "sixteen": ("topology", "v5e:4x4", fsdp),
            "sixty-four": ("topology", "v5e:8x8", fsdp),
            "unrolled": ("topology", "v5e:2x2", [*fsdp, "--config.model.unroll=yes"]),
            "vocabulary and heads": ("topology", "v5e:2x2", [*words, "--config.mesh.tensor=2"]),
            "splash": ("topology", "v5e:2x2", long),
            "causal splash": ("topology", "v5e:2x2", causal),
            # Looks for no remedies, which take a minute to compile.
            "full": ("scale", "v5e:2x2", [*fsdp, "--rows_per_device", 32768]),
        }
    effort = -1.0 if extent == "short" else 0.0  # two thirds of the time
    done = plans(
        *([f"--{flag}", name, *flags] for flag, name, flags in slices.values()), tpu=True, effort=effort
    )
    assert [plan["code"] for plan in done] == [4 if name == "full" else 0 for name in slices], done
    by_name = {name: json.loads(plan["out"]) for name, plan in zip(slices, done, strict=True)}
    four = by_name["four"]
    assert four["devices"] == 4 and four["device_kind"] == "TPU v5 lite"
    assert four["dtype"] == "bfloat16" and four["fits"] and 0 < four["mfu"] < 1
    assert four["collectives"]["all-gather"]["largest_bytes"] <= 2 * 256 * 1024  # of one kernel in bfloat16
    # Two all-reduces of activations forward and two backward; no heads change devices.
    for plan in (by_name[name] for name in ("heads", "vocabulary and heads") if name in by_name):
        assert plan["mesh"] == {"data": 1, "fsdp": 2, "tensor": 2}
        assert plan["collective_bytes_per_device"] < 1.2 * plan["collective_bytes_needed"]
    for plan in (
        by_name[name] for name in ("four", "vocabulary", "sixteen", "sixty-four") if name in by_name
    ):
        assert plan["flops_per_step"] == pytest.approx(plan["model_flops_per_step"], rel=0.05)
        assert plan["collective_bytes_per_device"] < 1.2 * plan["collective_bytes_needed"]
        assert plan["collectives"]["all-reduce"]["bytes"] < 0.2 * plan["collective_bytes_per_device"]
    if extent == "short":
        return
    assert by_name["sixteen"]["devices"] == 16
    # Kernels are gathered anew for the backward pass where it is in one computation with the forward pass, too.
    unrolled = by_name["unrolled"]
    assert unrolled["collectives"]["all-gather"]["count"] >= 2 * 6 * 4
    assert unrolled["collective_bytes_per_device"] == pytest.approx(
        four["collective_bytes_per_device"], rel=0.05
    )
    assert all(
        by_name[name]["fits"] and by_name[name]["devices"] == 4 for name in ("splash", "causal splash")
    )
    [full] = by_name["full"]["plans"]
    assert full["fits"] is False and full["peak_bytes_per_device"] > 0.9 * full["hbm_bytes_per_device"]
