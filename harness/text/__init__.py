"""Texts: datasets, victims, and the adversarial row with its files."""
