"""The search for meshes and settings recommends what fits, and its advice holds when it is followed."""

import dataclasses
import json

import pytest

from jaxft import errors
from jaxft.planning.render import describe_remedies
from jaxft.planning.search import find_remedies, list_meshes, recommend
from tests.planning.conftest import CPU, estimate_of, tiny_config


@pytest.mark.sweep
def test_advice_holds_when_it_is_followed(plans, estimates):
    """Microbatches, recomputation and fsdp are each tried without the others."""
    gib = (estimates["data"]["peak_bytes_per_device"] - 1) / 2**30
    (tight,) = plans([*CPU, "--memory_gib", gib])
    assert tight["code"] == errors.EXIT_DOES_NOT_FIT
    remedies = json.loads(tight["out"])["remedies"]
    keys = {remedy["flags"][0].split("=")[0] for remedy in remedies}
    assert keys == {"--config.batch.accumulate", "--config.model.remat", "--config.mesh.data"}
    (followed,) = plans([*CPU, "--memory_gib", gib, *remedies[0]["flags"]])
    assert followed["code"] == 0
    assert json.loads(followed["out"])["peak_bytes_per_device"] == remedies[0]["peak_bytes_per_device"]


def test_recomputing_is_tried_in_a_loop(estimates):
    """Unrolled layers, asked for, would refuse it on a CPU."""
    config = tiny_config(model__unroll="yes")
    tight = dataclasses.replace(estimate_of(estimates["data"]), fits=False)

    def plan(config):
        return dataclasses.replace(tight, fits=config.model.remat == "full"), None

    ((changes, _),) = find_remedies(config, tight, plan)
    assert changes == {"model.remat": "full", "model.unroll": "auto"}


def test_combinations_are_tried_where_no_single_change_is_enough(estimates):
    config = tiny_config()
    tight = dataclasses.replace(estimate_of(estimates["data"]), fits=False, hbm_bytes_per_device=2**20)
    tried = []

    def plan_that_fits(does_fit):
        def plan(config):
            settings = (config.batch.accumulate, config.model.remat, config.mesh.fsdp)
            tried.append(settings)
            return dataclasses.replace(tight, fits=does_fit(*settings)), None

        return plan

    remedies = list(find_remedies(config, tight, plan_that_fits(lambda a, r, f: (a, f) == (4, 8))))
    mesh = {"mesh.data": 1, "mesh.fsdp": 8, "mesh.tensor": 1}
    assert [changes for changes, _ in remedies] == [mesh | {"batch.accumulate": 4}]
    assert tried[:5] == [(2, "none", 1), (4, "none", 1), (1, "dots", 1), (1, "full", 1), (1, "none", 8)]
    # Below what the state takes, only fsdp can help; nothing may.
    tried.clear()
    tiny = dataclasses.replace(tight, hbm_bytes_per_device=1)
    assert list(find_remedies(config, tiny, plan_that_fits(lambda *_: False))) == []
    assert all(fsdp == 8 for _, _, fsdp in tried[:1]) and "take more devices" in describe_remedies([])


def test_meshes_of_a_sweep():
    meshes = [tuple(mesh.values()) for mesh in list_meshes(16)]
    assert meshes == [
        (1, 16, 1),
        (4, 4, 1),
        (16, 1, 1),
        (1, 8, 2),
        (2, 4, 2),
        (8, 1, 2),
        (1, 4, 4),
        (2, 2, 4),
        (4, 1, 4),
    ]


def test_recommendation_prefers_what_fits():
    class StandIn:
        def __init__(self, fits, seconds, peak):
            self.fits, self.roofline_s, self.peak_bytes_per_device = fits, seconds, peak

    quick, small, large = StandIn(False, 1.0, 9), StandIn(True, 2.02, 3), StandIn(True, 2.0, 4)
    assert recommend([quick, small, large]) is small
    assert recommend([quick]) is None
