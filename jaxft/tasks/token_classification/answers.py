"""Reads sentences to tag, and renders them with their tags in the format of the input.

- CoNLL columns: the predicted tag becomes the last column. Blank lines, comments and `-DOCSTART-` stay.
- JSON lines with `tokens`: all keys stay. `predicted_tags` and `scores` are added, with an item for each token.
- JSON lines with `text`: all keys stay. `entities` is added, a list of `{"start", "end", "label", "text", "score"}`
  with character offsets into the text, `end` exclusive.
- Plain text: `{"text", "entities"}`, one JSON object per line.

Tags are the model's labels. In IOB2, an I- tag that continues no entity begins one, as in conlleval and in
transformers' pipeline. For labels that form no entities, such as parts of speech, `words` replaces `entities` and has
an item for each word. The score of a word is the probability of its tag (with a CRF, conditional on the sentence). The
score of an entity is the mean over its words.
"""

import argparse
from collections.abc import Iterator

from jaxft.data.sources.formats import SENTENCES
from jaxft.data.sources.tagged_sentences import tag_schemes
from jaxft.data.sources.tagged_sentences.sentence import Sentence
from jaxft.data.sources.tagged_sentences.sentences import read_sentences
from jaxft.data.sources.tagged_sentences.spans import KEYS
from jaxft.tasks.lines import InputLines, extend_json_line, format_of_lines, make_json_line, resolve_input
from jaxft.tasks.run_facts import RunFacts
from jaxft.tasks.token_classification.task import Prediction

FORMATS = ("conll", "jsonl", "text")


class TokenClassificationOutput:
    """The sentences of an input, and the lines of that input with their tags."""

    def __init__(self, run: RunFacts, flags: argparse.Namespace):
        """Opens the input.

        Raises:
          UserError: the input cannot be read, or its format is not one of `FORMATS`.
        """
        resolved = resolve_input(
            flags, SENTENCES, FORMATS, keys=[key for keys in KEYS.values() for key in keys]
        )
        self._format = format_of_lines(resolved.format)
        self._word_column = run.config.data.word_column if flags.word_column is None else flags.word_column
        self.lines = InputLines(resolved)

    def examples(self) -> Iterator[Sentence]:
        """Yields the sentences without tags. If each line is a sentence, includes sentences without words."""
        try:
            yield from read_sentences(
                self.lines, format=self._format, word_column=self._word_column, tagged=False
            )
        finally:
            self.lines.close()

    def render(self, sentence: Sentence, prediction: Prediction) -> list[bytes]:
        """Returns the lines of the input before a sentence, then the lines of the sentence with its prediction."""
        before = self.lines.take_until(sentence.origin)
        if self._format.name == "conll":
            return before + self._conll(sentence, prediction)
        [line] = self.lines.take(1)
        if self._format.name == "text":
            return [
                *before,
                make_json_line({"text": sentence.text, **list_labelled_spans(sentence, prediction)}),
            ]
        if sentence.text is not None:
            return [*before, extend_json_line(line, list_labelled_spans(sentence, prediction))]
        scores = [round(float(score), 6) for score in prediction.scores]
        return [*before, extend_json_line(line, {"predicted_tags": prediction.tags, "scores": scores})]

    def _conll(self, sentence: Sentence, prediction: Prediction) -> list[bytes]:
        """Returns the sentence's lines with another column, separated like the others, or by a tab after only one."""
        lines = []
        for line, tag in zip(self.lines.take(len(sentence.words)), prediction.tags, strict=True):
            text = line.rstrip(b"\r\n")
            line_end = line[len(text) :]
            is_divided_by_spaces = b"\t" not in text and b" " in text.strip(b" ")
            divider = b" " if is_divided_by_spaces else b"\t"
            lines.append(text + divider + tag.encode() + line_end)
        return lines


def list_labelled_spans(sentence: Sentence, prediction: Prediction) -> dict[str, list[dict]]:
    """Returns {"entities": [...]} for a sentence from text, or {"words": [...]} if labels form no entities.

    Each item has character offsets, label, text and score.
    """
    items = []
    if prediction.form_entities:
        spans = tag_schemes.extract_entities(prediction.tags)
    else:
        spans = [(tag, word, word + 1) for word, tag in enumerate(prediction.tags)]
    for label, first, end_word in spans:
        start, end = sentence.offsets[first][0], sentence.offsets[end_word - 1][1]
        score = float(prediction.scores[first:end_word].mean(dtype=float))
        text = sentence.text[start:end]
        items.append({"start": start, "end": end, "label": label, "text": text, "score": round(score, 6)})
    return {"entities" if prediction.form_entities else "words": items}
