"""Mixes images and their labels with those of partners: mixup and CutMix."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mixing:
    """Says how each image of training is mixed with a partner. With both kinds, half of the images get each.

    An image's partner is another example of the data set, a function of (seed, epoch, example) alone. It need not be in
    the batch, so it does not depend on the batch, the mesh or the processes, at the price of decoding it too. The
    partner is mixed in as it is augmented in this epoch.

    Attributes:
      mixup: alpha of mixup's Beta distribution (Zhang et al., 2018); 0 for no mixup.
      cutmix: alpha of CutMix's Beta distribution (Yun et al., 2019); 0 for no CutMix.
      probability: the share of images that are mixed.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0

    def __bool__(self) -> bool:
        """Returns whether images are mixed at all."""
        return self.probability > 0 and (self.mixup > 0 or self.cutmix > 0)


def find_partners(examples: np.ndarray, count: int, seed: int, epoch: int) -> np.ndarray:
    """Returns another example for each example: int64 `[K]`, of `count` examples, uniformly drawn."""
    raise NotImplementedError
