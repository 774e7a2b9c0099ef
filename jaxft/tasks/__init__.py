"""Tasks, which define how data is read, encoded, predicted and measured. Each has a folder; `registry` lists them."""
