"""Reads sentences for tagging from any source: files, stdin, the hub and generated corpora."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import replace

from jaxft.data.demo import ner, pos, requests
from jaxft.data.sources import files, formats
from jaxft.data.sources.examples import admit_examples
from jaxft.data.sources.formats import FileFormat, ResolvedSource
from jaxft.data.sources.records import filters
from jaxft.data.sources.records.reader import read_records
from jaxft.data.sources.tagged_sentences import brat, conll
from jaxft.data.sources.tagged_sentences.column_layout import ColumnLayout, ColumnSettings
from jaxft.data.sources.tagged_sentences.sentence import Sentence
from jaxft.data.sources.tagged_sentences.span_offsets import DEFAULT_RULES, SpanReader, SpanRules
from jaxft.data.sources.tagged_sentences.spans import KEYS, find_tag_names, parse_cells, parse_sentences
from jaxft.data.sources.tagged_sentences.token_tables import join_rows
from jaxft.errors import UserError

_DEMO_CORPORA = {"ner": ner, "pos": pos}


def read_sentences(
    source: str | files.Stream,
    *,
    format: FileFormat = formats.UNSET,
    word_column: int | None = None,
    tag_column: int | None = None,
    tagged: bool = True,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    rules: SpanRules = DEFAULT_RULES,
    layout: ColumnLayout | None = None,
    log: files.Log = files.log_nothing,
) -> Iterator[Sentence]:
    """Streams the sentences of a source, in its order and in constant memory.

    Args:
      source: a path, or a pattern of several files (see `files.find_files`); "-" for stdin; an open stream of lines
        in UTF-8; `demo:NAME/train`, `/dev` or `/test` with the name ner, pos or requests; or
        `hub:NAME[:CONFIGURATION][@REVISION][/SPLIT]`. A filter chooses records: `data.jsonl?fold=0-3`.
      format: how files are read.
      word_column: the column of the word in CoNLL files, from 0, or from the end if negative; None: the first, FORM of
        CoNLL-U, or what a header names.
      tag_column: the column of the tag, counted in the same way; None: the last, UPOS, or what a header names.
      tagged: True if tags are read. If False, `tags` is None, and empty records and empty lines become sentences
        without words, so that predictions stay aligned with the input.
      split: the split of a `demo:` or `hub:` source whose address does not name one.
      columns: role -> key of the data, if it differs from `tokens`, `tags` (or `ner_tags`), `text` or `spans`; in a
        table with a word a row `sentence` is the role of the column that tells sentences.
      rules: how character spans are written.
      layout: the layout of CoNLL columns, if it is known; a stream shows that of its first sentence only.
      log: prints a line about the source, and about doubtful data.

    Raises:
      UserError: the source does not exist (raised at once), or its data is invalid or has no sentence (raised while
        reading, with file, line or row, and key).
    """
    columns = dict(columns or {})
    if unknown := columns.keys() - KEYS.keys():
        raise UserError(f"columns: {sorted(unknown)} unknown; expected {', '.join(KEYS)}")
    span_reader = SpanReader(rules)
    parse = functools.partial(parse_sentences, tagged=tagged, columns=columns, span_reader=span_reader)
    if isinstance(source, str) and requests.is_requests_source(source):
        address, record_filter = filters.split_filter(source)
        rows = filters.filter_records(requests.generate_records(address), record_filter)
        return admit_examples(parse(rows), source, "sentence", format.max_text)
    if isinstance(source, str) and source.startswith("demo:"):
        sentences = _generate_sentences(source, split)
        sentences = sentences if tagged else (replace(sentence, tags=None) for sentence in sentences)
        return admit_examples(sentences, source, "sentence", format.max_text)
    if tagged and (paths := brat.find_annotations(source, format)) is not None:
        sentences = brat.read_brat(
            paths, files.source_name(source), format=format, span_reader=span_reader, log=log
        )
        return admit_examples(sentences, source, "sentence", format.max_text)
    keys = [columns.get(role, key) for role, usual_keys in KEYS.items() for key in usual_keys]
    resolved = formats.resolve_source(source, formats.SENTENCES, format, log, keys=keys)
    log = files.log_once(log)

    def read_file(file: ResolvedSource) -> Iterator[Sentence]:
        name = file.format.name
        if name == "text":
            if tagged:
                raise UserError(
                    f"{files.source_name(file.address)}: plain text has no tags; give CoNLL columns, or text and spans "
                    "as JSON lines; if these are columns, set config.data.format=conll"
                )
            sentences = conll.read_plain_sentences(file, keep_empty=True)
        elif name in ("conll", "conllu"):
            settings = ColumnSettings(word_column, tag_column, file.format.delimiter, name == "conllu")
            sentences = conll.read_conll(file, settings, tagged=tagged, layout=layout, log=log)
        else:
            rows, features = read_records(file, formats.SENTENCES, log, split=split, labelled=tagged)
            rows = join_rows(rows, columns, file.name, log)
            rows = parse_cells(rows, columns) if name in ("csv", "tsv") else rows
            tag_names = find_tag_names(features, columns)
            sentences = parse(rows, tag_names=tag_names)
        return admit_examples(sentences, file.name, "sentence", file.format.max_text)

    sources = files.open_each(read_file, resolved)

    def read_files() -> Iterator[Sentence]:
        yield from _number_documents(sources)
        span_reader.finish(log)

    return read_files()


def _number_documents(sources: Iterator[Iterator[Sentence]]) -> Iterator[Sentence]:
    """Yields the sentences of several files. The numbers of documents continue from file to file."""
    first_document = 0  # the number of the file's first document
    for sentences in sources:
        document = first_document - 1
        for sentence in sentences:
            document = first_document + sentence.document
            yield replace(sentence, document=document) if first_document else sentence
        first_document = document + 1


def _generate_sentences(source: str, split: str | None) -> Iterator[Sentence]:
    name, _, split_in_address = source.removeprefix("demo:").partition("/")
    split = split_in_address or split
    if name not in _DEMO_CORPORA or split not in _DEMO_CORPORA[name].SIZES:
        known = (f"demo:{name}/{split}" for name, corpus in _DEMO_CORPORA.items() for split in corpus.SIZES)
        raise UserError(f"{source}: no such corpus; expected {', '.join(known)}")
    return _DEMO_CORPORA[name].generate_sentences(split)
