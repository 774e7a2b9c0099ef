"""Image classification: labels or numbers for images."""
