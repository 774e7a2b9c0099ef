"""Defines BERT (Devlin et al., 2019): the transformer encoder of Vaswani et al. (2017), section 3.1, over packed rows.

The network is the paper's. Three embeddings are summed and normalized. Then each layer applies self-attention and an
MLP; dropout, a residual connection and LayerNorm follow each of them ("post-norm"). Three arrangements differ from the
paper, with the same result:

- A row holds one or several texts, called segments, and attention stays within each segment.
- Outside of attention, activations are flat, `[R * L, D]`.
- The layers are one module with stacked parameters, `[num_layers, ...]`, and run in a loop.

In shapes, R is the number of rows, L the number of positions in a row, and D the hidden size.
"""

from jaxft.layers.transformer.encoder import Encoder


class Bert(Encoder):
    """The encoder, without a head. `Encoder` is BERT's network, with what other families add to it."""
