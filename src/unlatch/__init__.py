"""unlatch: a TLS proxy whose keys open only when a network and a person let them."""

__version__ = "0.1.0"
