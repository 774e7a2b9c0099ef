"""Tasks: what is read, encoded, predicted and measured, a folder for each; `registry` lists them."""
