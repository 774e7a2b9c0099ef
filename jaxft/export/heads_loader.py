"""Computes the answers of an exported model in PyTorch if transformers' classes alone cannot.

It needs torch, transformers and safetensors.

jaxft copies this file into an exported folder in three cases. The model has several tasks on one backbone. Or it labels
words with a CRF, with labels that form no entities, or by their last subwords. Or it classifies texts with a pooling
that no class of transformers has, or by several windows. Use it like this:

    from heads_loader import Model
    model = Model("PATH_OF_THE_FOLDER")
    model("Wake me at seven")                # -> {"intent": "alarm"}
    model(["Wake", "me", "at", "seven"])     # -> {"intent": "alarm", "slots": ["O", "O", "O", "B-time"]}

model.safetensors holds the backbone, for transformers' AutoModel.

heads.safetensors holds, for each task NAME in heads.json, the weights of a linear layer over hidden states:
`NAME.weight` [C, D] and `NAME.bias` [C]. If another layer comes before it, heads.safetensors holds `NAME.dense.weight`
[D, D] and `NAME.dense.bias` [D] too, and, if a norm follows its activation, `NAME.norm.weight` and `NAME.norm.bias`
[D]. For a CRF it also holds `NAME.transitions` [C, C] (from, to), `NAME.start` [C]
and `NAME.end` [C]. Labels and transitions that the tagging scheme forbids have -inf.

In heads.json, `tasks` holds the kind of each task, its labels, the `activation` after a dense layer, the
`norm_epsilon` of a norm after it, and for texts `problem_type`, `pool` and `thresholds`.
`reading` says how input becomes windows. For words it holds `max_length`, `stride`, the ids `before` and `after` them,
and the `subword` by which a word is labelled. For texts it holds `max_length`, `truncation`, `stride`, and, both for a
text and for a pair of texts, the `ids` before, between and after, with the token `types` of all five pieces.
`backbone` holds the options of AutoModel, and whether it reads token types.
"""

import bisect
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file


def find_best_path(emissions: np.ndarray, chain: dict[str, np.ndarray]) -> list[int]:
    """Returns the label sequence with the highest score (Viterbi) for emissions [words, C]."""
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


def cut_texts(
    first: list[int], second: list[int], room: int, truncation: str, stride: int
) -> list[tuple[list[int], list[int]]]:
    """Cuts a text and its pair into windows, as in training.

    Args:
        first: the tokens of the text.
        second: the tokens of its pair; empty if there is none.
        room: the largest number of tokens in a window.
        truncation: the part to keep of a text that is too long: its "head", its "tail", or "head+tail", which uses a
            quarter of the room for the head. "windows" keeps everything: it cuts the longer text into windows of equal
            length.
        stride: the number of tokens that neighbouring windows share.

    Returns:
        The tokens of the text and of its pair in each window.
    """
    if len(first) + len(second) <= room:
        return [(first, second)]
    shorter = min(len(first), len(second))
    size_of_shorter = min(shorter, room // 2)
    sizes = (size_of_shorter, room - size_of_shorter)
    if len(first) > len(second):
        sizes = sizes[::-1]
    if truncation != "windows":
        kept = []
        for ids, size in zip((first, second), sizes, strict=True):
            head = {"head": size, "tail": 0, "head+tail": size // 4}[truncation]
            kept.append(ids if len(ids) <= size else ids[:head] + ids[len(ids) - (size - head) :])
        return [(kept[0], kept[1])]
    second_is_longer = len(second) > len(first)
    if second_is_longer:
        longer, other, size = second, first[: sizes[0]], sizes[1]
    else:
        longer, other, size = first, second[: sizes[1]], sizes[0]
    if size <= stride:
        raise ValueError(
            f"the pair leaves windows of {size} tokens, of which {stride} are shared: give shorter texts"
        )
    count = max(1, -(-(len(longer) - stride) // (size - stride)))
    size = -(-(len(longer) + (count - 1) * stride) // count)
    starts = [index * (len(longer) - size) // max(count - 1, 1) for index in range(count)]
    cuts = [longer[start : start + size] for start in starts]
    return [(other, cut) if second_is_longer else (cut, other) for cut in cuts]


def cut_words(sizes: Sequence[int], room: int, stride: int) -> list[tuple[int, int, int, int]]:
    """Cuts words into windows, as in training.

    If the words do not fit into one window, each window labels as many words as possible with `stride` tokens left
    free. The words around them fill the free tokens.

    Args:
        sizes: the number of tokens of each word, at most `room`.
        room: the largest number of tokens in a window.
        stride: the number of tokens in a window for words that it does not label.

    Returns:
        `(begin, first, last, end)` for each window. The window holds the words from `begin` to `end`, and labels the
        words from `first` to `last`. Both ends are exclusive.
    """
    starts = [0, *itertools.accumulate(sizes)]  # the first token of each word, and the end
    if starts[-1] <= room:
        return [(0, 0, len(sizes), len(sizes))]
    windows, first = [], 0
    while first < len(sizes):
        fits = bisect.bisect_right(starts, starts[first] + room - stride) - 1
        last = min(max(fits, first + 1), len(sizes))
        free = room - (starts[last] - starts[first])
        left, right = starts[first], starts[-1] - starts[last]
        left = min(left, max(free // 2, free - right))
        begin = bisect.bisect_left(starts, starts[first] - left)
        right = min(right, free - (starts[first] - starts[begin]))
        windows.append((begin, first, last, bisect.bisect_right(starts, starts[last] + right) - 1))
        first = last
    return windows


class Model:
    """An exported model. `model(words)`, or `model(text, pair)` if no task labels words, answers for all tasks.

    Args:
        folder: the exported folder.
    """

    def __init__(self, folder: str | Path):
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        description = json.loads((Path(folder) / "heads.json").read_text("utf-8"))
        self.heads: dict[str, dict[str, Any]] = description["tasks"]
        self.reading: dict[str, Any] = description["reading"]
        self.tensors = load_file(Path(folder) / "heads.safetensors")
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.has_token_types: bool = description["backbone"]["token_types"]
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # else transformers warns about a linear layer that the backbone does not have
        try:
            self.backbone = AutoModel.from_pretrained(folder, **description["backbone"]["options"]).eval()
        finally:
            logging.set_verbosity(verbosity)
        self.backbone.requires_grad_(False)  # else torch keeps the activations of all windows

    def logits(self, **inputs: Any) -> dict[str, np.ndarray]:
        """Returns the logits of each task, [B, L, C] for words and [B, C] for texts.

        Args:
            inputs: torch tensors from the tokenizer, padded on the right.
        """
        import torch
        from transformers.activations import get_activation

        outputs = self.backbone(**inputs)
        hidden = outputs.last_hidden_state.numpy()
        mask = inputs["attention_mask"].numpy()[..., None]
        logits = {}
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
            if activation := head.get("activation"):
                dense = x @ self.tensors[f"{name}.dense.weight"].T + self.tensors[f"{name}.dense.bias"]
                activated = get_activation(activation)(torch.from_numpy(dense))
                if epsilon := head.get("norm_epsilon"):
                    weight, bias = (
                        torch.from_numpy(self.tensors[f"{name}.norm.{key}"]).to(activated.dtype)
                        for key in ("weight", "bias")
                    )
                    activated = torch.nn.functional.layer_norm(activated, weight.shape, weight, bias, epsilon)
                x = activated.numpy()
            logits[name] = x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]
        return logits

    def __call__(self, text: str | Sequence[str], pair: str | None = None) -> dict[str, Any]:
        """Returns the answer of each task: the tags of words, or a label, a list of labels or a number for a text.

        Raises:
            ValueError: the argument is a list of words but no task labels words; it is a text but a task labels words;
                or a word has no subword and the tokenizer has no unk token to replace it.
        """
        if isinstance(text, str):
            return self._answer_text(text, pair)
        inputs, rows, slots = self._encode_words(text)
        logits = self.logits(**inputs)
        return {
            name: self._answer(head, logits[name].mean(axis=0))
            if "pool" in head
            else self._tag_words(name, logits[name][rows, slots])
            for name, head in self.heads.items()
        }

    def _encode_words(self, words: Sequence[str]) -> tuple[Any, list[int], list[int]]:
        """Returns the words in windows, one window per row, and the row and slot where each word is labelled."""
        from transformers import BatchEncoding

        if "words" not in self.reading:
            raise ValueError(f"no task of {', '.join(self.heads)} labels words: give a text")
        reading = self.reading["words"]
        before, after = reading["before"], reading["after"]
        room = reading["max_length"] - len(before) - len(after)
        # Drops single surrogates, which broken JSON escapes leave: they are not text.
        valid_words = [word.encode("utf-8", "ignore").decode() for word in words]
        options = {"is_split_into_words": True, "add_special_tokens": False, "verbose": False}
        encoded = self.tokenizer([valid_words], **options)
        subwords: list[list[int]] = [[] for _ in words]
        for word, token in zip(encoded.word_ids(0), encoded["input_ids"][0], strict=True):
            subwords[word].append(token)
        unknown = self.tokenizer.unk_token_id
        if not all(subwords) and unknown is None:
            raise ValueError(f"the word {words[subwords.index([])]!r} has no subword: leave it out")
        subwords = [ids[:room] or [unknown] for ids in subwords]
        rows: list[list[int]] = []
        word_rows, word_slots = [], []
        for begin, first, last, end in cut_words([len(ids) for ids in subwords], room, reading["stride"]):
            row = [*before]
            for word in range(begin, end):
                if first <= word < last:
                    offset = len(subwords[word]) - 1 if reading["subword"] == "last" else 0
                    word_rows.append(len(rows))
                    word_slots.append(len(row) + offset)
                row += subwords[word]
            rows.append(row + after or [self.tokenizer.eos_token_id])
        longest = max(map(len, rows))
        inputs = {
            "input_ids": [row + [0] * (longest - len(row)) for row in rows],
            "attention_mask": [[1] * len(row) + [0] * (longest - len(row)) for row in rows],
        }
        return BatchEncoding(inputs, tensor_type="pt"), word_rows, word_slots

    def _answer_text(self, text: str, pair: str | None) -> dict[str, Any]:
        """Returns the answer of each task, from the mean logits of the text's windows."""
        for name, head in self.heads.items():
            if "pool" not in head:
                raise ValueError(f"the task {name} labels words: give a list of them")
        logits = self.logits(**self._encode_text(text, pair))
        return {name: self._answer(head, logits[name].mean(axis=0)) for name, head in self.heads.items()}

    def _encode_text(self, text: str, pair: str | None) -> Any:
        """Returns a text and its pair in windows, one window per row, all of the same length."""
        from transformers import BatchEncoding

        reading = self.reading
        frame = reading["text" if pair is None else "pair"]
        options = {"add_special_tokens": False, "verbose": False}
        first = self.tokenizer(text, **options)["input_ids"]
        second = [] if pair is None else self.tokenizer(pair, **options)["input_ids"]
        before, between, after = frame["ids"]
        frame_size = len(before) + len(between) + len(after)
        if not frame_size + len(first) + len(second):
            first = [self.tokenizer.eos_token_id]
        room = reading["max_length"] - frame_size
        windows = cut_texts(first, second, room, reading["truncation"], reading["stride"])
        ids = [[*before, *first, *between, *second, *after] for first, second in windows]
        inputs = {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]}
        if self.has_token_types:  # other models may add token types to the words
            before, first_type, between, second_type, after = frame["types"]
            inputs["token_type_ids"] = [
                [*before, *[first_type] * len(first), *between, *[second_type] * len(second), *after]
                for first, second in windows
            ]
        return BatchEncoding(inputs, tensor_type="pt")

    def _answer(self, head: dict[str, Any], scores: np.ndarray) -> Any:
        """Returns the answer of a head for a text, from its logits `scores` [C]."""
        if head["problem_type"] == "regression":
            return float(scores[0])
        if head["problem_type"] == "single_label_classification":
            return head["labels"][int(scores.argmax())]
        thresholds = head.get("thresholds") or {}
        probabilities = 1 / (1 + np.exp(-scores))
        return [
            label
            for label, probability in zip(head["labels"], probabilities, strict=True)
            if probability >= thresholds.get(label, 0.5)
        ]

    def _tag_words(self, name: str, scores: np.ndarray) -> list[str]:
        """Returns the tags of words by the head `name`, from its logits `scores` [words, C]."""
        if not len(scores):
            return []
        path = scores.argmax(axis=-1)
        if f"{name}.transitions" in self.tensors:
            path = find_best_path(
                scores, {k: self.tensors[f"{name}.{k}"] for k in ("transitions", "start", "end")}
            )
        return [self.heads[name]["labels"][index] for index in path]
