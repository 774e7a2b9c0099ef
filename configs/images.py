"""Classifies images: `--config configs/images.py[:offline|digits-vit|shapes|resnet50|vit|food101]`.

offline   a small ResNet from scratch on scikit-learn's digits (`demo:digits`), 1,797 images of 8 x 8 pixels that come
          with jaxft's packages; needs no hub. Measured, seed 0: accuracy 100% on dev, 99.0% on test; 80 s of CPU time.
digits-vit
          a small ViT from scratch on the digits. Measured, seeds 0, 1 and 2: accuracy 97.7, 97.0 and 98.3% on dev,
          98.7, 97.3 and 98.3% on test; 89 s of CPU time.
shapes    a small ResNet from scratch on 400 generated images of shapes in colour (`demo:shapes`), which are augmented;
          needs no hub. Measured, seed 0: accuracy 99.2% on dev, 96.7% on test; 97 s of CPU time.
resnet50  ResNet-50 on a folder of your own images, with all frozen but the last stage and the head. Not measured here
          (no hub).
vit       ViT-B/16 on a folder of your own images, with a smaller learning rate for lower layers. Not measured here (no
          hub).
food101   ViT-B/16 on Food-101 from the hub, 101 dishes. Not measured here (no hub).

For your own images, set --config.data.train=FOLDER with a folder of images for each label, or a CSV file, JSON lines or
Parquet with a path (or the bytes) under --config.data.image and a label under --config.data.label. A tenth of train is
the dev set unless --config.data.dev names one. docs/images.md says what else can be set.
"""

from ml_collections import ConfigDict

from jaxft.errors import UserError
from jaxft.training.settings import default_config

SMALL_RESNET = (
    ("embedding_size", 16),
    ("hidden_sizes", (16, 32, 64)),
    ("depths", (1, 1, 1)),
    ("layer_type", "basic"),
)


def get_config(arg: str = "offline") -> ConfigDict:
    config = default_config("image_classification")
    config.optim.warmup = 0.1
    config.optim.schedule = "cosine"
    if arg == "offline":
        config.model.checkpoint = "new:resnet"
        config.model.init = "scratch"
        config.model.sizes = SMALL_RESNET
        config.data.train = "demo:digits/train"
        config.data.dev = "demo:digits/dev"
        config.data.test = "demo:digits/test"
        config.data.image_size = 32
        config.batch.examples = 64
        config.train.epochs = 20.0
        config.optim.lr = 3e-3
        config.optim.weight_decay = 0.05
    elif arg == "digits-vit":
        config.model.checkpoint = "new:vit"
        config.model.init = "scratch"
        config.model.sizes = (
            ("hidden_size", 64),
            ("num_hidden_layers", 4),
            ("num_attention_heads", 4),
            ("intermediate_size", 128),
            ("patch_size", 4),
        )
        config.data.train = "demo:digits/train"
        config.data.dev = "demo:digits/dev"
        config.data.test = "demo:digits/test"
        config.data.image_size = 16
        config.train.epochs = 30.0
        config.optim.lr = 2e-3
        config.optim.weight_decay = 0.05
    elif arg == "shapes":
        config.model.checkpoint = "new:resnet"
        config.model.init = "scratch"
        config.model.sizes = SMALL_RESNET
        config.data.train = "demo:shapes/train"
        config.data.dev = "demo:shapes/dev"
        config.data.test = "demo:shapes/test"
        config.data.image_size = 64
        config.eval.every_steps = 65
        config.augment.crop_scale = 0.6
        config.augment.flip = 0.5
        config.train.epochs = 40.0
        config.optim.lr = 3e-3
    elif arg == "resnet50":
        config.model.checkpoint = "microsoft/resnet-50"
        config.data.train = "images"
        config.augment.crop_scale = 0.3
        config.augment.flip = 0.5
        config.optim.freeze = (r"^backbone/stem/", r"^backbone/stages/[012]/")
        config.train.epochs = 5.0
        config.optim.lr = 1e-3
    elif arg == "vit":
        config.model.checkpoint = "google/vit-base-patch16-224"
        config.data.train = "images"
        config.augment.crop_scale = 0.3
        config.augment.flip = 0.5
        config.train.epochs = 5.0
        config.optim.lr = 5e-5
        config.optim.layer_decay = 0.8
    elif arg == "food101":
        config.model.checkpoint = "google/vit-base-patch16-224-in21k"
        config.data.train = "hub:ethz/food101/train"
        config.data.dev = "hub:ethz/food101/validation"
        config.augment.crop_scale = 0.3
        config.augment.flip = 0.5
        config.loss.label_smoothing = 0.1
        config.batch.examples = 128
        config.train.epochs = 5.0
        config.optim.lr = 1e-4
        config.optim.layer_decay = 0.8
    else:
        raise UserError(
            f"configs/images.py has no recipe {arg!r}; expected offline, digits-vit, shapes, resnet50, vit or food101"
        )
    return config
