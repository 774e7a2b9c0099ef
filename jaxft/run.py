"""Trains models, and uses those that were trained, from a program or a notebook: `jaxft.train` and `jaxft.Run`.

Each function is what the verb of the same name does, without what a command does to its process: it installs no signal
handler, prints no usage, and raises `UserError` where the command ends with exit code 2.
"""

import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from jaxft.config.loading import Config
from jaxft.config.sections import Settings
from jaxft.data.sources.records.in_memory import InMemoryRecords
from jaxft.errors import UserError
from jaxft.generation.options import GenerationOptions
from jaxft.io.files import read_json
from jaxft.io.stores import errors_name_addresses
from jaxft.parallel import processes
from jaxft.tasks.custom_metrics import CustomMetrics
from jaxft.training import loop
from jaxft.training.log.callbacks import Callback
from jaxft.training.run_folder.remote_folder import fetch_run
from jaxft.training.run_folder.workdir import open_run
from jaxft.training.settings import find_setting, load_settings

if TYPE_CHECKING:
    import datasets
    import pandas
    from matplotlib.figure import Figure

# Data of a run: a path or address, records, or for several tasks the data of each.
Records: TypeAlias = "Sequence[Mapping[str, Any]] | pandas.DataFrame | datasets.Dataset"
Data: TypeAlias = "str | os.PathLike[str] | Records | Mapping[str, Data]"

# Arguments of transformers' Trainer, and those of `train` for the same data.
_TRAINER_ARGUMENTS = {"train_dataset": "train", "eval_dataset": "dev", "test_dataset": "test"}


def load_config(config: Config, **settings: Any) -> Settings:
    """Returns the checked settings of a recipe, with some changed.

    Args:
      config: the name of a recipe (`jaxft recipes` lists them), the path of a recipe in Python, YAML or JSON, or of a
        run's config.json; or the values of a recipe as settings, a `ConfigDict` or a dict.
      settings: the settings that change, by section or by dotted name, as in a YAML recipe: `optim={"lr": 3e-5}` or
        `**{"optim.lr": 3e-5}`.

    Raises:
      UserError: there is no such recipe or setting, or a value that no run can have.

    Example:
      >>> config = jaxft.load_config("ner", optim={"lr": 3e-5}, **{"train.epochs": 1})
      >>> config.optim.lr, config.train.epochs, config.data.max_length
      (3e-05, 1.0, 128)
    """
    return load_settings(config, settings, processes.log)


def train(
    config: Config,
    workdir: str | os.PathLike[str],
    *,
    train: "Data | None" = None,
    dev: "Data | None" = None,
    test: "Data | None" = None,
    callbacks: Sequence[Callback] = (),
    metrics: CustomMetrics | None = None,
    **settings: Any,
) -> "Run":
    """Trains, evaluates and reports, as `jaxft train` does. Resumes if `workdir` holds an unfinished run of the same.

    Args:
      config: see `load_config`.
      workdir: the run's folder, or its address in an object store.
      train: the training data, in place of the recipe's: a path or address as in `config.data.train`, a list of records
        (dicts), a pandas DataFrame or a `datasets.Dataset`; for several tasks, a dict of the data of each. The keys
        of records are those of JSON lines.
      dev: the data by which the best weights are chosen; a part of `train` if `train` is given alone.
      test: the data that is measured at the end.
      callbacks: hear of the progress, and may ask to end the run; see `Callback`.
      metrics: functions that compute metrics of your own from what the evaluator has measured (such as an
        `EntityState` of jaxft.metrics.entities), by the metrics' names. `eval.metric` may name them.
      settings: see `load_config`.

    Returns:
      The finished run.

    Raises:
      UserError: settings, data or model are unusable, or `workdir` holds another run.
      NonFiniteLoss: the loss was NaN or infinite; a `UserError` too.

    Example:
      >>> sentences = [json.loads(line) for line in open("sentences.jsonl")]
      >>> sentences[0]["tokens"], sentences[0]["tags"]  # doctest: +ELLIPSIS
      ([...], [...])
      >>> run = jaxft.train("my_ner.yaml", "runs/first", train=sentences[40:], dev=sentences[:40])
      >>> run
      Run('runs/first')
    """
    _refuse_mixed_up(train, config, settings)
    _check_listeners(callbacks, metrics)
    kept: list[InMemoryRecords] = []
    sets = {name: data for name, data in (("train", train), ("dev", dev), ("test", test)) if data is not None}
    sources = {f"data.{name}": _keep(name, data, kept) for name, data in sets.items()}
    checked = load_config(config, **sources, **settings)
    for name, data in sets.items():
        if isinstance(data, Mapping) and not checked.task_names():
            raise UserError(
                f"{name}: a dict, which names the data of several tasks, but the run has one; give a list of records, "
                "or for a dict of columns pandas.DataFrame(data)"
            )
    loop.train(checked, Path(workdir), callbacks=callbacks, metrics=metrics)
    return Run(workdir, kept)


def _refuse_mixed_up(train: Any, config: Config, settings: Mapping[str, Any]) -> None:
    """Raises `UserError` for settings given as data, and for data given as settings or by a Trainer's names."""
    if isinstance(train, Mapping) and any(isinstance(value, int | float) for value in train.values()):
        keys = ((find_setting(f"train.{name}") or [f"train.{name}"])[0] for name in train)
        names = ", ".join(f'"{key}": {value!r}' for key, value in zip(keys, train.values(), strict=True))
        raise UserError(f"train: settings, where the training data was expected; write **{{{names}}}")
    for trainer_name, name in _TRAINER_ARGUMENTS.items():
        if trainer_name in settings:
            raise UserError(
                f"{trainer_name}: no argument of jaxft.train and no setting; give the data as {name}"
            )
    mappings = [values for values in (config, settings) if isinstance(values, Mapping)]
    for values, name in itertools.product(mappings, ("train", "dev", "test")):
        section = values.get("data")
        value = values.get(f"data.{name}", section.get(name) if isinstance(section, Mapping) else None)
        if value is not None and not isinstance(value, str | os.PathLike):
            raise UserError(
                f"config.data.{name} takes text, found {type(value).__name__}; jaxft.train takes records as its "
                f"argument {name}"
            )


def _check_listeners(callbacks: Any, metrics: Any) -> None:
    """Raises `UserError` for callbacks and metrics of another type, before anything is read."""
    if not isinstance(callbacks, Sequence) or not all(isinstance(each, Callback) for each in callbacks):
        raise UserError(f"callbacks: expected a list of jaxft.Callback, found {callbacks!r}")
    if metrics is not None and not (
        isinstance(metrics, Mapping) and all(callable(function) for function in metrics.values())
    ):
        raise UserError(f"metrics: expected a dict of functions by name, found {metrics!r}")


def _keep(name: str, data: Data, kept: list[InMemoryRecords]) -> str:
    """Returns the address of data as settings name it. Records in memory are added to `kept`."""
    if isinstance(data, str | os.PathLike):
        return os.fspath(data)
    if isinstance(data, Mapping):
        return ";".join(f"{task}={_keep(f'{name}-{task}', part, kept)}" for task, part in data.items())
    kept.append(InMemoryRecords(name, data))
    return kept[-1].address


class Confusion(NamedTuple):
    """Counts of how often each label was predicted for each gold label.

    Attributes:
      labels: the K labels.
      counts: the words or texts of each pair (gold, predicted), int64 `[K, K]`.

    Example:
      >>> table = run.confusion["dev"]
      >>> table.counts.shape == (len(table.labels), len(table.labels))
      True
      >>> table.plot().savefig("confusion.png")
    """

    labels: list[str]
    counts: np.ndarray

    def plot(self) -> "Figure":
        """Returns a picture of the table, in which each row is shaded by its share of the gold label."""
        figure = _make_figure(1, width=2 + 0.5 * len(self.labels), height=1.5 + 0.4 * len(self.labels))
        [axes] = figure.axes
        axes.imshow(
            self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1
        )
        ticks = range(len(self.labels))
        axes.set_xticks(ticks, self.labels, rotation=45, ha="right")
        axes.set_yticks(ticks, self.labels)
        axes.set(xlabel="predicted", ylabel="gold")
        for gold, predicted in zip(*np.nonzero(self.counts), strict=True):
            count = self.counts[gold, predicted]
            color = "white" if 2 * count > self.counts[gold].sum() else "black"
            axes.text(predicted, gold, f"{count:,}", ha="center", va="center", color=color, fontsize=8)
        return figure


class Run:
    """A run in its folder: what it has measured, and its best weights, which stay in memory once they were needed.

    Example:
      >>> run = jaxft.Run.open("runs/ner")
      >>> answer = run.predict("Ann Smith lives in Rome .")
      >>> [(entity["text"], entity["label"]) for entity in answer["entities"]]  # doctest: +ELLIPSIS
      [...]
    """

    def __init__(self, workdir: str | os.PathLike[str], kept: Sequence[InMemoryRecords] = ()):
        """Names a run; `Run.open` also checks that it is there.

        Args:
          workdir: the run's folder, or its address in an object store.
          kept: the records that the run was trained on, if it was trained in this program.
        """
        self.workdir, self._kept = Path(workdir), tuple(kept)

    @classmethod
    def open(cls, workdir: str | os.PathLike[str]) -> "Run":
        """Opens the run in a folder, which may still be training.

        Raises:
          UserError: there is no run, or its files are damaged.

        Example:
          >>> jaxft.Run.open("runs/ner").labels[:3]
          ['O', 'B-LOC', 'I-LOC']
        """
        run = cls(workdir)
        _ = run._facts
        return run

    def __repr__(self) -> str:
        return f"Run({str(self.workdir)!r})"

    @cached_property
    def folder(self) -> Path:
        """The local folder of the run: `workdir`, or a copy of what is in an object store.

        Example:
          >>> (run.folder / "summary.json").exists()
          True
        """
        return fetch_run(self.workdir)

    @cached_property
    def _facts(self) -> Any:
        return open_run(self.folder)

    @property
    def config(self) -> Settings:
        """The settings of the run.

        Example:
          >>> run.config.task
          'token_classification'
        """
        return self._facts.config

    @property
    def labels(self) -> list[str]:
        """The labels that the model predicts; none for a language model or for questions.

        Example:
          >>> run.labels[0]
          'O'
        """
        return list(self._facts.labels)

    @property
    def summary(self) -> dict[str, Any]:
        """The content of `summary.json`: scores of dev and test, steps, speed. Raises `UserError` before the end.

        Example:
          >>> 0 <= run.summary["dev"]["entity_f1"] <= 1
          True
        """
        return read_json(self.folder / "summary.json")

    @property
    def history(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`: what was logged in training (`kind` "train") and measured on dev ("dev").

        Example:
          >>> [line["step"] for line in run.history if line["kind"] == "dev"]
          [20, 40, 60, 80, 100]
        """
        path = self.folder / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        return [values for line in lines if (values := _parse_line(line))]

    @property
    def confusion(self) -> dict[str, Confusion]:
        """Counts of predicted labels for each gold label, by data set: "dev", "test", "dev-TASK" for several tasks.

        It is empty if no evaluation of the run counts labels, such as those of answers, numbers and generated text.

        Example:
          >>> run.confusion["dev"].counts.shape == (len(run.confusion["dev"].labels),) * 2
          True
        """
        records = {path.stem: read_json(path) for path in sorted((self.folder / "eval").glob("*.json"))}
        return {
            name: Confusion(record["confusion"]["labels"], np.array(record["confusion"]["counts"], np.int64))
            for name, record in records.items()
            if "confusion" in record
        }

    @cached_property
    def _predictor(self) -> Any:
        return _make_predictor(self.workdir, {}, None, "")

    def predict(self, data: "str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]] | Records") -> Any:
        """Tags or classifies texts, classifies images, or answers questions, as `jaxft predict` does.

        The first call opens the weights and compiles; later ones take milliseconds for a short text.

        Args:
          data: a text or a record; or a list of them, a pandas DataFrame or a `datasets.Dataset`. Records have the keys
            that the run was trained on; labels are not read. An image is a path, bytes of a file, pixels (uint8
            `[H, W]` or `[H, W, 3]`) or an image of Pillow.

        Returns:
          The record with its answer added, as `jaxft predict` writes it; a list of them for several.

        Raises:
          UserError: the run generates text, or a record cannot be read.

        Example:
          >>> answers = run.predict(["Ann met Bob .", "It rained ."])
          >>> [sorted(answer) for answer in answers]
          [['entities', 'text'], ['entities', 'text']]
        """
        return _answer(lambda: self._predictor, data, f"--run {self.workdir}")

    def evaluate(
        self, data: "Data | None" = None, *, output: str | os.PathLike[str] | None = None, **changes: Any
    ) -> dict[str, float]:
        """Measures the best weights, as `jaxft evaluate` does.

        Args:
          data: as in `train`; default the run's test set, or else its dev set.
          output: the folder of what is found; default `WORKDIR/evaluations/NAME_OF_THE_DATA`.
          changes: settings of the data that replace the run's, such as `format="jsonl"`.

        Returns:
          The metrics by name.

        Raises:
          UserError: the data or the output folder is unusable.

        Example:
          >>> metrics = run.evaluate([{"tokens": ["Ann", "left"], "tags": ["B-PER", "O"]}])
          >>> metrics["token_support"]
          2.0
        """
        from jaxft.inference.evaluate import evaluate_run

        kept: list[InMemoryRecords] = []
        if data is None:
            source = self.config.data.test or self.config.data.dev
            if source is None:
                raise UserError(
                    f"{self.workdir}: the run has no test or dev set of its own (dev was split off train); give data"
                )
        else:
            source = _keep("data", data, kept)
        with errors_name_addresses():
            return evaluate_run(self.workdir, source, Path(output) if output else None, changes)

    @cached_property
    def _writer(self) -> Any:
        from jaxft.inference.writer import make_run_writer

        return make_run_writer(self.workdir, processes.log)

    def generate(
        self,
        prompts: "str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]",
        *,
        stop: Sequence[str] = (),
        **options: Any,
    ) -> Any:
        """Continues text with the best weights of a language model, as `jaxft generate` does.

        Args:
          prompts: a prompt, or a list of them. With a template, a prompt is a record with the template's fields.
          stop: texts to stop before.
          options: those of `jaxft.generation.options.GenerationOptions`, such as `max_new_tokens`, `temperature`,
            `samples` and `seed`.

        Returns:
          The text after the prompt, or a list of them for several prompts. If `samples` is above 1, each is a list.

        Raises:
          UserError: the run is no language model, or a prompt or an option is unusable.

        Example:
          >>> run.generate("The town", max_new_tokens=4)
          Traceback (most recent call last):
          jaxft.errors.UserError: --run runs/ner: its task is token_classification; only language models generate text
        """
        with errors_name_addresses():
            checked = GenerationOptions(**options)
            is_single = isinstance(prompts, str | Mapping)
            outputs = self._writer.generate([prompts] if is_single else prompts, checked, stop=stop)
            samples = [[sample.text for sample in texts] for texts in outputs]
        texts = samples if checked.samples > 1 else [text for [text] in samples]
        return texts[0] if is_single else texts

    def export(
        self,
        output: str | os.PathLike[str],
        *,
        format: str = "transformers",
        verify: bool = False,
        license: str | None = None,
        language: Sequence[str] = (),
        tags: Sequence[str] = (),
    ) -> Path:
        """Writes the best weights as a folder that transformers' AutoModel loads, as `jaxft export` does.

        Args:
          output: a new or empty folder.
          format: "transformers" for the model, with adapters merged into its weights; "peft" for the adapter alone.
          verify: whether to load it in torch and to compare logits on dev data.
          license: for the model card, such as "apache-2.0"; default the base model's.
          language: codes for the model card, such as ["en"]; default the base model's.
          tags: for the model card, added to the task's.

        Returns:
          The folder.

        Raises:
          UserError: `output` is not empty, or the comparison fails.

        Example:
          >>> folder = run.export("exported", license="apache-2.0")
          >>> (folder / "config.json").exists()
          True
        """
        from jaxft.export.card import CardFields
        from jaxft.export.writer import export_run

        fields = CardFields(license, tuple(language), tuple(tags))
        with errors_name_addresses():
            export_run(self.workdir, Path(output), format=format, verify=verify, card_fields=fields)
        return Path(output)

    def plot(self) -> "Figure":
        """Returns the learning curve as a figure of matplotlib: the losses, and the metric that chose the best weights.

        Raises:
          UserError: matplotlib is not installed.

        Example:
          >>> run.plot().savefig("curve.png")
        """
        history = self.history
        metric = self.summary["selected_by"]
        figure = _make_figure(2, width=9, height=3.5)
        losses, scores = figure.axes
        for kind in ("train", "dev"):
            _draw_line(losses, history, kind, "loss")
        losses.set(xlabel="step", ylabel="loss")
        losses.legend()
        _draw_line(scores, history, "dev", metric)
        scores.axvline(self.summary["best_step"], color="gray", linestyle=":", label="best")
        scores.set(xlabel="step", ylabel=metric)
        scores.legend()
        return figure


class Adapters:
    """Trained adapters on one base model, which answer records as `jaxft predict --adapter` does.

    Texts of several adapters are computed together, in the same rows. docs/adapters.md says which adapters can be.

    Args:
      adapters: the address of each adapter by its name: the folder of a run with adapters, or a folder or hub id in
        PEFT's files. Or a single address, of the adapter that answers all records.
      run: the folder of a run with adapters, which answers the records that name none.
      model: the address of the base; by default that which the adapters name.
      field: the key of records that names their adapter.

    Example:
      >>> adapters = jaxft.Adapters({"names": "runs/names", "places": "hub-user/places"})
      >>> adapters
      Adapters({'names': 'runs/names', 'places': 'hub-user/places'})
      >>> adapters.predict([{"text": "Ann left Rome", "adapter": "places"}])  # doctest: +SKIP
      [{'text': 'Ann left Rome', 'adapter': 'places', 'entities': [...]}]
    """

    def __init__(
        self,
        adapters: "str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]]",
        *,
        run: str | os.PathLike[str] | None = None,
        model: str | os.PathLike[str] | None = None,
        field: str = "adapter",
    ):
        named = adapters if isinstance(adapters, Mapping) else {"": adapters}
        self._addresses = {name: os.fspath(address) for name, address in named.items()}
        self._run, self._field = None if run is None else Path(run), field
        self._model = None if model is None else os.fspath(model)

    def __repr__(self) -> str:
        return f"Adapters({self._addresses!r})"

    @cached_property
    def _predictor(self) -> Any:
        return _make_predictor(self._run, self._addresses, self._model, self._field)

    def predict(self, data: "str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]] | Records") -> Any:
        """Answers texts and records, each with the adapter that it names; see `Run.predict`.

        Raises:
          UserError: an adapter or its base cannot be read, the adapters cannot share rows, or a record names none of
            them.
        """
        flags = [f"--adapter {f'{name}=' if name else ''}{path}" for name, path in self._addresses.items()]
        return _answer(lambda: self._predictor, data, " ".join(flags))


def _make_predictor(run: Path | None, adapters: Mapping[str, str], model: str | None, field: str) -> Any:
    """Returns the `RecordPredictor` of a run or of adapters."""
    from jaxft.inference.adapters.sources import AdapterChoice
    from jaxft.inference.answering import open_answering
    from jaxft.inference.record_predictor import RecordPredictor

    log = processes.log
    return RecordPredictor(open_answering(run, AdapterChoice(adapters, model, field), log), log)


def _answer(get_predictor: Callable[[], Any], data: Any, flags: str) -> Any:
    """Returns the answer to a text, image or record, or a list of them. `flags` name the model for `jaxft predict`."""
    with errors_name_addresses():
        predictor = get_predictor()
        if isinstance(data, Mapping) or predictor.is_content(data):
            [answer] = predictor.predict([data])
            return answer
        if isinstance(data, os.PathLike):
            raise UserError(
                f"predict takes texts and records, found the path {data}; answer a file with "
                f"jaxft predict {flags} --input {data}"
            )
        return list(predictor.predict(data))


def _parse_line(line: str) -> dict[str, Any] | None:
    """Returns the values of a line of metrics.jsonl; None for a damaged line, as a kill may leave."""
    try:
        values = json.loads(line)
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def _draw_line(axes: Any, history: Sequence[Mapping[str, Any]], kind: str, metric: str) -> None:
    """Draws a metric over the steps."""
    points = [(line["step"], line[metric]) for line in history if line.get("kind") == kind and metric in line]
    axes.plot(*zip(*points, strict=True), label=kind, marker="." if kind == "dev" else "")


def _make_figure(columns: int, *, width: float, height: float) -> "Figure":
    """Returns a figure of matplotlib with axes side by side, in inches. It opens no window, and notebooks show it."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise UserError("plots need matplotlib, which is not installed: pip install -e '.[plot]'") from None

    class ShownFigure(Figure):
        """A figure that a notebook shows where it is the value of a cell."""

        def _repr_png_(self) -> bytes:
            import io

            png = io.BytesIO()
            self.savefig(png, format="png")
            return png.getvalue()

    figure = ShownFigure(figsize=(width, height), layout="constrained")
    figure.subplots(1, columns)
    return figure
