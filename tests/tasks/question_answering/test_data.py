"""Questions with the same id are named, and each keeps its answer."""

import json

from hypothesis import given
from hypothesis import strategies as st

from jaxft.data.sources.questions import Question
from jaxft.tasks.question_answering.data import make_answer_keys, read_answered_questions
from jaxft.training.settings import settings_from_config


@given(st.lists(st.sampled_from(["a", "b", "a#2", "a#3", "b#2#2", "b#2"]), max_size=30))
def test_each_question_has_a_key_and_the_first_of_an_id_has_the_id(ids):
    keys = make_answer_keys([Question(id, "q", "c", (), "x:1") for id in ids])
    assert len(set(keys)) == len(keys) == len(ids)
    for index, (id, key) in enumerate(zip(ids, keys, strict=True)):
        assert key == id if id not in ids[:index] else key.startswith(f"{id}#")


def test_a_repeated_id_is_named(tmp_path):
    answers = {"answers": [{"text": "Oslo", "answer_start": 0}]}
    qas = [{"id": id, "question": f"{n}?"} | answers for n, id in enumerate("xyxzx")]
    path = tmp_path / "dev.json"
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": "Oslo", "qas": qas}]}]}))
    data = settings_from_config({"task": "question_answering"}).data
    for name in ("train", "dev"):
        lines = []
        assert len(read_answered_questions(data, name, str(path), lines.append)) == 5
        [warning] = [line for line in lines if line.startswith("warning")]
        place = f"{path}:data[0].paragraphs[0].qas"
        assert f"{name}: 2 of 5 questions have the id of an earlier one: 'x'" in warning
        assert f"(the first: {place}[0] and {place}[2])" in warning
        assert warning.endswith("; predictions/dev.json has their answers under ID#2 and so on") == (
            name == "dev"
        )
