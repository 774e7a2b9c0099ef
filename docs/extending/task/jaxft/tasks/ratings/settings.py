"""Settings of ratings."""

import dataclasses

from jaxft.config import sections
from jaxft.config.settings import at_least, setting
from jaxft.tasks.settings import SegmentData


@dataclasses.dataclass(frozen=True)
class Data(SegmentData):
    """Texts with ratings."""

    text: str = setting("text", "key or column of the text")
    rating: str = setting("rating", "key or column of the rating, a whole number from 1")
    highest: int = setting(5, "the highest rating", check=at_least(2))


@dataclasses.dataclass(frozen=True)
class Settings(sections.Settings):
    """The settings of a run that learns ratings."""

    data: Data = Data()
