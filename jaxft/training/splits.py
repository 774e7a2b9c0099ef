"""Reads and encodes the data sets that a run's settings name, for any task."""

import contextlib
import functools
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from jaxft.config.sections import Settings
from jaxft.data.encoding.encoded import Encoded
from jaxft.data.encoding.shared_texts import parse_data_sets
from jaxft.data.sources import files
from jaxft.data.sources.records import hub
from jaxft.errors import UserError
from jaxft.io.stores import fetch_source, with_addresses
from jaxft.parallel import processes
from jaxft.tasks.base import Encoding, Example, Log, Reader, Split, TaskData

Windowed = TypeVar("Windowed", bound=Encoded)


def read_splits(
    data: TaskData[Example, Encoding, Reader],
    config: Settings,
    log: Log,
    names: Sequence[str] = ("train", "dev", "test"),
) -> dict[str, Split[Example, None]]:
    """Reads the named splits that the run has, without windows.

    If the run has no dev set, a seeded part of the training data becomes the dev split. The training data is then read
    for either of the two names.

    Args:
      data: reads the examples.
      config: the run's settings; `config.data` names the sources.
      log: prints a line.
      names: the splits to read.

    Returns:
      The splits by name, in the order of `names`.
    """
    splits = {}
    if config.data.dev is None and ("train" in names or "dev" in names):
        source, fraction = config.data.train, config.data.dev_fraction
        assert source is not None  # a run has training data
        examples = data.read("train", fetch_source(source), log)
        train, dev = data.split_dev(examples, fraction, config.seed)
        dev_source = f"{fraction:.0%} of {source}, seed {config.seed}"
        log(f"dev: not given; split off {len(dev):,} examples: {dev_source}")
        splits = {"train": Split("train", source, train, None), "dev": Split("dev", dev_source, dev, None)}
    for name in names:
        if name not in splits and (source := getattr(config.data, name)) is not None:
            splits[name] = Split(name, source, data.read(name, fetch_source(source), log), None)
    return {name: splits[name] for name in names if name in splits}


def read_run_splits(
    data: TaskData[Example, Encoding, Reader], config: Settings, local_shards: Sequence[int], log: Log
) -> tuple[dict[int, Split[Example, None]], dict[str, Split[Example, None]]]:
    """Reads the data of a run, without windows.

    Args:
      data: reads the examples.
      config: the run's settings.
      local_shards: the numbers, from 0, of the training data's shards that this process reads.
      log: prints a line.

    Returns:
      The shards of the training data by number, and the other splits, dev and test, by name.

    Raises:
      UserError: the settings name no training data or leave out a data set, or the data cannot be read.
    """
    shards = config.data.shards
    if config.data.train is None:
        raise UserError("config.data.train is not set: give a file, hub:NAME or demo:NAME/train")
    train_source = fetch_source(config.data.train) if shards > 1 else config.data.train
    sources = [("", train_source)]
    if names := config.task_names():
        named = parse_data_sets(train_source, list(names))
        sources = [(",".join(tasks) + "=", address) for tasks, address in named]
    if not all(address for _, address in sources):
        raise UserError(
            f"config.data.train={config.data.train!r} leaves a data set out; give a file, hub:NAME or demo:NAME/train"
        )
    if shards == 1:
        if processes.count() > 1:
            least = min(len(files.find_files(address) or [address]) for _, address in sources)
            count, rows = processes.count(), config.batch.rows
            fits = [
                n
                for n in range(1, least + 1)
                if (rows % n == 0 if rows else max(n, count) % min(n, count) == 0)
            ]
            most = max(fits)
            if most > 1:
                log(
                    f"every process reads all files of {config.data.train}; config.data.shards={most} deals them"
                )
        splits = read_splits(data, config, log)
        return {0: splits.pop("train")}, splits
    processes.assert_same(
        {
            with_addresses(key): value
            for _, address in sources
            for key, value in hub.read_source_sizes(address).items()
        }
    )
    train = {}
    with _shard_logs(log) as shard_log:
        for number in local_shards:
            shard = f"#{number + 1}/{shards}"
            source = ";".join(f"{tasks}{address}{shard}" for tasks, address in sources)
            examples = data.read("train", source, shard_log(number))
            train[number] = Split(f"train{shard}", with_addresses(source), examples, None)
    return train, read_splits(data, config, log, ("dev", "test"))


@contextlib.contextmanager
def _shard_logs(log: Log) -> Iterator[Callable[[int], Log]]:
    """Yields a function that makes the log of a shard by number.

    A process prints the lines of its shards at once. At the end, process 0 also prints the lines of other shards.
    """
    lines: dict[int, list[str]] = {}

    def make_log(number: int) -> Log:
        shard_lines = lines[number] = []

        def log_line(line: str) -> None:
            shard_lines.append(line)
            log(line)

        return log_line

    yield make_log
    for number, shard_lines in enumerate(processes.gather_by_shard(lines)):
        for line in shard_lines if number not in lines else ():
            log(line)


def collect_labels(
    data: TaskData[Example, Encoding, Reader], train: Mapping[int, Split[Example, None]]
) -> list[str]:
    """Returns the labels that follow from the training data, of which each process has some shards."""
    labels_by_shard = processes.gather_by_shard(
        {number: data.find_labels(shard.examples) for number, shard in train.items()}
    )
    return data.make_labels(list(itertools.chain(*labels_by_shard)))


def encode_splits(
    data: TaskData[Example, Windowed, Reader],
    labels: Sequence[str],
    train: Mapping[int, Split[Example, None]],
    others: Mapping[str, Split[Example, None]],
    processor: Reader,
    config: Settings,
    log: Log,
) -> tuple[dict[int, Split[Example, Windowed]], dict[str, Split[Example, Windowed]]]:
    """Encodes and checks the splits from `read_run_splits`.

    Args:
      data: encodes and checks the splits.
      labels: the result of `collect_labels`.
      train: this process's shards of the training data, by number.
      others: the splits dev and test, by name.
      processor: the model's processor.
      config: the run's settings.
      log: prints a line.

    Returns:
      `train` and `others` with windows.

    Raises:
      UserError: a split cannot be encoded or does not fit the task, or processes have read different data.
    """

    def encode(
        split: Split[Example, None], function: Callable[..., Windowed] = data.encode
    ) -> Split[Example, Windowed]:
        try:
            windows = function(split.examples, labels, processor)
            return Split(split.name, split.source, split.examples, windows)
        except UserError as error:
            if split.name in ("train", *others):
                raise
            raise UserError(f"{split.source}: {error}; or have fewer shards, of more data each") from None

    encoded_train = {number: encode(shard, data.encode_train) for number, shard in train.items()}
    encoded = {name: encode(split) for name, split in others.items()}
    shared = encoded | ({"train": encoded_train[0]} if config.data.shards == 1 else {})
    # This comes first, because the checks below exchange facts about the data between processes.
    processes.assert_same({f"{name} data": split.windows.fingerprint for name, split in shared.items()})
    with _shard_logs(log) as shard_log:
        for number, shard in encoded_train.items():
            data.check(shard, labels, shard.examples, shard_log(number))
    for split in encoded.values():
        data.check(split, labels, join_examples(encoded_train), log)
    return encoded_train, encoded


def join_examples(train: Mapping[int, Split[Example, Encoding]]) -> Sequence[Example]:
    """Returns the examples of all of this process's shards as one sequence."""
    first, *others = (shard.examples for shard in train.values())
    return functools.reduce(operator.add, others, first)
