"""Language models from text to export: they learn, resume to the bit, score what they generate, and torch agrees."""

import argparse
import itertools
import json
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxft.cli import use
from jaxft.data.batching import chunked
from jaxft.data.batching.choice import make_loader
from jaxft.data.batching.chunked import ChunkedLoader
from jaxft.data.encoding.documents import encode_documents
from jaxft.data.sources.documents import Document
from jaxft.errors import UserError
from jaxft.export import card
from jaxft.export.writer import export_run
from jaxft.hub.tokenizer_training import train_tokenizer
from jaxft.inference.predict import predict_file
from jaxft.models.pretrained_model import resolve_model
from jaxft.parallel.mesh import make_mesh
from jaxft.tasks.causal_lm.data import Documents
from jaxft.tasks.causal_lm.task import CausalLM
from jaxft.tasks.registry import make_data
from jaxft.training import step
from jaxft.training.loop import train
from jaxft.training.network import initial_parameters, make_network
from jaxft.training.run_folder.workdir import open_run
from jaxft.training.settings import settings_from_config
from jaxft.training.splits import read_splits
from tests.interruption import assert_a_stopped_run_ends_bit_identically

SHAPES = {"ann": "round", "bob": "square", "cleo": "flat", "dan": "long", "eve": "bent", "fay": "thin"}


def config_for(folder, **changed):
    config = settings_from_config(
        {
            "task": "causal_lm",
            "model.checkpoint": "new:gpt2",
            "model.init": "scratch",
            "model.sizes": (("n_layer", 2), ("n_embd", 32), ("n_head", 2)),
            "model.vocab_size": 300,
            "model.unroll": "no",  # quick to compile
            "data.train": str(folder / "train.txt"),
            "data.cache_dir": "off",
            "data.max_length": 32,
            "batch.rows": 8,
            "train.steps": 60,
            "optim.lr": 0.01,
            "optim.warmup": 5,
            "eval.metric": "loss",
            "eval.rows": 8,
            "log.tensorboard": False,
        }
        | {key.replace("__", "."): value for key, value in changed.items()}
    )
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Text that counts: after each word there is one that must follow; and pairs of names and shapes."""
    folder = tmp_path_factory.mktemp("text")
    rng = random.Random(0)
    words = "zero one two three four five six seven eight nine".split()
    lines = []
    for _ in range(300):
        start, count = rng.randrange(10), rng.randint(2, 60)
        lines.append(" ".join(words[(start + i) % 10] for i in range(count)))
    (folder / "train.txt").write_text("\n".join(lines) + "\n")
    for name, count in (("train", 400), ("dev", 20)):
        with open(folder / f"{name}.jsonl", "w") as file:
            for _ in range(count):
                who, other = rng.sample(list(SHAPES), 2)
                asked = rng.choice((who, other))
                record = {"who": f"{who} and {other}", "asked": asked, "shape": SHAPES[asked]}
                file.write(json.dumps(record) + "\n")
    return folder


@pytest.fixture(scope="module")
def text_run(folder, tmp_path_factory):
    """A run on documents with packing, accumulation, rematerialization and dropout; (folder, config, summary)."""
    run = tmp_path_factory.mktemp("runs") / "text"
    options = {"batch__accumulate": 2, "model__remat": "full", "checkpoint__every_steps": 20}
    config = config_for(folder, eval__every_steps=20, data__stride=8, **options)
    return run, config, train(config, run)


@pytest.fixture(scope="module")
def pair_run(folder, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "pairs"
    config = config_for(
        folder,
        data__train=str(folder / "train.jsonl"),
        data__dev=str(folder / "dev.jsonl"),
        data__template="{who}? {asked}: {shape}",
        train__steps=150,
        eval__every_steps=150,
        eval__max_new_tokens=8,
        model__dropout=0.0,
    )
    return run, config, train(config, run)


def test_a_run_on_text_learns_and_leaves_what_users_read(text_run):
    run, _, summary = text_run
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert losses[0] > 2 > 1 > losses[-1]
    dev = summary["dev"]
    assert summary["late_compiles"] == 0
    assert dev["token_accuracy"] > 0.6  # a uniform choice of ten words, each of one token: about 0.1
    assert dev["perplexity"] == pytest.approx(np.exp(dev["loss"]))
    saved = json.loads((run / "eval/dev.json").read_text())
    assert saved["metrics"] == dev
    assert saved["method"].endswith("longer ones in sliding windows of 32 tokens, 8 of them context")
    # Words and bytes are those of the split's own text, whatever its windows.
    assert dev["bits_per_byte"] == pytest.approx(np.log2(dev["byte_perplexity"]))
    assert dev["loss"] * dev["tokens"] / np.log(dev["word_perplexity"]) == pytest.approx(
        dev["loss"] * dev["tokens"] / np.log(dev["byte_perplexity"]) * _words_a_byte(text_run)
    )


def test_generate_gives_what_the_runs_own_evaluation_gave(pair_run, folder, command, tmp_path):
    """Through the command, from records to texts by the run's template."""
    flags = ["--input", folder / "dev.jsonl", "--output", tmp_path / "out.jsonl", "--max-new-tokens", 8]
    command("generate", "--run", pair_run[0], *flags)
    generated_lines, evaluated = (
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in (tmp_path / "out.jsonl", pair_run[0] / "predictions/dev.jsonl")
    )
    assert [line["generated"] for line in generated_lines] == [line["prediction"] for line in evaluated]
    assert len(generated_lines) == 20 and {"who", "asked", "shape"} < generated_lines[0].keys()


def _words_a_byte(text_run):
    texts = read_splits(Documents(text_run[1]), text_run[1], lambda line: None, ["dev"])["dev"].examples
    return sum(len(t.text.split()) for t in texts) / sum(len(t.text.encode()) for t in texts)


@pytest.mark.sweep
def test_a_stopped_run_ends_bit_identically(text_run, tmp_path, monkeypatch):
    """Its tokenizer is trained anew at the second start, and must be the same one."""
    workdir, config, _ = text_run
    assert_a_stopped_run_ends_bit_identically(config, workdir, tmp_path / "run", monkeypatch, at=30)


@pytest.mark.sweep
def test_a_stopped_run_over_many_files_ends_bit_identically(folder, tmp_path, monkeypatch):
    """Four files, and more windows than are planned at once: it goes on by its position."""
    monkeypatch.setattr(chunked, "CHUNK_WINDOWS", 100)
    lines = (folder / "train.txt").read_text().splitlines()
    for index in range(4):
        (tmp_path / f"{index}.txt").write_text("\n".join(lines[index::4]) + "\n")
    config = config_for(tmp_path, data__train=f"{tmp_path}/*.txt", data__dev=str(folder / "train.txt"))
    undisturbed = tmp_path / "whole"
    chunk_steps, original = [], ChunkedLoader.batch
    monkeypatch.setattr(
        ChunkedLoader, "batch", lambda self, step: chunk_steps.append(step) or original(self, step)
    )
    assert train(config, undisturbed)["steps"] == 60 and chunk_steps[:2] == [0, 1]
    assert_a_stopped_run_ends_bit_identically(config, undisturbed, tmp_path / "run", monkeypatch, at=5)


def run_evaluate(run, data, output, **changed):
    names = ("format", "word_column", "tag_column", "layout", "stride")
    flags = dict.fromkeys(names) | changed
    return use.run_evaluate(argparse.Namespace(run=run, data=str(data), output=str(output), **flags))


def test_evaluation_says_how_it_cuts_text_and_context_helps(text_run, folder, tmp_path):
    measured = {}
    for name, options in (
        ("blocks", {"layout": "blocks"}),  # without the run's stride, which blocks have none of
        ("apart", {"stride": 0}),
        ("sliding", {"stride": 16}),
    ):
        measured[name] = run_evaluate(text_run[0], folder / "train.txt", tmp_path / name, **options)
        method = json.loads((tmp_path / name / "eval/train.json").read_text())["method"]
        assert {"blocks": "in blocks of 32", "apart": "without context", "sliding": "16 of them context"}[
            name
        ] in method
    assert measured["sliding"]["loss"] < measured["apart"]["loss"]
    assert measured["sliding"]["tokens"] == measured["apart"]["tokens"]
    assert measured["blocks"]["tokens"] == measured["apart"]["tokens"] // 32 * 31


def test_the_loss_of_sliding_windows_is_torchs(text_run, tmp_path):
    """Over the whole dev set: each token once, after what its window shows of what comes before."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run, config, summary = text_run
    export_run(run, tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    texts = read_splits(Documents(config), config, lambda line: None, ["dev"])["dev"].examples
    total = count = windows = 0
    for text in texts:
        ids = torch.tensor([tokenizer.bos_token_id, *tokenizer(text.text).input_ids, tokenizer.eos_token_id])
        done = 0
        while done < len(ids) - 1:
            begin = max(done - 8, 0)
            end = min(begin + 32, len(ids) - 1)
            with torch.no_grad():
                logits = model(ids[None, begin:end]).logits[0, done - begin :]
            losses = torch.nn.functional.cross_entropy(logits, ids[done + 1 : end + 1], reduction="none")
            total, count, windows = total + float(losses.sum()), count + len(losses), windows + 1
            done = end
    assert windows > len(texts) and count == summary["dev"]["tokens"]
    assert summary["dev"]["loss"] == pytest.approx(total / count, rel=1e-4)


def test_a_run_on_pairs_learns_targets_and_generates_them(pair_run, folder):
    run, _, summary = pair_run
    assert summary["dev"]["exact_match"] > 0.9  # by chance: 1 in 6
    assert summary["dev"]["rougeL"] > 0.9 and summary["dev"]["texts"] == 20
    lines = [json.loads(line) for line in (run / "predictions/dev.jsonl").read_text().splitlines()]
    records = [json.loads(line) for line in (folder / "dev.jsonl").read_text().splitlines()]
    for line, record in zip(lines, records, strict=True):
        assert line["prompt"] == f"{record['who']}? {record['asked']}:"
        assert line["references"] == [f" {record['shape']}"]
    # Only targets and their ends count: a shape and the end, whose tokens are counted here by the run's tokenizer.
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    assert summary["dev"]["tokens"] == sum(len(tokenizer(f" {r['shape']}")["input_ids"]) + 1 for r in records)


def test_targets_are_searched_by_beams_where_asked(pair_run, folder, tmp_path):
    run = shutil.copytree(pair_run[0], tmp_path / "run")
    values = json.loads((run / "config.json").read_text())
    values["eval"] |= {"beams": 3, "generate": 10}
    (run / "config.json").write_text(json.dumps(values))
    (run / "model/checksums.json").unlink()  # it changed on purpose
    metrics = run_evaluate(run, folder / "dev.jsonl", tmp_path / "out")
    assert metrics["texts"] == 10 and metrics["exact_match"] >= 0.9
    assert metrics["loss"] == pytest.approx(pair_run[2]["dev"]["loss"], rel=1e-5)


def test_exports_are_verified_in_torch_and_taken_up_again(pair_run, folder, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = pair_run[0]
    export_run(run, tmp_path / "model", verify=True)
    assert "torch's logits differed from jaxft's by" in (tmp_path / "model/README.md").read_text()
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(report.values()) and type(model).__name__ == "GPT2LMHeadModel"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    lines = [json.loads(line) for line in (run / "predictions/dev.jsonl").read_text().splitlines()]
    for line in lines[:5]:
        ids = tokenizer(line["prompt"], return_tensors="pt").input_ids
        made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
        assert tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True) == line["prediction"]

    # The export is a checkpoint; added words begin as the mean of the others.
    def with_added(path):
        added = {
            "model__init": "pretrained",
            "data__added_tokens": ("<name>", "a", "<shape>"),
        }  # "a" is known
        config = config_for(folder, model__checkpoint=str(path), model__sizes=(), **added)
        checkpoint = make_data(config).open_model(())
        model = resolve_model(config, checkpoint.hf_config)
        assert checkpoint.tokenizer("<shape>")["input_ids"] == [len(known) + 1]
        task = CausalLM([], config, head_dropout=0.0)
        net = make_network(task, *model, make_mesh(config))
        parameters, line = initial_parameters(net, config, checkpoint)
        assert f"2 new words (config.data.added_tokens) begin as the mean of the other {len(known)}" in line
        words = np.asarray(parameters[net.vocabulary])
        np.testing.assert_array_equal(words[: len(known)], known)
        np.testing.assert_allclose(
            words[len(known) :][:2], np.stack([known.mean(axis=0)] * 2), rtol=1e-5, atol=1e-6
        )
        assert checkpoint.hf_config["vocab_size"] == model[0].vocab_size == len(words)
        return words

    known = model.transformer.wte.weight.detach().numpy()
    assert len(with_added(tmp_path / "model")) == len(known) + 2
    # A table with more rows than the tokenizer has words: the new ones take the first of these.
    padded = shutil.copytree(tmp_path / "model", tmp_path / "padded")
    tensors = load_file(padded / "model.safetensors")
    tensors["transformer.wte.weight"] = np.pad(known, ((0, 5), (0, 0)), constant_values=9.0)
    save_file(tensors, padded / "model.safetensors")
    values = json.loads((padded / "config.json").read_text())
    (padded / "config.json").write_text(json.dumps(values | {"vocab_size": len(known) + 5}))
    words = with_added(padded)
    assert len(words) == len(known) + 5 and (words[-3:] == 9).all()


def test_the_card_names_no_folder_of_this_machine(text_run):
    run = text_run[0]
    text = card.write_card(open_run(run), 1, None)
    assert "`10% of train.txt, seed 0`" in text and str(run.parent.parent) not in text
    assert "sliding windows of 32 tokens, 8 of them context" in text


def test_packed_and_unpacked_rows_have_one_loss_and_gradient(folder):
    config = config_for(folder)
    tokenizer = train_tokenizer([(folder / "train.txt").read_text()], 300, 32)
    lines = (folder / "train.txt").read_text().splitlines()
    texts = [Document(line, i, f"x:{i}") for i, line in enumerate(lines[:30])]
    windows = encode_documents(texts, tokenizer, max_length=32, stride=4)
    task = CausalLM([], config, head_dropout=0.0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "initializer_range": 0.3}
    hf_config = sizes | {"model_type": "gpt2", "vocab_size": len(tokenizer)}
    net = make_network(task, *resolve_model(config, hf_config), make_mesh(config))
    parameters = jax.jit(net.new_parameters)(jnp.uint32(0))
    gradient = jax.jit(
        jax.value_and_grad(
            lambda p, batch: task.loss(step.merge_model(net.graphdef, p), batch, None), has_aux=True
        )
    )
    totals = []
    for pack in (True, False):
        loader = make_loader(windows, rows=8, max_length=32, pack=pack, shuffle=False)
        batch_values = [gradient(parameters, loader.batch(i).arrays) for i in range(loader.steps_per_epoch)]
        totals.append(jax.tree.map(lambda *leaves: sum(leaves), *batch_values))
    (packed, packed_gradient), (plain, plain_gradient) = totals
    assert packed[1] == plain[1] == sum(len(tokenizer(t.text)["input_ids"]) + 1 for t in texts)
    assert float(packed[0]) == pytest.approx(float(plain[0]), rel=1e-5)
    for name, leaf in packed_gradient.items():
        np.testing.assert_allclose(leaf, plain_gradient[name], rtol=1e-3, atol=1e-3, err_msg=name)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model__init": "pretrained"}, "a new model that can be trained is 'new:gpt2', or a folder"),
        ({"model__checkpoint": "new:bert"}, "'new:bert', .*: a new model that can be trained is 'new:gpt2'"),
        ({"model__sizes": (("layers", 2),)}, r"config.model.sizes: \['layers'\] unknown; expected some of n_po"),
        ({"model__vocab_size": 100}, "vocab_size=100: a byte-level tokenizer has 256 bytes"),
        ({"model__sizes": (("n_positions", 16),)}, "max_length=32, but new:gpt2 has 16 positions"),
        ({"loss__label_smoothing": 0.1}, "loss.label_smoothing is a setting of token_classification and"),
        ({"eval__metric": "f1"}, "metric='f1' was not measured; measured: bits_per_byte, byte_perplexity, loss"),
        ({"data__layout": "blocks", "data__stride": 2}, "so config.data.stride does not go with it"),
        ({"data__train": "demo:ner/train"}, "demo:ner/train: no such corpus of text"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_training(folder, tmp_path, changed, message):
    with pytest.raises(UserError, match=message):
        train(config_for(folder, **changed), tmp_path / "run")


def test_checkpoints_of_another_task(folder, tmp_path, tiny_bert):
    with pytest.raises(UserError, match="model_type is 'bert', but config.task='causal_lm' is for gpt2"):
        train(
            config_for(folder, model__checkpoint=str(tiny_bert), model__sizes=(), model__init="pretrained"),
            tmp_path / "run",
        )


def test_settings_that_leave_no_room_for_a_prompt(folder):
    with pytest.raises(UserError, match="config.eval.max_new_tokens=32: expected less than max_length"):
        config_for(folder, data__template="{a}{b}", eval__max_new_tokens=32)


def test_predict_is_for_taggers(text_run):
    with pytest.raises(UserError, match="its task is causal_lm, .*generated with jaxft generate"):
        predict_file(text_run[0])


def test_the_same_text_gives_the_same_tokenizer(folder):
    texts = (folder / "train.txt").read_text().splitlines()
    first, second = (train_tokenizer(iter(texts), 320, 32) for _ in range(2))
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()
    odd = "".join(map(chr, itertools.chain(range(32, 1000), range(0x1F600, 0x1F640)))) + " \n\t  <|endoftext"
    assert first.decode(first(odd)["input_ids"]) == odd
