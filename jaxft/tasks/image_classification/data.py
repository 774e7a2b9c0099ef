"""Reads images with labels, finds their labels, and makes windows that decode them when a batch is filled."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np

from jaxft.data.sources.class_folders import choose_split_folder
from jaxft.data.sources.dev_split import split_dev_labelled
from jaxft.data.sources.images.augmentation import Augmentation
from jaxft.data.sources.images.checking import check_images
from jaxft.data.sources.images.decoding_pool import DecodingPool, default_workers
from jaxft.data.sources.images.mixing import Mixing
from jaxft.data.sources.images.pixel_cache import PixelCache, load_or_decode
from jaxft.data.sources.images.pixel_reader import PixelReader
from jaxft.data.sources.images.preparation import Preparation, Shrinking
from jaxft.data.sources.images.processors import ImageProcessor, load_image_processor
from jaxft.data.sources.images.reading import IMAGE_FILES, ImageColumns, ImageExample, read_images
from jaxft.data.sources.labels import NUMBER, LabelRules
from jaxft.models.pretrained_model import PretrainedModel
from jaxft.tasks.base import Chunk, Json, Log, Split, TaskData
from jaxft.tasks.image_classification.encoding import ImageWindows
from jaxft.tasks.image_classification.model import open_image_model
from jaxft.tasks.image_classification.settings import Augment, Settings
from jaxft.tasks.labels.label_types import make_label_type
from jaxft.tasks.labels.names import (
    FoundLabel,
    check_labels,
    describe_labels,
    find_labels,
    make_labels,
    warn_of_labels,
)
from jaxft.tasks.reading import cache_folder, chunk_by_words, count_set_in_any_process
from jaxft.tasks.settings import make_file_format

NOUN = "image"
NO_MIXING = Mixing()


class LabelledImages(TaskData[ImageExample, ImageWindows, ImageProcessor]):
    """The images of a run, each with a label, several labels or a number."""

    example_input = "photo.jpg"

    def __init__(self, config: Settings):
        self._config = config

    @cached_property
    def _pool(self) -> DecodingPool:
        workers = self._config.data.workers
        return DecodingPool(default_workers() if workers is None else workers)

    def read(self, name: str, source: str, log: Log) -> list[ImageExample]:
        """Returns the images of `source`, which can all be decoded, and logs their number and labels."""
        data, problem_type = self._config.data, self._config.model.problem_type
        examples = list(
            read_images(
                choose_split_folder(source, name.partition("-")[0], IMAGE_FILES),
                columns=ImageColumns(data.image, data.label),
                rules=LabelRules(problem_type, data.label_separator, data.label_names),
                format=make_file_format(data),
                log=log,
            )
        )
        log(f"{name}: {source}: {len(examples):,} images; {describe_labels(examples)}")
        if problem_type != NUMBER:
            check_labels(examples, data, problem_type, NOUN, name, source, log)
        return check_images(
            examples,
            self._pool,
            name=f"{name}: {source}",
            on_broken=data.broken,
            max_pixels=data.max_pixels,
            cache_folder=cache_folder(data.cache_dir),
            log=log,
        )

    def split_dev(
        self, examples: Sequence[ImageExample], fraction: float, seed: int
    ) -> tuple[list[ImageExample], list[ImageExample]]:
        """Splits images into (train, dev). The same image stays in one set, and single labels keep their shares."""
        return split_dev_labelled(examples, [example.digest for example in examples], fraction, seed)

    def find_labels(self, examples: Sequence[ImageExample]) -> Sequence[Json]:
        """Returns the names of the labels; for numbers the least and the greatest."""
        return find_labels(examples)

    def make_labels(self, found_labels: Sequence[Json]) -> list[str]:
        """Returns the labels, or `VALUE` if labels are numbers; see the function `make_labels`."""
        return make_labels(cast(Sequence[FoundLabel], found_labels))  # as `find_labels` returned them

    def open_model(self, train: Sequence[ImageExample]) -> PretrainedModel:
        """Opens the model of `config.model`; see `open_image_model`."""
        return open_image_model(self._config)

    def load_processor(self, folder: Path) -> ImageProcessor:
        """Loads preprocessor_config.json of `folder`."""
        return load_image_processor(folder)

    def encode(
        self,
        examples: Sequence[ImageExample],
        labels: Sequence[str],
        processor: ImageProcessor,
        *,
        only: range | None = None,
        cached: bool = True,
    ) -> ImageWindows:
        """Returns the views of images for evaluation. They are decoded when a batch is filled."""
        examples = examples if only is None else examples[only.start : only.stop]
        preparation = Preparation(
            processor, views=self._config.eval.views, max_pixels=self._config.data.max_pixels
        )
        return self._make_windows(examples, labels, preparation)

    def encode_train(
        self, examples: Sequence[ImageExample], labels: Sequence[str], processor: ImageProcessor
    ) -> ImageWindows:
        """Returns images that are changed at random, as `config.augment` says, whenever a batch is filled."""
        data, augment = self._config.data, self._config.augment
        preparation = Preparation(
            processor, make_augmentation(augment), max_pixels=data.max_pixels, kept_edge=data.cached_edge
        )
        folder, cache = cache_folder(data.cache_dir), None
        if data.cached_edge is not None and folder is not None:
            cache = load_or_decode(folder, examples, self._pool, Shrinking(data.cached_edge, data.max_pixels))
        mixing = Mixing(augment.mixup, augment.cutmix, augment.mix_probability)
        return self._make_windows(examples, labels, preparation, mixing, cache)

    def _make_windows(
        self,
        examples: Sequence[ImageExample],
        labels: Sequence[str],
        preparation: Preparation,
        mixing: Mixing = NO_MIXING,
        cache: PixelCache | None = None,
    ) -> ImageWindows:
        targets, known = make_label_type(labels, self._config).encode_targets(examples)
        if self._config.model.problem_type == NUMBER:
            targets = targets[:, None]
        reader = PixelReader(examples, targets, preparation, self._pool, mixing, cache, outputs=len(labels))
        return ImageWindows(reader, known)

    def check(
        self,
        split: Split[ImageExample, ImageWindows],
        labels: Sequence[str],
        train: Sequence[ImageExample],
        log: Log,
    ) -> None:
        """Warns about labels that the model cannot predict, and about images that are also in `train`."""
        examples, is_train = split.examples, split.examples is train
        make_label_type(labels, self._config).check(split.name, examples, log)
        warn_of_labels(examples, self._config.data, labels, NOUN, split.name, is_train, log)
        if not is_train:
            seen = {example.digest for example in train}
            shared = count_set_in_any_process(np.array([e.digest in seen for e in examples], bool))
            if shared:
                log(f"warning: {shared:,} of {len(examples):,} images of {split.name} are also in train")

    def chunk(self, examples: Iterable[ImageExample | None], max_words: int) -> Iterator[Chunk[ImageExample]]:
        """Yields chunks of images. An image counts as many words as a row has, for it takes a row."""
        return chunk_by_words(examples, lambda _: self._config.data.max_length, max_words)


def make_augmentation(augment: Augment) -> Augmentation:
    """Returns the augmentation that settings describe."""
    names = (field.name for field in dataclasses.fields(Augmentation))
    return Augmentation(**{name: getattr(augment, name) for name in names})
