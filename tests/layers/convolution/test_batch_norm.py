"""Batch normalization is PyTorch's: outputs, gradients and running statistics, of the rows that count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jaxft.layers.convolution.batch_norm import BatchNorm, Statistic, freeze_statistics
from jaxft.layers.parameters import Kind, read_roles

CHANNELS, EPSILON, MOMENTUM = 6, 1e-3, 0.3
NAMES = {"scale": "weight", "bias": "bias", "running_mean": "running_mean", "running_variance": "running_var"}
ROW_WEIGHTS = np.array([1.0, 0.0, 0.5, 1.0])


@pytest.fixture
def pair():
    """The layer in float64, with random values, and PyTorch's with the same."""
    rng = np.random.default_rng(0)
    values = {name: rng.uniform(0.5, 2, CHANNELS) for name in NAMES}
    theirs = torch.nn.BatchNorm2d(CHANNELS, EPSILON, MOMENTUM).double()
    theirs.load_state_dict({NAMES[name]: torch.tensor(value) for name, value in values.items()}, strict=False)
    with jax.enable_x64(True):
        ours = BatchNorm(CHANNELS, EPSILON, MOMENTUM)
        nnx.update(ours, jax.tree.map(jnp.asarray, values))
        yield ours, theirs


def run(layer, x, cotangent, *, training=True, row_weights=ROW_WEIGHTS):
    """Returns the output, the gradients of x and the parameters, and the statistics after a call, by name."""
    graphdef, parameters, statistics = nnx.split(layer, nnx.Param, Statistic)
    parameters, statistics = map(nnx.to_pure_dict, (parameters, statistics))

    @jax.jit
    def differentiate(parameters, x):
        def weigh(parameters, x):
            layer = nnx.merge(graphdef, parameters | statistics)
            y = nnx.remat(BatchNorm.__call__, static_argnums=(3,))(layer, x, row_weights, training)
            return jnp.sum(y * cotangent), (y, nnx.to_pure_dict(nnx.state(layer, Statistic)))

        (_, (y, after)), (gradients, gradient) = jax.value_and_grad(weigh, argnums=(0, 1), has_aux=True)(
            parameters, x
        )
        return {"y": y, "x": gradient, **gradients, **after}

    return jax.tree.map(np.asarray, differentiate(parameters, x))


@pytest.mark.parametrize("training", [True, False])
def test_all_of_it_is_that_of_pytorch_over_the_rows_that_count_once_under_remat(pair, training):
    ours, theirs = pair
    rng = np.random.default_rng(1)
    x, cotangent = rng.normal(1, 3, (2, 4, 5, 3, CHANNELS))
    counted = ROW_WEIGHTS > 0
    cotangent[~counted] = 0  # as under a loss
    result = run(ours, x, cotangent, training=training)
    x_there, cotangent_there = (torch.tensor(a[counted]).permute(0, 3, 1, 2) for a in (x, cotangent))
    y = theirs.train(training)(x_there.requires_grad_())
    (y * cotangent_there).sum().backward()
    expected = {"y": y, "x": x_there.grad} | {name: getattr(theirs, NAMES[name]) for name in NAMES}
    expected |= {"scale": theirs.weight.grad, "bias": theirs.bias.grad}
    for name, value in expected.items():
        value = value.detach().numpy()
        if name in "xy":
            value, rest = value.transpose(0, 2, 3, 1), result[name][~counted]
            result[name] = result[name][counted]
            assert np.isfinite(rest).all() and not (name == "x" and rest.any())
        np.testing.assert_allclose(result[name], value, rtol=1e-10, atol=1e-12, err_msg=name)


def test_the_running_statistics_serve_frozen_layers_and_batches_without_a_row_and_stay(pair):
    ours, _ = pair
    x = np.random.default_rng(1).normal(size=(4, 2, 2, CHANNELS))
    expected = run(ours, x, x, training=False)
    np.testing.assert_allclose(run(ours, x, x, row_weights=np.zeros(4))["y"], expected["y"], rtol=1e-12)
    model = nnx.Dict(first=ours, second=BatchNorm(CHANNELS, EPSILON, MOMENTUM))
    freeze_statistics(model, {"first/running_mean", "first/running_variance"})
    assert ours.is_frozen and not model["second"].is_frozen
    for result in (run(ours, x, x), run(ours, x, x, row_weights=np.zeros(4))):
        for name in ("running_mean", "running_variance"):
            np.testing.assert_array_equal(result[name], expected[name])
    np.testing.assert_array_equal(run(ours, x, x)["y"], expected["y"])


def test_statistics_of_bfloat16_are_summed_in_float32_and_an_overflow_is_not_hidden():
    layer = BatchNorm(CHANNELS, EPSILON, MOMENTUM)
    x = jnp.asarray(np.random.default_rng(1).normal(100, 1, (4, 64, 64, CHANNELS)), jnp.bfloat16)
    result = run(layer, x, jnp.ones_like(x), row_weights=np.ones(4))
    assert result["y"].dtype == result["x"].dtype == jnp.bfloat16
    mean = np.asarray(x, np.float64).mean((0, 1, 2))
    np.testing.assert_allclose(result["running_mean"], MOMENTUM * mean, rtol=1e-5)
    assert np.isnan(run(layer, x.at[0, 0, 0, 0].set(1e30), x, row_weights=np.ones(4))["y"]).any()


def test_statistics_have_roles_next_to_those_of_parameters():
    roles = read_roles(nnx.Dict(norm=BatchNorm(CHANNELS, EPSILON, MOMENTUM)))
    kinds = {"scale": Kind.NORM, "bias": Kind.NORM, "running_mean": Kind.STATISTIC}
    assert {name: role.kind for name, role in roles.items()} == {
        f"norm/{name}": kind for name, kind in (kinds | {"running_variance": Kind.STATISTIC}).items()
    }
