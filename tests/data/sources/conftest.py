"""Gives the tests of readers files to read, and sentences as lists."""

import json

import pytest

from jaxft.data.sources.tagged_sentences.sentences import read_sentences


@pytest.fixture
def write_source(tmp_path):
    """Writes bytes, text or records (as JSON lines) to a file and returns its path."""

    def write(content, name="data.conll"):
        if isinstance(content, list):
            content = "".join(json.dumps(record) + "\n" for record in content)
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def read_list(source, **options):
    """Reads all sentences of a source."""
    return list(read_sentences(source, **options))


def word_tag_pairs(sentences):
    """Returns the words of each sentence with their tags."""
    return [list(zip(sentence.words, sentence.tags, strict=True)) for sentence in sentences]
