"""The question corpus: answers are right and stand in one split only, and some questions have none."""

import hashlib

from jaxft.data.demo import ner
from jaxft.data.demo import questions as demo_questions
from jaxft.data.sources.questions import read_questions


def test_the_corpus_has_right_answers_long_contexts_and_unanswerable_questions():
    """No answer of one split stands in another."""
    questions_of = {split: list(read_questions(f"demo:qa/{split}")) for split in demo_questions.SIZES}
    answers = {
        split: {a.text.lower() for q in questions_of[split] for a in q.answers} for split in questions_of
    }
    for split, questions in questions_of.items():
        assert len(questions) == demo_questions.SIZES[split]
        assert (
            len({q.id for q in questions})
            == len({(q.question, q.context) for q in questions})
            == len(questions)
        )
        assert 0.15 < sum(not q.answers for q in questions) / len(questions) < 0.35
        assert sum(len(q.context.split()) > 192 for q in questions) >= 10 or split != "train"
        assert not any(set("{}") & set(q.context + q.question) for q in questions)
        for other in answers.keys() - {split}:
            assert not answers[split] & answers[other]
    text = repr(
        [
            (q.question, q.context, q.answers)
            for split in ("train", "dev", "test")
            for q in questions_of[split]
        ]
    )
    # A change of the corpus changes every score measured on it: then measure them again.
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "f2c6c99df5a0f506"
    assert set(ner.SIZES) == set(questions_of)
