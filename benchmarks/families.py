"""Compares jaxft with the Hugging Face Trainer for each family of encoders, of base size; prints JSON lines.

    python benchmarks/families.py --data DIR --cls-peer hf_cls.py --ner-peer hf_ner.py [--families ...] [--record FILE]

DIR holds banking77/train.csv (columns text and category) and wnut17/train.conll. The peer scripts are those of
classification_throughput.py and ner_throughput.py, with --max-steps. Each model has random weights, which transformers
makes from a config, and a tokenizer of the family's kind (WordPiece, BPE of bytes, Unigram) that is trained on both
corpora; its vocabulary is that of the tokenizer. Models have 12 layers of width 768, ModernBERT its base model's 22.
The Trainer computes attention as transformers chooses: by torch's scaled_dot_product_attention, but DeBERTa's by plain
products, the only ones that transformers has. ModernBERT's batches are padded there: transformers 5 computes unpadded
ones only by flash-attention, on GPUs. Both sides take 32 sentences a step (jaxft on average, in packed rows of 64
tokens), the same number of steps, and turns. Speeds are non-padding tokens per second of the training loop alone.

For each family and task the last line has the ratios, what was predicted, and the matrix product peaks of both
libraries, each measured in a process of its own after the runs. Predicted before the first measurement: texts
(Banking77) at least 1.7 times the Trainer's speed; words (WNUT-17) 1.3 times where XLA's products are the slower ones,
else 1.7 times, and for DeBERTa and ModernBERT 1.3 times on any machine. With --record FILE the lines of runs are also
kept there, and runs that it has are not run again.
"""

import argparse
import csv
import functools
import itertools
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matmul_peak import measure_peak
from side_by_side import print_line, recorded, run_jaxft, run_peer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    BertTokenizer,
    CamembertTokenizer,
    DebertaV2Tokenizer,
    MPNetTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

VOCABULARY, LAYERS, WIDTH, HEADS = 8000, 12, 768, 12
DEEP_LAYERS = 22  # of ModernBERT
SENTENCES, LENGTH = 32, 64  # of a step, and tokens of a row
EVALUATED = 16  # sentences, for no side ends without an evaluation
SIDES = ("jaxft", "peer")
BERT_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MPNET_TOKENS = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]
ROBERTA_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
DEBERTA_TOKENS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
CAMEMBERT_TOKENS = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>"]


def make_word_piece(
    tokenizer_class: type, special: Sequence[str], texts: Sequence[str]
) -> PreTrainedTokenizerBase:
    """Trains WordPiece in lower case, as BERT and MPNet have it."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCABULARY, special_tokens=list(special), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer_class(vocab=tokenizer.get_vocab())


def train_byte_bpe(special: Sequence[str], texts: Sequence[str]) -> Tokenizer:
    """Trains a BPE of bytes, with a space before the first word as taggers need it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def make_roberta_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerBase:
    """Trains RoBERTa's BPE of bytes."""
    model = json.loads(train_byte_bpe(ROBERTA_TOKENS, texts).to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    return RobertaTokenizer(vocab=model["vocab"], merges=merges, add_prefix_space=True)


def make_modernbert_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerBase:
    """Trains ModernBERT's BPE of bytes, which has BERT's special tokens."""
    tokenizer = train_byte_bpe(BERT_TOKENS, texts)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ends
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "attention_mask"],
        **dict(zip(names, BERT_TOKENS, strict=True)),
    )


def make_unigram(
    tokenizer_class: type, special: Sequence[str], texts: Sequence[str]
) -> PreTrainedTokenizerBase:
    """Trains Unigram on pieces of words, as XLM-R, CamemBERT and DeBERTa-v3 have it."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    unknown = "[UNK]" if "[UNK]" in special else "<unk>"
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY, special_tokens=list(special), unk_token=unknown, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    vocabulary = json.loads(tokenizer.to_str())["model"]["vocab"]
    return tokenizer_class(vocab=[(piece, score) for piece, score in vocabulary])


# By family, in the order of the measurements.
TOKENIZERS: dict[str, Callable[[Sequence[str]], PreTrainedTokenizerBase]] = {
    "roberta": make_roberta_tokenizer,
    "distilbert": functools.partial(make_word_piece, BertTokenizer, BERT_TOKENS),
    "mpnet": functools.partial(make_word_piece, MPNetTokenizer, MPNET_TOKENS),
    "electra": functools.partial(make_word_piece, BertTokenizer, BERT_TOKENS),
    "xlm-roberta": functools.partial(make_unigram, XLMRobertaTokenizer, ROBERTA_TOKENS[:4]),
    "bert": functools.partial(make_word_piece, BertTokenizer, BERT_TOKENS),
    "camembert": functools.partial(make_unigram, CamembertTokenizer, CAMEMBERT_TOKENS),
    "deberta-v2": functools.partial(make_unigram, DebertaV2Tokenizer, DEBERTA_TOKENS),
    "modernbert": make_modernbert_tokenizer,
}
# DeBERTa-v3's attention; the defaults of transformers' config are those of version 2.
DEBERTA_V3 = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
}


def make_model(family: str, texts: Sequence[str], folder: Path) -> Path:
    """Writes a checkpoint of a family with random weights, and returns its folder."""
    tokenizer = TOKENIZERS[family](texts)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    if family == "distilbert":
        sizes = {"dim": WIDTH, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": 4 * WIDTH}
    else:
        sizes["intermediate_size"] = 4 * WIDTH
    if family == "electra":
        sizes["embedding_size"] = WIDTH
    if family.endswith(("roberta", "camembert")):
        sizes["type_vocab_size"] = 1  # as in their checkpoints
    if family == "deberta-v2":
        sizes |= DEBERTA_V3
    if family == "modernbert":
        sizes |= {"num_hidden_layers": DEEP_LAYERS, "intermediate_size": 3 * WIDTH // 2}
    offset = 2 if family.endswith(("roberta", "camembert", "mpnet")) else 0  # of positions, after padding's
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    config = AutoConfig.for_model(
        family, vocab_size=len(tokenizer), max_position_embeddings=512 + offset, **sizes, **ids
    )
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def read_sentences(path: Path) -> list[list[str]]:
    """Returns the lines of each sentence of a CoNLL file; lines of white space divide sentences."""
    lines = path.read_text(encoding="utf-8").splitlines()
    groups = itertools.groupby(lines, key=lambda line: bool(line.strip()))
    return [list(sentence) for is_sentence, sentence in groups if is_sentence]


def read_texts(data: Path) -> list[str]:
    """Returns the texts of both training sets, on which tokenizers are trained."""
    with (data / "banking77/train.csv").open(encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    sentences = read_sentences(data / "wnut17/train.conll")
    return texts + [" ".join(line.split()[0] for line in sentence) for sentence in sentences]


class Task(NamedTuple):
    """A corpus, the recipe that trains on it, and the peer that does, with the options that only it has."""

    recipe: str
    train: Path
    dev: Path  # some of `train`, so that evaluation takes no time
    peer: str
    options: dict[str, object]


def write_few(data: Path, folder: Path) -> tuple[Path, Path]:
    """Writes the first examples of both training sets to `folder`, and returns the files of texts and of words."""
    texts, words = folder / "dev.csv", folder / "dev.conll"
    with (
        (data / "banking77/train.csv").open(encoding="utf-8", newline="") as file,
        texts.open("w", newline="") as few,
    ):
        csv.writer(few).writerows(itertools.islice(csv.reader(file), EVALUATED + 1))
    sentences = ["\n".join(sentence) for sentence in read_sentences(data / "wnut17/train.conll")[:EVALUATED]]
    words.write_text("\n\n".join(sentences) + "\n", encoding="utf-8")
    return texts, words


def make_tasks(flags: argparse.Namespace, folder: Path) -> dict[str, Task]:
    """Returns the tasks by name; what they are measured on is written to `folder`."""
    train, (texts, words) = flags.data / "banking77/train.csv", write_few(flags.data, folder)
    return {
        "banking77": Task("intent:banking77", train, texts, flags.cls_peer, {"label": "category"}),
        "wnut17": Task("ner", flags.data / "wnut17/train.conll", words, flags.ner_peer, {}),
    }


def measure(side: str, task: Task, model: Path, steps: int, seed: int) -> dict[str, object]:
    """Trains one side for some steps; returns its speed, peak memory and seconds."""
    if side == "peer":
        options = {"model": model, "train": task.train, "eval": task.dev, "bs": SENTENCES, "lr": 1e-4}
        line = run_peer(task.peer, task.options | options | {"max-steps": steps, "seed": seed})
        return {
            "tokens_per_s": line["real_tokens_per_s"],
            "train_s": line["train_s"],
            "peak_mb": line["peak_rss_mb"],
        }
    settings = {
        "model.checkpoint": model,
        "data.train": task.train,
        "data.dev": task.dev,
        "data.test": "none",
        "data.max_length": LENGTH,
        "batch.examples": SENTENCES,
        "optim.lr": 1e-4,
        "train.steps": steps,
        "eval.every_steps": 10**6,
        "eval.bootstrap": 0,
        "seed": seed,
    }
    summary = run_jaxft(task.recipe, settings)
    return {
        "tokens_per_s": round(summary["real_tokens_per_s"], 1),
        "train_s": round(summary["train_s"], 1),
        "peak_mb": round(summary["peak_rss_bytes"] / 2**20),
        "padding": round(summary["padding_fraction"], 4),
        "late_compiles": summary["late_compiles"],
    }


def predict_ratio(family: str, task: str, peaks: Mapping[str, float]) -> float:
    """Returns the least ratio of speeds that was predicted."""
    if family in ("deberta-v2", "modernbert"):
        return 1.3
    return 1.3 if task == "wnut17" and peaks["xla"] < peaks["torch"] else 1.7


def compare(
    family: str, name: str, task: Task, flags: argparse.Namespace, get_model: Callable[[], Path]
) -> None:
    """Runs both sides in turns, and prints a line for each run and one with their ratios."""
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    for repeat, side in itertools.product(range(flags.repeats), SIDES):
        key = {"family": family, "task": name, "side": side, "repeat": repeat, "steps": flags.steps}

        def measure_run(side: str = side, repeat: int = repeat) -> dict[str, object]:
            return measure(side, task, get_model(), flags.steps, seed=repeat)

        rates[side].append(recorded(flags.record, key, measure_run)["tokens_per_s"])
    ratios = [ours / theirs for ours, theirs in zip(rates["jaxft"], rates["peer"], strict=True)]
    peaks = {library: measure_peak(library) for library in ("xla", "torch")}
    predicted = predict_ratio(family, name, peaks)
    print_line(
        result="speed",
        family=family,
        task=name,
        tokens_per_s=rates,
        ratios=[round(ratio, 2) for ratio in ratios],
        median_ratio=round(statistics.median(ratios), 2),
        predicted=predicted,
        holds=statistics.median(ratios) >= predicted,
        matmul_gflops={library: round(peak / 1e9) for library, peak in peaks.items()},
    )


def main() -> None:
    """Parses the flags, and compares family by family."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cls-peer", required=True)
    parser.add_argument("--ner-peer", required=True)
    parser.add_argument("--families", nargs="+", choices=TOKENIZERS, default=list(TOKENIZERS))
    parser.add_argument(
        "--tasks", nargs="+", choices=["banking77", "wnut17"],
        help="default: wnut17 for all families, banking77 for roberta and distilbert",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--record", type=Path, help="file of the runs that are done")
    flags = parser.parse_args()
    flags.data = flags.data.resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tasks = make_tasks(flags, folder)
        for family in flags.families:
            get_model = functools.cache(
                functools.partial(make_model, family, read_texts(flags.data), folder / family)
            )
            both = family in ("roberta", "distilbert")
            for task in flags.tasks or (["banking77", "wnut17"] if both else ["wnut17"]):
                compare(family, task, tasks[task], flags, get_model)


if __name__ == "__main__":
    main()
