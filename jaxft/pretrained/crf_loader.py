"""Tags words in torch with an exported model and its linear-chain CRF; needs torch, transformers and safetensors.

A copy of this file lies in each exported folder of jaxft's task crf_tagging:

    from crf_loader import Tagger
    tag = Tagger("PATH_OF_THE_FOLDER")
    tag(["Anna", "lives", "in", "Oslo", "."])  # -> ["B-PER", "O", "O", "B-LOC", "O"]
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file


def load_chain(folder: str | Path) -> dict[str, np.ndarray]:
    """float32 scores: `transitions` [C, C] (from, to), `start` [C], `end` [C]; -inf where the tagging scheme forbids.

    Labels are in the order of config.json's `id2label`.
    """
    return load_file(Path(folder) / "crf.safetensors")


def best_path(emissions: np.ndarray, chain: dict[str, np.ndarray]) -> list[int]:
    """The label sequence of highest score (Viterbi) for emissions [words, C], the logits at words' first subwords."""
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


class Tagger:
    """Tags sentences of words: `tagger(words)` gives a tag for each."""

    def __init__(self, folder: str | Path):
        from transformers import AutoModelForTokenClassification, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.network = AutoModelForTokenClassification.from_pretrained(folder).eval()
        self.chain = load_chain(folder)

    def __call__(self, words: Sequence[str]) -> list[str]:
        """The tags of one sentence. Raises ValueError where it is too long for the model, or a word has no subword."""
        if not words:
            return []
        encoded = self.tokenizer(list(words), is_split_into_words=True, return_tensors="pt")
        length = encoded["input_ids"].shape[1]
        if length > self.network.config.max_position_embeddings:
            raise ValueError(f"{length} subwords are too many for the model: cut the sentence")
        first = {}
        for place, word in enumerate(encoded.word_ids(0)):
            if word is not None:
                first.setdefault(word, place)
        if len(first) < len(words):
            lost = next(word for index, word in enumerate(words) if index not in first)
            raise ValueError(f"the word {lost!r} has no subword: leave it out")
        logits = self.network(**encoded).logits[0].detach().numpy()
        path = best_path(logits[[first[index] for index in range(len(words))]], self.chain)
        return [self.network.config.id2label[label] for label in path]
