"""Compares jaxft with the Hugging Face Trainer on GPT-2 from random weights: speed, memory, loss, and text layouts.

    python benchmarks/lm_throughput.py --text FILE --peer hf_lm.py [--part small|large|layouts]
    python benchmarks/lm_throughput.py --part memory

The peer script takes --text, --layers, --width, --heads, --vocab, --block, --bs, --steps, --lr, --seed and prints a
JSON line with real_tokens_per_s, peak_rss_mb and eval_loss. Both sides run in turn, one seed after the other: byte
tokens in a vocabulary of 50,257, contiguous blocks of --block from the first nine tenths of the text, --rows per step,
AdamW with the Trainer's settings, dropout 0.1, loss over the first 64 blocks of the last tenth. Speeds are of the
training loop alone; memory is the process's peak. layouts: packed documents (speeches between blank lines) and
contiguous blocks, with the same number of steps, both measured in both ways. memory: the compiler's report of the
memory for value and gradient, without parameters and batch, with all logits at once and in chunks; nothing is
computed. Prints JSON lines.
"""

import argparse
import math
import statistics
import tempfile
from pathlib import Path

from side_by_side import print_line, run_jaxft, run_peer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, PreTrainedTokenizerFast

VOCABULARY, LR = 50_257, 1e-3
EVALUATED = 64  # blocks
SIZES = {"small": (4, 256, 4), "large": (12, 768, 12)}  # layers, width, heads
END = "<|endoftext|>"


def make_model(folder: Path, size: str) -> Path:
    """Writes a folder with config.json and a tokenizer of the 256 bytes and the end of text; no weights."""
    layers, width, heads = SIZES[size]
    path = folder / size
    GPT2Config(n_layer=layers, n_embd=width, n_head=heads, vocab_size=VOCABULARY).save_pretrained(path)
    words = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(words | {END: len(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=END).save_pretrained(path)
    return path


def split_text(flags, folder: Path) -> dict[str, Path]:
    """Writes the text's splits, cut as the peer cuts them, and returns their paths: {"train": ..., "dev": ...}."""
    content = Path(flags.text).read_bytes()
    border = int(len(content) * 0.9)
    splits = {"train": content[:border], "dev": content[border : border + EVALUATED * flags.block]}
    for name, split in splits.items():
        (folder / f"{name}.txt").write_bytes(split)
    return {name: folder / f"{name}.txt" for name in splits}


def train_jaxft(
    flags, model: Path, texts: dict[str, Path], workdir: Path, *, steps: int, seed: int, **settings
) -> dict:
    """Runs jaxft with the peer's settings, overridden by `settings`; returns summary.json and the command's seconds."""
    values = {
        "model.checkpoint": model,
        "model.init": "scratch",
        "data.train": texts["train"],
        "data.dev": texts["dev"],
        "data.documents": "file",
        "data.layout": "blocks",
        "data.max_length": flags.block,
        "batch.rows": flags.rows,
        "train.steps": steps,
        "optim.lr": LR,
        "optim.schedule": "linear",
        "optim.warmup": math.ceil(0.1 * steps),  # as the Trainer rounds it
        "optim.b2": 0.999,
        "optim.weight_decay": 0.01,
        "eval.rows": flags.rows,
        "eval.every_steps": 10**6,  # at the end only, as the peer
        "seed": seed,
    } | {key.replace("__", "."): value for key, value in settings.items()}
    return run_jaxft("lm", values, workdir)


def train_peer(flags, size: str, *, steps: int, seed: int) -> dict:
    """Runs the peer script and returns the JSON line that it prints."""
    layers, width, heads = SIZES[size]
    options = {"text": flags.text, "layers": layers, "width": width, "heads": heads, "vocab": VOCABULARY}
    options |= {"block": flags.block, "bs": flags.rows, "steps": steps, "lr": LR, "seed": seed}
    return run_peer(flags.peer, options)


def compare(flags, size: str) -> None:
    """Runs both sides in turn, once for each seed; shows tokens/s, peak memory, evaluation loss, medians and ratios."""
    steps = flags.steps if size == "small" else flags.steps_large
    sides = {"jaxft": [], "peer": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, texts = make_model(folder, size), split_text(flags, folder)
        for seed in flags.seeds:
            ours = train_jaxft(
                flags, model, texts, folder / f"run{seed}", steps=steps, seed=seed, model__remat=flags.remat
            )
            sides["jaxft"].append(
                {
                    "tokens_per_s": ours["real_tokens_per_s"],
                    "peak_mb": ours["peak_rss_bytes"] / 2**20,
                    "eval_loss": ours["dev"]["loss"],
                }
            )
            print_line(
                run="jaxft",
                size=size,
                seed=seed,
                steps=steps,
                **sides["jaxft"][-1],
                command_s=ours["command_s"],
            )
            theirs = train_peer(flags, size, steps=steps, seed=seed)
            names = {"tokens_per_s": "real_tokens_per_s", "peak_mb": "peak_rss_mb", "eval_loss": "eval_loss"}
            sides["peer"].append({ours: theirs[key] for ours, key in names.items()})
            print_line(run="peer", size=size, seed=seed, steps=steps, **sides["peer"][-1])

    def column(side: str, key: str) -> list[float]:
        return [line[key] for line in sides[side]]

    medians = {k: {s: statistics.median(column(s, k)) for s in sides} for k in ("tokens_per_s", "peak_mb")}
    pairs = zip(column("jaxft", "tokens_per_s"), column("peer", "tokens_per_s"), strict=True)
    print_line(
        result=size,
        median_tokens_per_s=medians["tokens_per_s"],
        ratios=[round(a / b, 2) for a, b in pairs],
        median_ratio=round(medians["tokens_per_s"]["jaxft"] / medians["tokens_per_s"]["peer"], 2),
        median_peak_mb=medians["peak_mb"],
        memory_ratio=round(medians["peak_mb"]["jaxft"] / medians["peak_mb"]["peer"], 2),
        eval_loss={
            s: {"mean": statistics.mean(v), "values": v} for s in sides for v in [column(s, "eval_loss")]
        },
    )


def layouts(flags) -> None:
    """Trains on documents packed and on contiguous blocks, the same steps; measures both models in both ways."""
    ways = {
        "packed": {"documents": "", "layout": "documents"},
        "blocks": {"documents": "file", "layout": "blocks"},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, texts = make_model(folder, "small"), split_text(flags, folder)
        for seed in flags.seeds:
            for way, data in ways.items():
                workdir = folder / f"{way}{seed}"
                settings = {f"data__{key}": value for key, value in data.items()}
                ours = train_jaxft(
                    flags, model, texts, workdir, steps=flags.steps_layouts, seed=seed, **settings
                )
                line = {key: ours[key] for key in ("real_tokens_per_s", "padding_fraction")}
                for measured, other in ways.items():
                    # A run that starts from these weights and stays there: its first evaluation measures them.
                    settings = {f"data__{key}": value for key, value in other.items()}
                    settings |= {"init_from": workdir, "optim__lr": 1e-20, "optim__weight_decay": 0.0}
                    measurement = train_jaxft(
                        flags, model, texts, folder / f"{way}{seed}{measured}", steps=1, seed=seed, **settings
                    )
                    line[f"dev_{measured}"] = {k: measurement["dev"][k] for k in ("loss", "bits_per_byte")}
                print_line(run=f"layout {way}", seed=seed, steps=flags.steps_layouts, **line)


def memory() -> None:
    """Shows MiB of temporaries of GPT-2 small, 8 rows of 1,024, float32: the loss alone, and a step with remat."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from jaxft.layers.heads.next_token import LanguageModel
    from jaxft.layers.inputs import Inputs
    from jaxft.layers.runtime import Runtime
    from jaxft.losses import chunked as chunked_loss
    from jaxft.losses import cross_entropy
    from jaxft.models.gpt2.config import GPT2Config
    from jaxft.models.gpt2.network import GPT2

    config, runtime = GPT2Config(), Runtime(remat="full")
    graph, state = nnx.split(nnx.eval_shape(lambda: LanguageModel(GPT2(config, runtime, rngs=nnx.Rngs(0)))))
    ids = jax.ShapeDtypeStruct((8, 1024), jnp.int32)
    labels, weights = jax.ShapeDtypeStruct((8192,), jnp.int32), jax.ShapeDtypeStruct((8192,), jnp.float32)
    hidden, table = (jax.ShapeDtypeStruct((n, config.hidden_size), jnp.float32) for n in (8192, VOCABULARY))

    def unchunked(hidden, table, labels, weights):
        return cross_entropy.cross_entropy(hidden @ table.T, labels, weights)[0]

    def chunked(hidden, table, labels, weights):
        return chunked_loss.chunked_cross_entropy(hidden, table, labels, weights)[0]

    for name, loss in (("whole", unchunked), ("chunked", chunked)):

        def step(state, ids, labels, weights, loss=loss):
            backbone = nnx.merge(graph, state).backbone
            positions = jnp.broadcast_to(jnp.arange(1024), ids.shape)
            states = backbone(Inputs(ids, jnp.ones_like(ids), positions, token_type_ids=ids))
            table = backbone.embeddings.word.embedding[...]
            return loss(states.reshape(len(labels), -1), table, labels, weights)

        lowered_loss = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(hidden, table, labels, weights)
        lowered_step = jax.jit(jax.value_and_grad(step)).lower(state, ids, labels, weights)
        mib = [
            lowered.compile().memory_analysis().temp_size_in_bytes / 2**20
            for lowered in (lowered_loss, lowered_step)
        ]
        print_line(result="memory", logits=name, loss_mib=round(mib[0]), step_mib=round(mib[1]))


def main() -> None:
    """Parses the flags and runs what `--part` names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", help="needed by all parts but memory")
    parser.add_argument("--peer", help="needed by small and large")
    parser.add_argument("--part", choices=[*SIZES, "layouts", "memory", "all"], default="all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--remat", default="none", help="jaxft's config.model.remat in small and large: none, dots or full"
    )
    parser.add_argument("--block", type=int, default=128, help="tokens of a row")
    parser.add_argument("--rows", type=int, default=16, help="of a step")
    parser.add_argument("--steps", type=int, default=30, help="of the 4 layers")
    parser.add_argument("--steps-large", type=int, default=5, help="of the 12 layers")
    parser.add_argument("--steps-layouts", type=int, default=200)
    flags = parser.parse_args()
    if flags.part != "memory" and not flags.text or flags.part in (*SIZES, "all") and not flags.peer:
        parser.error(f"--part {flags.part} needs --text and --peer (layouts: --text)")
    for size in SIZES:
        if flags.part in (size, "all"):
            compare(flags, size)
    if flags.part in ("layouts", "all"):
        layouts(flags)
    if flags.part in ("memory", "all"):
        memory()


if __name__ == "__main__":
    main()
