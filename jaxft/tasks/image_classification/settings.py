"""Settings of image classification."""

import dataclasses

from jaxft.config import sections
from jaxft.config.settings import Check, at_least, not_negative, optional_at_least, refuse, setting
from jaxft.tasks.labels.settings import LabelData, LabelEval, LabelSettings

TEXT_SETTINGS = ("max_length", "stride", "added_tokens")  # of data, which images do not read
_SHARE = Check(lambda value: 0 <= value <= 1, "a share from 0 to 1")


@dataclasses.dataclass(frozen=True)
class Data(LabelData):
    """Images with labels, and how they become pixels."""

    image: str = setting("image", "key or column of the image: a path, or its bytes", hf="image_column_name")
    image_size: int = setting(
        224,
        "height and width in pixels of the images that the model gets; the checkpoint's processor is scaled to it",
        check=at_least(1, 2**14),
    )
    broken: str = setting(
        "refuse",
        "images that cannot be decoded: an error that names them (`refuse`), or left out (`skip`)",
        choices=("refuse", "skip"),
    )
    max_pixels: int = setting(
        80_000_000, "pixels of an image; larger ones are refused before they are decoded", check=at_least(1)
    )
    cached_edge: int | None = setting(
        None,
        "keeps the decoded images of train in `data.cache_dir`, those with a longer shortest edge resized to this many "
        "pixels; unset: images are decoded in each epoch",
        check=optional_at_least(1),
    )
    workers: int | None = setting(
        None,
        "processes that decode images; unset: one a core but one, or on two cores none; 0: none",
        check=optional_at_least(0, 1024),
        hf="dataloader_num_workers",
    )


@dataclasses.dataclass(frozen=True)
class Augment:
    """The random changes of images in training. By default there are none."""

    crop_scale: float | None = setting(
        None,
        "least share of an image's area in a random resized crop, such as 0.08; unset: the processor's resizing",
        check=Check(lambda value: value is None or 0 < value <= 1, "a share above 0 and at most 1, or none"),
    )
    crop_ratio: float = setting(
        4 / 3,
        "greatest ratio of the sides of such a crop",
        check=Check(lambda value: 1 <= value <= 100, "1 to 100"),
    )
    flip: float = setting(0.0, "probability of a horizontal flip, such as 0.5", check=_SHARE)
    brightness: float = setting(
        0.0, "strength of random brightness, in torchvision's units", check=not_negative()
    )
    contrast: float = setting(0.0, "the same for contrast", check=not_negative())
    saturation: float = setting(0.0, "the same for saturation", check=not_negative())
    hue: float = setting(
        0.0, "the same for hue, at most 0.5", check=Check(lambda value: 0 <= value <= 0.5, "0 to 0.5")
    )
    rand_augment: int = setting(0, "operations of RandAugment an image, such as 2", check=at_least(0, 100))
    rand_augment_magnitude: int = setting(9, "their magnitude, 0 to 30", check=at_least(0, 30))
    erasing: float = setting(0.0, "probability of an erased rectangle", check=_SHARE)
    mixup: float = setting(
        0.0,
        "alpha of mixup, such as 0.2: an image and its labels are mixed with another's",
        check=not_negative(),
    )
    cutmix: float = setting(
        0.0,
        "alpha of CutMix, such as 1.0: a rectangle, and as much of the labels, are another's",
        check=not_negative(),
    )
    mix_probability: float = setting(
        1.0, "share of images that are mixed; with both kinds half of them get each", check=_SHARE
    )


@dataclasses.dataclass(frozen=True)
class Eval(LabelEval):
    """The evaluation of an image classifier."""

    views: str = setting(
        "center",
        "views of an image whose logits are averaged: one, as the processor makes it; also its mirror image (`flip`); "
        "four corners, the middle, and their mirror images (`crops`)",
        choices=("center", "flip", "crops"),
    )


@dataclasses.dataclass(frozen=True)
class Settings(LabelSettings):
    """The settings of an image classification run."""

    rows_are_examples = True

    data: Data = Data()
    augment: Augment = Augment()
    eval: Eval = Eval()

    def check(self) -> None:
        """Raises `UserError` for settings that contradict each other."""
        super().check()
        default = sections.Data()
        for name in TEXT_SETTINGS:
            if (value := getattr(self.data, name)) != getattr(default, name):
                raise refuse(f"data.{name}", value, "no value, because it is for texts; leave it out")
        if (edge := self.data.cached_edge) is not None:
            if edge < self.data.image_size:
                raise refuse(
                    "data.cached_edge",
                    edge,
                    f"at least config.data.image_size={self.data.image_size}, or none",
                )
            if self.data.cache_dir == "off":
                raise refuse("data.cached_edge", edge, "none, because config.data.cache_dir is off")
        if self.data.label == self.data.image:
            raise refuse("data.label", self.data.label, "another key than that of config.data.image")
