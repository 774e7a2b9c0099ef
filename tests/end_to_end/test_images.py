"""Runs on images: trained, stopped and resumed, measured, asked by files and programs, exported to transformers."""

import json
import re
import shutil

import datasets
import numpy as np
import pytest
import transformers
from PIL import Image
from safetensors.numpy import load_file

import jaxft
from jaxft.config.settings import replace
from jaxft.errors import UserError
from jaxft.export.writer import export_run
from jaxft.inference.evaluate import evaluate_run
from jaxft.inference.predict import predict_file
from jaxft.io.files import read_json
from jaxft.tasks.registry import make_data
from jaxft.training.run_folder.best import read_best
from jaxft.training.settings import load_settings
from tests.interruption import assert_a_stopped_run_ends_bit_identically

COLOURS = {"blue": (30, 60, 220), "red": (220, 40, 30), "white": (235, 235, 235)}
SIZES = {
    "resnet": {"embedding_size": 8, "hidden_sizes": (8, 16), "depths": (1, 1), "layer_type": "basic"},
    "vit": {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "patch_size": 8,
    },
}


def settings_of(family, **changes):
    """Returns the settings of a small run on images of 16 pixels."""
    values = {
        "task": "image_classification",
        "model.checkpoint": f"new:{family}",
        "model.init": "scratch",
        "model.sizes": tuple(SIZES[family].items()),
        "data.image_size": 16,
        "data.workers": 0,
        "batch.examples": 8,
        "train.epochs": 4,
        "optim.lr": 1e-2,
        "eval.bootstrap": 0,
        "log.tensorboard": False,
        "checkpoint.every_steps": 3,
    }
    return values | changes


def paint(rng, colour):
    """Returns noise around a colour, uint8 [13, 17, 3]."""
    return np.clip(rng.normal(COLOURS[colour], 40, (13, 17, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder for each colour, in one for training and one for dev."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 14), ("dev", 4)):
        for colour in COLOURS:
            (folder / split / colour).mkdir(parents=True)
            for number in range(count):
                name = f"{number}.{('png', 'jpg', 'webp')[number % 3]}"
                Image.fromarray(paint(rng, colour)).save(folder / split / colour / name)
    return folder


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """A run of a ResNet with all that changes images and the loss, over two microbatches, from kept pixels."""
    config = settings_of(
        "resnet",
        **{
            "data.train": str(folder),
            "data.dev": str(folder),
            "data.cached_edge": 16,
            "data.cache_dir": str(tmp_path_factory.mktemp("cache")),
            "batch.accumulate": 2,
            "augment.crop_scale": 0.5,
            "augment.flip": 0.5,
            "augment.brightness": 0.1,
            "augment.mixup": 0.2,
            "augment.cutmix": 1.0,
            "augment.mix_probability": 0.5,
            "loss.label_smoothing": 0.05,
            "loss.focal_gamma": 0.5,
            "loss.class_weights": (("red", 2.0),),
            "eval.views": "flip",
        },
    )
    return jaxft.train(config, tmp_path_factory.mktemp("runs") / "resnet")


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_learns_and_reports(run, folder):
    dev = run.summary["dev"]
    assert run.labels == ["blue", "red", "white"] and dev["accuracy"] >= 0.75 and dev["examples"] == 12
    assert {"calibration_error", "f1_macro", "loss"} <= dev.keys()
    assert run.summary["real_images_per_s"] > 0 and run.summary["train_flops_per_image"] > 1e5
    table = run.confusion["dev"]
    assert table.labels == run.labels and table.counts.sum() == 12
    lines = read_lines(run.folder / "predictions/dev.jsonl")
    assert [line["label"] for line in lines] == [label for label in run.labels for _ in range(4)]
    assert lines[0].keys() == {"image", "label", "predicted_label", "score"}
    assert lines[0]["image"] == str(folder / "dev/blue/0.png")
    errors = (run.folder / "errors/dev.tsv").read_text().splitlines()
    assert errors[0] == "gold\tpredicted\tscore\timage"
    assert len(errors) - 1 == sum(line["label"] != line["predicted_label"] for line in lines)
    assert "12 images; read: 16 x 16 pixels" in (run.folder / "eval/dev.txt").read_text()
    measured = evaluate_run(run.folder, str(folder / "dev"))
    assert measured["loss"] == pytest.approx(dev["loss"], rel=1e-5)


def test_a_run_that_was_stopped_ends_bit_identically(run, tmp_path, monkeypatch):
    """Where a worker process decodes, which has no part in the bits."""
    config = replace(run.config, {"data.workers": 1})
    assert_a_stopped_run_ends_bit_identically(config, run.folder, tmp_path / "stopped", monkeypatch, at=8)


def test_files_folders_and_records_are_answered(run, folder, tmp_path):
    dev = {line["image"]: line for line in read_lines(run.folder / "predictions/dev.jsonl")}

    def predict(source, **options):
        predict_file(run.folder, str(source), str(tmp_path / "out"), **options)
        return (tmp_path / "out").read_text()

    def answers(source, **options):
        return [json.loads(line) for line in predict(source, **options).splitlines()]

    for source, count in ((folder / "dev", 12), (folder / "dev/red/*", 4), (folder / "dev/red/1.jpg", 1)):
        lines = answers(source)
        assert len(lines) == count
        for line in lines:
            assert line.keys() == {"image", "predicted_label", "score"}
            assert line["predicted_label"] == dev[line["image"]]["predicted_label"]
            assert line["score"] == pytest.approx(dev[line["image"]]["score"], abs=1e-4)

    (folder / "list.txt").write_text("dev/red/1.jpg\ndev/blue/2.webp\n")
    assert [line["image"] for line in answers(folder / "list.txt")] == ["dev/red/1.jpg", "dev/blue/2.webp"]
    (folder / "table.csv").write_text("id,image\n1,dev/red/1.jpg\n2,dev/white/0.png\n")
    header, first, _ = predict(folder / "table.csv").splitlines()
    assert header == "id,image,predicted_label,score" and first.startswith("1,dev/red/1.jpg,")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n1234")
    records = [{"image": "broken.png"}, {"image": str(folder / "dev/red/1.jpg")}]
    records += [{"image": "https://example.org/cat.jpg"}, {"picture": 1}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    lines = answers(tmp_path / "in.jsonl", on_error="record")
    assert ["error" in line for line in lines] == [True, False, True, True]
    assert "truncated or damaged" in lines[0]["error"] and "is an address; download" in lines[2]["error"]
    with pytest.raises(UserError, match="https://example.org/cat.jpg: an address; download the images"):
        predict("https://example.org/cat.jpg")


def test_a_program_asks_with_paths_bytes_arrays_and_images_of_pillow(run, folder):
    path = folder / "dev/red/0.png"
    image = Image.open(path)
    answer = run.predict(str(path))
    assert answer["image"] == str(path)
    others = [
        run.predict(np.asarray(image)),
        run.predict(image),
        run.predict(path),
        run.predict(path.read_bytes()),
    ]
    others += run.predict([{"image": image}, str(path), path, path.read_bytes()])
    for other in others:
        assert other["predicted_label"] == answer["predicted_label"]
        assert other["score"] == pytest.approx(answer["score"], abs=1e-5)


def test_a_program_is_told_which_of_its_images_is_broken(run, folder, tmp_path):
    (tmp_path / "cut.png").write_bytes((folder / "dev/red/0.png").read_bytes()[:60])
    image = Image.open(tmp_path / "cut.png")
    for data, place in ((image, ""), ([folder / "dev/red/0.png", {"image": image}], ", record 2")):
        with pytest.raises(UserError, match=f"input{place}.*: the image is truncated or damaged"):
            run.predict(data)


def test_an_export_has_the_logits_of_transformers_and_its_card_works(run, folder, tmp_path, capsys):
    export_run(run.folder, tmp_path / "model", verify=True)
    assert "(24 windows of dev, float32)" in capsys.readouterr().out  # two views of each image
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} <= {
        path.name for path in (tmp_path / "model").iterdir()
    }
    config = read_json(tmp_path / "model/config.json")
    assert config["architectures"] == ["ResNetForImageClassification"] and config["image_size"] == 16
    assert config["id2label"] == {"0": "blue", "1": "red", "2": "white"}
    card = (tmp_path / "model/README.md").read_text()
    assert "pipeline_tag: image-classification" in card and str(folder) not in card
    [code] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    code = code.replace("PATH_OF_THIS_FOLDER", str(tmp_path / "model"))
    exec(code.replace("PATH_OF_AN_IMAGE", str(folder / "dev/white/0.png")), {})
    label, score = capsys.readouterr().out.split()
    assert label in run.labels and 1 / 3 < float(score) <= 1


@pytest.mark.sweep
def test_an_export_is_a_checkpoint_whose_head_is_kept_and_whose_stages_may_be_frozen(
    run, folder, tmp_path, capsys
):
    export_run(run.folder, tmp_path / "model")
    values = settings_of("resnet", **{"train.steps": 1, "data.train": str(folder), "data.dev": str(folder)})
    changes = {"model.checkpoint": str(tmp_path / "model"), "model.init": "pretrained", "model.sizes": ()}
    changes["optim.freeze"] = (r"^backbone/(stem|stages/0)/",)
    jaxft.train(values | changes, tmp_path / "next")
    assert "head is kept, for it has the same 3 labels" in capsys.readouterr().out
    before, after = read_best(run.folder), read_best(tmp_path / "next")
    kept = {name for name, value in before.items() if np.array_equal(value, after[name])}
    assert kept == {name for name in before if name.startswith(("backbone/stem/", "backbone/stages/0/"))}


def test_several_labels_of_arrays_are_learned_by_a_vit_and_exported(tmp_path, capsys):
    rng = np.random.default_rng(1)

    def records(count):
        for number in range(count):
            labels = [colour for bit, colour in enumerate(("blue", "red")) if number >> bit & 1]
            halves = [paint(rng, colour if colour in labels else "white") for colour in ("blue", "red")]
            yield {"image": np.concatenate(halves), "label": labels}

    values = settings_of("vit", **{"model.problem_type": "multi_label_classification", "train.epochs": 8})
    run = jaxft.train(values, tmp_path / "run", train=list(records(32)), dev=list(records(8)))
    assert run.labels == ["blue", "red"] and run.summary["dev"]["f1_micro"] > 0.6
    assert "a step: 8 examples; 4 steps an epoch, 32 in all" in " ".join(capsys.readouterr().out.split())
    [answer] = run.predict(list(records(4)))[3:]
    assert set(answer["scores"]) == set(answer["predicted_labels"]) <= {"blue", "red"}
    export_run(run.folder, tmp_path / "model", verify=True)
    config = read_json(tmp_path / "model/config.json")
    assert config["problem_type"] == "multi_label_classification" and config["thresholds"].keys() == {
        "blue",
        "red",
    }


# A tiny checkpoint of each recipe's family: transformers' class, sizes, and preprocessor_config.json as the hub has it.
CHECKPOINTS = {
    "resnet50": (
        "ResNetForImageClassification",
        {"embedding_size": 8, "hidden_sizes": [8, 8, 8, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"},
        {"feature_extractor_type": "ConvNextFeatureExtractor", "crop_pct": 0.875, "size": 224, "resample": 3},
    ),
    "vit": (
        "ViTForImageClassification",
        {**SIZES["vit"], "image_size": 16},
        {"image_processor_type": "ViTFeatureExtractor", "size": 224, "resample": 2},
    ),
    "food101": ("ViTModel", {**SIZES["vit"], "image_size": 16}, {"size": 224, "image_mean": [0.5] * 3}),
}


@pytest.mark.parametrize(
    "recipe", ["food101", *(pytest.param(recipe, marks=pytest.mark.sweep) for recipe in ("vit", "resnet50"))]
)
def test_recipes_for_checkpoints_of_the_hub_train_on_data_of_their_shape(
    recipe, folder, tmp_path, monkeypatch
):
    """Food-101 as the hub has it; the ViT with LoRA; the ResNet with all frozen but the last stage and the head."""
    architecture, sizes, processor = CHECKPOINTS[recipe]
    model_class = getattr(transformers, architecture)
    model_class(model_class.config_class(**sizes)).save_pretrained(tmp_path / "tiny")
    (tmp_path / "tiny/preprocessor_config.json").write_text(json.dumps(processor))
    settings = {"model.checkpoint": str(tmp_path / "tiny"), "data.image_size": 16, "data.workers": 0}
    settings |= {"train.steps": 2, "batch.examples": 8, "eval.bootstrap": 0, "log.tensorboard": False}
    if recipe == "vit":
        settings["adapter.method"] = "lora"
    if recipe == "food101":
        features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(COLOURS))}
        rows = [
            {"image": str(path), "label": path.parent.name} for path in sorted(folder.glob("train/*/*.png"))
        ]
        dishes = datasets.Dataset.from_list(rows, features=datasets.Features(features))
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: dishes)
    else:
        settings["data.train"] = str(folder)
    run = jaxft.train(f"images:{recipe}", tmp_path / "run", **settings)
    assert run.summary["steps"] == 2 and run.summary["dev"]["loss"] > 0
    if recipe == "vit":  # PEFT has the logits of the run
        export_run(run.folder, tmp_path / "adapter", format="peft", verify=True)
    if recipe == "resnet50":
        export_run(run.folder, tmp_path / "model")
        before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("tiny", "model"))
        kept = {name for name, value in before.items() if np.array_equal(value, after[name])}
        frozen = re.compile(r"resnet\.(embedder|encoder\.stages\.[012])\.|.*num_batches_tracked$")
        assert kept == {name for name in before if frozen.match(name)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.stride": 3}, "config.data.stride=3: expected no value, because it is for texts"),
        ({"data.label": "image"}, "another key than that of config.data.image"),
        ({"augment.flip": 1.5}, "a share from 0 to 1"),
        ({"augment.crop_scale": 0.0}, "a share above 0 and at most 1"),
        (
            {"data.cached_edge": 15},
            "data.cached_edge=15: expected at least config.data.image_size=16, or none",
        ),
        (
            {"data.cached_edge": 16, "data.cache_dir": "off"},
            "expected none, because config.data.cache_dir is off",
        ),
        ({"data.max_segments": 3}, "is a setting of sequence_classification"),
    ],
)
def test_settings_that_no_run_can_have_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        load_settings(settings_of("resnet"), changes, print)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.init": "pretrained"}, "a new model has no weights; set config.model.init='scratch'"),
        ({"model.checkpoint": "new:bert", "model.sizes": ()}, "config.task='image_classification' is for"),
        ({"data.train": "missing"}, "missing: no such file"),
    ],
)
def test_a_run_that_cannot_begin_says_why(changes, message, folder, tmp_path):
    values = settings_of("resnet", **{"data.train": str(folder), "data.dev": str(folder), **changes})
    with pytest.raises(UserError, match=message):
        jaxft.train(values, tmp_path / "run")


def test_broken_images_are_named_or_left_out(folder, tmp_path):
    for label in ("red", "blue"):
        shutil.copytree(folder / "dev" / label, tmp_path / label)
    (tmp_path / "red/4.png").write_bytes((tmp_path / "red/0.png").read_bytes()[:60])
    logged = []
    for broken in ("refuse", "skip"):
        settings = {"data.broken": broken, "data.cache_dir": str(tmp_path / "cache")}
        data = make_data(load_settings(settings_of("resnet"), settings, print))
        if broken == "refuse":
            with pytest.raises(
                UserError, match="1 of 9 images is broken: .*red/4.png.* config.data.broken=skip"
            ):
                data.read("train", str(tmp_path), logged.append)
        else:
            assert len(data.read("train", str(tmp_path), logged.append)) == 8
            assert "red/4.png" in logged[-1]
