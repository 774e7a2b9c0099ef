"""Several tasks with a shared backbone. Each has its head, labels, loss and metrics; shared texts are encoded once."""

import math
from collections.abc import Iterator
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxft.data.batching.batch import INPUTS, BatchSpec
from jaxft.data.encoding.encoded import ArraySpec
from jaxft.errors import UserError
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads.multi_head import HeadedModel, MultiHead, SharedBackbone
from jaxft.layers.runtime import Runtime
from jaxft.models.model_config import ModelConfig
from jaxft.tasks.base import Arrays, Task
from jaxft.tasks.multi_task.names import select_labels
from jaxft.tasks.multi_task.settings import Settings, make_task_configs, read_loss_weights
from jaxft.tasks.registry import make_task
from jaxft.tasks.settings import resolve_max_segments


class MultiTask(Task):
    """The tasks of `config.tasks` with a shared backbone.

    A text that several tasks read from the same source is encoded once. If one of the tasks labels words, the text is
    encoded completely, as words, in as many windows as needed. All heads read the same hidden states from the same
    pass. A text without labels for a task does not count in the task's loss.

    A step's loss is the sum over tasks of weight * share * mean. Weight is the task's `loss.weight`, share is the
    fraction of the step's windows with labels for the task, and mean is the task's mean loss over these labels (class
    weights do not change the divisor). With `config.loss.balance="uncertainty"`, learned log variances s replace the
    weights: share * (exp(-s) * mean + s / 2), with half of exp(-s) for numbers (Kendall et al. 2018, equation 10).
    """

    def __init__(self, labels: list[str], config: Settings, head_dropout: float):
        self.labels = labels
        self.tasks = {
            name: make_task(select_labels(labels, name), task_config, head_dropout)
            for name, task_config in make_task_configs(config).items()
        }
        self.weights = read_loss_weights(config)
        self.learns_weights = config.loss.balance == "uncertainty"
        if self.learns_weights and set(self.weights.values()) != {1.0}:
            raise UserError(
                "config.loss.balance='uncertainty' learns the weights of tasks; leave out loss.weight"
            )
        self.backbone_passes = 1 + sum(task.backbone_passes - 1 for task in self.tasks.values())
        arrays = INPUTS | {"starts": ArraySpec(np.int32, "segment")}
        for name, task in self.tasks.items():
            arrays |= {f"{name}/{key}": task.batch_spec.arrays[key] for key in ("labels", "weights")}
        arrays["task_weights"] = ArraySpec(np.float32, "segment", (len(self.tasks) + 1,))
        self.batch_spec = BatchSpec(arrays, resolve_max_segments(config.data))

    def build_model(self, model_config: ModelConfig, runtime: Runtime, rngs: nnx.Rngs) -> nnx.Module:
        """Returns a `MultiHead` over a backbone of `model_config`."""
        models = {
            name: cast(HeadedModel, task.build_model(model_config, runtime, rngs))
            for name, task in self.tasks.items()
        }
        return MultiHead(models, uncertainty=self.learns_weights)

    def _views(self, model: nnx.Module, batch: Arrays) -> Iterator[tuple[str, Task, nnx.Module, Arrays]]:
        """Yields (name, task, its model, its batch). All models read the same hidden states."""
        assert isinstance(model, MultiHead)
        backbone = SharedBackbone(model.backbone)
        for name, task in self.tasks.items():
            task_arrays = {key: batch[f"{name}/{key}"] for key in ("labels", "weights")}
            yield name, task, model.task_model(name, backbone), batch | task_arrays

    def loss(
        self, model: nnx.Module, batch: Arrays, dropout: DropoutSeed | None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the sum over tasks (see the class), and the share of the step's windows in this batch.

        `batch["scales"]` belong to the step: they are `step_scales` of its `task_weights`.
        """
        total, window_share = jnp.float32(0), batch["scales"][..., -1]
        for index, (name, task, task_model, task_batch) in enumerate(self._views(model, batch)):
            scales = batch["scales"][..., index]
            # If each class has a separate loss, the weight of a window counts once for each class.
            class_count = math.prod(task.batch_spec.arrays["labels"].shape)
            loss = task.loss(task_model, task_batch, dropout)[0] * jnp.max(scales) / class_count
            if self.learns_weights:
                assert isinstance(model, MultiHead)
                log_variance = model.head["uncertainty"][index]
                factor = 0.5 if _labels_are_numbers(task) else 1.0
                regularizer = log_variance / 2 * jnp.sum((scales > 0) * window_share)
                total += factor * jnp.exp(-log_variance) * loss + regularizer
            else:
                total += self.weights[name] * loss
        return total, jnp.sum(window_share)

    def logits(self, model: nnx.Module, batch: Arrays) -> Arrays:
        """Returns the logits of each task, by task."""
        return {
            name: cast(jax.Array, task.logits(task_model, task_batch))
            for name, task, task_model, task_batch in self._views(model, batch)
        }

    def predict(self, model: nnx.Module, batch: Arrays) -> tuple[Arrays, jax.Array, jax.Array]:
        """Returns outputs as TASK/KEY and TASK/loss [2] (sum, weight), and the sum of the tasks' losses."""
        outputs: Arrays = {}
        losses = []
        for name, task, task_model, task_batch in self._views(model, batch):
            task_outputs, total, weight = task.predict(task_model, task_batch)
            loss = jnp.stack([total, weight])
            losses.append(loss)
            outputs |= {f"{name}/{key}": value for key, value in task_outputs.items()} | {
                f"{name}/loss": loss
            }
        loss_sum, weight_sum = cast(jax.Array, sum(losses))
        return outputs, loss_sum, weight_sum


def _labels_are_numbers(task: Task) -> bool:
    labels = task.batch_spec.arrays["labels"]
    return labels.dtype is np.float32 and labels.shape == ()
