"""Defines what a model family declares of itself."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxft.hub.weights import WeightRule, WeightTable
from jaxft.layers.heads.classification import HeadForm
from jaxft.layers.heads.kinds import HeadKind
from jaxft.models.decoder import AnyDecoder
from jaxft.models.model_config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Head:
    """A head that a family supports.

    Attributes:
      architecture: transformers' class of the backbone with this head.
      rules: maps the parameters of the head to the tensors of that class.
      pool: for texts, how that class makes one vector of the hidden states; see `layers.heads.sequence`.
      form: the layers of the head of that class. For masked tokens, activation and norm are those of the backbone if
        the form has none.
      read_dropout: returns the rate of dropout in the head from config.json; None if that class has none.
      configure: returns the values of `rules`, `pool` and `form` that depend on the backbone's config; None if none
        does.
    """

    architecture: str
    rules: Sequence[WeightRule] = ()
    pool: str | None = None
    form: HeadForm = HeadForm()
    read_dropout: Callable[[Mapping[str, object]], float] | None = None
    configure: Callable[[Any], Mapping[str, Any]] | None = None


class Resized(NamedTuple):
    """Describes a parameter that a checkpoint has in another size.

    Attributes:
      shape: its shape in the checkpoint.
      convert: turns its value there into that of the model.
    """

    shape: tuple[int, ...]
    convert: Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class NewModel:
    """Describes how models of a family are made that begin with random weights.

    Attributes:
      fields: the keys of config.json that a user may set.
      make_config: returns the config.json for values of these keys, the length of rows, and the size of the vocabulary.
      has_tokenizer: whether a tokenizer can be trained for the model. If not, a model of texts can only be planned.
      name: its name in addresses; None for the family's model_type.
    """

    fields: Sequence[str]
    make_config: Callable[[Mapping[str, object], int, int], dict[str, object]]
    has_tokenizer: bool
    name: str | None = None

    @classmethod
    def from_base(
        cls, fields: Iterable[str], base: Mapping[str, object], *, name: str | None = None
    ) -> "NewModel":
        """Returns how models are made whose config.json is `base` with the values of `fields`."""

        def make_config(values: Mapping[str, object], max_length: int, vocab_size: int) -> dict[str, object]:
            del max_length, vocab_size  # there is no tokenizer, and fields set the positions
            return {**base, **values}

        return cls(tuple(fields), make_config, has_tokenizer=False, name=name)


# The linear layers that usually get adapters, in a stack of layers: PEFT's choice for BERT, by our names of modules.
ADAPTER_TARGETS = {
    "lora": ("attention/query", "attention/value"),
    "ia3": ("attention/key", "attention/value", "attention/output", "mlp/down"),
    "ia3_inputs": ("attention/output", "mlp/down"),
}


@dataclasses.dataclass(frozen=True)
class Family:
    """A model family: its network, how its checkpoints are read and written, and what it can do.

    Attributes:
      display_name: its name in its usual spelling.
      network: the backbone's class, a `Backbone` or an `ImageBackbone`.
      config_class: the shape of a backbone.
      table: maps the network's parameters to the tensors of checkpoints.
      architecture: transformers' class of the backbone without a head.
      heads: the heads that it supports.
      is_causal: whether a position sees only positions up to itself, so that only the last one sees the entire text.
      has_pooler: whether the network takes `pooler=True`, for a layer over the first state.
      new_model: how new models are made; None if all start from a checkpoint.
      make_decoder: makes the decoder of a shape; None if the family does not generate text.
      configure_table: returns the table of a shape; None if it is the same for all.
      resize: returns the parameters, by path, that a checkpoint of the first shape has in another size than the second
        shape needs.
      image_processor: transformers' class that makes images of the model's size, for checkpoints that name none.
      adapter_targets: the linear layers that get adapters if a run names none, by kind: "lora", "ia3", and of these
        those whose inputs are scaled ("ia3_inputs").
      has_past_keys: whether transformers' classes take keys and values before those of texts, as PEFT gives prefixes.
    """

    display_name: str
    network: Callable[..., Any]
    config_class: type[ModelConfig]
    table: WeightTable
    architecture: str
    heads: Mapping[HeadKind, Head]
    is_causal: bool
    has_pooler: bool
    new_model: NewModel | None = None
    make_decoder: Callable[[ModelConfig], AnyDecoder] | None = None
    configure_table: Callable[[Any], WeightTable] | None = None
    resize: Callable[[Any, Any], Mapping[str, Resized]] = lambda stored, config: {}
    image_processor: str | None = None
    adapter_targets: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=lambda: ADAPTER_TARGETS)
    has_past_keys: bool = False

    def head(self, kind: HeadKind, config: ModelConfig) -> Head:
        """Returns a kind of head over a backbone of the shape `config`."""
        head = self.heads[kind]
        return head if head.configure is None else dataclasses.replace(head, **head.configure(config))

    def table_with_head(self, kind: HeadKind, config: ModelConfig) -> WeightTable:
        """Returns the table of a network of the shape `config` with a kind of head."""
        table = self.table if self.configure_table is None else self.configure_table(config)
        return dataclasses.replace(table, rules=[*table.rules, *self.head(kind, config).rules])

    def shared_head_rules(self, kind: HeadKind, config: ModelConfig) -> list[WeightRule]:
        """Returns the rules of a kind of head for tensors that the heads for labels share with that of pretraining."""
        of_masked: set[str] = set()
        of_others: set[str] = set()
        for other in self.heads:
            tensors = of_masked if other is HeadKind.MASKED else of_others
            tensors |= {rule.tensor for rule in self.head(other, config).rules}
        return [rule for rule in self.head(kind, config).rules if rule.tensor in of_masked & of_others]
