"""Tags text with a run's best weights, as a stream: `python -m jaxft.predict --run RUN --input FILE --output FILE`.

What comes out is what came in, line for line, with predictions added:

- CoNLL columns: the predicted tag becomes the last column. Blank lines, comments and `-DOCSTART-` stay.
- JSON lines with `tokens`: all keys stay; `predicted_tags` and `scores`, one of each a token, are added.
- JSON lines with `text`: all keys stay; `entities` is added, a list of
  `{"start", "end", "label", "text", "score"}` with character offsets into the text, `end` exclusive.
- Plain text: `{"text", "entities"}`, one JSON object a line.

A record that has a key `scores` or `entities` already keeps it; ours is then `predicted_scores` or
`predicted_entities`. Tags are the model's own, IOB2; an I- tag that continues no entity begins one, as in
conlleval and in transformers' pipeline. Labels that form no entities, such as parts of speech, come as `words`
in the place of `entities`, each word one. The score of a word is the probability of its tag (with a CRF given
the whole sentence), the score of an entity the mean over its words.
"""

import argparse
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxft import inference, startup, workdir
from jaxft.data import conll, schemes, sources
from jaxft.data.sentence import Sentence
from jaxft.errors import UserError
from jaxft.tasks.token_classification import Prediction

FORMATS = ("auto", "conll", "jsonl", "text")
CHUNK_BATCHES = 4  # of as many words as a batch has slots; at 1.5 subwords a word it is six batches


class Input:
    """Sentences of a file or stdin, read once, with the lines they came from.

    format: one of `FORMATS`; afterwards the one that it is. Lines are kept from their reading until they are
    taken, so as many are held as the consumer of `sentences` reads ahead.
    """

    def __init__(self, source: str, format: str, word_column: int):
        if source.startswith(("demo:", "hub:")):
            raise UserError(f"--input {source}: predictions are for files and stdin; save the text in a file")
        # Opens nothing, but knows why a source cannot be read.
        sources.read(source, format=format, tagged=False)
        self.format = sources.guess_format(source, tagged=False) if format == "auto" else format
        if self.format not in FORMATS:
            raise UserError(
                f"{source}: predictions are for {', '.join(FORMATS[1:])}, not {self.format}; "
                "give the text in one of these"
            )
        self.name = conll.name_of(source)
        self._stream = sys.stdin.buffer if source == "-" else open(source, "rb")
        self._lines: deque[bytes] = deque()
        self._taken = 0
        self._word_column = word_column

    def __iter__(self) -> Iterator[bytes]:
        for line in self._stream:
            self._lines.append(line)
            yield line

    def sentences(self) -> Iterator[Sentence]:
        """The sentences, untagged; those without words too where they are lines of their own."""
        try:
            yield from sources.read(self, format=self.format, word_column=self._word_column, tagged=False)
        finally:
            if self._stream is not sys.stdin.buffer:
                self._stream.close()

    def take(self, count: int) -> list[bytes]:
        """The next `count` lines."""
        self._taken += count
        return [self._lines.popleft() for _ in range(count)]

    def take_until(self, sentence: Sentence) -> list[bytes]:
        """The lines before the first one of `sentence`."""
        return self.take(int(sentence.origin.rpartition(":")[2]) - 1 - self._taken)

    def take_rest(self) -> list[bytes]:
        """The lines after the last sentence, once all are read."""
        return self.take(len(self._lines))


def labelled(sentence: Sentence, prediction: Prediction) -> dict[str, list[dict]]:
    """{"entities": [...]} of a sentence that comes from text, or {"words": [...]} where labels form no entities.

    Each has character offsets, label, text and score.
    """
    found = []
    plain = [(tag, word, word + 1) for word, tag in enumerate(prediction.tags)]
    for label, first, last in schemes.spans(prediction.tags) if prediction.entities else plain:
        start, end = sentence.offsets[first][0], sentence.offsets[last - 1][1]
        score = float(prediction.scores[first:last].mean(dtype=float))
        text = sentence.text[start:end]
        found.append({"start": start, "end": end, "label": label, "text": text, "score": round(score, 6)})
    return {"entities" if prediction.entities else "words": found}


def to_conll(lines: Input, sentence: Sentence, prediction: Prediction) -> list[bytes]:
    """The sentence's lines with a column more, divided as the others are (by a tab if there is only one)."""
    out = []
    for line, tag in zip(lines.take(len(sentence.words)), prediction.tags, strict=True):
        body = line.rstrip(b"\r\n")
        divided_by_spaces = b"\t" not in body and b" " in body.strip(b" ")
        out.append(body + (b" " if divided_by_spaces else b"\t") + tag.encode() + line[len(body) :])
    return out


def to_jsonl(lines: Input, sentence: Sentence, prediction: Prediction) -> list[bytes]:
    """The sentence's record with keys added."""
    record = json.loads(lines.take(1)[0].removeprefix(b"\xef\xbb\xbf"))
    if sentence.text is None:
        new = {
            "predicted_tags": prediction.tags,
            "scores": [round(float(score), 6) for score in prediction.scores],
        }
    else:
        new = labelled(sentence, prediction)
    for key, value in new.items():
        record[f"predicted_{key}" if key in record and not key.startswith("predicted_") else key] = value
    return [_json_line(record)]


def to_text(lines: Input, sentence: Sentence, prediction: Prediction) -> list[bytes]:
    """A record of the line."""
    lines.take(1)
    return [_json_line({"text": sentence.text, **labelled(sentence, prediction)})]


def _json_line(record: dict) -> bytes:
    try:
        return json.dumps(record, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can escape and UTF-8 cannot hold
        return json.dumps(record).encode() + b"\n"


_TAG_WRITERS = {"conll": to_conll, "jsonl": to_jsonl, "text": to_text}
# By task and format of the input.
WRITERS: dict[str, dict[str, Callable[[Input, Sentence, Prediction], list[bytes]]]] = {
    "token_classification": _TAG_WRITERS,
    "crf_tagging": _TAG_WRITERS,
}


def main(argv: list[str] | None = None) -> None:
    """Parses the flags and predicts; messages go to stderr, since stdout may be the output."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxft.predict",
        description="Tags text with a run's best weights.",
        allow_abbrev=False,
    )
    parser.add_argument("--run", required=True, help="the --workdir of a run")
    parser.add_argument("--input", default="-", help="file, or - for stdin (default)")
    parser.add_argument("--output", default="-", help="file, or - for stdout (default)")
    parser.add_argument(
        "--format", default="auto", choices=FORMATS, help="of the input; auto: by its suffix, stdin is text"
    )
    parser.add_argument("--word-column", type=int, help="of CoNLL input, from 0; default the run's")
    with inference.command(parser, argv) as flags:
        run_predict(flags)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run_predict(flags: argparse.Namespace) -> None:
    """Streams the input through the model to the output.

    Raises `UserError` for a bad run, input or output; what is wrong with the run or the names is found first.
    """
    run = workdir.open_run(Path(flags.run))
    if run.config.task not in WRITERS:
        raise UserError(
            f"--run {flags.run}: its task is {run.config.task}, and predictions are for "
            f"{', '.join(WRITERS)}; a language model's text is generated with python -m jaxft.generate"
        )
    column = run.config.data.word_column if flags.word_column is None else flags.word_column
    lines = Input(flags.input, flags.format, column)
    write = WRITERS[run.config.task][lines.format]
    with inference.open_output(flags.output) as put:
        model = inference.open_model(run, _say)
        chunks = model.task.predict_stream(
            lines.sentences(),
            run.checkpoint.tokenizer,
            run.config,
            model.predictor(),
            max_words=CHUNK_BATCHES * model.rows * run.config.data.max_length,
        )
        sentences = words = 0
        began = time.perf_counter()
        for chunk in chunks:
            out = []
            for sentence, prediction in chunk:
                out += lines.take_until(sentence)
                out += write(lines, sentence, prediction)
                words += len(sentence.words)
            put(out)
            sentences += len(chunk)
        put(lines.take_rest())
    seconds = time.perf_counter() - began
    _say(f"{sentences:,} sentences, {words:,} words in {seconds:.1f} s")


if __name__ == "__main__":
    startup.leave_torch_out()
    main()
