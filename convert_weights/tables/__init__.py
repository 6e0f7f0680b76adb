"""One table for each network: released names, and our shape from its `config.json`."""
