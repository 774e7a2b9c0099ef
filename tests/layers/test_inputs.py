"""Inputs take the arrays that every batch has."""

from jaxft.data.batching.batch import INPUTS
from jaxft.layers.inputs import Inputs


def test_inputs_are_the_arrays_of_every_batch():
    batch = {name: object() for name in ("labels", *INPUTS)}
    inputs = Inputs.from_batch(batch)
    assert inputs._asdict() == {name: batch[name] for name in INPUTS} | {"output_positions": None}
    batch["output_positions"] = object()
    assert Inputs.from_batch(batch).output_positions is batch["output_positions"]
