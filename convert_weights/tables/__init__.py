"""One table for each network: released names, and our shape from and to its `config.json`."""
