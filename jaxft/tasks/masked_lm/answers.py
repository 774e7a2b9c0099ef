"""Makes texts with masks from the records of an input, and answers from the words that fill them.

An answer adds `predicted_words`, the most probable words of each mask of the text, in a list for each; and `scores`,
their probabilities.
"""

from collections.abc import Sequence

from jaxft.data.sources.documents import KEYS
from jaxft.data.sources.formats import DOCUMENTS
from jaxft.data.sources.records import record_values
from jaxft.errors import UserError
from jaxft.tasks.base import Answers, Json
from jaxft.tasks.masked_lm.data import MASK, MaskedText
from jaxft.tasks.masked_lm.evaluation import FilledMasks
from jaxft.tasks.masked_lm.settings import Settings
from jaxft.tasks.run_facts import RunFacts

SCORE_DIGITS = 6


class MaskAnswers(Answers[MaskedText, FilledMasks]):
    """The texts and answers of a masked language model."""

    kind = DOCUMENTS
    formats = ("jsonl", "json", "csv", "tsv", "parquet", "text")

    def __init__(self, run: RunFacts[Settings]):
        """Takes the key of texts from the run's settings."""
        self.text_key = dict(run.config.data.columns).get("text", KEYS["text"])
        self.input_keys = [self.text_key]
        self._tokenizer = run.checkpoint.tokenizer

    def parse(self, where: str, origin: str, record: dict[str, Json]) -> MaskedText:
        """Returns the text of a record. Raises `UserError` if it has none, or no mask."""
        text = record_values.require_value(
            record, self.text_key, where, "name the key in config.data.columns"
        )
        record_values.check_string(text, where, self.text_key)
        text = text.replace(MASK, self._tokenizer.mask_token)
        if self._tokenizer.mask_token not in text:
            raise UserError(f"{where}: the text has no {MASK}; put it in the place of each word to predict")
        return MaskedText(text, 0, origin)

    def keys(self, example: MaskedText | None) -> Sequence[str]:
        """Returns the keys of the answer to any text."""
        return ("predicted_words", "scores")

    def render(self, example: MaskedText, filled: FilledMasks) -> dict[str, Json]:
        """Returns the answer to a text."""
        words = [
            [self._tokenizer.decode([token]).strip() for token in mask] for mask in filled.words.tolist()
        ]
        scores = [[round(float(score), SCORE_DIGITS) for score in mask] for mask in filled.probabilities]
        return {"predicted_words": words, "scores": scores}

    def format_cell(self, value: Json) -> str:
        """Returns the text of a cell: words or scores with spaces between them, and semicolons between masks."""
        return (
            "; ".join(" ".join(map(str, mask)) for mask in value) if isinstance(value, list) else str(value)
        )
