"""Fine-tunes pretrained BERT and GPT-2 in JAX/Flax."""
