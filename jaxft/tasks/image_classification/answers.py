"""Makes images to classify from the records of an input; the answers are those of `labels.answers`."""

import os
from collections.abc import Iterator
from typing import Any

from jaxft.data.sources import files
from jaxft.data.sources.formats import IMAGES
from jaxft.data.sources.images.reading import ImageColumns, ImageExample, list_image_files, parse_image
from jaxft.data.sources.records.record_values import Record
from jaxft.tasks.image_classification.settings import Settings
from jaxft.tasks.labels.answers import LabelAnswers
from jaxft.tasks.run_facts import RunFacts


class ImageAnswers(LabelAnswers[ImageExample]):
    """The examples and answers of a run that classifies images."""

    kind = IMAGES
    formats = ("files", "jsonl", "json", "csv", "tsv", "parquet", "text")

    def __init__(self, run: RunFacts[Settings]):
        """Takes the key of images in records from the run's settings."""
        super().__init__(run)
        self._columns = ImageColumns(run.config.data.image, None)
        self.input_keys = [run.config.data.image]
        self.text_key = run.config.data.image

    def list_records(self, source: str, log: files.Log) -> Iterator[Record] | None:
        """Returns a record for each image of a folder, a pattern or a single file; None for files of records."""
        return list_image_files(source, self._columns, log)

    def parse(self, where: str, origin: str, record: dict[str, Any]) -> ImageExample:
        """Returns the image of a record, without labels. Paths are relative to the file of the record.

        Raises `UserError` if the record has no image.
        """
        file = origin.rpartition(":")[0]
        folder = os.path.dirname(file) if os.path.isfile(file) else ""
        return parse_image(where, origin, record, self._columns, folder=folder)
