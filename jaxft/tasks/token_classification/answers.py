"""Makes sentences from the records of an input, and answers from their predicted tags.

- CoNLL columns: the predicted tag becomes the last column. Blank lines, comments and `-DOCSTART-` stay.
- Records with `tokens`: `predicted_tags` and `scores` are added, with an item for each token.
- Records with `text`, and plain text: `entities` is added, a list of `{"start", "end", "label", "text", "score"}` with
  character offsets into the text, `end` exclusive.

Tags are the model's labels. In IOB2, an I- tag that continues no entity begins one, as in conlleval and in
transformers' pipeline. For labels that form no entities, such as parts of speech, `words` replaces `entities` and has
an item for each word. The score of a word is the probability of its tag (with a CRF, conditional on the sentence). The
score of an entity is the mean over its words.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from jaxft.data.sources.formats import SENTENCES
from jaxft.data.sources.tagged_sentences import tag_schemes
from jaxft.data.sources.tagged_sentences.sentence import Sentence
from jaxft.data.sources.tagged_sentences.spans import KEYS, parse_sentences
from jaxft.tasks.base import Answers, Json
from jaxft.tasks.run_facts import RunFacts
from jaxft.tasks.token_classification.data import forms_entities
from jaxft.tasks.token_classification.evaluation import Prediction
from jaxft.tasks.token_classification.settings import Settings


class TagAnswers(Answers[Sentence, Prediction]):
    """The examples and answers of a run that labels words."""

    kind = SENTENCES
    formats = ("conll", "conllu", "jsonl", "json", "parquet", "text")
    text_key = "text"

    def __init__(self, run: RunFacts[Settings]):
        """Takes the keys of records from the run's settings."""
        self._columns = dict(run.config.data.columns)
        self.word_column = run.config.data.word_column
        self._form_entities = forms_entities(run.config, run.labels)
        self.input_keys = [*self._columns.values(), *(key for keys in KEYS.values() for key in keys)]

    def parse(self, where: str, origin: str, record: dict[str, Any]) -> Sentence:
        """Returns the sentence of a record, which may have no words. Raises `UserError` if the record has none."""
        columns = {role: key for role, key in self._columns.items() if key in record}
        [sentence] = parse_sentences(iter([(where, origin, record)]), tagged=False, columns=columns)
        return sentence

    def keys(self, sentence: Sentence | None) -> Sequence[str]:
        """Returns the keys of the answer to a sentence."""
        if sentence is None or sentence.text is None:
            return ("predicted_tags", "scores")
        return ("entities",) if self._form_entities else ("words",)

    def render(self, sentence: Sentence, prediction: Prediction) -> dict[str, Json | Iterator[Json]]:
        """Returns the answer to a sentence."""
        if sentence.text is not None:
            [key] = self.keys(sentence)
            return {key: iterate_labelled_spans(sentence, prediction, self._form_entities)}
        scores = (round(float(score), 6) for score in prediction.scores)
        return {"predicted_tags": prediction.tags, "scores": scores}


def iterate_labelled_spans(
    sentence: Sentence, prediction: Prediction, form_entities: bool
) -> Iterator[dict[str, Json]]:
    """Yields the entities of a sentence from text, or its words if labels form no entities.

    Each item has character offsets, label, text and score. In a list, a million items would take 800 MB.
    """
    text, offsets = sentence.text, sentence.offsets
    assert text is not None and offsets is not None
    if form_entities:
        spans = tag_schemes.iterate_entities(prediction.tags)
    else:
        spans = ((tag, word, word + 1) for word, tag in enumerate(prediction.tags))
    for label, first, end_word in spans:
        start, end = offsets[first][0], offsets[end_word - 1][1]
        score = float(prediction.scores[first:end_word].mean(dtype=float))
        yield {"start": start, "end": end, "label": label, "text": text[start:end], "score": round(score, 6)}
