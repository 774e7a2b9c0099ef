"""Makes records as annotation tools write them, and reads them from files."""

import json

import pytest

from jaxft.data.sources.labelled_texts import TextColumns, read_labelled_texts
from jaxft.data.sources.labels import LabelRules
from jaxft.data.sources.tagged_sentences.sentences import read_sentences


@pytest.fixture
def write(tmp_path):
    """Writes a text, or records as JSON lines, to a file and returns its path."""

    def write_file(content, name="data.jsonl"):
        if not isinstance(content, str):
            content = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in content)
        (tmp_path / name).write_text(content, encoding="utf-8")
        return f"{tmp_path}/{name}"

    return write_file


def read_tags(source, **options):
    """Returns (word:tag words of each sentence, lines of the log about the content)."""
    log = []
    sentences = [
        " ".join(f"{word}:{tag}" if tag != "O" else word for word, tag in zip(s.words, s.tags, strict=True))
        for s in read_sentences(source, log=log.append, **options)
    ]
    return sentences, [line.partition(": ")[2] for line in log if "config.data.format" not in line]


def read_labels(source, label="label", problem="single_label_classification"):
    """Returns (text and label of each example, lines of the log about the content)."""
    log = []
    examples = read_labelled_texts(
        source, columns=TextColumns(label=label), rules=LabelRules(problem), log=log.append
    )
    pairs = [(example.text, example.label) for example in examples]
    return pairs, [line.partition(": ")[2] for line in log if "config.data.format" not in line]


ROME = ["Rome:B-LOC sleeps"]


def region(start, end, text, label, **more):
    value = {"start": start, "end": end, "text": text, "labels": [label]}
    return {
        "id": "qd1",
        "from_name": "label",
        "to_name": "text",
        "type": "labels",
        "origin": "manual",
        "value": value,
    } | more


def choice(control, *choices):
    return {
        "id": "x",
        "from_name": control,
        "to_name": "text",
        "type": "choices",
        "value": {"choices": [*choices]},
    }


def task(text, *results, **more):
    annotation = {
        "id": 22,
        "completed_by": 1,
        "result": [*results],
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": "2024-01-30T02:40:43.893565Z",
        "lead_time": 8.65,
        "task": 87,
    }
    return {
        "id": 87,
        "annotations": [annotation | more],
        "file_upload": "a.csv",
        "drafts": [],
        "predictions": [],
        "data": {"text": text},
        "meta": {},
        "created_at": "2024-01-30T02:40:33.867975Z",
        "inner_id": 1,
        "total_annotations": 1,
        "project": 29,
    }


def json_min(text, results, **more):
    return (
        {"text": text, "id": 87}
        | results
        | {"annotator": 1, "annotation_id": 22, "created_at": "2024", "updated_at": "2024", "lead_time": 8.65}
        | more
    )


def prodigy(text, answer="accept", **more):
    return {"text": text, "_input_hash": 1, "_task_hash": 2, "_session_id": "me", "answer": answer} | more


def prodigy_ner(text, *spans, answer="accept", **more):
    words = text.split(" ")
    tokens = [
        {"text": w, "start": text.index(w), "end": text.index(w) + len(w), "id": n, "ws": True}
        for n, w in enumerate(words)
    ]
    return prodigy(
        text, answer, tokens=tokens, spans=[*spans], _is_binary=False, _view_id="ner_manual", **more
    )


LOC = {"start": 0, "end": 4, "token_start": 0, "token_end": 0, "label": "LOC"}


def spacy_document(number):
    def token(index, orth, ner, tag):
        return {"id": index, "orth": orth, "tag": tag, "head": 0, "dep": "ROOT", "ner": ner}

    first = [token(0, "New", "B-GPE", "NNP"), token(1, "York", "L-GPE", "NNP"), token(2, "naps", "O", "VBZ")]
    second = [token(0, "Rome", "U-GPE", "NNP"), token(1, "too", "-", "RB")]
    paragraph = {
        "raw": "New York naps Rome too",
        "sentences": [{"tokens": first, "brackets": []}, {"tokens": second, "brackets": []}],
        "cats": [{"label": "NAP", "value": 1.0}, {"label": "WAR", "value": 0.0}],
    }
    return {"id": number, "paragraphs": [paragraph]}
