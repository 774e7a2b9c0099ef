"""Adds an adapter that jaxft exported to a model of transformers, in PyTorch. It needs torch and safetensors.

jaxft copies this file into the folder of an adapter that PEFT has no method for: bottlenecks (Houlsby et al. 2019,
Pfeiffer et al. 2021) and BitFit (Ben Zaken et al. 2022). Use it like this:

    from adapter_loader import add_adapter
    from transformers import AutoConfig, AutoModelForTokenClassification

    folder = "PATH_OF_THE_FOLDER"
    base = AutoModelForTokenClassification.from_pretrained(BASE, config=AutoConfig.from_pretrained(folder))
    model = add_adapter(base, folder)

adapter_config.json names the base, the class of the model by `task_type`, and the `activation` of bottlenecks.
adapter_model.safetensors holds what was trained, under the names of the model's parameters, which begin with
`base_model.model.` as in PEFT's files. A bottleneck stands at the output of a linear layer MODULE, `[..., D]`:
`y + act(y @ down.T + down_bias) @ up.T + up_bias`. Its tensors are `MODULE.bottleneck_down.weight` [r, D],
`MODULE.bottleneck_down.bias` [r], `MODULE.bottleneck_up.weight` [D, r] and `MODULE.bottleneck_up.bias` [D].
"""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def add_adapter(model: "torch.nn.Module", folder: str | Path) -> "torch.nn.Module":
    """Adds the adapter in `folder` to a model of transformers, with its head, and returns the model for inference.

    Raises:
        ValueError: the adapter is of another method, or of another model.
    """
    import torch
    from safetensors.torch import load_file

    config = json.loads((Path(folder) / "adapter_config.json").read_text("utf-8"))
    if config["peft_type"] not in ("BOTTLENECK", "BITFIT"):
        raise ValueError(f"{folder}: the method is {config['peft_type']}: load the adapter by peft.PeftModel")
    stored = load_file(Path(folder) / "adapter_model.safetensors")
    tensors = {
        name.removeprefix("base_model.model.").replace(".base_layer.", "."): tensor
        for name, tensor in stored.items()
    }
    modules: dict[str, Any] = dict(model.named_modules())
    for name, tensor in tensors.items():
        if not (match := re.fullmatch(r"(.*)\.bottleneck_down\.weight", name)):
            continue
        if match[1] not in modules:
            raise ValueError(f"{folder}: the model has no module {match[1]}")
        module, (rank, width) = modules[match[1]], tensor.shape
        module.bottleneck_down, module.bottleneck_up = (
            torch.nn.Linear(*sizes, device=module.weight.device, dtype=module.weight.dtype)
            for sizes in ((width, rank), (rank, width))
        )
        module.register_forward_hook(_make_hook(config["activation"]))
    unknown = model.load_state_dict(tensors, strict=False).unexpected_keys
    if unknown:
        raise ValueError(f"{folder}: the model has no parameter {unknown[0]}")
    return model.eval()


def _make_hook(activation: str) -> Any:
    """Returns a hook that adds the bottleneck of a module to the module's output."""
    from transformers.activations import get_activation

    activate = get_activation(activation)

    def add_bottleneck(module: Any, inputs: Any, output: "torch.Tensor") -> "torch.Tensor":
        """Returns the output of the bottleneck for that of the module."""
        return output + module.bottleneck_up(activate(module.bottleneck_down(output)))

    return add_bottleneck
