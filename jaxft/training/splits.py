"""Reads the data sets that a run's settings name, for any task."""

import contextlib
import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jaxft.config.sections import Settings
from jaxft.data.encoding.multi_task import parse_data_sets
from jaxft.data.sources import files, records
from jaxft.errors import UserError
from jaxft.parallel import processes
from jaxft.tasks.base import Log, Split, Task


def read_splits(
    task: type[Task], config: Settings, log: Log, names: Sequence[str] = ("train", "dev", "test")
) -> dict[str, Split]:
    """The run's splits of these names that there are, without windows.

    Without a dev set a seeded part of the training data is it, which is read for either of the two.
    """
    found = {}
    if config.data.dev is None and ("train" in names or "dev" in names):
        source, fraction = config.data.train, config.data.dev_fraction
        train, dev = task.split_dev(task.read(config, "train", source, log), fraction, config.seed)
        called = f"{fraction:.0%} of {source}, seed {config.seed}"
        log(f"dev: not given; split off {len(dev):,} examples: {called}")
        found = {"train": Split("train", source, train, None), "dev": Split("dev", called, dev, None)}
    for name in names:
        if name not in found and (source := config.data[name]) is not None:
            found[name] = Split(name, source, task.read(config, name, source, log), None)
    return {name: found[name] for name in names if name in found}


def read_run_splits(
    task: type[Task], config: Settings, here: Sequence[int], log: Log
) -> tuple[dict[int, Split], dict[str, Split]]:
    """What a run reads, without windows: of the training data those parts, from 0, that are `here`; dev and test."""
    parts = config.data.shards
    if config.data.train is None:
        raise UserError("config.data.train is not set: give a file, hub:NAME or demo:NAME/train")
    sources = [("", config.data.train)]
    if config.tasks:
        named = parse_data_sets(config.data.train, [name for name, _ in config.tasks])
        sources = [(",".join(tasks) + "=", address) for tasks, address in named]
    if not all(address for _, address in sources):
        raise UserError(
            f"config.data.train={config.data.train!r} leaves a data set out; give a file, hub:NAME or demo:NAME/train"
        )
    if parts == 1:
        if processes.count() > 1:
            least = min(len(files.find_files(address) or [address]) for _, address in sources)
            most = max(n for n in range(1, least + 1) if config.batch.rows % n == 0)
            if most > 1:
                log(
                    f"every process reads all files of {config.data.train}; config.data.shards={most} deals them"
                )
        found = read_splits(task, config, log)
        return {0: found.pop("train")}, found
    processes.assert_same(
        {key: value for _, address in sources for key, value in records.read_source_sizes(address).items()}
    )
    train = {}
    with _of_parts(log) as saying:
        for number in here:
            part = f"#{number + 1}/{parts}"
            source = ";".join(f"{tasks}{address}{part}" for tasks, address in sources)
            examples = task.read(config, "train", source, saying(number))
            train[number] = Split(f"train{part}", source, examples, None)
    return train, read_splits(task, config, log, ("dev", "test"))


@contextlib.contextmanager
def _of_parts(log: Log) -> Iterator[Callable[[int], Log]]:
    """Gives what says lines about a part; process 0 says at the end also what others have said of theirs."""
    lines: dict[int, list[str]] = {}

    def saying(number: int) -> Log:
        own = lines[number] = []

        def one(line: str) -> None:
            own.append(line)
            log(line)

        return one

    yield saying
    for number, said in enumerate(processes.gather_by_shard(lines)):
        for line in said if number not in lines else ():
            log(line)


def collect_labels(task: type[Task], train: Mapping[int, Split]) -> list[str]:
    """The labels that the training data determines, of which each process has some parts."""
    found = processes.gather_by_shard(
        {number: task.find_labels(part.examples) for number, part in train.items()}
    )
    return task.make_labels(list(itertools.chain(*found)))


def encode_splits(
    task: Task,
    train: dict[int, Split],
    others: dict[str, Split],
    tokenizer: Any,
    config: Settings,
    log: Log,
) -> tuple[dict[int, Split], dict[str, Split]]:
    """What `read_run` found, checked and with windows."""

    def encoded(split: Split) -> Split:
        try:
            return dataclasses.replace(split, windows=task.encode(split.examples, tokenizer, config))
        except UserError as error:
            if split.name in ("train", *others):
                raise
            raise UserError(f"{split.source}: {error}; or have fewer parts, of more text each") from None

    train = {number: encoded(part) for number, part in train.items()}
    others = {name: encoded(split) for name, split in others.items()}
    shared = others | ({"train": train[0]} if config.data.shards == 1 else {})
    # Before processes tell each other what they found in it.
    processes.assert_same({f"{name} data": split.windows.fingerprint for name, split in shared.items()})
    with _of_parts(log) as saying:
        for number, part in train.items():
            task.check(part, part.examples, saying(number))
    for split in others.values():
        task.check(split, join_examples(train), log)
    return train, others


def join_examples(train: Mapping[int, Split]) -> Sequence[Any]:
    """Those of all parts that there are."""
    first, *rest = (part.examples for part in train.values())
    return functools.reduce(operator.add, rest, first)
