"""Answers of an exported model with several heads, in torch; needs torch, transformers and safetensors.

A copy of this file lies in each exported folder of jaxft's task multi_task:

    from multi_task_loader import MultiTask
    ask = MultiTask("PATH_OF_THE_FOLDER")
    ask(["Wake", "me", "at", "seven"])  # -> {"intents": ["alarm"], "slots": ["O", "O", "O", "B-time"]}

model.safetensors is the body, for transformers' AutoModel. heads.safetensors has for each task NAME of heads.json
`NAME.weight` [C, D] and `NAME.bias` [C] of a linear layer over hidden states, and of a CRF also `NAME.transitions`
[C, C] (from, to), `NAME.start` [C] and `NAME.end` [C], -inf where the tagging scheme forbids. heads.json has the kind
of each task, its labels, and for texts `problem_type`, `pool` and `thresholds`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file


def best_path(emissions: np.ndarray, chain: dict[str, np.ndarray]) -> list[int]:
    """The label sequence of highest score (Viterbi) for emissions [words, C]."""
    score = chain["start"] + emissions[0]
    pointers = []
    for emission in emissions[1:]:
        through = score[:, None] + chain["transitions"]
        pointers.append(through.argmax(axis=0))
        score = through.max(axis=0) + emission
    path = [int((score + chain["end"]).argmax())]
    for pointer in reversed(pointers):
        path.append(int(pointer[path[-1]]))
    return path[::-1]


class MultiTask:
    """All tasks of one text: `model(words)`, or `model(text, pair)` where no task labels words."""

    def __init__(self, folder: str | Path):
        from transformers import AutoModel, AutoTokenizer

        self.heads: dict[str, dict[str, Any]] = json.loads((Path(folder) / "heads.json").read_text("utf-8"))
        self.tensors = load_file(Path(folder) / "heads.safetensors")
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        pooler = any(head.get("pool") == "pooler" for head in self.heads.values())
        self.body = AutoModel.from_pretrained(folder, add_pooling_layer=pooler).eval()

    def logits(self, **inputs: Any) -> dict[str, np.ndarray]:
        """Each task's logits for torch tensors as the tokenizer gives them: [B, L, C], or of texts [B, C]."""
        outputs = self.body(**inputs)
        hidden = outputs.last_hidden_state.detach().numpy()
        mask = inputs["attention_mask"].numpy()[..., None]
        found = {}
        for name, head in self.heads.items():
            x = hidden
            if (pool := head.get("pool")) == "pooler":
                x = outputs.pooler_output.detach().numpy()
            elif pool == "cls":
                x = hidden[:, 0]
            elif pool == "last":
                x = hidden[np.arange(len(hidden)), mask[..., 0].sum(axis=1) - 1]
            elif pool == "mean":
                x = (hidden * mask).sum(axis=1) / mask.sum(axis=1)
            elif pool == "max":
                x = np.where(mask > 0, hidden, -np.inf).max(axis=1)
            found[name] = x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]
        return found

    def __call__(self, text: str | Sequence[str], pair: str | None = None) -> dict[str, Any]:
        """By task: tags of the words; or of the text a label, a list of labels, or a number.

        Raises ValueError where the text is too long for the model, or a word has no subword.
        """
        words = not isinstance(text, str)
        text = list(text) if words else text
        encoded = self.tokenizer(text, pair, is_split_into_words=words, return_tensors="pt")
        length = encoded["input_ids"].shape[1]
        if length > self.body.config.max_position_embeddings:
            raise ValueError(f"{length} subwords are too many for the model: cut the text")
        first: dict[int, int] = {}
        for place, word in enumerate(encoded.word_ids(0)):
            if word is not None:
                first.setdefault(word, place)
        if words and len(first) < len(text):
            lost = next(word for index, word in enumerate(text) if index not in first)
            raise ValueError(f"the word {lost!r} has no subword: leave it out")
        answers = {}
        for name, logits in self.logits(**encoded).items():
            head, scores = self.heads[name], logits[0]
            if "pool" in head:
                answers[name] = self._of_text(head, scores)
            elif not words:
                raise ValueError(f"the task {name} labels words: give a list of them")
            else:
                answers[name] = self._of_words(name, scores[[first[index] for index in range(len(text))]])
        return answers

    def _of_text(self, head: dict[str, Any], scores: np.ndarray) -> Any:
        if head["problem_type"] == "regression":
            return float(scores[0])
        if head["problem_type"] == "single_label_classification":
            return head["labels"][int(scores.argmax())]
        thresholds = head.get("thresholds") or {}
        likely = 1 / (1 + np.exp(-scores))
        return [
            label for label, p in zip(head["labels"], likely, strict=True) if p >= thresholds.get(label, 0.5)
        ]

    def _of_words(self, name: str, scores: np.ndarray) -> list[str]:
        if not len(scores):
            return []
        path = scores.argmax(axis=-1)
        if f"{name}.transitions" in self.tensors:
            path = best_path(
                scores, {k: self.tensors[f"{name}.{k}"] for k in ("transitions", "start", "end")}
            )
        return [self.heads[name]["labels"][index] for index in path]
