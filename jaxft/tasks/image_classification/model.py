"""Opens the model that a run starts from, with the processor that makes its images."""

from jaxft.config.sections import NEW, RUN
from jaxft.data.sources.images.processors import PLAIN_TYPE, ImageProcessor, load_image_processor
from jaxft.errors import UserError
from jaxft.hub.addresses import resolve_address
from jaxft.hub.tensors import open_tensors
from jaxft.models.pretrained_model import PretrainedModel, describe_pretrained_model
from jaxft.models.registry import family_of, list_families
from jaxft.tasks.image_classification.settings import Settings
from jaxft.tasks.registry import head_kind


def open_image_model(config: Settings) -> PretrainedModel:
    """Opens the model of `config.model`, without its weights, for images of `config.data.image_size`.

    Raises:
      UserError: the checkpoint is missing or damaged, does not fit the task, or cannot have images of this size.
    """
    model, size = config.model, config.data.image_size
    is_new = model.checkpoint.startswith(NEW)
    if is_new and model.init != "scratch":
        raise UserError(
            f"config.model.checkpoint={model.checkpoint!r}, config.model.init={model.init!r}: a new model has no "
            "weights; set config.model.init='scratch', or name a checkpoint"
        )
    hf_config = describe_pretrained_model(config, list_families(head_kind(config.task)))
    if is_new:
        folder, processor = None, ImageProcessor.from_hf({}, PLAIN_TYPE)
    else:
        folder = resolve_address(model.checkpoint, model.revision)
        processor = load_image_processor(folder, family_of(hf_config).image_processor)
        if model.init == "pretrained" and not model.checkpoint.startswith(RUN):
            open_tensors(folder)  # says what is wrong with them before the data is encoded
    return PretrainedModel(model.checkpoint, folder, hf_config, processor.with_output_size(size, size))
