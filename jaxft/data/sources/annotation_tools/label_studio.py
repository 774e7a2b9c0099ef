"""Converts Label Studio's exports JSON, JSON_MIN, CSV and TSV: regions of texts, choices and ratings.

In JSON, a task has `data` and `annotations`, each with a `result` of regions: `{"from_name", "type", "value"}`.
JSON_MIN has the keys of the data and, for each control (`from_name`), its values. See
https://labelstud.io/guide/task_format and https://github.com/HumanSignal/label-studio-sdk (converter/converter.py).
Offsets count characters, or UTF-16 code units in old versions (https://github.com/HumanSignal/label-studio/pull/1559).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxft.data.sources.annotation_tools.base import AnnotationTool, Item, Reading, list_objects
from jaxft.data.sources.records.record_values import JsonObject, parse_json

_MIN_KEYS = {"annotation_id", "annotator", "lead_time"}
_VALUE_TYPES = ("choices", "rating", "number")  # controls whose value may be the label of a text


def _is_task(record: Any) -> bool:
    annotations = record.get("annotations", record.get("completions")) if isinstance(record, dict) else None
    return isinstance(annotations, list) and isinstance(record.get("data"), dict)


def _is_min(record: Any) -> bool:
    return isinstance(record, dict) and record.keys() >= _MIN_KEYS


def recognizes(records: Sequence[Any], noun: str) -> bool:
    """Returns True if all records are tasks of JSON, or all are of JSON_MIN."""
    return noun in ("sentence", "text") and (all(map(_is_task, records)) or all(map(_is_min, records)))


def convert(items: Iterator[Item], reading: Reading) -> Iterator[Item]:
    """Yields a record for each annotated task, and logs what is not read.

    Of several annotations of a task, the ground truth counts, or else the newest. A record has the keys of the data,
    the values of choices and ratings under the names of their controls, `spans`, and `label` as long as a single
    control has values.
    """
    counts: Counter[str] = Counter()
    controls: set[str] = set()
    for where, origin, task in items:
        if _is_task(task):
            results = _choose_results(task, where, counts)
            data = task["data"]
        elif _is_min(task):
            results = None if task["annotation_id"] in (None, "") else list(_min_results(task))
            data = task
        else:
            yield where, origin, task
            continue
        if results is None and reading.labelled:
            counts["tasks without an annotation"] += 1
            continue
        record = {"id": task["id"]} | data if "id" in task else dict(data)
        if "text" not in record:
            texts = [key for key, value in data.items() if isinstance(value, str)]
            if _is_task(task) and len(texts) == 1:
                record["text"] = data[texts[0]]
        yield where, origin, record | _convert_results(results or [], controls, counts)
    if counts and reading.labelled:
        listed = ", ".join(f"{count:,} {what}" for what, count in counts.items())
        reading.log_line(f"not read: {listed}")


def _choose_results(task: Mapping[str, Any], where: str, counts: Counter[str]) -> list[JsonObject] | None:
    """Returns the regions of the annotation that counts, or None if there is none."""
    annotations = [
        annotation
        for annotation in list_objects(task.get("annotations", task.get("completions")), where, "annotations")
        if not annotation.get("was_cancelled") and not annotation.get("skipped")
    ]
    if not annotations:
        return None
    if len(annotations) > 1:
        counts["older annotations of tasks that have several"] += len(annotations) - 1
    best = max(
        annotations, key=lambda item: (bool(item.get("ground_truth")), str(item.get("created_at", "")))
    )
    return list_objects(best.get("result"), where, "result")


def _min_results(record: Mapping[str, Any]) -> Iterator[JsonObject]:
    """Yields the values of a record of JSON_MIN, or of a table, as the results of JSON.

    In JSON_MIN, the names of controls stand between `id` and `annotator`, and a single choice is a string. A table has
    its columns in alphabetical order, and regions and several choices in JSON.
    """
    keys = list(record)
    first, last = keys.index("id") if "id" in keys else -1, keys.index("annotator")
    controls = keys[first + 1 : last]
    for name, value in record.items():
        value = _parse_cell(value)
        for item in value if isinstance(value, list) else [value]:
            kinds = (
                [key for key in item if key in _VALUE_TYPES or key.endswith("labels")]
                if isinstance(item, dict)
                else []
            )
            if kinds:
                yield {"from_name": name, "type": kinds[0], "value": item}
            elif name in controls and isinstance(item, str):
                yield {"from_name": name, "type": "choices", "value": {"choices": [item]}}
            elif name in controls:
                yield {"from_name": name, "type": "unknown", "value": {}}


def _parse_cell(value: Any) -> Any:
    """Returns the value of a string of JSON objects, and other values unchanged."""
    if isinstance(value, str) and value.startswith(("[{", "{")):
        try:
            return parse_json(value)
        except (ValueError, RecursionError):
            return value
    return value


def _convert_results(
    results: Sequence[Mapping[str, Any]], controls: set[str], counts: Counter[str]
) -> JsonObject:
    """Returns the spans, and the values of controls, of the results of an annotation; counts the others."""
    spans: list[JsonObject] = []
    values: JsonObject = {}
    for result in results:
        kind, value = str(result.get("type")), result.get("value")
        value = value if isinstance(value, dict) else {}
        labels = value.get(kind)
        if kind in _VALUE_TYPES and "start" not in value:
            name = str(result.get("from_name"))
            earlier = values.get(name)
            values[name] = (
                earlier + labels if isinstance(earlier, list) and isinstance(labels, list) else labels
            )
            controls.add(name)
        elif kind.endswith("labels") and isinstance(labels, list) and labels:
            # Offsets into HTML and dialogues are strings, which the reader of spans refuses.
            place = {key: value.get(key) for key in ("start", "end", "text")}
            spans += [place | {"label": label} for label in labels]
        else:
            counts[f"results of type {kind}" + (" without a label" if kind.endswith("labels") else "")] += 1
    label = {"label": next(iter(values.values()))} if values and len(controls) == 1 else {}
    return {"spans": spans} | values | label


TOOL = AnnotationTool("Label Studio", recognizes, convert)
