"""Makes random adapters by peft, on random models of transformers, and trains them by torch's AdamW."""

import dataclasses
import pathlib
import warnings
from collections.abc import Mapping

import jax
import numpy as np
import peft
import torch
from flax import nnx

from jaxft.adapters import peft_files
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
from jaxft.tasks.base import Task
from tests.models import torch_parity

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
    table = family.table_with_head(kind)
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
    settings = Adapter(**peft_files.read_settings(adapter))
    ours = make_ours(config, kind, base, settings, dtype)
    table = FAMILIES[config.model_type].table_with_head(kind)
    loaded, _ = peft_files.load_adapter(adapter, ours.plan, table, ours.parameters, lambda _: None)
    ours.parameters |= loaded
    return ours


def save_ours(config: ModelConfig, kind: HeadKind, ours: Ours, folder: pathlib.Path) -> pathlib.Path:
    """Writes our adapter into PEFT's files."""
    base = torch_parity.make_abstract(config, kind, Runtime())[2]
    trained = {
        path: value
        for path, value in ours.parameters.items()
        if path not in base or ours.plan.trains(path, ours.roles[path])
    }
    table = FAMILIES[config.model_type].table_with_head(kind)
    tensors, adapter_config = peft_files.save_adapter(ours.plan, table, trained, kind)
    write_adapter_folder(folder, tensors, adapter_config, lambda _: None)
    return folder


def distance_of_logits(
    packed: np.ndarray, theirs: peft.PeftModel, texts: Mapping[str, torch.Tensor]
) -> float:
    """Returns the largest difference of logits of texts, which are packed here."""
    with torch.inference_mode():  # the model around `base_model` leaves token types out for questions
        expected = torch_parity.torch_logits(theirs.base_model, texts).numpy()
    logits = torch_parity.unpack(packed)
    if expected.ndim == 3:
        mask = texts["attention_mask"].numpy()[..., None]
        expected, logits = expected * mask, logits * mask
    assert logits.dtype == expected.dtype and np.abs(expected).max() > 0.1
    return float(np.abs(logits - expected).max())
