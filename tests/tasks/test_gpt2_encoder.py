"""GPT-2 under the heads that label texts and words equals torch, learns, and is exported."""

import argparse
import json
import random
import re

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    pipeline,
)

from jaxft.cli import use
from jaxft.data.batching.choice import make_loader
from jaxft.data.sources.labelled_texts import LabelledText
from jaxft.data.sources.tagged_sentences.sentence import Sentence
from jaxft.errors import UserError
from jaxft.export import with_torch
from jaxft.export.writer import export_run
from jaxft.hub.files import read_config
from jaxft.hub.processors import TextProcessor
from jaxft.hub.tokenizers import load_tokenizer
from jaxft.hub.weights import load_weights
from jaxft.inference.predict import predict_file
from jaxft.models.pretrained_model import resolve_model
from jaxft.models.registry import FAMILIES
from jaxft.parallel.mesh import make_mesh
from jaxft.tasks.registry import TASKS, make_data, make_task
from jaxft.training.loop import train
from jaxft.training.network import make_network
from jaxft.training.settings import settings_from_config
from tests.conftest import write_conll
from tests.models.parity import assert_gradients_equal_torch, randomize
from tests.tasks.sequence_classification.test_task import gradient_of, mean_loss

END, LENGTH = "<|endoftext|>", 16
LETTERS = list("abcdefgh")
WORDS = {"token_classification": ["B-X", "I-X", "O"], "sequence_classification": ["x", "y", "z"]}
CLASSES = {
    "token_classification": GPT2ForTokenClassification,
    "sequence_classification": GPT2ForSequenceClassification,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Writes a random GPT-2 like Hugging Face's: its tokenizer puts no space before a text and has no padding token."""
    folder = tmp_path_factory.mktemp("gpt2")
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(["ab cd abcd ef gh " * 9], vocab_size=300, special_tokens=[END])
    tokenizer.save_model(str(folder))
    about = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False}
    ends = {f"{kind}_token": END for kind in ("bos", "eos", "unk")}
    (folder / "tokenizer_config.json").write_text(json.dumps(about | ends))
    torch.manual_seed(1)
    model = GPT2ForTokenClassification(
        GPT2Config(
            vocab_size=tokenizer.get_vocab_size(), n_positions=48, n_embd=24, n_layer=2, n_head=3,
            initializer_range=0.2, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    return folder


def settings(checkpoint, task, **changed):
    values = settings_from_config(
        {
            "task": task,
            "model.checkpoint": str(checkpoint),
            "model.unroll": "no",  # quick to compile
            "data.max_length": LENGTH,
            "data.cache_dir": "off",
            "log.tensorboard": False,
        }
        | {key.replace("__", "."): value for key, value in changed.items()}
    )
    return values


@pytest.mark.parametrize("kind", list(CLASSES))
def test_loss_and_gradients_equal_torch_from_text_on(checkpoint, kind):
    """Words are read as after a space, texts as they are. We pack rows; torch has a row for each text."""
    only = {"data__label_subwords": "last"} if kind == "token_classification" else {"data__max_segments": 4}
    values = settings(checkpoint, kind, **only)
    opened = make_data(values).open_model(())
    labels, tokenizer = WORDS[kind], opened.tokenizer
    has_words = kind == "token_classification"
    task = make_task(labels, values, head_dropout=0.1)
    net = make_network(task, *resolve_model(values, opened.hf_config), make_mesh(values))
    theirs = CLASSES[kind](GPT2Config(**opened.hf_config | {"num_labels": 3, "pad_token_id": 0})).eval()
    randomize(theirs, 1)
    tensors = {name: t.detach().numpy() for name, t in theirs.state_dict().items()}
    table = FAMILIES["gpt2"].table_with_head(TASKS[kind].head, net.model_config)
    parameters, report = load_weights(table, tensors, net.abstract)
    assert not report.new and not report.ignored
    assert bool(tokenizer.add_prefix_space) == has_words

    rng = random.Random(2)
    texts = [rng.choices(["ab", "cd", "abcd", "ef"], k=rng.randint(1, 6)) for _ in range(7)]
    tags = [[rng.choice(labels) for _ in words] for words in texts]
    if has_words:
        examples = [Sentence(w, t, 0, "x") for w, t in zip(texts, tags, strict=True)]
        encoded = tokenizer(texts, is_split_into_words=True, padding=True, return_tensors="pt")
        targets = torch.full(encoded["input_ids"].shape, -100)
        for row, sentence in enumerate(tags):
            ids = encoded.word_ids(row)
            for slot, word in enumerate(ids):
                if word is not None and word not in ids[slot + 1 :]:
                    targets[row, slot] = labels.index(sentence[word])
    else:
        examples = [
            LabelledText(" ".join(w), None, t[0].lower()[0], "x") for w, t in zip(texts, tags, strict=True)
        ]
        encoded = tokenizer([e.text for e in examples], padding=True, return_tensors="pt")
        targets = torch.tensor([labels.index(e.label) for e in examples])
    output = theirs(
        input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"], labels=targets.long()
    )
    output.loss.backward()
    gradients = {name: p.grad.numpy() for name, p in theirs.named_parameters()}

    windows = make_data(values).encode(examples, labels, TextProcessor(tokenizer), cached=False)
    loader = make_loader(windows, rows=2, max_length=LENGTH, **task.batch_spec.loader_options())
    assert loader.batch(0).arrays["segment_ids"].max() > 1
    loss, ours = mean_loss(net, gradient_of(net), parameters, windows)
    assert loss == pytest.approx(output.loss.item(), rel=1e-5)
    assert_gradients_equal_torch(table, ours, gradients, net.abstract)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Writes texts labelled by their first word, and sentences whose word after "ab" is an entity."""
    folder, rng = tmp_path_factory.mktemp("data"), random.Random(0)
    for name, count in (("train", 300), ("dev", 40), ("test", 40)):
        sentences = [rng.choices(["ab", "cdgh", "ef", "gh"], k=rng.randint(2, 7)) for _ in range(count)]
        write_conll(
            folder / f"{name}.conll",
            [
                Sentence(w, ["B-X" if before == "ab" else "O" for before in ["", *w[:-1]]], 0, "x")
                for w in sentences
            ],
        )
        lines = [json.dumps({"text": " ".join(w), "label": w[0]}) for w in sentences]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("kind", "suffix", "metric"),
    [
        ("token_classification", "conll", "entity_f1"),
        ("crf", "conll", "entity_f1"),
        ("sequence_classification", "jsonl", "accuracy"),
    ],
)
def test_it_learns_from_earlier_words_and_torch_agrees(
    checkpoint, data, tmp_path, capsys, kind, suffix, metric
):
    """Words are read at their last subword, which alone has seen all of the word; so does the exported loader."""
    options = {f"data__{name}": str(data / f"{name}.{suffix}") for name in ("train", "dev", "test")}
    options |= {"batch__rows": 8, "train__steps": 100, "optim__lr": 0.01, "optim__warmup": 5, "eval__rows": 8}
    options |= {"eval__bootstrap": 0, "data__max_length": 48}
    if suffix == "conll":
        options["data__label_subwords"] = "last"
    if kind == "crf":
        kind, options["model__crf"] = "token_classification", True
    summary = train(settings(checkpoint, kind, **options), tmp_path / "run")
    assert summary["test"][metric] > 0.8  # by chance a quarter
    names = dict.fromkeys(("format", "word_column", "tag_column", "layout", "stride"))
    names |= {"run": tmp_path / "run", "data": options["data__test"], "output": str(tmp_path / "evaluated")}
    assert use.run_evaluate(argparse.Namespace(**names)) == pytest.approx(summary["test"], rel=1e-5)

    export_run(tmp_path / "run", tmp_path / "out", verify=True)
    output_text = capsys.readouterr().out
    assert float(re.search(r"between jax and torch: (\S+) ", output_text)[1]) < 1e-4
    card = (tmp_path / "out/README.md").read_text()
    assert "GPT-2" in card
    has_words = suffix == "conll"
    loaded = CLASSES["token_classification" if has_words else kind].from_pretrained(tmp_path / "out")
    assert loaded.config.id2label == dict(
        enumerate(sorted(loaded.config.label2id, key=loaded.config.label2id.get))
    )
    assert load_tokenizer(tmp_path / "out").pad_token_id is not None

    if has_words:
        inputs = [{"tokens": ["ab", "cdgh", "cdgh", "ab", "gh"]}]
    else:
        inputs = [{"text": text} for text in ("cdgh ab", "gh", "ef " * 12 + "ab", "ab ef cdgh gh")]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in inputs))
    flags = {"run": tmp_path / "run", "input": str(tmp_path / "in.jsonl")}
    flags["output"] = str(tmp_path / "out.jsonl")
    predict_file(flags["run"], flags["input"], flags["output"])
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    if not has_words:
        labels = [record["predicted_label"] for record in records]
        assert labels == ["cdgh", "gh", "ef", "ab"]
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
        classify = pipeline("text-classification", model=loaded, tokenizer=tokenizer, device="cpu")
        answers = classify([record["text"] for record in inputs], batch_size=len(inputs))
        assert [answer["label"] for answer in answers] == labels
        scores = [answer["score"] for answer in answers]
        assert scores == pytest.approx([record["score"] for record in records], abs=1e-4)
        return
    [record], words = records, inputs[0]["tokens"]
    assert record["predicted_tags"] == ["O", "B-X", "O", "O", "B-X"]
    assert "answers by heads_loader.py in torch: 0 of 40 of dev differ" in output_text
    assert "a word's tag is read at its last subword" in card
    assert with_torch.load_exported(tmp_path / "out")(words)["tags"] == record["predicted_tags"]


@pytest.mark.parametrize(
    "changed",
    [
        {"model__pool": "mean"},
        pytest.param({"model__problem_type": "regression", "eval__metric": "mse"}, marks=pytest.mark.sweep),
    ],
)
def test_without_a_class_in_transformers_backbone_and_head_are_exported(
    checkpoint, tmp_path, capsys, changed
):
    """These are another pool, and numbers, whose scale needs a bias."""
    rng, values = random.Random(0), "012" if "model__pool" in changed else (0.0, 25.0, 50.0)
    texts = [" ".join(rng.choices(["ab", "cdgh", "ef"], k=rng.randint(1, 6))) for _ in range(40)]
    lines = [json.dumps({"text": text, "label": rng.choice(values)}) for text in texts]
    for name in ("train", "dev"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    options = {f"data__{name}": str(tmp_path / f"{name}.jsonl") for name in ("train", "dev")}
    options |= {"train__steps": 2, "eval__bootstrap": 0, "data__max_length": 48}
    options |= {"data__label_range": (0.0, 50.0)}
    train(settings(checkpoint, "sequence_classification", **options | changed), tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "out", verify=True)
    output_text = capsys.readouterr().out
    assert float(re.search(r"between jax and torch: (\S+) ", output_text)[1]) < 1e-4
    assert "answers by heads_loader.py in torch: 0 of 40 of dev differ" in output_text
    assert with_torch.load_exported(tmp_path / "out").heads["label"]["pool"] == changed.get(
        "model__pool", "last"
    )


@pytest.mark.parametrize("pool", ["pooler", "cls"])
def test_a_pool_at_the_first_token_is_refused(checkpoint, pool):
    values = settings(checkpoint, "sequence_classification", model__pool=pool)
    task = make_task(["x", "y"], values, head_dropout=0.1)
    model = resolve_model(values, read_config(checkpoint))
    with pytest.raises(UserError, match=f"config.model.pool='{pool}': .* sees only itself.*expected 'last'"):
        make_network(task, *model, make_mesh(values))


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("question_answering", {}),
        ("multi_task", {"tasks": (("a", (("task", "token_classification"),)),)}),
    ],
)
def test_tasks_that_cannot_train_it_are_refused(checkpoint, kind, changed):
    values = settings(checkpoint, kind, **changed)
    with pytest.raises(
        UserError, match=f"model_type is 'gpt2', but config.task='{kind}' is for bert(, [a-z0-9-]+)*; choose"
    ):
        make_data(values).open_model(())
