"""Reads sentences to be tagged and writes them with their tags.

- CoNLL columns: the predicted tag becomes the last column. Blank lines, comments and `-DOCSTART-` stay.
- JSON lines with `tokens`: all keys stay; `predicted_tags` and `scores`, one of each a token, are added.
- JSON lines with `text`: all keys stay; `entities` is added, a list of
  `{"start", "end", "label", "text", "score"}` with character offsets into the text, `end` exclusive.
- Plain text: `{"text", "entities"}`, one JSON object a line.

Tags are the model's own, IOB2; an I- tag that continues no entity begins one, as in conlleval and in transformers'
pipeline. Labels that form no entities, such as parts of speech, come as `words` in the place of `entities`, each
word one. The score of a word is the probability of its tag (with a CRF given the whole sentence), the score of an
entity the mean over its words.
"""

import argparse
from collections.abc import Iterator

from jaxft.data.sources import tag_schemes
from jaxft.data.sources.sentence import Sentence
from jaxft.data.sources.sentences import guess_sentence_format, read_sentences
from jaxft.tasks.lines import Lines, choose_format, extended_json, json_line
from jaxft.tasks.run_facts import RunFacts
from jaxft.tasks.token_classification.task import Prediction

FORMATS = ("conll", "jsonl", "text")


class TaggedOutput:
    """Sentences of an input, and the input with their tags."""

    def __init__(self, run: RunFacts, flags: argparse.Namespace):
        """Opens the input. Raises `UserError` for one that cannot be read or is in no format that fits."""
        source, guessed = flags.input, flags.format
        if not source.startswith(("demo:", "hub:")):
            # Opens nothing, but knows why a source cannot be read.
            read_sentences(source, format=flags.format, tagged=False)
            guessed = guess_sentence_format(source, tagged=False) if flags.format == "auto" else flags.format
        self._format = choose_format(source, flags.format, guessed, FORMATS)
        self._word_column = run.config.data.word_column if flags.word_column is None else flags.word_column
        self.lines = Lines(source)

    def examples(self) -> Iterator[Sentence]:
        """The sentences, untagged; those without words too where they are lines of their own."""
        try:
            yield from read_sentences(
                self.lines, format=self._format, word_column=self._word_column, tagged=False
            )
        finally:
            self.lines.close()

    def write(self, sentence: Sentence, prediction: Prediction) -> list[bytes]:
        """What is written for a sentence, with the lines before it."""
        before = self.lines.take_until(sentence.origin)
        if self._format == "conll":
            return before + self._conll(sentence, prediction)
        [line] = self.lines.take(1)
        if self._format == "text":
            return [*before, json_line({"text": sentence.text, **labelled(sentence, prediction)})]
        if sentence.text is not None:
            return [*before, extended_json(line, labelled(sentence, prediction))]
        scores = [round(float(score), 6) for score in prediction.scores]
        return [*before, extended_json(line, {"predicted_tags": prediction.tags, "scores": scores})]

    def _conll(self, sentence: Sentence, prediction: Prediction) -> list[bytes]:
        """The sentence's lines with a column more, divided as the others are (by a tab if there is only one)."""
        out = []
        for line, tag in zip(self.lines.take(len(sentence.words)), prediction.tags, strict=True):
            body = line.rstrip(b"\r\n")
            divided_by_spaces = b"\t" not in body and b" " in body.strip(b" ")
            out.append(body + (b" " if divided_by_spaces else b"\t") + tag.encode() + line[len(body) :])
        return out


def labelled(sentence: Sentence, prediction: Prediction) -> dict[str, list[dict]]:
    """{"entities": [...]} of a sentence that comes from text, or {"words": [...]} where labels form no entities.

    Each has character offsets, label, text and score.
    """
    found = []
    plain = [(tag, word, word + 1) for word, tag in enumerate(prediction.tags)]
    for label, first, last in tag_schemes.extract_entities(prediction.tags) if prediction.entities else plain:
        start, end = sentence.offsets[first][0], sentence.offsets[last - 1][1]
        score = float(prediction.scores[first:last].mean(dtype=float))
        text = sentence.text[start:end]
        found.append({"start": start, "end": end, "label": label, "text": text, "score": round(score, 6)})
    return {"entities" if prediction.entities else "words": found}
