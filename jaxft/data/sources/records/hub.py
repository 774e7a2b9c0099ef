"""Reads records from datasets of the Hugging Face hub."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from jaxft.data.sources import files
from jaxft.data.sources.records.filters import split_filter
from jaxft.data.sources.records.record_values import Record
from jaxft.errors import UserError, first_line

_SPLIT = re.compile(r"(train|validation|valid|dev|test)(\[[^/]*\])?")


def read_hub(address: str, *, split: str | None = None) -> tuple[Iterator[Record], Mapping[str, Any]]:
    """Returns the rows and features of a dataset of the Hugging Face hub.

    Args:
      address: `[hub:]NAME[:CONFIGURATION][@REVISION][/SPLIT]`. With a shard, as in `hub:NAME/train#2/4`, the rows are
        the second quarter of the dataset.
      split: the split, if the address does not name one.

    Raises:
      UserError: the dataset cannot be loaded. Without a network the message says how to work offline.
    """
    address, shard = files.split_shard_suffix(address if address.startswith("hub:") else f"hub:{address}")
    dataset = _load(address, split)
    number, count = shard or (1, 1)
    if shard and len(dataset) < count:
        raise UserError(f"{address}: {len(dataset)} rows for {count} shards; have fewer (config.data.shards)")
    start, end = (number - 1) * len(dataset) // count, number * len(dataset) // count
    numbered = enumerate(dataset.select(range(start, end)), start + 1)  # rows outside the range are not read
    rows = ((f"{address}, row {row}", f"{address}:{row}", record) for row, record in numbered)
    return rows, dataset.features


def read_source_sizes(source: str) -> Mapping[str, int | None]:
    """Returns the sizes that decide how a source is split into shards, each keyed by a line that names it.

    They are the rows and bytes of a dataset of the hub, or the sizes of a pattern's files.
    """
    if not source.startswith("hub:"):
        return files.read_file_sizes(source)
    dataset = _load(split_filter(source)[0], None)
    return {f"the rows of {source}": len(dataset), f"the bytes of {source}": dataset.info.dataset_size}


def _load(address: str, split: str | None) -> Any:
    import datasets

    name, configuration, revision, split = parse_hub_address(address, split)
    try:
        dataset = datasets.load_dataset(name, configuration, revision=revision, split=split)
        for column, feature in dataset.features.items():
            if isinstance(feature, datasets.Image):  # decoded when batches are made
                dataset = dataset.cast_column(column, datasets.Image(decode=False))
        return dataset
    except ConnectionError as error:
        raise UserError(
            f"{address}: the hub cannot be reached ({first_line(error)}); to go on offline, use a "
            "synthetic corpus (demo:ner/train, demo:text/train, ...), or a file (.conll, .jsonl, .csv, .parquet) "
            "saved where the hub can be reached, or load it once there and copy the cache folder (HF_HOME) here"
        ) from None
    except Exception as error:  # `datasets` documents no common class of its errors
        raise UserError(
            f"{address}: the dataset cannot be loaded ({first_line(error)}); the address is "
            "hub:NAME[:CONFIGURATION][@REVISION][/SPLIT], and for a dataset that is a script, "
            "@refs/convert/parquet often holds its data"
        ) from None


def parse_hub_address(address: str, split: str | None) -> tuple[str, str | None, str | None, str]:
    """Returns name, configuration, revision and split of `hub:NAME[:CONFIGURATION][@REVISION][/SPLIT]`.

    Names and revisions may contain a slash. If the address has only one slash, the text after it is a split only if it
    is a usual split name; the argument `split` can name any other.
    """
    path, _, revision = address.removeprefix("hub:").partition("@")
    head, _, last = (revision or path).rpartition("/")
    if head and (_SPLIT.fullmatch(last) or (not revision and "/" in head)):
        if split is not None and split != last:
            raise UserError(
                f"{address}: the address names the split {last!r}, the settings {split!r}; name one"
            )
        split = last
        path, revision = (path, head) if revision else (head, "")
    name, _, configuration = path.partition(":")
    if not name:
        raise UserError(f"{address}: a hub address is hub:NAME[:CONFIGURATION][@REVISION][/SPLIT]")
    if split is None:
        raise UserError(f"{address}: no split is named; add one, for example {address}/train")
    return name, configuration or None, revision or None, split
