"""Makes random adapters by peft, on random models of transformers, and trains them by torch's AdamW."""

import dataclasses
import functools
import pathlib
import re
import warnings
from collections.abc import Mapping

import jax
import numpy as np
import peft
import torch
from flax import nnx

from jaxft.adapters.peft.config import read_settings
from jaxft.adapters.peft.files import load_adapter, save_adapter
from jaxft.adapters.plan import AdapterPlan, plan_adapters
from jaxft.config.adapter import Adapter
from jaxft.hub.adapter_files import read_adapter, write_adapter_folder
from jaxft.hub.weights import load_weights
from jaxft.layers import parameter_paths
from jaxft.layers.heads.kinds import HeadKind
from jaxft.layers.parameters import Role, read_roles
from jaxft.layers.runtime import Runtime
from jaxft.models.model_config import ModelConfig
from jaxft.models.registry import FAMILIES
from jaxft.parallel.mesh import make_mesh
from jaxft.tasks.base import Task
from jaxft.training.network import make_network
from jaxft.training.settings import settings_from_config
from jaxft.training.trainer import make_trainer
from tests.models import torch_parity

# Fused projections, and such as only disentangled attention has. PEFT does not train the first layer of ModernBERT's
# head by itself.
_MODULES = {
    "modernbert": {"target_modules": ["Wqkv", "mlp.Wi", "mlp.Wo"], "modules_to_save": ["head"]},
    "deberta-v2": {"target_modules": ["query_proj", "pos_key_proj", "output.dense"]},
}
# Adapters of each method that PEFT has for linear layers, in families for which it has no defaults.
OF_FAMILIES = {
    f"{name} {model_type}": (model_type, functools.partial(make, **modules))
    for model_type, modules in _MODULES.items()
    for name, make in {
        "lora": functools.partial(peft.LoraConfig, r=2, bias="lora_only"),
        "dora": functools.partial(peft.LoraConfig, r=2, use_dora=True),
        "adalora": functools.partial(peft.AdaLoraConfig, init_r=3, target_r=1, total_step=4),
        "ia3": functools.partial(peft.IA3Config, feedforward_modules=modules["target_modules"][-1:]),
    }.items()
}
TASK_TYPES = {
    HeadKind.TOKEN: "TOKEN_CLS",
    HeadKind.SEQUENCE: "SEQ_CLS",
    HeadKind.QUESTION: "QUESTION_ANS",
    HeadKind.NEXT_TOKEN: "CAUSAL_LM",
}


def make_peft(
    config: ModelConfig, kind: HeadKind, adapter: peft.PeftConfig, seed: int, dtype: str = "float32"
) -> tuple[dict[str, np.ndarray], peft.PeftModel]:
    """Returns the tensors of a random model, and the model with an adapter whose trained values are random too."""
    model = torch_parity.make_torch(config, kind, seed)
    base = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    adapter.task_type = TASK_TYPES.get(kind)
    torch.manual_seed(seed + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it sets fan_in_fan_out itself
        adapted = peft.get_peft_model(model, adapter).to(getattr(torch, dtype)).eval()
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return base, adapted


@torch.no_grad()
def prune_ranks(model: peft.PeftModel) -> None:
    """Sets values of AdaLoRA to 0, in some modules all but one, and tells PEFT which are left.

    Without biases, the last module keeps none.
    """
    pattern = {}
    values = {name: value for name, value in model.base_model.model.named_parameters() if ".lora_E." in name}
    for number, (name, value) in enumerate(values.items()):
        removed = [rank for rank in range(len(value)) if rank != number % len(value)][: number % len(value)]
        if number == len(values) - 1 and model.peft_config["default"].bias == "none":
            removed = list(range(len(value)))
        value[removed] = 0.0
        pattern[name] = [rank not in removed for rank in range(len(value))]
    model.peft_config["default"].rank_pattern = pattern


def save_peft(model: peft.PeftModel, folder: pathlib.Path) -> pathlib.Path:
    """Saves an adapter as its users do."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a base model that has no name
        model.save_pretrained(folder)
    return folder


def load_peft(
    config: ModelConfig, kind: HeadKind, base: Mapping[str, np.ndarray], folder: pathlib.Path, dtype: str
) -> peft.PeftModel:
    """Returns a model of transformers with these tensors and with the adapter in `folder`, as its users load it."""
    model = torch_parity.make_torch(config, kind, seed=0, dtype=getattr(torch, dtype))
    model.load_state_dict({name: torch.tensor(tensor) for name, tensor in base.items()})
    return peft.PeftModel.from_pretrained(model, folder).eval()


@dataclasses.dataclass
class Ours:
    """A model of jaxft with adapters: task, what is trained, structure, roles and parameters by path."""

    task: Task
    plan: AdapterPlan
    graph: nnx.GraphDef
    roles: dict[str, Role]
    parameters: dict[str, jax.Array]

    def logits(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns the logits of packed texts."""
        compute = jax.jit(lambda tree: self.task.logits(nnx.merge(self.graph, tree), batch))
        return np.asarray(compute(parameter_paths.unflatten(self.parameters)))


def make_ours(
    config: ModelConfig, kind: HeadKind, base: Mapping[str, np.ndarray], settings: Adapter, dtype: str
) -> Ours:
    """Returns our model with the tensors of a base model, and new adapters."""
    family = FAMILIES[config.model_type]
    table = family.table_with_head(kind, config)
    task, graph, abstract = torch_parity.make_abstract(config, kind, Runtime(np.dtype(dtype)))
    weights, _ = load_weights(table, base, abstract)
    model = nnx.merge(graph, parameter_paths.unflatten(weights))
    plan = plan_adapters(settings, family.adapter_targets, table, model)
    plan.attach(model, nnx.Rngs(0))
    plan.initialize(model)
    graph, state = nnx.split(model)
    parameters = parameter_paths.flatten(nnx.to_pure_dict(state))
    parameters = {path: np.asarray(value, dtype) for path, value in parameters.items()}
    return Ours(task, plan, graph, read_roles(model), parameters)


def load_ours(
    config: ModelConfig, kind: HeadKind, base: Mapping[str, np.ndarray], folder: pathlib.Path, dtype: str
) -> Ours:
    """Returns our model with the tensors of a base model and the adapter in `folder`."""
    adapter = read_adapter(str(folder))
    settings = Adapter(**read_settings(adapter))
    ours = make_ours(config, kind, base, settings, dtype)
    table = FAMILIES[config.model_type].table_with_head(kind, config)
    loaded, _ = load_adapter(adapter, ours.plan, table, ours.parameters, kind, lambda _: None)
    ours.parameters |= ours.plan.keep_other_layers(loaded, ours.parameters)
    return ours


def save_ours(config: ModelConfig, kind: HeadKind, ours: Ours, folder: pathlib.Path) -> pathlib.Path:
    """Writes our adapter into PEFT's files."""
    base = torch_parity.make_abstract(config, kind, Runtime())[2]
    trained = {
        path: value
        for path, value in ours.parameters.items()
        if path not in base or ours.plan.trains(path, ours.roles[path])
    }
    table = FAMILIES[config.model_type].table_with_head(kind, config)
    tensors, adapter_config = save_adapter(ours.plan, table, trained, kind)
    write_adapter_folder(folder, tensors, adapter_config, lambda _: None)
    return folder


def distance_of_logits(
    packed: np.ndarray, theirs: peft.PeftModel, texts: Mapping[str, torch.Tensor]
) -> float:
    """Returns the largest difference of logits of texts, which are packed here."""
    # The model around `base_model` leaves token types out for questions. It also adds prefixes and prompts.
    model = theirs if theirs.active_peft_config.is_prompt_learning else theirs.base_model
    with torch.inference_mode():
        expected = torch_parity.torch_logits(model, texts).numpy()
    logits = torch_parity.unpack(packed)
    if expected.ndim == 3:
        mask = texts["attention_mask"].numpy()[..., None]
        expected, logits = expected * mask, logits * mask
    assert logits.dtype == expected.dtype and np.abs(expected).max() > 0.1
    return float(np.abs(logits - expected).max())


def labelled_batches(
    config: ModelConfig, count: int
) -> list[tuple[dict[str, np.ndarray], dict[str, torch.Tensor]]]:
    """Returns random batches of texts with a label for some tokens, packed, and in rows of their own."""
    batches = []
    for seed in range(count):
        packed, texts = torch_parity.random_batch(config, seed)
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, len(torch_parity.LABELS), texts["input_ids"].shape)
        weights = (rng.random(labels.shape) < 0.7) & (texts["attention_mask"].numpy() > 0)
        packed["labels"] = torch_parity.pack(labels[..., None])[..., 0].astype(np.int32)
        packed["weights"] = torch_parity.pack(weights[..., None].astype(np.float32))[..., 0]
        batches.append((packed, texts | {"labels": torch.tensor(np.where(weights, labels, -100))}))
    return batches


def train_peft(
    model: peft.PeftModel, batches, *, lr: float, decay: float, eps: float, ratio: float
) -> list[float]:
    """Returns the losses of steps of torch's AdamW, without dropout; `ratio` is LoRA+'s."""
    groups = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim == 2 and not re.search("ia3_l|lora_E", name)
            rate = lr * ratio if "lora_B" in name else lr
            groups.append({"params": [parameter], "weight_decay": decay if decays else 0.0, "lr": rate})
    optimizer = torch.optim.AdamW(groups, eps=eps)
    losses = []
    for step, (_, texts) in enumerate(batches):
        loss = model(**texts).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if hasattr(model.base_model, "update_and_allocate"):
            model.base_model.update_and_allocate(step)
    return losses


def train_ours(
    config: ModelConfig,
    ours: Ours,
    batches,
    *,
    lr: float,
    decay: float,
    eps: float,
    ratio: float,
    unroll: bool,
    **phases: int,
) -> list[float]:
    """Returns the losses of our train step with the same numbers, on two microbatches; `phases` are AdaLoRA's."""
    settings = settings_from_config(
        {
            "task": "token_classification",
            "optim.lr": lr,
            "optim.weight_decay": decay,
            "optim.eps": eps,
            "optim.schedule": "constant",
            "optim.clip": 0.0,
            "batch.accumulate": 2,
            **{f"adapter.{key}": value for key, value in dataclasses.asdict(ours.plan.settings).items()},
            "adapter.loraplus_lr_ratio": ratio,
        }
    )
    still = {field.name: 0.0 for field in dataclasses.fields(config) if field.name.endswith("_dropout")}
    config = dataclasses.replace(config, **still)
    net = make_network(ours.task, config, Runtime(unroll=unroll), make_mesh(settings), lambda _: ours.plan)
    trainer = make_trainer(net, settings, total=len(batches), warmup=0, **phases)
    state = trainer.new_state({path: jax.numpy.array(ours.parameters[path]) for path in net.abstract})
    losses = []
    for packed, _ in batches:
        state, metrics = trainer.train_step(state, packed, trainer.hyperparameters)
        losses.append(float(metrics["loss"]))
    return losses
