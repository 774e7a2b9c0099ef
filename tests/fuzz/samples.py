"""Writes small files of every format that the tasks read; the fuzzer damages them."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image

WORDS = [
    ["Rome", "sleeps", "today"],
    ["Ada", "Bell", "left", "Oslo"],
    ["It", "rains"],
    ["Ida", "met", "Bo", "."],
]
TAGS = [["B-LOC", "O", "O"], ["B-PER", "I-PER", "O", "B-LOC"], ["O", "O"], ["B-PER", "O", "B-PER", "O"]]
TEXTS = [("a fine film", "pos"), ("a dull film", "neg"), ("loved it", "pos"), ("hated it, all", "neg")] * 3
CONTEXT = "The old mill in Karlby was built in 1874 by Ida Brandt and burned down twice."


def write_samples(folder: Path) -> dict[str, list[Path]]:
    """Writes the files into `folder`; returns them by task."""
    folder.mkdir(parents=True, exist_ok=True)
    samples: dict[str, list[Path]] = {}

    def write(task: str, name: str, content: str | bytes) -> None:
        path = folder / f"{task}-{name}"
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        samples.setdefault(task, []).append(path)

    def write_table(task: str, name: str, columns: dict) -> None:
        path = folder / f"{task}-{name}"
        pyarrow.parquet.write_table(pa.table(columns), path)
        samples.setdefault(task, []).append(path)

    tagged = [list(zip(words, tags, strict=True)) for words, tags in zip(WORDS * 3, TAGS * 3, strict=True)]
    task = "token_classification"
    write(task, "a.conll", "\n".join("".join(f"{w}\tNN\t{t}\n" for w, t in s) for s in tagged))
    write(
        task,
        "b.txt",
        "-DOCSTART- -X- O\n\n" + "\n".join("".join(f"{w} NN {t}\n" for w, t in s) for s in tagged),
    )
    write(task, "c.conllu", "\n".join(_conllu(number, s) for number, s in enumerate(tagged)))
    write(task, "d.jsonl", _lines({"tokens": w, "tags": t} for w, t in zip(WORDS * 3, TAGS * 3, strict=True)))
    spans = [{"text": "Rome sleeps today", "spans": [{"start": 0, "end": 4, "label": "LOC"}]}] * 6
    write(task, "e.jsonl", _lines(spans))
    write(
        task,
        "doccano.jsonl",
        _lines({"id": n, "text": s["text"], "label": [[0, 4, "LOC"]]} for n, s in enumerate(spans)),
    )
    rows = [f"Sentence: {n},{w},NN,{t}" for n, s in enumerate(tagged) for w, t in s]
    write(task, "f.csv", "Sentence #,Word,POS,Tag\n" + "\n".join(rows) + "\n")
    write_table(task, "g.parquet", {"tokens": WORDS * 3, "tags": TAGS * 3})
    value = {"start": 0, "end": 4, "text": "Rome", "labels": ["LOC"]}
    result = [{"type": "labels", "from_name": "label", "to_name": "text", "value": value}]
    studio = [
        {"id": n, "data": {"text": "Rome sleeps"}, "annotations": [{"result": result}]} for n in range(4)
    ]
    write(task, "label-studio.json", json.dumps(studio))

    task = "sequence_classification"
    write(task, "a.csv", "text,label\n" + "".join(f'"{text}",{label}\n' for text, label in TEXTS))
    write(task, "b.tsv", "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in TEXTS))
    records = [{"text": text, "label": label} for text, label in TEXTS]
    write(task, "c.jsonl", _lines(records))
    write(task, "d.json", json.dumps({"version": "1", "data": records}))
    write(task, "e.csv", "text;label\r\n" + "".join(f"{text};{label}\r\n" for text, label in TEXTS))
    write_table(task, "f.parquet", {"text": [t for t, _ in TEXTS], "label": [label for _, label in TEXTS]})

    task = "question_answering"
    answers = [{"text": "1874", "answer_start": 36}]
    qas = [{"id": f"q{n}", "question": "When was it built?", "answers": answers} for n in range(4)]
    write(
        task,
        "a.json",
        json.dumps({"version": "1.1", "data": [{"paragraphs": [{"context": CONTEXT, "qas": qas}]}]}),
    )
    flat = [qa | {"context": CONTEXT, "answers": {"text": ["1874"], "answer_start": [36]}} for qa in qas]
    write(task, "b.json", json.dumps({"version": "0.1", "data": flat}))
    write(task, "c.jsonl", _lines(flat))

    task = "image_classification"
    for name in ("a.png", "b.jpg", "c.webp", "d.gif", "e.tiff", "f.bmp"):
        write(task, name, b"")
        _draw_photo(samples[task][-1])
    photos = [{"image": str(path), "label": path.suffix[1:]} for path in samples[task]]
    write(task, "g.jsonl", _lines(photos))
    write(task, "h.csv", "image,label\n" + "".join(f"{row['image']},{row['label']}\n" for row in photos))
    contents = [{"bytes": path.read_bytes(), "path": path.name} for path in samples[task][:6]]
    write_table(task, "i.parquet", {"image": contents, "label": [row["label"] for row in photos]})

    for task in ("causal_lm", "masked_lm"):
        write(task, "a.txt", "".join(f"{text}.\n\n" for text, _ in TEXTS))
        write(task, "b.jsonl", _lines({"text": text} for text, _ in TEXTS))
    return samples


def _draw_photo(path: Path) -> None:
    """Writes transparent noise that says it is turned, as far as the format of the suffix has that."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 4), np.uint8)
    image = Image.fromarray(pixels if path.suffix in (".png", ".webp", ".gif") else pixels[..., :3])
    exif = Image.Exif()
    exif[0x0112] = 6  # the orientation
    image.save(path, exif=exif)


def _lines(records) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def _conllu(number: int, sentence: list[tuple[str, str]]) -> str:
    rows = (f"{n}\t{w}\t{w}\t{t[:1]}X\t_\t_\t0\tdep\t_\t_\n" for n, (w, t) in enumerate(sentence, 1))
    return f"# sent_id = {number}\n# text = {' '.join(w for w, _ in sentence)}\n" + "".join(rows)
