"""Answers of an exported model that transformers' classes alone don't give, in torch.

Needs torch, transformers and safetensors.

A copy of this file lies in the exported folder, of several tasks on one backbone, of words with a CRF, with labels that
form no entities or tags that are read at their last subwords, of texts whose states are pooled as no class of
transformers pools them, and of texts that are read in several windows:

    from heads_loader import Model
    ask = Model("PATH_OF_THE_FOLDER")
    ask("Wake me at seven")                # -> {"intent": "alarm"}
    ask(["Wake", "me", "at", "seven"])     # -> {"intent": "alarm", "slots": ["O", "O", "O", "B-time"]}

model.safetensors has the backbone, for transformers' AutoModel. heads.safetensors has for each task NAME of heads.json
`NAME.weight` [C, D] and `NAME.bias` [C] of a linear layer over hidden states, and of a CRF also `NAME.transitions`
[C, C] (from, to), `NAME.start` [C] and `NAME.end` [C], -inf where the tagging scheme forbids. heads.json has under
`tasks` the kind of each, its labels, and for texts `problem_type`, `pool` and `thresholds`; and under `reading` how
input becomes windows. Of words: `max_length`, `stride`, the ids `before` and `after` them, and the `subword` that a
word's tag is read at. Of texts: `max_length`, `truncation`, `stride`, and the `ids` before, between and after a text
and its pair, with the token `types` of all five parts.
"""

import bisect
import itertools
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


def pieces(first: list, second: list, room: int, truncation: str, stride: int) -> list[tuple[list, list]]:
    """The tokens of a text and of its pair that each window holds, `room` at most, as they were cut in training.

    A text that is too long keeps its "head", its "tail", or a quarter of its room from the head and the rest from
    the tail; with "windows" the longer one is cut into windows of equal length that share `stride` tokens.
    """
    if len(first) + len(second) <= room:
        return [(first, second)]
    short = min(len(first), len(second))
    sizes = (short, room - short) if short <= room // 2 else (room // 2, room - room // 2)
    keep = sizes if len(first) <= len(second) else sizes[::-1]
    if truncation != "windows":
        kept = []
        for ids, size in zip((first, second), keep, strict=True):
            head = {"head": size, "tail": 0, "head+tail": size // 4}[truncation]
            kept.append(ids if len(ids) <= size else ids[:head] + ids[len(ids) - (size - head) :])
        return [tuple(kept)]
    which = int(len(second) > len(first))
    long, other = (first, second)[which], (first, second)[1 - which][: keep[1 - which]]
    size = keep[which]
    if size <= stride:
        raise ValueError(
            f"the pair leaves windows of {size} tokens, of which {stride} are shared: give shorter texts"
        )
    count = max(1, -(-(len(long) - stride) // (size - stride)))
    size = -(-(len(long) + (count - 1) * stride) // count)
    starts = [index * (len(long) - size) // max(count - 1, 1) for index in range(count)]
    cut = [long[start : start + size] for start in starts]
    return [(other, piece) if which else (piece, other) for piece in cut]


def word_windows(sizes: Sequence[int], room: int, stride: int) -> list[tuple[int, int, int, int]]:
    """Each window's words, begin to end, and those of them that it answers for, first to last (ends exclusive).

    As words were cut in training: of a text that is too long each window answers for as many words as fit beside
    `stride` tokens, and is filled with those around. sizes: tokens of each word, `room` at most.
    """
    starts = [0, *itertools.accumulate(sizes)]  # of each word, and the end
    if starts[-1] <= room:
        return [(0, 0, len(sizes), len(sizes))]
    found, first = [], 0
    while first < len(sizes):
        fits = bisect.bisect_right(starts, starts[first] + room - stride) - 1
        last = min(max(fits, first + 1), len(sizes))
        free = room - (starts[last] - starts[first])
        left, right = starts[first], starts[-1] - starts[last]
        left = min(left, max(free // 2, free - right))
        begin = bisect.bisect_left(starts, starts[first] - left)
        right = min(right, free - (starts[first] - starts[begin]))
        found.append((begin, first, last, bisect.bisect_right(starts, starts[last] + right) - 1))
        first = last
    return found


class Model:
    """All tasks of one text: `model(words)`, or `model(text, pair)` where no task labels words."""

    def __init__(self, folder: str | Path):
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        about = json.loads((Path(folder) / "heads.json").read_text("utf-8"))
        self.heads: dict[str, dict[str, Any]] = about["tasks"]
        self.reading: dict[str, Any] = about["reading"]
        self.tensors = load_file(Path(folder) / "heads.safetensors")
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        pooler = any(head.get("pool") == "pooler" for head in self.heads.values())
        is_bert = json.loads((Path(folder) / "config.json").read_text("utf-8"))["model_type"] == "bert"
        told = logging.get_verbosity()
        logging.set_verbosity_error()  # of a linear layer in the folder that is none of the backbone's
        try:
            self.backbone = AutoModel.from_pretrained(
                folder, **({"add_pooling_layer": pooler} if is_bert else {})
            ).eval()
        finally:
            logging.set_verbosity(told)
        self.backbone.requires_grad_(False)  # or all windows' activations would be kept

    def logits(self, **inputs: Any) -> dict[str, np.ndarray]:
        """Each task's logits for torch tensors as the tokenizer gives them: [B, L, C], or of texts [B, C].

        Rows are filled up on the right.
        """
        outputs = self.backbone(**inputs)
        hidden = outputs.last_hidden_state.numpy()
        mask = inputs["attention_mask"].numpy()[..., None]
        found = {}
        for name, head in self.heads.items():
            x = hidden
            if (pool := head.get("pool")) == "pooler":
                x = outputs.pooler_output.numpy()
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

        Raises ValueError for words where texts are labelled, for a text where words are, and where a word has no
        subword and the tokenizer no unk token to stand for it.
        """
        if isinstance(text, str):
            return self._of_text(text, pair)
        inputs, places = self._words(text)
        logits = self.logits(**inputs)
        return {
            name: self._answer(head, logits[name].mean(axis=0))
            if "pool" in head
            else self._tags(name, logits[name][places])
            for name, head in self.heads.items()
        }

    def _words(self, words: Sequence[str]) -> tuple[Any, tuple[list[int], list[int]]]:
        """A row a window, and each word's place: the row, and the slot of the subword that its tag is read at."""
        from transformers import BatchEncoding

        if "words" not in self.reading:
            raise ValueError(f"no task of {', '.join(self.heads)} labels words: give a text")
        reading = self.reading["words"]
        before, after = reading["before"], reading["after"]
        room = reading["max_length"] - len(before) - len(after)
        # Halves of characters, as broken JSON escapes leave them, are no text.
        whole = [word.encode("utf-8", "ignore").decode() for word in words]
        encoded = self.tokenizer([whole], is_split_into_words=True, add_special_tokens=False, verbose=False)
        subwords: list[list[int]] = [[] for _ in words]
        for word, token in zip(encoded.word_ids(0), encoded["input_ids"][0], strict=True):
            subwords[word].append(token)
        unknown = self.tokenizer.unk_token_id
        if not all(subwords) and unknown is None:
            raise ValueError(f"the word {words[subwords.index([])]!r} has no subword: leave it out")
        subwords = [ids[:room] or [unknown] for ids in subwords]
        rows: list[list[int]] = []
        places: tuple[list[int], list[int]] = [], []
        for begin, first, last, end in word_windows([len(ids) for ids in subwords], room, reading["stride"]):
            row = [*before]
            for word in range(begin, end):
                if first <= word < last:
                    places[0].append(len(rows))
                    places[1].append(len(row) + (len(subwords[word]) - 1) * (reading["subword"] == "last"))
                row += subwords[word]
            rows.append(row + after or [self.tokenizer.eos_token_id])
        longest = max(map(len, rows))
        inputs = {
            "input_ids": [row + [0] * (longest - len(row)) for row in rows],
            "attention_mask": [[1] * len(row) + [0] * (longest - len(row)) for row in rows],
        }
        return BatchEncoding(inputs, tensor_type="pt"), places

    def _of_text(self, text: str, pair: str | None) -> dict[str, Any]:
        """The answers from the mean of the logits of the text's windows."""
        for name, head in self.heads.items():
            if "pool" not in head:
                raise ValueError(f"the task {name} labels words: give a list of them")
        logits = self.logits(**self._windows(text, pair))
        return {name: self._answer(head, logits[name].mean(axis=0)) for name, head in self.heads.items()}

    def _windows(self, text: str, pair: str | None) -> Any:
        """A row a window, all of one length."""
        from transformers import BatchEncoding

        reading = self.reading
        frame = reading["text" if pair is None else "pair"]
        first, second = (
            [] if one is None else self.tokenizer(one, add_special_tokens=False, verbose=False)["input_ids"]
            for one in (text, pair)
        )
        before, between, after = frame["ids"]
        size = len(before) + len(between) + len(after)
        if not size + len(first) + len(second):
            first = [self.tokenizer.eos_token_id]
        cut = pieces(first, second, reading["max_length"] - size, reading["truncation"], reading["stride"])
        ids = [[*before, *one, *between, *other, *after] for one, other in cut]
        inputs = {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]}
        if self.backbone.config.model_type == "bert":  # a GPT-2 would add them to the words
            a, b, c, d, e = frame["types"]
            kinds = [[*a, *[b] * len(one), *c, *[d] * len(other), *e] for one, other in cut]
            inputs["token_type_ids"] = kinds
        return BatchEncoding(inputs, tensor_type="pt")

    def _answer(self, head: dict[str, Any], scores: np.ndarray) -> Any:
        if head["problem_type"] == "regression":
            return float(scores[0])
        if head["problem_type"] == "single_label_classification":
            return head["labels"][int(scores.argmax())]
        thresholds = head.get("thresholds") or {}
        likely = 1 / (1 + np.exp(-scores))
        return [
            label for label, p in zip(head["labels"], likely, strict=True) if p >= thresholds.get(label, 0.5)
        ]

    def _tags(self, name: str, scores: np.ndarray) -> list[str]:
        if not len(scores):
            return []
        path = scores.argmax(axis=-1)
        if f"{name}.transitions" in self.tensors:
            path = best_path(
                scores, {k: self.tensors[f"{name}.{k}"] for k in ("transitions", "start", "end")}
            )
        return [self.heads[name]["labels"][index] for index in path]
