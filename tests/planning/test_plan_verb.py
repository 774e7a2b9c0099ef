"""The verb `plan` compares meshes and topologies, ends with exit codes, and reports mistakes in one line."""

import json
import re

import pytest

from jaxft import errors
from jaxft.planning.render import describe_estimate
from tests.planning.conftest import CPU, estimate_of


def test_an_estimate_in_words(estimates):
    text = describe_estimate(estimate_of(estimates["data"]))
    for words in (
        "mesh data 8, fsdp 1, tensor 1",
        "of 16.00 GiB: fits",
        "all-reduce: ",
        "MFU ",
        "compiled in ",
    ):
        assert words in text, words
    assert "24 rows, each of one example in 1 microbatches" in describe_estimate(
        estimate_of(estimates["vit"])
    )


@pytest.fixture(scope="module")
def comparisons(plans):
    """Plans that compare, by name; those with little memory compile what the others did."""
    sweep = ["--topology", "cpu:2", "--sweep", "--chip", "v5e"]
    scale = [
        "--scale",
        "cpu:1,cpu:2",
        "--rows_per_device",
        4,
        "--config.mesh.data=1",
        "--config.mesh.fsdp=-1",
    ]
    single, little = ["--topology", "cpu:1", "--sweep"], ["--memory_gib", 1e-4]
    flags = {
        "padded": [*CPU, "--chip", "v5e", "--padding", 0.5],  # first: starts JAX with eight
        "swept": [*sweep, "--json"],
        "scaled": scale,
        "swept in little": [*single, *little, "--json"],
        "scaled in little": [*scale, *little],
        "in little, in words": [*single, *little],
    }
    return dict(zip(flags, plans(*flags.values()), strict=True))


def test_sweep_and_scale(comparisons):
    swept = json.loads(comparisons["swept"]["out"])
    assert [tuple(plan["mesh"].values()) for plan in swept["plans"]] == [(1, 2, 1), (2, 1, 1), (1, 1, 2)]
    best = next(plan for plan in swept["plans"] if plan["mesh"] == swept["recommended"])
    assert best["roofline_s"] <= 1.02 * min(plan["roofline_s"] for plan in swept["plans"])
    lines = comparisons["scaled"]["out"].splitlines()
    assert lines[2].startswith("| cpu:1 | 1 x 1 x 1 | 4 |") and lines[3].startswith(
        "| cpu:2 | 1 x 2 x 1 | 8 |"
    )


def test_exit_codes_where_nothing_fits_and_what_padding_costs(comparisons, estimates):
    codes = {name: plan["code"] for name, plan in comparisons.items()}
    assert codes == {name: 4 if "little" in name else 0 for name in comparisons}
    swept = json.loads(comparisons["swept in little"]["out"])
    assert swept["recommended"] is None and [plan["fits"] for plan in swept["plans"]] == [False]
    assert comparisons["scaled in little"]["out"].count("| no |") == 2
    assert "none fits; jaxft plan with" in comparisons["in little, in words"]["out"]
    padded = json.loads(
        comparisons["padded"]["out"]
    )  # half of the computed slots hold tokens, in the same time
    assert padded["mfu"] == pytest.approx(estimates["data"]["mfu"] / 2)
    assert padded["roofline_s"] == pytest.approx(estimates["data"]["roofline_s"])


def test_mistakes_are_told_in_one_line(plans):
    cases = [
        (
            ["--topology", "cpu:8", "--config.mesh.data=5"],
            "takes 5 devices, found 8",
        ),  # first: starts JAX with eight
        (["--topology", "cpu:0"], "--topology cpu:0: expected cpu:N"),
        (["--topology", "v5e:none"], "--topology v5e:none: .*libtpu|--topology v5e:none: .*; expected cpu:N"),
        (
            ["--topology", "v5litepod-8"],
            r"--topology v5litepod-8: .*(libtpu|; expected cpu:N.* v5e:2x4 \(Cloud's)",
        ),
        (["--topology", "cpu:16"], "JAX has started with 8 CPU devices"),
        (["--topology", "cpu:8", "--chip", "v9"], "--chip v9: unknown; expected one of v4, v5e, v5p"),
        (
            ["--topology", "cpu:8", "--config.mesh.fsdp=3"],
            "3 doesn't divide 8 devices, so that no size would do for -1; change",
        ),
        (["--topology", "cpu:8", "--config.batch.rows=12"], "rows go over 8 devices .* use a multiple of 8"),
        (
            ["--topology", "cpu:8", "--config.batch.rows=none"],
            "batch.rows is not set, and without the data nobody knows .*batch.examples=32: give .*_per_device 8",
        ),
        (["--topology", "cpu:8", "--config.data.max_length=65"], "has 64 positions; set it to 64 or less"),
        (["--topology", "cpu:8", "--config.model.sizes=(('layers', 2),)"], r"sizes: \['layers'\] unknown"),
        (
            ["--topology", "cpu:8", "--config.model.checkpoint=new:t5"],
            "'new:t5': expected one of new:gpt2, new:bert",
        ),
        (["--topology", "cpu:8", "--dump", "no/such/step.hlo"], "there is no folder no/such"),
        (["--topology", "cpu:8", "--padding", 1], "--padding 1.0: expected a fraction"),
        (["--topology", "cpu:8", "--labels", 0], "--labels 0: expected more than 0"),
        (["--topology", "cpu:8", "--sweeps"], "--sweeps: unknown flag"),
        (["--scale", "cpu:2,cpu:4", "--dump", "x"], "--dump is for one plan"),
    ]
    for (flags, message), done in zip(cases, plans(*(flags for flags, _ in cases)), strict=True):
        assert done["code"] == errors.EXIT_USER_ERROR, (flags, done)
        assert done["err"].count("\n") == 1 and re.search(message, done["err"]), (flags, done["err"])
