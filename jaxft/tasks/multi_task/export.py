"""Says how a model with the heads of several tasks is exported."""

from flax import nnx

from jaxft.tasks.base import Task
from jaxft.tasks.exports import Export, ExportedHead
from jaxft.tasks.multi_task.task_configs import make_task_configs
from jaxft.tasks.registry import make_export
from jaxft.tasks.run_facts import RunFacts


class MultiTaskExport(Export):
    """Exports the backbone, and the heads of each task beside it."""

    @property
    def has_class(self) -> bool:
        """Returns False: transformers has no class with several heads."""
        return False

    def list_heads(self, task: Task, model: nnx.Module) -> dict[str, ExportedHead]:
        """Returns the heads by the names of their tasks."""
        heads = {}
        for name, config in make_task_configs(self.run.config).items():
            head_task = task.tasks[name]
            facts = RunFacts(config, self.run.checkpoint, head_task.labels, self.run.tuned.get(name, {}))
            heads[name] = ExportedHead(
                make_export(facts), head_task, model.task_models[name], f"head/{name}/"
            )
        return heads
