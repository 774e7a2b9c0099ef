"""Generation of text: the network one token at a time, the choice of tokens, and the loops around them."""
