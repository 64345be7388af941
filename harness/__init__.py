"""Palimpsest: a harness that reads a network's layers and reports numbers people can trust."""

__version__ = "0.1.0"
