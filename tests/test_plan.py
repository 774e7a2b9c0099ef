"""Plans: what is told of a step on devices that aren't here is what the rules and the program say, and advice holds."""

import importlib.util
import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
import test_step

from jaxft import build, chips, errors, hlo, plan, report

# One process for all plans, for it starts with eight devices: reads flags of plans, writes what each gave.
SCRIPT = """
import contextlib, io, json, sys
from jaxft import plan

found = []
for flags in json.loads(sys.stdin.read()):
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            plan.main(flags)
        except SystemExit as exit:
            code = exit.code
    found.append({"out": out.getvalue(), "err": err.getvalue(), "code": code})
print(json.dumps(found))
"""
SIZES = (("hidden_size", 32), ("num_hidden_layers", 3), ("num_attention_heads", 4), ("intermediate_size", 64))
SIZES += (("vocab_size", 1000), ("max_position_embeddings", 64))
TINY = {"model.checkpoint": "new:bert", "model.sizes": SIZES, "data.max_length": 32, "batch.rows": 32}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A config.json of a tiny BERT, from no checkpoint, that names no data."""
    path = tmp_path_factory.mktemp("plan") / "config.json"
    path.write_text(json.dumps(test_step.config_with(**TINY).to_dict()))
    return str(path)


@pytest.fixture(scope="module")
def plans(recipe, environment):
    """Makes plans in one process; gives {"code", "out", "err"} of each."""

    def make(*several: list[str]) -> list[dict]:
        flags = [["--config", recipe, *map(str, one)] for one in several]
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            input=json.dumps(flags),
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return make


CPU = ["--topology", "cpu:8", "--json"]
FSDP = ["--config.mesh.data=1", "--config.mesh.fsdp=8"]


@pytest.fixture(scope="module")
def found(plans):
    """JSON of plans on eight devices, by name."""
    flags = {
        "data": [*CPU, "--chip", "v5e"],
        "fsdp": [*CPU, *FSDP],
        "unrolled": [*CPU, *FSDP, "--config.model.unroll=yes"],
        "scan": [*CPU, *FSDP, "--config.model.unroll=no"],
    }
    done = plans(*flags.values())
    assert all(one["code"] == 0 for one in done), done
    return {name: json.loads(one["out"]) for name, one in zip(flags, done, strict=True)}


def test_fsdp_splits_parameters_and_their_state(found):
    net = test_step.network(**{k: v for k, v in build.body_sizes(*_tiny()).items()})
    split = sum(x.size for n, x in net.abstract.items() if n.endswith(("kernel", "embedding")))
    rest = net.count - split
    one, eight = found["data"], found["fsdp"]
    head = 32 * (9 - 3) + 6  # test_step's network has three labels, a plan's nine
    assert one["parameters"] == eight["parameters"] == net.count + head
    assert one["param_bytes_per_device"] == 4 * one["parameters"]
    assert eight["param_bytes_per_device"] == 4 * ((split + 32 * 6) // 8 + rest + 6)
    assert one["optimizer_bytes_per_device"] == pytest.approx(2 * one["param_bytes_per_device"], abs=16)
    assert eight["optimizer_bytes_per_device"] == pytest.approx(2 * eight["param_bytes_per_device"], abs=16)
    assert one["mesh"] == {"data": 8, "fsdp": 1, "tensor": 1}
    assert one["fits"] is True and eight["fits"] is None and eight["roofline_s"] is None
    assert one["hbm_bytes_per_device"] == 16 * 2**30
    assert 0 < one["activation_bytes_per_device"] < one["temporary_bytes_per_device"]
    assert one["peak_bytes_per_device"] > one["param_bytes_per_device"] + one["optimizer_bytes_per_device"]


def _tiny():
    config = test_step.config_with(**TINY)
    return config, build.describe_model(config)


def test_data_parallel_gradients_are_reduced_once(found):
    """A ring sends twice 7/8 of the gradients; the loss and its weight are scalars."""
    plan = found["data"]
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


def test_fsdp_gathers_layer_by_layer(found):
    """Each layer's kernels in the loop, never a stack of them; the largest is the MLP's [32, 64] of float32."""
    plan = found["scan"]
    gathers = plan["collectives"]["all-gather"]
    assert gathers["largest_bytes"] <= 4 * 32 * 64 and gathers["count"] >= 2 * 3
    assert plan["unknown_loops"] == 0


def test_a_loop_counts_as_its_trips(found):
    unrolled, scan = found["unrolled"], found["scan"]
    assert scan["flops_per_step"] == pytest.approx(unrolled["flops_per_step"], rel=0.01)
    assert scan["memory_bytes_per_device"] == pytest.approx(unrolled["memory_bytes_per_device"], rel=0.5)
    # Layers, heads and their gradients; the formula leaves the softmax and norms out.
    assert scan["flops_per_step"] == pytest.approx(scan["model_flops_per_step"], rel=0.1)


def test_flops_and_traffic_are_xlas_where_nothing_loops():
    def function(x, w):
        return jnp.tanh(x @ w).sum(), jnp.einsum("bij,bjk->bik", x[None], w[None])

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((64, 128), (128, 256))]
    compiled = jax.jit(function).lower(*shapes).compile()
    program, cost = hlo.Program(compiled.as_text()), compiled.cost_analysis()
    assert program.flops() == pytest.approx(cost["flops"], rel=0.02)
    assert program.traffic() == pytest.approx(cost["bytes accessed"], rel=0.1)


def test_advice_holds_when_it_is_followed(plans, found, recipe):
    """Microbatches, recomputation or fsdp, each by itself; below what the state takes fsdp alone; in the end none."""
    peak, fsdp = found["data"]["peak_bytes_per_device"], found["fsdp"]["peak_bytes_per_device"]
    gib = [(size - 1) / 2**30 for size in (peak, fsdp)]
    tight, hopeless, told = plans(
        [*CPU, "--memory_gib", gib[0]],
        [*CPU, "--memory_gib", 1e-5],
        ["--topology", "cpu:8", "--memory_gib", 1e-5],
    )
    assert tight["code"] == hopeless["code"] == told["code"] == errors.EXIT_DOES_NOT_FIT
    remedies = json.loads(tight["out"])["remedies"]
    assert {one["flags"][0].split("=")[0] for one in remedies} >= {
        "--config.batch.accumulate",
        "--config.mesh.data",
    }
    followed = plans(*([*CPU, "--memory_gib", gib[0], *one["flags"]] for one in remedies))
    for one, again in zip(remedies, followed, strict=True):
        assert again["code"] == 0, one["flags"]
        assert json.loads(again["out"])["peak_bytes_per_device"] == one["peak_bytes_per_device"]
    assert json.loads(hopeless["out"])["remedies"] == []
    assert "does NOT fit" in told["out"] and "take more devices or larger ones" in told["out"]


def test_sweep_and_scale(plans):
    swept, scaled, told = plans(
        [*CPU, "--sweep", "--chip", "v5e"],
        [
            "--scale",
            "cpu:2,cpu:8",
            "--json",
            "--rows_per_device",
            4,
            "--config.mesh.data=1",
            "--config.mesh.fsdp=-1",
        ],
        ["--scale", "cpu:2,cpu:8", "--rows_per_device", 4, "--chip", "v6e"],
    )
    swept, scaled = json.loads(swept["out"]), json.loads(scaled["out"])
    assert {tuple(one["mesh"].values()) for one in swept["plans"]} >= {
        (8, 1, 1),
        (1, 8, 1),
        (2, 4, 1),
        (1, 4, 2),
    }
    best = next(one for one in swept["plans"] if one["mesh"] == swept["recommended"])
    assert best["roofline_s"] <= 1.02 * min(one["roofline_s"] for one in swept["plans"])
    two, eight = scaled["plans"]
    assert (two["rows"], eight["rows"], two["devices"], eight["devices"]) == (8, 32, 2, 8)
    assert eight["param_bytes_per_device"] < 0.4 * two["param_bytes_per_device"]
    lines = told["out"].splitlines()
    assert lines[2].startswith("| cpu:2 | 2 x 1 x 1 | 8 |") and lines[3].startswith(
        "| cpu:8 | 8 x 1 x 1 | 32 |"
    )


def test_dump_and_words(plans, tmp_path):
    (done,) = plans(
        ["--topology", "cpu:8", "--chip", "v5e", "--dump", tmp_path / "step.hlo", "--padding", 0.5]
    )
    assert done["code"] == 0
    assert (tmp_path / "step.hlo").read_text().startswith("HloModule jit_train_step")
    for text in (
        "mesh data 8, fsdp 1, tensor 1",
        "of 16.00 GiB: fits",
        "all-reduce: ",
        "MFU ",
        "compiled in ",
    ):
        assert text in done["out"], text


def test_mistakes_are_told_in_one_line(plans, recipe):
    cases = [
        (["--topology", "cpu:0"], "--topology cpu:0: "),
        (["--topology", "v5e:none"], "--topology v5e:none: "),
        (["--topology", "cpu:16"], "JAX has started with 8 CPU devices"),
        (["--topology", "cpu:8", "--chip", "v9"], "--chip v9: unknown; expected one of v4, v5e, v5p"),
        (["--topology", "cpu:8", "--config.mesh.fsdp=3"], "takes 6 devices, found 8; set one axis to -1"),
        (["--topology", "cpu:8", "--config.mesh.data=5"], "takes 5 devices, found 8"),
        (["--topology", "cpu:8", "--config.batch.rows=12"], "rows go over 8 devices .* use a multiple of 8"),
        (["--topology", "cpu:8", "--config.data.max_length=65"], "has 64 positions; set it to 64 or less"),
        (["--topology", "cpu:8", "--config.model.sizes=(('layers', 2),)"], r"sizes: \['layers'\] unknown"),
        (
            ["--topology", "cpu:8", "--config.model.checkpoint=new:t5"],
            "'new:t5': expected one of new:gpt2, new:bert",
        ),
        (["--topology", "cpu:8", "--dump", "no/such/step.hlo"], "there is no folder no/such"),
        (["--topology", "cpu:8", "--padding", 1], "--padding 1.0: expected a fraction"),
        (["--topology", "cpu:8", "--labels", 0], "--labels 0: expected more than 0"),
        (["--topology", "cpu:8", "--sweeps"], "--sweeps: unknown flag"),
        (["--scale", "cpu:2,cpu:4", "--dump", "x"], "--dump is for one plan"),
    ]
    for (flags, message), done in zip(cases, plans([*CPU], *(flags for flags, _ in cases))[1:], strict=True):
        assert done["code"] == errors.EXIT_USER_ERROR, (flags, done)
        assert done["err"].count("\n") == 1 and re.search(message, done["err"]), (flags, done["err"])


TPU_TEXT = """HloModule jit_step, is_scheduled=true, num_partitions=8

%all-reduce-scatter.1 (p: f32[64,32]) -> f32[8,32] {
  %p = f32[64,32]{1,0:T(8,128)} parameter(0)
  %all-reduce.1 = f32[64,32]{1,0:T(8,128)} all-reduce(%p), channel_id=3, replica_groups=[1,8]<=[8], to_apply=%add
  %i = s32[] constant(0)
  ROOT %dynamic-slice.1 = f32[8,32]{1,0:T(8,128)} dynamic-slice(%all-reduce.1, %i, %i), dynamic_slice_sizes={8,32}
}

%body (t: (s32[], f32[64,32], bf16[4,16,8])) -> (s32[], f32[64,32], bf16[4,16,8]) {
  %t = (s32[], /*index=1*/f32[64,32]{1,0:T(8,128)}, bf16[4,16,8]{2,1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %x = f32[64,32]{1,0:T(8,128)} get-tuple-element(%t), index=1
  %w = bf16[4,16,8]{2,1,0:T(8,128)(2,1)S(1)} get-tuple-element(%t), index=2
  %scattered = f32[8,32]{1,0:T(8,128)} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1
  %start = (f32[8,32]{1,0}, f32[16,32]{1,0}) all-gather-start(%scattered), replica_groups={{0,1},{2,3},{4,5},{6,7}}, dimensions={0}
  %done = f32[16,32]{1,0} all-gather-done(%start)
  %batched = bf16[4,16,16]{2,1,0} convolution(%w, %w), window={size=4 stride=3 pad=0_0 lhs_dilate=4}, dim_labels=0bf_0oi->0bf
  ROOT %r = (s32[], f32[64,32]{1,0}, bf16[4,16,8]{2,1,0}) tuple(%t, %x, %w)
}

%condition (t: (s32[], f32[64,32], bf16[4,16,8])) -> pred[] {
  %t = (s32[], f32[64,32]{1,0}, bf16[4,16,8]{2,1,0}) parameter(0)
  %n = s32[]{:T(128)} constant(5)
  %k = s32[]{:T(128)} get-tuple-element(%t), index=0
  ROOT %c = pred[] compare(%k, %n), direction=LT
}

ENTRY %main (a: (s32[], f32[64,32], bf16[4,16,8])) -> (s32[], f32[64,32], bf16[4,16,8]) {
  %a = (s32[], f32[64,32]{1,0}, bf16[4,16,8]{2,1,0}) parameter(0)
  ROOT %loop = (s32[], f32[64,32]{1,0}, bf16[4,16,8]{2,1,0}) while(%a), condition=%condition, body=%body
}
"""  # noqa: E501


def test_collectives_as_tpus_compiler_writes_them():
    """An all-reduce that a fusion slices is a reduce-scatter; what starts and ends apart counts once."""
    program = hlo.Program(TPU_TEXT)
    assert sorted(program.collectives()) == [
        hlo.Collective("all-gather", 5, 2 * 8 * 32 * 4, 2),
        hlo.Collective("reduce-scatter", 5, 64 * 32 * 4, 8),
    ]
    assert [round(one.sent) for one in sorted(program.collectives())] == [5 * 1024, 5 * 7168]
    assert program.flops() == 5 * 2 * 4 * 16 * 16 * 8  # a batched product, not a convolution of all with all
    assert program.unknown_loops == 0


def test_the_table_of_chips_is_what_training_reckons_by():
    for chip in chips.CHIPS:
        assert chips.of_device(f"NVIDIA {chip.device_kind} X") is chip
        assert report.peak_flops(type("Device", (), {"device_kind": chip.device_kind})) == chip.flops
    assert chips.of_device("cpu") is None


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, which compiles for TPUs, is not installed"
)


@needs_libtpu
def test_a_slice_of_tpus(plans):
    fsdp = ["--config.mesh.data=1", "--config.mesh.fsdp=-1", "--json"]
    done = plans(["--topology", "v5e:2x2", *fsdp], ["--topology", "v5e:4x4", *fsdp])
    four, sixteen = (json.loads(one["out"]) for one in done)
    assert (four["devices"], sixteen["devices"]) == (4, 16) and four["device_kind"] == "TPU v5 lite"
    assert four["dtype"] == "bfloat16" and four["fits"] and 0 < four["mfu"] < 1


def test_recommendation_prefers_what_fits():
    class Found:
        def __init__(self, fits, seconds, peak):
            self.fits, self.roofline_s, self.peak_bytes_per_device = fits, seconds, peak

    quick, small, large = Found(False, 1.0, 9), Found(True, 2.02, 3), Found(True, 2.0, 4)
    assert plan.recommended([quick, small, large]) is small
    assert plan.recommended([quick]) is None
