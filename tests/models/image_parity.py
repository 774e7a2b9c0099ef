"""Holds families of images to torch: logits, gradients and running statistics, in training and without."""

import dataclasses
from collections.abc import Collection, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from flax import nnx
from hypothesis import strategies as st
from safetensors.numpy import load_file

from jaxft.hub.weights import load_weights, make_file_tensors, save_weights
from jaxft.layers import parameter_paths
from jaxft.layers.activations import ACTIVATIONS
from jaxft.layers.convolution.inputs import ImageInputs
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads.image import ImageClassifier
from jaxft.layers.heads.kinds import HeadKind
from jaxft.layers.runtime import Runtime
from jaxft.models.model_config import ModelConfig
from jaxft.models.registry import FAMILIES, make_backbone
from tests.models.torch_parity import TOLERANCES, distance

LABELS = 5
PICTURES = 6
# A row without an image, which must change nothing.
ROW_WEIGHTS = np.array([1.0] * PICTURES + [0.0])
SIDES = st.tuples(st.integers(8, 20), st.integers(8, 20))
ACTIVATION = st.sampled_from(sorted(ACTIVATIONS))


@st.composite
def resnet_shapes(draw) -> ModelConfig:
    """Draws a tiny ResNet."""
    stages = draw(st.integers(1, 3))
    return FAMILIES["resnet"].config_class(
        image_size=draw(SIDES),
        embedding_size=draw(st.integers(1, 6)),
        hidden_sizes=tuple(draw(st.lists(st.integers(8, 13), min_size=stages, max_size=stages))),
        depths=tuple(draw(st.lists(st.integers(1, 2), min_size=stages, max_size=stages))),
        layer_type=draw(st.sampled_from(["basic", "bottleneck"])),
        activation=draw(ACTIVATION),
        downsample_in_first_stage=draw(st.booleans()),
        downsample_in_bottleneck=draw(st.booleans()),
    )


@st.composite
def vit_shapes(draw) -> ModelConfig:
    """Draws a tiny ViT or DeiT."""
    heads = draw(st.integers(1, 4))
    return FAMILIES[draw(st.sampled_from(["vit", "deit"]))].config_class(
        image_size=draw(SIDES),
        patch_size=draw(st.tuples(st.integers(2, 7), st.integers(2, 7))),
        hidden_size=heads * draw(st.integers(4, 8)),
        num_layers=draw(st.integers(1, 3)),
        num_heads=heads,
        intermediate_size=draw(st.integers(1, 17)),
        activation=draw(ACTIVATION),
        layer_norm_eps=draw(st.sampled_from([1e-12, 1e-5])),
        has_attention_bias=draw(st.booleans()),
    )


EXAMPLES = {
    "resnet bottleneck": FAMILIES["resnet"].config_class(
        image_size=(17, 14), embedding_size=3, hidden_sizes=(8, 12, 9), depths=(1, 2, 1), activation="gelu"
    ),
    "resnet basic": FAMILIES["resnet"].config_class(
        image_size=(9, 16),
        embedding_size=5,
        hidden_sizes=(5, 7),
        depths=(2, 1),
        layer_type="basic",
        downsample_in_first_stage=True,
    ),
    "vit": FAMILIES["vit"].config_class(
        image_size=(14, 11),
        patch_size=(4, 3),
        hidden_size=15,
        num_layers=2,
        num_heads=3,
        intermediate_size=17,
        has_attention_bias=False,
    ),
    "deit": FAMILIES["deit"].config_class(
        image_size=(8, 12),
        patch_size=(4, 4),
        hidden_size=15,
        num_layers=2,
        num_heads=3,
        intermediate_size=17,
        layer_norm_eps=1e-5,
    ),
}


def make_torch(config: ModelConfig, seed: int, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """Returns a random torch model with a head, all of whose values are random."""
    options = {"num_labels": LABELS}
    if "initializer_range" in config.to_hf():
        options["initializer_range"] = 0.2
    hf_config = transformers.AutoConfig.for_model(**config.to_hf() | options)
    architecture = FAMILIES[config.model_type].heads[HeadKind.IMAGE].architecture
    torch.manual_seed(seed)
    model = getattr(transformers, architecture)(hf_config).to(dtype)
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:
            if value.is_floating_point():  # and no count of batches
                value.add_(0.1 * torch.randn_like(value).abs())
    return model


def saved_tensors(model: torch.nn.Module, folder) -> dict[str, np.ndarray]:
    """Returns the tensors of the file that transformers writes, whose names are not those of modules."""
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def make_classifier(
    config: ModelConfig, runtime: Runtime
) -> tuple[nnx.GraphDef, dict[str, jax.ShapeDtypeStruct]]:
    """Returns the structure of a classifier, and the shape of each of its parameters and statistics."""

    def make() -> ImageClassifier:
        rngs = nnx.Rngs(0)
        backbone = make_backbone(config, runtime, rngs=rngs)
        return ImageClassifier(backbone, num_labels=LABELS, dropout=0.0, rngs=rngs)

    graph, state = nnx.split(nnx.eval_shape(make))
    return graph, parameter_paths.flatten(nnx.to_pure_dict(state))


@dataclasses.dataclass
class Pair:
    """A model of torch and its parameters here, with pixels for both.

    Attributes:
      model: the model of torch.
      graph: the structure of ours.
      abstract: the shapes of its parameters and statistics.
      parameters, statistics: their values by path.
      pixels: `[R, H, W, 3]`, with a last row that holds no image.
      cotangent: `[PICTURES, C]`, the gradient of the logits.
      config: the shape of the backbone.
    """

    model: torch.nn.Module
    graph: nnx.GraphDef
    abstract: dict[str, jax.ShapeDtypeStruct]
    parameters: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]
    pixels: np.ndarray
    cotangent: np.ndarray
    config: ModelConfig

    def differentiate(self, parameters, statistics, training: bool):
        """Returns the gradients by path, the logits of images, and the statistics after the call by path."""

        def weigh(parameters):
            model = nnx.merge(self.graph, parameter_paths.unflatten({**parameters, **statistics}))
            seed = DropoutSeed(jnp.uint32(0), jnp.int32(0)) if training else None
            inputs = ImageInputs(self.pixels, ROW_WEIGHTS.astype(self.pixels.dtype))
            logits = model(inputs, dropout=seed)[:PICTURES]
            after = parameter_paths.flatten(nnx.to_pure_dict(nnx.state(model)))
            return (logits * self.cotangent).sum(), (logits, {name: after[name] for name in statistics})

        gradients, (logits, after) = jax.grad(weigh, has_aux=True)(parameters)
        return gradients, logits, after

    def differentiate_torch(self, training: bool) -> np.ndarray:
        """Fills the gradients of torch's model, and returns its logits."""
        self.model.train(training).zero_grad()
        pixels = torch.tensor(self.pixels[:PICTURES]).permute(0, 3, 1, 2)
        logits = self.model(pixels).logits
        (logits * torch.tensor(self.cotangent)).sum().backward()
        return logits.detach().numpy()

    def torch_gradients(self) -> dict[str, np.ndarray]:
        """Returns torch's gradients by our paths."""
        gradients = {name: parameter.grad for name, parameter in self.model.named_parameters()}
        return self.convert(gradients, self.parameters)

    def torch_values(self) -> dict[str, np.ndarray]:
        """Returns torch's parameters and statistics by our paths."""
        return self.convert(self.model.state_dict(), self.abstract)

    def convert(self, tensors: Mapping[str, torch.Tensor], paths: Collection[str]) -> dict[str, np.ndarray]:
        """Returns torch's tensors as the values at `paths`."""
        table = FAMILIES[self.config.model_type].table_with_head(HeadKind.IMAGE, self.config)
        arrays = {name: tensor.numpy().copy() for name, tensor in tensors.items()}
        return load_weights(table, arrays, {path: self.abstract[path] for path in paths})[0]


def make_pair(config: ModelConfig, seed: int, dtype: str) -> Pair:
    """Returns a random model of torch and the same here; call it, and what it returns, under x64 for float64."""
    rng = np.random.default_rng(seed)
    runtime = Runtime(jnp.dtype(dtype), unroll=bool(seed % 2), remat="none" if seed % 3 else "full")
    graph, abstract = make_classifier(config, runtime)
    pair = Pair(
        model=make_torch(config, seed, getattr(torch, dtype)),
        graph=graph,
        abstract={name: jax.ShapeDtypeStruct(leaf.shape, np.dtype(dtype)) for name, leaf in abstract.items()},
        parameters={},
        statistics={},
        pixels=rng.normal(size=(PICTURES + 1, *config.image_size, 3)).astype(dtype),
        cotangent=rng.normal(size=(PICTURES, LABELS)).astype(dtype),
        config=config,
    )
    for name, value in pair.torch_values().items():
        (pair.statistics if "/running_" in name else pair.parameters)[name] = value
    return pair


def assert_is_torchs(config: ModelConfig, seed: int, dtype: str, *, training: bool, steps: int = 1) -> None:
    """Asserts that logits, gradients and statistics are torch's after each of `steps` steps of gradient descent."""
    of_logits, of_gradient, of_all = TOLERANCES[dtype]
    with jax.enable_x64(dtype == "float64"):
        pair = make_pair(config, seed, dtype)
        differentiate = jax.jit(pair.differentiate, static_argnums=2)
        parameters, statistics = pair.parameters, pair.statistics
        for _ in range(steps):
            gradients, logits, statistics = jax.tree.map(
                np.asarray, differentiate(parameters, statistics, training)
            )
            theirs = pair.differentiate_torch(training)
            assert logits.dtype == dtype
            assert distance(logits, theirs) <= of_logits * np.linalg.norm(theirs)
            expected = pair.torch_gradients()
            total = np.sqrt(sum(float((gradient**2).sum()) for gradient in expected.values()))
            assert total > 0
            for path, gradient in expected.items():
                error = distance(gradients[path], gradient)
                assert error <= of_gradient * np.linalg.norm(gradient) + of_all * total, path
            rate = 0.1 / total
            parameters = {path: value - rate * gradients[path] for path, value in parameters.items()}
            with torch.no_grad():
                for parameter in pair.model.parameters():
                    parameter -= rate * parameter.grad
            after = pair.torch_values()
            for path, value in statistics.items():
                assert distance(value, after[path]) <= of_logits * np.linalg.norm(after[path]), path
                assert training == (not np.array_equal(value, pair.statistics[path]))


def assert_bfloat16_is_as_near_as_torchs(config: ModelConfig, seed: int) -> None:
    """Asserts that logits in bfloat16 are at most twice as far from the exact ones as torch's in bfloat16."""
    pair = make_pair(config, seed, "float32")
    graph, _ = make_classifier(config, Runtime(jnp.dtype("bfloat16")))
    ours = dataclasses.replace(pair, graph=graph)
    _, logits, after = jax.jit(ours.differentiate, static_argnums=2)(pair.parameters, pair.statistics, True)
    assert all(leaf.dtype == np.float32 for leaf in [logits, *after.values()])
    exact = pair.differentiate_torch(training=True)
    with torch.no_grad():
        pixels = torch.tensor(pair.pixels[:PICTURES], dtype=torch.bfloat16).permute(0, 3, 1, 2)
        theirs = pair.model.to(torch.bfloat16)(pixels).logits.float().numpy()
    assert 0 < distance(np.asarray(logits), exact) <= 2 * distance(theirs, exact)


def assert_file_comes_back(config: ModelConfig, seed: int, folder) -> None:
    """Asserts that a file of transformers is the same, bit for bit, after it is loaded and saved."""
    tensors = saved_tensors(make_torch(config, seed), folder)
    table = FAMILIES[config.model_type].table_with_head(HeadKind.IMAGE, config)
    _, abstract = make_classifier(config, Runtime())
    parameters, report = load_weights(table, tensors, abstract)
    assert not report.ignored and not report.new
    back = make_file_tensors(table, save_weights(table, parameters))
    assert back.keys() == tensors.keys()
    for name, tensor in back.items():
        assert tensor.dtype == tensors[name].dtype and tensor.tobytes() == tensors[name].tobytes(), name
