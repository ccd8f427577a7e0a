"""A snapshot's kept clips in the shapes that others load: WebDataset shards, and a folder for `datasets`."""
