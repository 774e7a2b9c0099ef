"""Encoding a long text takes memory for its windows, not for a tokenizer's results."""

import subprocess

import pytest

# Prints the megabytes by which encoding a text of 1.5 MB raises the peak of a process that has encoded a short one.
SCRIPT = """
import resource, sys
import numpy as np
from jaxft.data.encoding.documents import encode_documents
from jaxft.data.encoding.labelled_texts import encode_labelled_texts
from jaxft.data.encoding.questions import encode_questions
from jaxft.data.encoding.sentences import encode_sentences
from jaxft.data.sources.documents import Document
from jaxft.data.sources.labelled_texts import LabelledText
from jaxft.data.sources.questions import Question
from jaxft.data.sources.tagged_sentences.spans import parse_sentences
from tests.data.tiny_text import minilm

tokenizer = minilm()
tokenizer.eos_token = "[SEP]"
labels = np.zeros(1, np.int32), np.ones(1, bool)

def encode(kind, text):
    if kind == "sentences":
        sentences = list(parse_sentences(iter([("", "", {"text": text})]), tagged=False, columns={}))
        return encode_sentences(sentences, tokenizer, {"O": 0}, max_length=128)
    if kind == "texts":
        texts = [LabelledText(text, None, None, "")]
        return encode_labelled_texts(texts, *labels, tokenizer, max_length=128, truncation="windows")
    if kind == "questions":
        return encode_questions([Question("", "who?", text, None, "")], tokenizer, max_length=128)
    return encode_documents([Document(text, 0, "")], tokenizer, max_length=128)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

encode(sys.argv[2], "a few words " * 9)
before = peak()
assert len(encode(sys.argv[2], "Peter left Oslo in May 2024. " * 52_000)) > 3_000
print((peak() - before) // 1024)
"""


@pytest.mark.sweep  # tests/end_to_end/test_sequence_classification.py holds the memory of predict
@pytest.mark.parametrize("kind", ["sentences", "texts", "questions", "documents"])
def test_a_long_text_takes_little_memory(kind, python, environment):
    arguments = [*python, "-c", SCRIPT, "", kind]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 75  # 150 to 400 if the whole text is tokenized at once
