"""One page from a finished run, to look at without a network."""
