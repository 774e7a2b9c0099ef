"""Model cards of exported models."""
