"""Says how a model that classifies images is exported."""

import numpy as np

from jaxft.data.encoding.encoded import Encoded
from jaxft.data.sources.images.reading import ImageExample
from jaxft.tasks.base import Json, Task
from jaxft.tasks.exports import Export
from jaxft.tasks.image_classification.encoding import ImageWindows
from jaxft.tasks.image_classification.settings import Settings
from jaxft.tasks.labels.label_task import LabelTask


class ImageExport(Export[Settings, ImageExample, np.ndarray]):
    """Exports a model that classifies images."""

    def config_fields(self) -> dict[str, Json]:
        """Returns the kind of labels, and thresholds, which transformers only keeps."""
        return {"problem_type": self.run.config.model.problem_type, **self.run.tuned}

    def to_transformers(self, task: Task, parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the parameters, with a head whose numbers are in the data's units."""
        assert isinstance(task, LabelTask)
        return task.to_data_units(parameters)

    def torch_inputs(self, windows: Encoded, numbers: range) -> dict[str, np.ndarray]:
        """Returns the pixels of images, float32 `[len(numbers), 3, H, W]`."""
        assert isinstance(windows, ImageWindows)
        pixels, _ = windows.reader.read(np.arange(numbers.start, numbers.stop), seed=0, epoch=0)
        return {"pixel_values": pixels.transpose(0, 3, 1, 2)}
