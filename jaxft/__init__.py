"""Fine-tunes pretrained encoders of texts and images, and GPT-2, in JAX/Flax.

The library is `jaxft.train`, `jaxft.Run` and `jaxft.Adapters`; docs/python_api.md describes it. Its names are imported
when they are used, so that `import jaxft` is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxft.errors import UserError
    from jaxft.run import Adapters, Confusion, Run, load_config, train
    from jaxft.training.log.callbacks import Callback

__version__ = "0.1.0"
__all__ = ["Adapters", "Callback", "Confusion", "Run", "UserError", "load_config", "train"]

# The module of each name that is not `jaxft.run`.
_MODULES = {"Callback": "jaxft.training.log.callbacks", "UserError": "jaxft.errors"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES.get(name, "jaxft.run")), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
