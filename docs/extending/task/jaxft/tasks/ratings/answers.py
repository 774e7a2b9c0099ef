"""Makes texts of the records of an input, and answers of their predicted ratings."""

from collections.abc import Sequence
from typing import Any

from jaxft.data.sources.formats import TEXTS
from jaxft.data.sources.labelled_texts import LabelledText, TextColumns, parse_labelled_text
from jaxft.tasks.base import Answers, Json
from jaxft.tasks.ratings.settings import Settings
from jaxft.tasks.run_facts import RunFacts


class RatingAnswers(Answers[LabelledText, int]):
    """The examples and answers of a run that predicts ratings."""

    kind = TEXTS
    formats = ("jsonl", "json", "csv", "tsv", "parquet", "text")

    def __init__(self, run: RunFacts[Settings]):
        """Takes the key of texts from the run's settings."""
        self.text_key = run.config.data.text
        self.input_keys = [self.text_key]

    def parse(self, where: str, origin: str, record: dict[str, Any]) -> LabelledText:
        """Returns the text of a record. Raises `UserError` if the record has none."""
        return parse_labelled_text(where, origin, record, TextColumns(self.text_key, None, None))

    def keys(self, example: LabelledText | None) -> Sequence[str]:
        """Returns the key of an answer."""
        return ("predicted_rating",)

    def render(self, example: LabelledText, rating: int) -> dict[str, Json]:
        """Returns the answer to a text."""
        return {"predicted_rating": int(rating)}
