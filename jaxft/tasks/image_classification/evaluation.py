"""Evaluates images: which image a view is of, and how images are read."""

from collections.abc import Sequence

import numpy as np

from jaxft.data.sources.images.reading import ImageExample
from jaxft.tasks.image_classification.encoding import ImageWindows
from jaxft.tasks.image_classification.settings import Settings
from jaxft.tasks.labels.evaluation import LabelEvaluator

VIEWS = {
    "center": "",
    "flip": "; the mean of the logits of each and of its mirror image",
    "crops": "; the mean of the logits of its corners, its middle and their mirror images",
}


class ImageEvaluator(LabelEvaluator[ImageExample, ImageWindows]):
    """Evaluates labels or numbers of images. The logits of an image in several views are averaged."""

    noun = "image"

    def __init__(self, labels: Sequence[str], config: Settings):
        super().__init__(labels, config)
        size = config.data.image_size
        self.method = f"{size} x {size} pixels, by the checkpoint's processor{VIEWS[config.eval.views]}"

    def describe(self, example: ImageExample) -> dict[str, str]:
        """Returns the path of the image, or its place in the data."""
        return {"image": name_image(example)}

    def number_examples(self, encoding: ImageWindows, windows: np.ndarray) -> np.ndarray:
        """Returns the number of the image of each view."""
        return encoding.find_examples(windows)


def name_image(example: ImageExample) -> str:
    """Returns the path of an image, or its place in the data."""
    return example.image if isinstance(example.image, str) else example.origin
