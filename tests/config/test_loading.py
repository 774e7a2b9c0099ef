"""Settings: every mistake a user can type is answered with the key, what was found and what was expected."""

import ast
import dataclasses
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft.config.durations import duration_steps, total_steps
from jaxft.config.settings import flatten, to_dict
from jaxft.errors import UserError
from jaxft.training.settings import (
    TASKS,
    default_config,
    load_settings,
    schema_of,
    settings_from_config,
)
from tests.conftest import REPOSITORY

NER = str(REPOSITORY / "configs/ner.py")
RECIPES = [  # each name that a recipe's docstring lists
    (path, name)
    for path in sorted((REPOSITORY / "configs").glob("*.py"))
    for name in re.findall(r"^(\w+) {2,}\w", ast.get_docstring(ast.parse(path.read_text())), re.MULTILINE)
]


def load(*overrides):
    return load_settings(NER, [f"--config.{text}" for text in overrides])


@pytest.mark.parametrize("path, name", RECIPES, ids=str)
def test_every_recipe_loads_and_survives_its_config_json(path, name, tmp_path):
    config = load_settings(f"{path}:{name}")
    saved = tmp_path / "config.json"
    saved.write_text(json.dumps(to_dict(config)))
    assert load_settings(str(saved)) == config


def test_recipes_are_found_by_their_docstrings():
    assert {name for _, name in RECIPES} >= {"offline", "conll2003", "wnut17"}
    assert load_settings(NER) == load_settings(NER + ":offline")


def test_names_that_users_type_take_values():
    config = load(
        "seed=3",
        "optim.lr=3e-5",
        "optim.lr=1",  # the last one counts, and 1 is a number
        "train.steps=10",
        "train.steps=none",
        "data.pack=no",
        "data.dev=x=y.conll",
        "data.train=17",
        "optim.warmup=10%",
        "optim.freeze=('^backbone/',)",
        "optim.lr_multipliers=(('^head/', 10), ('.', 1.0))",
        "loss.class_weights=[['O', 0.5]]",
        "data.columns=tokens=words,tags=ner tags",
        "optim.decay=kernel$=True,.=False",
        "model.checkpoint=new:gpt2",
        "model.sizes=n_layer=4,name=x",
        "mesh.fsdp=2",
    )
    assert (config.seed, config.optim.lr, config.train.steps, config.data.pack) == (3, 1.0, None, False)
    assert (config.data.dev, config.data.train, config.optim.warmup) == ("x=y.conll", "17", "10%")
    assert config.optim.lr_multipliers == (("^head/", 10), (".", 1.0))
    assert (config.optim.freeze, config.loss.class_weights) == (("^backbone/",), (("O", 0.5),))
    assert config.data.columns == (("tokens", "words"), ("tags", "ner tags"))
    assert config.optim.decay == (("kernel$", True), (".", False))
    assert config.model.sizes == (("n_layer", 4), ("name", "x"))
    assert load("loss.class_weights=O=0.5,B-PER=2").loss.class_weights == (("O", 0.5), ("B-PER", 2))


@pytest.mark.parametrize(
    "key, text, value",
    [
        ("optim.lr_multipliers", "^(a|b),c=10,.=1", (("^(a|b),c", 10), (".", 1))),
        ("optim.lr_multipliers", "(a|b)/x{1,3}=2", (("(a|b)/x{1,3}", 2),)),
        ("optim.lr_multipliers", f"a={2**63}", (("a", 2.0**63),)),  # devices take no such int
        ("optim.lr_multipliers", "[ab](?=c)=2", (("[ab](?=c)", 2),)),
        ("optim.lr_multipliers", "{'a': 1, '.': 2}", (("a", 1), (".", 2))),
        ("loss.class_weights", "O=0.5,,=2", (("O", 0.5), (",", 2))),  # a comma is a part of speech
        ("optim.decay", "kernel$=true,.=no", (("kernel$", True), (".", False))),
        ("data.columns", "tokens=1,tags=None", (("tokens", "1"), ("tags", "None"))),
        ("data.columns", "tokens='a b'", (("tokens", "a b"),)),
        ("model.sizes", "n_inner=none,scale_attn_by_inverse_layer_idx=false,n_layer=4", None),
    ],
)
def test_pairs_may_have_any_names(key, text, value):
    section, _, name = key.partition(".")
    if value is None:
        value = (("n_inner", None), ("scale_attn_by_inverse_layer_idx", False), ("n_layer", 4))
    others = ["model.checkpoint=new:gpt2"] if section == "model" else []
    assert getattr(getattr(load(f"{key}={text}", *others), section), name) == value


def test_a_recipe_knows_where_it_stands(tmp_path):
    (tmp_path / "recipe.py").write_text(
        "from pathlib import Path\nfrom jaxft.training.settings import default_config\n"
        "def get_config():\n    config = default_config('token_classification')\n"
        "    config.data.train = str(Path(__file__).with_name('train.conll'))\n    return config\n"
    )
    assert load_settings(str(tmp_path / "recipe.py")).data.train == str(tmp_path / "train.conll")


def test_the_sizes_of_a_new_model_belong_to_its_checkpoint():
    new = {"task": "token_classification", "model.checkpoint": "new:gpt2", "model.sizes": (("n_layer", 4),)}
    settings = load_settings(new, {"model.checkpoint": "openai-community/gpt2"})
    assert settings.model.sizes == ()
    assert load_settings(new, {}).model.sizes == (("n_layer", 4),)


@pytest.mark.parametrize(
    "override, message",
    [
        (
            "optim.qqqq_jjjj=1",
            r"no setting config\.optim\.qqqq_jjjj; known: optim\.lr, optim\.name,",
        ),
        ("optim.l=1", r"there is no setting config\.optim\.l; did you mean config\.optim\.lr\?"),
        ("batch.row=1", r"did you mean config\.batch\.rows\?"),
        ("model.max_length=1", r"did you mean config\.data\.max_length\?"),
        ("optim=1", r"no setting config\.optim"),
        ("optim.lr", r"expected an override such as --config.optim.lr=3e-5"),
        ("optim.lr=fast", r"config\.optim\.lr takes a number, found 'fast' \(text\)"),
        ("optim.lr=nan", r"config\.optim\.lr takes a number"),
        ("optim.lr=1e999", r"config\.optim\.lr=inf: expected a positive number"),
        ("optim.lr=-1e-5", r"config\.optim\.lr=-1e-05: expected a positive number"),
        ("batch.rows=8.5", r"config\.batch\.rows takes a whole number, found 8\.5"),
        ("batch.rows=True", r"config\.batch\.rows takes a whole number, found True"),
        ("batch.accumulate=none", r"config\.batch\.accumulate takes a whole number"),
        ("batch.rows=0", r"config\.batch\.rows=0: expected 1 or more"),
        ("data.pack=maybe", r"config\.data\.pack takes True or False, found 'maybe'"),
        ("optim.gradients=float16", r"config\.optim\.gradients='float16': expected one of float32, bfloat16"),
        ("data.encoding=\0", r"config\.data\.encoding='\\x00': expected"),
        ("data.format=connl", r"config\.data\.format='connl': expected one of .*; did you mean conll\?"),
        ("optim.schedule=cosin", r"did you mean cosine\?"),
        ("optim.warmup=10 parsecs", r"config\.optim\.warmup='10 parsecs': expected a share of the run"),
        ("optim.warmup=-5%", r"config\.optim\.warmup='-5%': expected a share"),
        ("optim.warmup=-0.1", r"config\.optim\.warmup=-0\.1: expected a share"),
        ("optim.warmup=1e999 steps", r"expected a share"),
        ("optim.freeze=^backbone/", r"config\.optim\.freeze takes a tuple, found '\^backbone/'"),
        ("optim.freeze=(1,)", r"config\.optim\.freeze=\(1,\): expected patterns"),
        ("optim.lr_multipliers=('^head/', 10.0)", r"config\.optim\.lr_multipliers=.*expected pairs such as"),
        (
            "loss.class_weights=('O', 1)",
            r"config\.loss\.class_weights=.*expected pairs such as \(\('O', 0\.5\),\)",
        ),
        ("loss.label_smoothing=1", r"expected 0 or more and below 1"),
        ("model.dropout=1.5", r"config\.model\.dropout=1\.5"),
        ("data.dev_fraction=1", r"expected a share between 0 and 1"),
        ("eval.patience=0", r"config\.eval\.patience=0: expected 1 or more, below 2\^31, or none"),
        ("optim.freeze=^a", r"takes a tuple, found '\^a' \(text\); write it as \"\('\^a',\)\""),
        ("adapter.target_modules=(key, value)", r"write it as \"\('key', 'value'\)\""),
        ("model.sizes=", r"found '' \(text\); write it as .* or n_layer=4,n_embd=256; \(\) empties it"),
        ("data.columns=tokens=a,b", r"found 'tokens=a,b' \(text\); write it as .* or tokens=words,tags"),
        ("loss.class_weights=O=True", r"config\.loss\.class_weights=.*expected pairs such as"),
        ("loss.class_weights=O=1" + "0" * 400, r"expected finite weights above 0"),
        ("optim.lr_multipliers=a=1e999", r"expected finite factors, 0 or more"),
        (f"mesh.fsdp={2**63}", r"mesh\.fsdp=.*expected 1 to 1,048,576, or -1 for the devices that remain"),
        ("optim.lr_multipliers=a=-1", r"expected finite factors, 0 or more"),
        ("optim.lr_multipliers=a=1e39", r"expected finite factors, 0 or more"),  # infinite on a device
        ("optim.weight_decay=1e39", r"config\.optim\.weight_decay=1e\+39: expected 0 or more"),
        (
            "batch.rows=1" + "0" * 30,
            r"config\.batch\.rows=10+: expected 1 or more, at most 1,048,576, or none",
        ),
        (
            "batch.accumulate=4097",
            r"config\.batch\.accumulate=4097: expected 1 or more, at most 4,096",
        ),
        (
            "train.steps=2147483648",
            r"config\.train\.steps=2147483648: expected 1 or more, below 2\^31, or none",
        ),
        (
            "eval.bootstrap=2147483648",
            r"config\.eval\.bootstrap=2147483648: expected 0 or more, at most 1,000,000",
        ),
        ("train.epochs=1e308", r"config\.train\.epochs=1e\+308: expected more than 0, below 2\^31"),
        ("optim.lr=1" + "0" * 400, r"config\.optim\.lr=inf: expected a positive number"),
        ("optim.lr_multipliers={[]: 1}", r"takes a tuple, found '\{\[\]: 1\}'"),
        ("seed=" + "-" * 10_000 + "1", r"config\.seed takes a whole number"),
        (
            "model.sizes=n_layer=-4",
            r"config\.model\.sizes=\(\('n_layer', -4\),\): .*config\.model\.checkpoint='package:.*' has its own",
        ),
        (
            "model.sizes=(('a', {1}),)",
            r"config\.model\.sizes=.*: expected texts, numbers, True, False or None",
        ),
        ("train=x", r"config\.train, it is a section: train\.epochs, .*; did you mean config\.data\.train\?"),
        ("train.lr=1", r"no setting config\.train\.lr; did you mean config\.optim\.lr\?"),
        ("learning_rate=1", r"no setting config\.learning_rate; did you mean config\.optim\.lr\?"),
        ("optim.learning_rate=1", r"config\.optim\.learning_rate; did you mean config\.optim\.lr\?"),
        ("per_device_train_batch_size=1", r"did you mean config\.batch\.examples\?"),
        ("gradient_accumulation_steps=1", r"did you mean config\.batch\.accumulate\?"),
        ("train.report_to=wandb", r"did you mean config\.log\.tensorboard or config\.log\.wandb\?"),
        ("task=crf_tagging", r"a CRF is token_classification with config\.model\.crf=True"),
    ],
)
def test_mistakes_are_named(override, message):
    with pytest.raises(UserError, match=message) as caught:
        load(override)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "body, message",
    [
        ("config.optim.lrr = 1", r"recipe\.py: .*lrr.*lr"),
        ("config.optim.lr = 'fast'", r"recipe\.py: .*"),
        ("config.modle = dict(a=1)", r"recipe\.py: .*modle.*model"),
        (
            "config.unlock(); config.optim.lrate = 1.0",
            r"there is no setting config\.optim\.lrate; did you mean",
        ),
        ("config.optim.lr = undefined", r"recipe\.py: NameError: name 'undefined'"),
        ("return None", r"recipe\.py: get_config returned NoneType, expected a ConfigDict"),
        ("return (", r"recipe\.py: SyntaxError"),
    ],
)
def test_a_recipe_with_a_mistake_is_named(tmp_path, body, message):
    path = tmp_path / "recipe.py"
    path.write_text(
        "from jaxft.training.settings import default_config\n"
        f"def get_config():\n    config = default_config('token_classification')\n    {body}\n    return config\n"
    )
    with pytest.raises(UserError, match=message):
        load_settings(str(path))


def test_addresses_that_lead_nowhere_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no file .*nerr\.py; expected a recipe such as configs/ner\.py"):
        load_settings(NER.replace("ner.py", "nerr.py"))
    with pytest.raises(UserError, match=r"has no recipe 'wnut'; expected offline, lora, conll2003, wnut17, "):
        load_settings(NER + ":wnut")
    broken = tmp_path / "config.json"
    for text, message in (
        ('{"optim": {"lr"', "not JSON"),
        ("[1]", "expected an object of settings"),
        ('{"optim": {"lr": 1}}', "config.task must be given"),
        (
            '{"task": "causal_lm", "optim": {"lrr": 1}}',
            r"no setting config\.optim\.lrr; did you mean config\.optim\.lr\?",
        ),
        ('{"task": "causal_lm", "optim": {"lr": "x"}}', r"config\.optim\.lr takes a number"),
    ):
        broken.write_text(text)
        with pytest.raises(UserError, match=message):
            load_settings(str(broken))


@pytest.mark.parametrize("task", TASKS)
def test_defaults_of_a_task_are_settings_of_it(task):
    config = default_config(task)
    if task == "multi_task":
        config.tasks = (("a", (("task", "sequence_classification"),)),)
    settings = settings_from_config(config)
    assert settings.task == task and settings_from_config(to_dict(settings)) == settings
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.optim.lr = 1.0


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 40),
    st.floats(allow_nan=False),
    st.text(max_size=4),
    st.sampled_from(["none", "1", "1e-3", "10%", "auto", "a=1,b=2", "('a', 1)"]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=2)
)


@given(st.sampled_from(list(TASKS)), st.data())
def test_any_value_is_refused_or_survives_config_json(task, data):
    values = {"task": task}
    if task == "multi_task":
        values["tasks"] = {"a": {"task": "sequence_classification"}, "b": {"task": "token_classification"}}
    keys = st.sampled_from([key for key in schema_of(task).declarations if key != "task"])
    try:
        settings = settings_from_config(values | {data.draw(keys): data.draw(VALUES)})
    except UserError:
        return
    assert settings_from_config(json.loads(json.dumps(to_dict(settings)))) == settings
    assert settings_from_config(flatten(settings)) == settings


def test_a_setting_of_another_task_says_whose_it_is():
    for override, message in (
        (
            "data.label_separator=x",
            "label_separator is a setting of sequence_classification and image_classification; .* 'token_clas.*: leave",
        ),
        (
            "data.max_segments=3",
            "is a setting of sequence_classification,? (and )?question_answering.*; this run's",
        ),
        ("data.mix=size", "config.data.mix is a setting of multi_task; this run's config.task is"),
        ("task=ner", "config.task='ner': expected one of token_classification, .*multi_task"),
        ("task=causal_llm", "did you mean causal_lm?"),
    ):
        with pytest.raises(UserError, match=message):
            load(override)


def test_a_recipe_can_be_turned_into_another_task_if_it_sets_nothing_of_its_own():
    assert load("task=question_answering", "eval.n_best=3").eval.n_best == 3
    with pytest.raises(UserError, match="config.model.crf is a setting of token_classification"):
        load_settings(NER.replace("ner", "ner_crf"), ["--config.task=question_answering"])


@pytest.mark.parametrize("task", ["question_answering", "sequence_classification", "causal_lm"])
def test_the_config_json_of_a_run_can_be_turned_into_another_task(task, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_dict(load())))
    assert load_settings(str(path), [f"--config.task={task}"]) == load(f"task={task}")


@pytest.mark.parametrize("task", [None, "", ["token_classification"], {"a": 1}, 3])
def test_a_task_of_a_wrong_type_is_named(task):
    with pytest.raises(UserError, match="config.task.*expected one of token_classification"):
        settings_from_config({"task": task})


def test_a_setting_of_a_task_is_given_once():
    entry = (("task", "sequence_classification"), ("data.label", "x"), ("data.label", "y"))
    with pytest.raises(UserError, match="config.tasks, a: 'data.label' is given twice"):
        settings_from_config({"task": "multi_task", "tasks": (("a", entry),)})


def test_yaml_and_json_recipes_build_on_others(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        f"recipe: {NER}:wnut17\noptim:\n  lr: 3e-5\n  freeze: [^backbone/]\ndata.train: a.conll\n"
        "loss:\n  class_weights: {O: 0.5}\ntrain:\n  steps: 7\n"
    )
    config = load_settings(str(recipe), ["--config.train.steps=8"])
    assert (config.optim.lr, config.optim.freeze, config.data.train) == (3e-5, ("^backbone/",), "a.conll")
    assert (config.loss.class_weights, config.train.steps, config.data.max_length) == ((("O", 0.5),), 8, 64)
    (tmp_path / "next.json").write_text(json.dumps({"recipe": "mine.yaml", "seed": 5}))
    assert load_settings(str(tmp_path / "next.json")).seed == 5  # found next to the file
    recipe.write_text(
        "task: multi_task\ntasks:\n  a: {task: sequence_classification, data.label: intents}\n"
        "  b: {task: token_classification, loss: {weight: 2}}\n"
    )
    assert load_settings(str(recipe)).tasks == (
        ("a", (("task", "sequence_classification"), ("data.label", "intents"))),
        ("b", (("task", "token_classification"), ("loss.weight", 2))),
    )
    for text, message in (
        ("optim: {lr: 1}", "mine.yaml: config.task must be given; expected one of token_classification, "),
        ("recipe: gone.py", "no file gone.py; expected a recipe"),
        ("recipe: 3", "recipe takes text such as configs/ner.py:offline"),
        ("a: [", "mine.yaml: not YAML"),
        (f"recipe: {NER}\noptim: {{lr: fast}}", "config.optim.lr takes a number, found 'fast'"),
        (f"recipe: {NER}\noptim: {{lrr: 1}}", "did you mean config.optim.lr?"),
        (f"recipe: {NER}\noptim: fast", "no setting config.optim"),
    ):
        recipe.write_text(text)
        with pytest.raises(UserError, match=message) as caught:
            load_settings(str(recipe))
        assert "\n" not in str(caught.value)


def test_values_in_yaml_are_read_as_they_are_typed(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        f"recipe: {NER}\ndata: {{test: none, pack: 'no'}}\ntrain: {{steps: none}}\neval:\n"
        "optim: {lr: 3e-5, warmup: 1e2, lr_multipliers: {^head/: 1e1, .: 1}}\n"
    )
    config = load_settings(str(recipe))
    assert (config.data.test, config.data.pack, config.train.steps) == (None, False, None)
    assert (config.optim.lr, config.optim.warmup) == (3e-5, 100)
    assert config.optim.lr_multipliers == (("^head/", 10.0), (".", 1))


def test_values_that_cannot_be_read_are_named_with_their_file(tmp_path):
    recipe, base = tmp_path / "mine.yaml", tmp_path / "base.yaml"
    for text, message in (
        ("recipe: base.yaml", r"base\.yaml: recipe: .*mine\.yaml leads back to itself"),
        ("recipe: mine.yaml", r"mine\.yaml: recipe: .*mine\.yaml leads back to itself"),
        (f"recipe: {NER}\noptim: {{lr: 1}}\nseed: 1\noptim: {{b1: 0}}", r"optim is given twice .*line 4"),
        (f"recipe: {NER}\noptim.lr: 1\noptim: {{lr: 2}}", r"mine\.yaml: config\.optim\.lr is given twice"),
        (f"recipe: {NER}\ndata.columns: &a {{tokens: *a}}", "not YAML: .*recursive"),
        (f"recipe: {NER}\noptim.freeze: &a [*a]", "not YAML: .*recursive"),
        (
            f"recipe: {NER}\ndata.train: 2020-01-01",
            r"takes text, found datetime.* \(date\); put it in quotes",
        ),
        (f"recipe: {NER}\ndata.train: 2020-13-01", "not YAML: month must be in 1..12"),
        (
            f"recipe: {NER}\nmodel.sizes: {{a: 2020-01-01}}",
            r"config\.model\.sizes=.*: expected texts, numbers",
        ),
        (f"recipe: {NER}\nmodel.sizes: {'[' * 3000}", "nested too deeply"),
        ("recipe: gone.py", r"mine\.yaml: recipe: gone\.py: no file gone\.py"),
    ):
        base.write_text("recipe: mine.yaml")
        recipe.write_text(text)
        with pytest.raises(UserError, match=message) as caught:
            load_settings(str(recipe))
        assert "\n" not in str(caught.value)
    base.write_text(
        f"recipe: {NER}\noptim.lrr: 1"
    )  # the file that is wrong is named, not the one that is based on it
    recipe.write_text("recipe: base.yaml\nseed: 2")
    with pytest.raises(UserError, match=r"base\.yaml: there is no setting config\.optim\.lrr"):
        load_settings(str(recipe))
    recipe.write_bytes(b"data.train: \xe9")
    with pytest.raises(UserError, match=r"mine\.yaml: not YAML: 'utf-8' codec can't decode"):
        load_settings(str(recipe))
    settings = tmp_path / "config.json"
    settings.write_text('{"task": "causal_lm", "seed": 1, "seed": 2}')
    with pytest.raises(UserError, match="config.json: not JSON: seed is given twice"):
        load_settings(str(settings))
    settings.write_text('{"task": "causal_lm", "seed": 1}', encoding="utf-8-sig")  # as some editors save it
    assert load_settings(str(settings)).seed == 1


def steps(value, total=1000):
    return duration_steps(value, "optim.warmup", total=total, steps_per_epoch=200, examples_per_step=32.0)


def test_durations():
    assert [steps(v) for v in (None, 0, 0.1, 100, "10%", "100 steps", "1 step")] == [
        0,
        0,
        100,
        100,
        100,
        100,
        1,
    ]
    assert [steps(v) for v in ("0.5 epochs", "1epoch", "3200 examples", " 1e2 steps ")] == [
        100,
        200,
        100,
        100,
    ]


@given(st.one_of(st.text(), st.floats(), st.integers(), st.booleans(), st.lists(st.integers(), max_size=2)))
def test_any_value_is_a_duration_or_refused(value):
    try:
        assert steps(value) >= 0
    except UserError as error:
        assert "config.optim.warmup=" in str(error)


def test_total_steps_by_precedence():
    def total(*overrides):
        train = dataclasses.asdict(load(*overrides).train)
        del train["deterministic"]
        return total_steps(**train, steps_per_epoch=200, examples_per_step=32.0)

    assert total("train.epochs=2.5") == 500
    assert total("train.epochs=0.0001") == 1
    assert total("train.examples=65") == 3
    assert total("train.examples=64", "train.steps=7") == 7
