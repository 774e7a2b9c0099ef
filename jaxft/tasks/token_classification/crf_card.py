"""What the model card says of a model that labels words with a CRF."""

from jaxft.tasks.run_facts import RunFacts
from jaxft.tasks.token_classification import card
from jaxft.tasks.token_classification.card import METRICS, TAGS, TASK, scores

__all__ = ["METRICS", "TAGS", "TASK", "origin", "scores", "usage"]


def origin(run: RunFacts, parameters: int) -> list[str]:
    """What the model is, in a paragraph and the first lines of a list."""
    return card.origin(run, parameters, head="a linear layer and a linear-chain CRF")


def usage(run: RunFacts) -> str:
    """How sentences are tagged in torch."""
    return (
        "transformers has no class for a CRF. `AutoModelForTokenClassification` loads this folder and gives the "
        f"emissions; its pipeline would leave the CRF out. {card.loader(run)}"
    )
