"""Makes texts to classify from the records of an input; the answers are those of `labels.answers`."""

from typing import Any

from jaxft.data.sources.formats import TEXTS
from jaxft.data.sources.labelled_texts import LabelledText, TextColumns, parse_labelled_text
from jaxft.tasks.labels.answers import LabelAnswers
from jaxft.tasks.run_facts import RunFacts
from jaxft.tasks.sequence_classification.settings import Settings


class TextAnswers(LabelAnswers[LabelledText]):
    """The examples and answers of a run that classifies texts."""

    kind = TEXTS

    def __init__(self, run: RunFacts[Settings]):
        """Takes the keys of records from the run's settings."""
        super().__init__(run)
        data = run.config.data
        self._columns = TextColumns(data.text, data.text_pair, None)
        self.input_keys = [key for key in (data.text, data.text_pair) if key]
        self.text_key = data.text
        self.formats = ("jsonl", "json", "csv", "tsv", "parquet", *(() if data.text_pair else ("text",)))

    def parse(self, where: str, origin: str, record: dict[str, Any]) -> LabelledText:
        """Returns the text of a record, without labels. Raises `UserError` if the record has none."""
        return parse_labelled_text(where, origin, record, self._columns)
