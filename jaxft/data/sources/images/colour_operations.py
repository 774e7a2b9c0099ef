"""Changes the colours of images: colour jitter, and the operations of RandAugment."""
