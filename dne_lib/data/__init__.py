"""InterHand2.6M from its files to samples; the built-in data and shards are read the same way."""
