"""Adapters in the train step: what is trained, what a checkpoint holds, and that packing changes nothing."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxft.adapters.base import Target
from jaxft.adapters.plan import is_adapter, merge_parameters, plan_adapters
from jaxft.adapters.registry import METHODS
from jaxft.config.adapter import Adapter
from jaxft.data.batching.batch import Shape
from jaxft.data.batching.output_positions import select_positions
from jaxft.errors import UserError
from jaxft.layers import parameter_paths
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads.kinds import HeadKind
from jaxft.layers.linear import Linear, expand_matrix
from jaxft.layers.parameters import Kind
from jaxft.layers.runtime import Runtime
from jaxft.models.gpt2.config import GPT2Config
from jaxft.models.registry import FAMILIES
from jaxft.parallel.mesh import make_mesh, place_batch
from jaxft.training import step
from jaxft.training.network import make_network
from jaxft.training.run_folder.frozen_base import select_base
from jaxft.training.trainer import make_trainer, predict_bytes
from tests.training import test_step

GPT2_SHAPE = GPT2Config(
    vocab_size=50, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32, max_positions=16
)
# A run with each method, and with what is special about it.
SETTINGS = {
    "lora": {"method": "lora", "r": 2},
    "dora": {"method": "lora", "r": 2, "use_dora": True, "layers_to_transform": (1,)},
    "pissa": {"method": "lora", "r": 2, "init_lora_weights": "pissa", "use_rslora": True},
    "olora": {"method": "lora", "r": 2, "init_lora_weights": "olora", "use_dora": True},
    "ranks": {
        "method": "lora",
        "r": 2,
        "target_modules": ("all-linear",),
        "rank_pattern": (
            ("layers/attention/output", 3),
            (r"h\.0\.mlp\.c_fc|layer\.0\.intermediate\.dense", 1),
        ),
        "alpha_pattern": (("attention/value", 16),),
    },
    "ia3": {"method": "ia3"},
    "bottleneck": {"method": "bottleneck", "r": 3},
}


def network(settings: dict, name: str = "bert", shape=None, **runtime):
    """The network of a token classifier with adapters."""
    family, shape = FAMILIES[name], shape or {"bert": test_step.SHAPE, "gpt2": GPT2_SHAPE}[name]
    adapter = Adapter(**settings)
    adapter.check()
    plan = None
    if adapter.is_used:
        table = family.table_with_head(HeadKind.TOKEN, shape)
        plan = functools.partial(plan_adapters, adapter, family.adapter_targets, table)
    config = test_step.config_with()
    return make_network(test_step.network().task, shape, Runtime(**runtime), make_mesh(config), plan)


def config_with(settings: dict, **values):
    return test_step.config_with(**{f"adapter.{key}": value for key, value in settings.items()}, **values)


@functools.cache
def base_parameters(name: str):
    """New parameters of a model without adapters."""
    net = network({}, name)
    if name == "bert":
        return net, test_step.parameters_of(net)
    return net, jax.jit(net.new_parameters)(jnp.uint32(0))


def first_parameters(net):
    """Those of the model without adapters, and first ones of adapters."""
    plain, parameters = base_parameters(net.model_config.model_type)
    model = nnx.merge(plain.graphdef, parameter_paths.unflatten(parameters))
    net.adapters.attach(model, nnx.Rngs(params=0))
    net.adapters.initialize(model)
    return parameter_paths.flatten(nnx.to_pure_dict(nnx.state(model)))


def trained_parameters(net, seed: int = 0):
    """First parameters, of which adapters have moved. What adapters of a lower rank lack has stayed 0."""
    rng = np.random.default_rng(seed)
    paths = [(path, target) for target in net.adapters.targets for path in target.linears]
    masks = {f"{path}/adapter/b": target.make_mask().swapaxes(-1, -2) for path, target in paths}
    moved = {}
    for name, value in first_parameters(net).items():
        if is_adapter(name) and net.adapters.trains(name, net.roles[name]):
            if name.endswith(("/b", "/up", "/up_bias")):
                value = masks.get(name, 1.0) * rng.normal(size=value.shape)
            else:
                value = value * (1 + 0.1 * rng.normal(size=value.shape))
        moved[name] = jnp.asarray(value, jnp.float32)
    return moved


@functools.partial(jax.jit, static_argnums=0)
def _logits(net_and_graph, parameters, arrays):
    task, graphdef = net_and_graph
    return task.logits(step.merge_model(graphdef, parameters), arrays)


def logits(net, parameters, arrays):
    return _logits((net.task, net.graphdef), parameters, arrays)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        *((settings, "bert") for settings in SETTINGS),
        ("lora", "gpt2"),
        *(pytest.param(name, "gpt2", marks=pytest.mark.sweep) for name in SETTINGS if name != "lora"),
    ],
)
def test_new_adapters_change_nothing_and_merged_ones_compute_the_same(settings, name):
    """Also where some layers have none, and in the fused weight of GPT-2."""
    net, (plain, base) = network(SETTINGS[settings], name), base_parameters(name)
    arrays, parameters = test_step.batch(0), first_parameters(net)
    np.testing.assert_allclose(logits(net, parameters, arrays), logits(plain, base, arrays), atol=2e-6)
    trained = trained_parameters(net)
    changed = logits(net, trained, arrays)
    assert np.abs(changed - logits(plain, base, arrays)).max() > 1e-3
    assert net.adapters.method.can_merge == (settings != "bottleneck")
    if settings == "bottleneck":
        with pytest.raises(UserError, match="Bottleneck cannot be merged into the weights"):
            merge_parameters(net.graphdef, trained)
        return
    merged = merge_parameters(net.graphdef, trained)
    assert merged.keys() == base.keys()
    np.testing.assert_allclose(changed, logits(plain, merged, arrays), atol=1e-5)


def test_packed_texts_have_the_logits_and_gradients_of_texts_alone():
    """In float64, so that nothing hides behind rounding."""
    with jax.enable_x64(True):
        net = network(SETTINGS["ranks"], dtype=jnp.dtype("float64"))
        parameters = {name: value.astype(jnp.float64) for name, value in trained_parameters(net).items()}
        trained = {name for name, role in net.roles.items() if net.adapters.trains(name, role)}
        packed, alone = test_step.batch(3), test_step.unpack(test_step.batch(3))

        def mean(trained, arrays):
            model = step.merge_model(net.graphdef, parameters | trained)
            total, weight = net.task.loss(model, arrays, None)
            return total / weight

        gradient = jax.jit(jax.value_and_grad(mean))
        start = {name: parameters[name] for name in trained}
        (loss, gradients), (loss_alone, gradients_alone) = (gradient(start, a) for a in (packed, alone))
        assert float(loss) == pytest.approx(float(loss_alone), rel=1e-12)
        for name in trained:
            np.testing.assert_allclose(
                gradients[name], gradients_alone[name], rtol=1e-8, atol=1e-12, err_msg=name
            )
            assert np.abs(gradients[name]).max() > 0, name


@pytest.mark.sweep
@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS["ranks"] | {"dropout": 0.2},
        SETTINGS["olora"] | {"dropout": 0.2},
        SETTINGS["bottleneck"] | {"dropout": 0.2},
        SETTINGS["ia3"],
        {"method": "adalora", "init_r": 3, "target_r": 1},
        {"method": "prefix", "num_virtual_tokens": 3, "prefix_projection": True},
    ],
)
def test_layers_that_are_computed_again_have_the_same_gradients(settings):
    """With dropout of adapters, whose masks are the same in both computations."""

    def gradients(remat):
        net = network(settings, remat=remat)
        parameters = trained_parameters(net)

        def loss(adapters):
            model = step.merge_model(net.graphdef, parameters | adapters)
            total, weight = net.task.loss(model, test_step.batch(0), DropoutSeed(jnp.uint32(7), jnp.int32(0)))
            return total / weight

        return jax.jit(jax.grad(loss))({name: parameters[name] for name in parameters if is_adapter(name)})

    plain, computed_again = gradients("none"), gradients("full")
    for name, gradient in plain.items():
        np.testing.assert_allclose(computed_again[name], gradient, rtol=1e-5, atol=1e-7, err_msg=name)


def test_a_column_of_zeros_has_gradients_with_dora():
    linear = Linear(3, 2, initializer_range=1.0, rngs=nnx.Rngs(0))
    linear.kernel[...] = linear.kernel[...].at[:, 0].set(0)
    target = Target("weight", ("linear",), is_stacked=False, ranks=(2,), alphas=(2.0,))
    settings = Adapter(method="lora", r=2, use_dora=True)
    [linear.adapter] = METHODS["lora"].make([linear], target, settings, nnx.Rngs(0))
    METHODS["lora"].initialize([linear], target, settings)
    value, gradients = nnx.value_and_grad(lambda linear: (linear(jnp.ones((1, 3))) ** 2).sum())(linear)
    assert np.isfinite(value) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_steps_train_adapters_and_the_head_alone():
    """With dropout in adapters; layers scanned, or taken apart with a pruned last layer, in other microbatches."""
    settings = SETTINGS["dora"] | {"dropout": 0.2, "bias": "all", "modules_to_save": ("embeddings/position",)}
    start = None
    runs = []
    for accumulate, unroll in ((4, False), (2, True)):
        net = network(settings, unroll=unroll)
        start = start or first_parameters(net)
        config = config_with(settings, **test_step.SMOOTH, **{"batch.accumulate": accumulate})
        trainer = make_trainer(net, config, total=10, warmup=0)
        count = test_step.ROWS * test_step.LENGTH // accumulate - 8
        outputs = (accumulate, count) if unroll else (0, 0)
        shape = Shape(test_step.ROWS, test_step.LENGTH, output_shape=outputs)
        program, hyperparameters = trainer.compile(shape), trainer.place_hyperparameters()
        state = trainer.new_state(jax.tree.map(jnp.copy, start))
        metrics = []
        for number in range(3):
            arrays = test_step.batch(number)
            if unroll:
                mask = (arrays["weights"] > 0).reshape(accumulate, -1)
                arrays["output_positions"] = select_positions(mask, count)
            state, values = program(state, place_batch(arrays, net.mesh), hyperparameters)
            metrics.append({key: float(value) for key, value in values.items()})
        runs.append((metrics, trainer.to_saved(state)))
    (expected, saved), (metrics, other) = runs
    for ours, theirs in zip(metrics, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5)
    for name, value in saved.trainable.items():
        np.testing.assert_allclose(other.trainable[name], value, atol=2e-5, err_msg=name)
    adapter = "backbone/layers/attention/query/adapter"
    assert {"head/kernel", "backbone/embeddings/position/embedding", f"{adapter}/a"} <= saved.trainable.keys()
    assert {name for name in saved.trainable if name.startswith("backbone/") and not is_adapter(name)} == {
        name for name in start if name.endswith("/bias") and name.startswith("backbone/")
    } | {"backbone/embeddings/position/embedding"}
    assert saved.frozen.keys() == {name for name in start if name.endswith("adapter/scale")}
    # The first layer has no adapter.
    for part in ("a", "b", "magnitude"):
        value = saved.trainable[f"{adapter}/{part}"]
        np.testing.assert_array_equal(value[0], start[f"{adapter}/{part}"][0])
        assert np.abs(value[1] - start[f"{adapter}/{part}"][1]).min() > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"target_modules": ("qeury",)},
            "config.adapter.target_modules: the pattern .*qeury.* matches nothing",
        ),
        (
            {"layers_to_transform": (2,)},
            r"layers_to_transform=\(2,\): the model has 2 layers; expected numbers from 0",
        ),
        (
            {"modules_to_save": ("encoder.layer.7",)},
            "config.adapter.modules_to_save: the pattern .* matches nothing",
        ),
        (
            {"method": "ia3", "target_modules": ("query",), "feedforward_modules": ("output.dense",)},
            "feedforward_modules=.*: none of them gets an adapter",
        ),
        (
            {
                "method": "ia3",
                "target_modules": ("query", "layer.1.output.dense"),
                "feedforward_modules": (r"layer\.0\.output\.dense",),
            },
            "feedforward_modules=.*: none of them gets an adapter",
        ),
        (
            {
                "method": "ia3",
                "target_modules": ("query",),
                "feedforward_modules": (r"layer\.1\..*query",),
            },
            r"feedforward_modules names .*layer\.1\..*query, but not .*layer\.0\..*query, which also gets an adapter",
        ),
        ({"method": "ia3", "r": 4}, "config.adapter.r=4 is a setting of lora and bottleneck; this run's"),
        (
            {"method": "none", "use_dora": True},
            "config.adapter.use_dora=True is a setting of lora; this run's",
        ),
        (
            {"r": 17, "init_lora_weights": "pissa"},
            "takes a part of rank 17 from bert.* whose rank is at most 16",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        network({"method": "lora"} | settings)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("query",), {"query"}),
        (("attention.self.query", "mlp/up"), {"query", "up"}),
        ((r"bert\.encoder\.layer\.\d+\.output\.dense",), {"down"}),
        (("output.dense",), {"output", "down"}),  # PEFT's name of two modules
        (("all-linear",), {"query", "key", "value", "output", "up", "down"}),
    ],
)
def test_target_modules_have_the_names_of_transformers_or_ours(names, expected):
    plan = network({"method": "lora", "target_modules": names}).adapters
    targets = plan.targets
    assert plan.describe().startswith("adapters: lora of bert.encoder.layer.*.")
    assert " (2 of 2 layers)" in plan.describe()
    assert {path.rpartition("/")[2] for target in targets for path in target.linears} == expected
    assert targets[0].modules[1].startswith("bert.encoder.layer.1.")


def test_the_first_pattern_counts_whichever_name_it_matches():
    name, path = ("layer.0.attention.self.query", 5), ("attention/query", 3)
    for pairs, expected in (((name, path), (5, 3)), ((path, name), (3, 3))):
        plan = network({"method": "lora", "target_modules": ("query",), "rank_pattern": pairs}).adapters
        assert [target.ranks for target in plan.targets] == [expected]


def test_adapters_of_queries_cost_flops_at_all_positions():
    few, more = (network({"method": "lora", "target_modules": ("query",), "r": r}) for r in (2, 4))
    values = more.parameter_count - few.parameter_count
    for share in (0.25, 1.0):  # of the positions that the last layer returns
        flops = more.train_flops_per_token(16, share) - few.train_flops_per_token(16, share)
        assert flops == pytest.approx(6 * values)


def test_bitfit_trains_biases_and_the_head():
    net = network({"method": "bitfit"})
    trained = net.abstract.keys() - set(net.fixed_names)
    assert trained == {name for name in net.abstract if name.startswith("head/") or name.endswith("/bias")}
    assert "backbone/layers/mlp_norm/bias" in trained
    saved = network({"method": "bitfit", "modules_to_save": ("layer.0.output.LayerNorm",)}).adapters
    assert saved.layers == {"backbone/layers/mlp_norm/scale": (True, False)}  # all biases are trained


# PEFT's targets of LoRA for families that it knows, and the names of the same layers in the others.
LORA_TARGETS = {
    "deit": ["q_proj", "v_proj"],
    "vit": ["q_proj", "v_proj"],
    "distilbert": ["q_lin", "v_lin"],
    "gpt2": ["c_attn"],
    "modernbert": ["Wqkv"],
    "mpnet": ["q", "v"],
    "deberta-v2": ["query_proj", "value_proj"],
}


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "resnet"])  # it has no linear layers
def test_every_family_has_usual_targets(name):
    config_class = FAMILIES[name].config_class
    sizes = {"num_layers": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 32}
    shape = config_class(**sizes)
    family = FAMILIES[name]
    model = nnx.eval_shape(lambda: nnx.Dict(backbone=family.network(shape, rngs=nnx.Rngs(0))))
    for method in ("lora", "ia3", "bottleneck"):
        settings = Adapter(method=method)
        plan = plan_adapters(settings, family.adapter_targets, family.table, model)
        modules = [module for target in plan.targets for module in target.modules]
        assert all(any(f".{layer}." in module for module in modules) for layer in (0, 1))
        if method == "lora":
            ends = {module.rpartition(".")[2] for module in modules}
            assert sorted(ends) == LORA_TARGETS.get(name, ["query", "value"])
        if method == "ia3":
            assert {target.reads_input for target in plan.targets} == {True, False}


def compressed(net, parameters):
    """The parameters of a network whose base is compressed, for those of its original, and the line of the log."""
    lines = []
    base = select_base(net, parameters, lines.append)
    assert base.digest == select_base(net.original, parameters, lines.append).digest
    [line] = lines
    all_parameters = parameters | base.parameters
    return {name: all_parameters[name] for name in net.abstract}, line


@pytest.mark.parametrize(
    ("dtype", "method", "name"),
    [
        ("int8", "dora", "bert"),
        *(
            pytest.param(*case, marks=pytest.mark.sweep)
            for case in itertools.product(("int8", "bfloat16"), SETTINGS, ("bert", "gpt2"))
        ),
    ],
)
def test_a_compressed_base_has_the_gradients_of_a_base_of_its_values(dtype, method, name):
    """In float64, so that nothing hides behind rounding. Queries are trained, not frozen, next to keys that are."""
    query = "attention.self.query" if name == "bert" else "attention/query"
    settings = SETTINGS[method] | {"base_dtype": dtype, "modules_to_save": (query,)}
    with jax.enable_x64(True):
        net = network(settings, name, dtype=jnp.dtype("float64"))
        parameters, line = compressed(net, trained_parameters(net.original))
        assert line.startswith(f"the base in {dtype}: ") and "error of 0.00%" not in line
        stored = {n: leaf.dtype for n, leaf in parameters.items() if leaf.dtype != jnp.float32}
        matrices = {
            n for n, role in net.roles.items() if role.kind is Kind.KERNEL and n.startswith("backbone/")
        }
        tables = {n for n in net.abstract if n.endswith("/embedding")} if dtype == "bfloat16" else set()
        assert stored == dict.fromkeys(matrices - {"backbone/layers/attention/query/kernel"} | tables, dtype)
        trained = {n for n in net.original.abstract if net.adapters.trains(n, net.roles[n])}
        assert "backbone/layers/attention/query/kernel" in trained

        def gradient(net, parameters):
            # Tables are float32, in which they are summed: these networks blow up differences of its rounding.
            wide = {
                n: leaf.astype(jnp.float32 if n.endswith("/embedding") else jnp.float64)
                for n, leaf in parameters.items()
            }
            wide |= {n: parameters[n] for n in stored if n not in tables}

            def mean(trained):
                model = step.merge_model(net.graphdef, wide | trained)
                total, weight = net.task.loss(model, test_step.batch(0), None)
                return total / weight

            return jax.jit(jax.value_and_grad(mean))({n: wide[n] for n in trained})

        values = {n: parameters[n] for n in net.original.abstract}
        for n in stored:
            scale = parameters.get(f"{n}_scale")
            scale = None if scale is None else scale.astype(jnp.float64)
            values[n] = expand_matrix(parameters[n].astype(jnp.float64), scale)
        loss, gradients = gradient(net, parameters)
        expected_loss, expected = gradient(net.original, values)
        assert float(loss) == pytest.approx(float(expected_loss), rel=1e-9)
        for n in trained:
            np.testing.assert_allclose(gradients[n], expected[n], rtol=1e-6, atol=1e-9, err_msg=n)
            assert np.abs(gradients[n]).max() > 0, n
        if not net.adapters.method.can_merge:
            return
        merged, plain = (
            merge_parameters(n.graphdef, p) for n, p in ((net, parameters), (net.original, values))
        )
        for n in merged:
            np.testing.assert_allclose(merged[n], plain[n], atol=1e-6, err_msg=n)


@pytest.mark.sweep
@pytest.mark.parametrize("unroll", [True, False])
def test_a_step_over_a_compressed_base_takes_less_memory(unroll):
    """A kernel is cast where it is multiplied, and not held from the forward to the backward pass."""
    shape = dataclasses.replace(test_step.SHAPE, hidden_size=256, intermediate_size=1024, num_layers=3)
    peaks, kernels = {}, {}
    for dtype in ("float32", "bfloat16", "int8"):
        settings = {"method": "lora", "r": 2, "base_dtype": dtype}
        trainer = make_trainer(
            network(settings, shape=shape, unroll=unroll), config_with(settings), total=9, warmup=0
        )
        peaks[dtype] = predict_bytes({"train": trainer.lower(Shape(2, 16)).compile()})
        kernels[dtype] = sum(
            leaf.size * leaf.dtype.itemsize
            for name, leaf in trainer.net.abstract.items()
            if name.endswith("/kernel") and name.startswith("backbone/layers/")
        )
    assert kernels["float32"] == 2 * kernels["bfloat16"] == 4 * kernels["int8"]
    largest = 4 * 256 * 1024
    saved = peaks["float32"] - peaks["int8"], kernels["float32"] - kernels["int8"]
    assert saved[0] > saved[1] - 3 * largest, (peaks, kernels)
    if unroll:  # in a loop XLA:CPU makes float32 copies of bfloat16 arrays
        saved = peaks["float32"] - peaks["bfloat16"], kernels["float32"] - kernels["bfloat16"]
        assert saved[0] > saved[1] - 3 * largest, (peaks, kernels)
