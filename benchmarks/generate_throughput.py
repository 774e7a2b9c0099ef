"""Compares jaxft with torch's `generate` (KV cache on): new tokens per second, in turns. Prints JSON lines.

    python benchmarks/generate_throughput.py [--layers 12 --width 768 --heads 12] [--batch 8] [--method greedy]

Both sides continue the same prompts of random tokens with the same random GPT-2 in float32 (weights from the same
seed, saved once). All texts get the full number of new tokens. Each side has its own process, which waits while the
other one computes. With `--method greedy` and `beam` a line says how many texts are the same on both sides. With
random weights near ties are common, so a few texts may differ after many tokens.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Options by method: those of torch's `generate`, and ours.
METHODS = {
    "greedy": ({"do_sample": False}, {}),
    "sample": ({"do_sample": True, "top_k": 0}, {"temperature": 1.0}),
    "top_k": ({"do_sample": True, "top_k": 50}, {"temperature": 1.0, "top_k": 50}),
    "top_p": ({"do_sample": True, "top_k": 0, "top_p": 0.9}, {"temperature": 1.0, "top_p": 0.9}),
    "penalties": (
        {"do_sample": False, "repetition_penalty": 1.2, "no_repeat_ngram_size": 3},
        {"repetition_penalty": 1.2, "no_repeat_ngram": 3},
    ),
    "beam": ({"do_sample": False, "num_beams": 4}, {"beams": 4}),
}


def make_prompts(flags) -> list[list[int]]:
    """Returns `--batch` prompts of random tokens: the first has `--prompt` tokens, the others at least half as many."""
    import numpy as np

    rng = np.random.default_rng(0)
    lengths = [flags.prompt, *rng.integers(flags.prompt // 2, flags.prompt + 1, flags.batch - 1)]
    return [rng.integers(0, flags.vocabulary, n).tolist() for n in lengths]


def write_model(flags, folder: Path) -> None:
    """Writes a random GPT-2 of the flags' sizes."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=flags.vocabulary,
        n_layer=flags.layers,
        n_embd=flags.width,
        n_head=flags.heads,
        bos_token_id=0,
        eos_token_id=0,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)


def torch_side(flags, folder: Path):
    """Returns a function that generates with torch."""
    import torch
    from transformers import GPT2LMHeadModel

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    model.generation_config.eos_token_id = None  # no text ends early
    prompts = make_prompts(flags)
    ids = torch.zeros(flags.batch, flags.prompt, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, flags.prompt - len(prompt) :] = torch.tensor(prompt)
        mask[row, flags.prompt - len(prompt) :] = 1

    def generate() -> list[list[int]]:
        rows = model.generate(
            ids, attention_mask=mask, pad_token_id=0, max_new_tokens=flags.new, **METHODS[flags.method][0]
        )
        return rows[:, flags.prompt :].tolist()

    return generate


def jaxft_side(flags, folder: Path):
    """Returns a function that generates with jaxft."""
    from flax import nnx

    from jaxft.generation.generator import Generator
    from jaxft.generation.options import GenerationOptions
    from jaxft.hub.files import read_config
    from jaxft.hub.tensors import open_tensors
    from jaxft.hub.weights import load_weights
    from jaxft.layers import parameter_paths
    from jaxft.models.gpt2 import weights as gpt2_weights
    from jaxft.models.gpt2.config import GPT2Config
    from jaxft.models.gpt2.network import GPT2

    config = GPT2Config.from_hf(read_config(folder))
    graph, state = nnx.split(nnx.eval_shape(lambda: nnx.Dict(backbone=GPT2(config, rngs=nnx.Rngs(0)))))
    abstract = parameter_paths.flatten(nnx.to_pure_dict(state))
    parameters, _ = load_weights(gpt2_weights.TABLE, open_tensors(folder), abstract)
    generator = Generator(nnx.merge(graph, parameter_paths.unflatten(parameters)).backbone, eos=None)
    prompts, options = (
        make_prompts(flags),
        GenerationOptions(max_new_tokens=flags.new, **METHODS[flags.method][1]),
    )
    return lambda: [outputs[0].ids for outputs in generator.generate(prompts, options)]


SIDES = {"torch": torch_side, "jaxft": jaxft_side}


def serve(flags) -> None:
    """Generates once for each line of stdin; prints the seconds, and at the first, uncounted time the tokens."""
    generate = SIDES[flags.side](flags, Path(flags.model))
    for turn, _ in enumerate(sys.stdin):
        began = time.perf_counter()
        tokens = generate()
        answer = {"seconds": time.perf_counter() - began} | ({"tokens": tokens} if turn == 0 else {})
        print(json.dumps(answer), flush=True)


def main() -> None:
    """Parses the flags and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, default in {
        "layers": 12,
        "width": 768,
        "heads": 12,
        "vocabulary": 50257,
        "batch": 8,
        "prompt": 32,
        "new": 96,
        "turns": 5,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--method", choices=METHODS, default="greedy")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.side:
        serve(flags)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_model(flags, Path(folder))
        command = [sys.executable, *sys.argv, "--model", folder, "--side"]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        processes = {
            side: subprocess.Popen(
                [*command, side], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
            )
            for side in SIDES
        }

        def turn(side: str) -> dict:
            print(file=processes[side].stdin, flush=True)
            return json.loads(processes[side].stdout.readline())

        tokens = {side: turn(side)["tokens"] for side in SIDES}
        seconds = {side: [] for side in SIDES}
        for _ in range(flags.turns):
            for side in SIDES:
                seconds[side].append(turn(side)["seconds"])
        for process in processes.values():
            process.stdin.close()
            process.wait()
    count = flags.batch * flags.new
    for side, values in seconds.items():
        print(
            json.dumps(
                {
                    "side": side,
                    "method": flags.method,
                    "sizes": f"{flags.layers}x{flags.width}",
                    "batch": flags.batch,
                    "prompt": flags.prompt,
                    "new": flags.new,
                    "tokens_per_s": round(count / statistics.median(values), 1),
                    "best_tokens_per_s": round(count / min(values), 1),
                    "turns": [round(v, 3) for v in values],
                }
            )
        )
    ratios = [t / j for t, j in zip(seconds["torch"], seconds["jaxft"], strict=True)]
    equal = sum(a == b for a, b in zip(tokens["torch"], tokens["jaxft"], strict=True))
    print(
        json.dumps(
            {"jaxft_over_torch": round(statistics.median(ratios), 2), "turns": [round(r, 2) for r in ratios]}
            | ({"equal_texts": equal} if not METHODS[flags.method][0]["do_sample"] else {})
        )
    )


if __name__ == "__main__":
    main()
