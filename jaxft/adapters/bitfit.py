"""BitFit (Ben Zaken et al. 2022): trains the biases of the backbone, and adds no parameters."""

from jaxft.adapters.base import Method

METHOD = Method(trains_biases=True)
