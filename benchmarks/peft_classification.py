"""Trains a classifier of texts with LoRA by peft and the Hugging Face Trainer on CPU; prints one JSON line.

    python benchmarks/peft_classification.py --model DIR --train FILE.csv --eval FILE.csv [--label category] ...

It is the peer of adapters.py: like jaxft's recipe intent:banking77 it takes AdamW with a linear schedule and a tenth of
warmup. Batches are of texts in random order, each padded to its longest one. `real_tokens_per_s` counts tokens without
padding, in the training loop alone.
"""

import argparse
import csv
import json
import resource
import tempfile
import time

import torch
from datasets import Dataset
from peft import LoraConfig, TaskType, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

THREADS = 2


def read_texts(path: str, label: str) -> list[tuple[str, str]]:
    """Returns the texts of a CSV file, which are in the column `text`, with their labels."""
    with open(path, encoding="utf-8", newline="") as file:
        return [(row["text"], row[label]) for row in csv.DictReader(file)]


def main() -> None:
    """Parses the flags, trains, and prints the line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--train", required=True)
    parser.add_argument("--eval", required=True)
    parser.add_argument("--label", default="category")
    parser.add_argument("--bs", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--max-len", type=int, default=64)
    parser.add_argument("--max-steps", type=int, default=-1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--r", type=int, default=8)
    parser.add_argument("--alpha", type=float, default=8)
    parser.add_argument("--target-modules", default="query,value")
    flags = parser.parse_args()
    torch.set_num_threads(THREADS)
    set_seed(flags.seed)

    examples = {name: read_texts(getattr(flags, name), flags.label) for name in ("train", "eval")}
    names = sorted({label for rows in examples.values() for _, label in rows})
    numbers = {label: number for number, label in enumerate(names)}
    tokenizer = AutoTokenizer.from_pretrained(flags.model)

    def encode(rows: list[tuple[str, str]]) -> Dataset:
        encoded = tokenizer([text for text, _ in rows], truncation=True, max_length=flags.max_len)
        inputs = {key: encoded[key] for key in ("input_ids", "attention_mask")}
        return Dataset.from_dict(inputs | {"labels": [numbers[label] for _, label in rows]})

    train, evaluated = (encode(rows) for rows in examples.values())
    model = AutoModelForSequenceClassification.from_pretrained(flags.model, num_labels=len(names))
    targets = flags.target_modules
    lora = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=flags.r,
        lora_alpha=flags.alpha,
        lora_dropout=0.0,
        target_modules=targets if targets == "all-linear" else targets.split(","),
    )
    model = get_peft_model(model, lora)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=flags.max_steps,
            num_train_epochs=1,
            per_device_train_batch_size=flags.bs,
            per_device_eval_batch_size=64,
            learning_rate=flags.lr,
            weight_decay=0.01,
            warmup_steps=0.1,
            lr_scheduler_type="linear",
            save_strategy="no",
            report_to=[],
            logging_steps=10**9,
            use_cpu=True,
            disable_tqdm=True,
            seed=flags.seed,
        )
        collator = DataCollatorWithPadding(tokenizer)
        trainer = Trainer(model=model, args=arguments, train_dataset=train, data_collator=collator)
        began = time.perf_counter()
        result = trainer.train()
        seconds = time.perf_counter() - began
        predicted = trainer.predict(evaluated)
    accuracy = (predicted.predictions.argmax(-1) == predicted.label_ids).mean()
    share = result.global_step * flags.bs / len(train)  # of an epoch
    tokens = sum(map(len, train["input_ids"]))
    line = {
        "peer": "peft and hf-trainer",
        "torch": torch.__version__,
        "steps": result.global_step,
        "train_s": round(seconds, 1),
        "real_tokens_per_s": round(tokens * share / seconds, 1),
        "accuracy": round(float(accuracy), 4),
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
