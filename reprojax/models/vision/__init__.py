"""Frozen image models: modules and the layouts of their weights."""
