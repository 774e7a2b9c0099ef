"""Lists the methods of adapters by name. `config/adapter.py` says which settings each reads."""

from jaxft.adapters import adalora, bitfit, bottleneck, ia3, lora, prefix, prompt
from jaxft.adapters.base import Method

METHODS: dict[str, Method] = {
    "lora": lora.METHOD,
    "adalora": adalora.METHOD,
    "bitfit": bitfit.METHOD,
    "ia3": ia3.METHOD,
    "bottleneck": bottleneck.METHOD,
    "prefix": prefix.METHOD,
    "prompt": prompt.METHOD,
}
