"""Fine-tunes pretrained BERT and GPT-2 in JAX/Flax."""

__version__ = "0.1.0"
