"""Decodes and prepares images in worker processes, or in the caller's thread.

Workers are processes that start as `python -m` of this module. They import neither jax nor the program that uses them,
so they start in a quarter of a second, and a script needs no `if __name__ == "__main__"`. A worker ends when its input
ends, so none outlives its parent, however that ends.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxft.data.sources.images.augmentation import DrawKey
from jaxft.data.sources.images.decoding import BrokenImage, ImageContent
from jaxft.data.sources.images.preparation import Preparation


class ImageRequest(NamedTuple):
    """An image to prepare; see `Preparation.prepare`."""

    image: ImageContent
    place: str
    view: int = 0
    key: DrawKey | None = None


class DecodingPool:
    """Prepares images in worker processes. It may be used from several threads.

    Workers start when they are first needed, and end with `close`, or when the pool is deleted.
    """

    def __init__(self, workers: int):
        """Makes a pool of `workers` processes; with 0, images are prepared in the caller's thread."""
        self.workers = workers

    def prepare(
        self, preparation: Preparation, requests: Sequence[ImageRequest]
    ) -> list[np.ndarray | BrokenImage]:
        """Returns the prepared images, in order, or their errors.

        If a worker is killed, the image that it was at gets an error, and another worker takes its place.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Ends the workers. It may be called twice."""
        raise NotImplementedError


def default_workers() -> int:
    """Returns the number of workers for this machine: none on one or two cores, else a core each but one."""
    raise NotImplementedError
