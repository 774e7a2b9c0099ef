"""Fixtures that tests share: tiny checkpoints, corpora and runs, and ways to run commands."""

import gc
import importlib.metadata
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks a hub
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests run tiny steps, so most of their time is the compiler's; these flags save half of that and more.
# `XLA_FLAGS= python -m pytest` tests what users compile.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_max_isa=SSE4_2"
    " --xla_cpu_parallel_codegen_split_count=1"  # a fifth less than in the usual 32 parts
    # Newer versions don't know this flag, and end at it.
    + (" --xla_cpu_use_fusion_emitters=false" if importlib.metadata.version("jaxlib") < "0.11" else ""),
)

import itertools
import json
import pathlib
import socket
import subprocess
import sys

import hypothesis
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxft.data.demo import ner
from tests.warm_python import warm_python

pytest.register_assert_rewrite("tests.interruption")
# Files that take minutes. They come first, so that at the end no process works alone on one of them.
SLOW_FILES = (
    "several_processes",
    "resume",
    "meshes",
    "causal_lm",
    "train",
    "train_settings",
    "step",
    "predict",
    "sequence_classification",
)
# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile(
    "jaxft", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("jaxft")
REPOSITORY = pathlib.Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items) -> None:
    """Puts the tests of slow files first."""

    def rank(item) -> int:
        name = item.path.stem.removeprefix("test_")
        return SLOW_FILES.index(name) if name in SLOW_FILES else len(SLOW_FILES)

    items.sort(key=rank)


def pytest_collection_finish() -> None:
    """Leaves all that has been imported out of garbage collections, which took a tenth of a test that compiles."""
    gc.freeze()


def free_port() -> int:
    """Returns a port of this machine that no program listens at."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def write_conll(path: pathlib.Path, sentences) -> pathlib.Path:
    """Writes two columns, word and tag, and an empty line after each sentence."""
    blocks = ("".join(f"{w}\t{t}\n" for w, t in zip(s.words, s.tags, strict=True)) for s in sentences)
    path.write_text("\n".join(blocks), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> dict[str, str]:
    """CoNLL files of 300, 40 and 40 sentences, names shared: {"train": path, "dev": path, "test": path}."""
    folder = tmp_path_factory.mktemp("corpus")
    sentences = ner.generate_sentences("train")
    sizes = {"train": 300, "dev": 40, "test": 40}
    return {
        name: str(write_conll(folder / f"{name}.conll", itertools.islice(sentences, size)))
        for name, size in sizes.items()
    }


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory) -> pathlib.Path:
    """A random BERT of two layers in Hugging Face's layout, its vocabulary the words of the demo corpus."""
    from jaxft.models.bert import weights  # noqa: F401

    folder = tmp_path_factory.mktemp("tiny-bert")
    words = {w.lower() for s in itertools.islice(ner.generate_sentences("train"), 380) for w in s.words}
    letters = [p + c for c in "abcdefghijklmnopqrstuvwxyz0123456789" for p in ("", "##")]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *sorted(words - set(letters))]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 64})
    )
    config = {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": len(vocabulary),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.1,  # so wide that so small a model learns in a hundred steps
        "pad_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    model = BertModel(BertConfig(**config))
    save_file(
        {name: np.asarray(t.detach()) for name, t in model.state_dict().items()}, folder / "model.safetensors"
    )
    return folder


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory) -> pathlib.Path:
    """A random GPT-2 of two layers in Hugging Face's layout, with a tokenizer of bytes and a few joined ones."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder, end = tmp_path_factory.mktemp("tiny-gpt2"), "<|endoftext|>"
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(["the cat and the hat"] * 9, vocab_size=270, special_tokens=[end])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, bos_token=end, eos_token=end)
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(fast), n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3,
        bos_token_id=fast.bos_token_id, eos_token_id=fast.eos_token_id,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    save_file(
        {n: np.asarray(t.detach()).copy() for n, t in model.named_parameters()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    return folder


@pytest.fixture(scope="session")
def tiny_flags(corpus, tiny_bert, tmp_path_factory) -> list[str]:
    """Flags of the verb `train` for a run of seconds: packing, accumulation and dropout on, five epochs."""
    settings = {
        "model.checkpoint": tiny_bert,
        **{f"data.{name}": path for name, path in corpus.items()},
        "data.max_length": 64,
        "data.cache_dir": tmp_path_factory.mktemp("data-cache"),
        "batch.rows": 4,
        "batch.accumulate": 2,
        "train.steps": 100,
        "optim.lr": 0.01,
        "eval.rows": 8,
        "eval.every_steps": 20,
        "eval.bootstrap": 100,
        "checkpoint.every_steps": 14,  # not at each evaluation, so that sums between log lines are kept too
        "log.every_steps": 4,
        "log.tensorboard": False,
    }
    return ["--config", str(REPOSITORY / "configs/ner.py")] + [
        f"--config.{k}={v}" for k, v in settings.items()
    ]


@pytest.fixture(scope="session", autouse=True)
def compiled_programs(tmp_path_factory) -> str:
    """The folder that keeps the compiled programs of tests and commands for the tests that follow."""
    import jax

    base = tmp_path_factory.getbasetemp()
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # the same for both processes
    cache = os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "xla-cache")
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
    return cache


@pytest.fixture(scope="session")
def environment(compiled_programs) -> dict[str, str]:
    """Environment of commands: offline, on CPU, compiled programs shared by all tests."""
    return os.environ | {"JAX_COMPILATION_CACHE_DIR": compiled_programs, "PYTHONPATH": str(REPOSITORY)}


@pytest.fixture(scope="session")
def python(environment, tmp_path_factory):
    """The command line of a Python that has already imported what commands import: half of a short run's time."""
    with warm_python(str(tmp_path_factory.mktemp("python") / "socket"), environment) as client:
        yield client


@pytest.fixture(scope="session")
def command(environment, python):
    """A function that runs `python -m jaxft VERB FLAGS` and returns the finished process; `cold`: in a new Python."""

    def run(verb: str, *flags, timeout: float = 300, cold=False, **options) -> subprocess.CompletedProcess:
        return subprocess.run(
            [*([sys.executable] if cold else python), "-m", "jaxft", verb, *map(str, flags)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            **options,
        )

    return run


@pytest.fixture(scope="session")
def on_eight_devices(environment, python):
    """A function that runs a Python script on eight virtual CPU devices and returns the JSON of its last line.

    The script's arguments are this folder and `more`.
    """

    def run(script: str, *more: str):
        flags = f"{environment['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
        done = subprocess.run(
            [*python, "-c", script, os.path.dirname(__file__), *map(str, more)],
            env=environment | {"XLA_FLAGS": flags},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="session")
def finished_run(tiny_flags, command, tmp_path_factory) -> pathlib.Path:
    """The workdir of a finished tiny run."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    done = command("train", *tiny_flags, "--workdir", workdir)
    assert done.returncode == 0, done.stdout + done.stderr
    return workdir
