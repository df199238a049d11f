"""Frozen image models: modules and the names of their weights."""
