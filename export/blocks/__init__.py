"""Arithmetic shared by families: parts, not switches, and never the name of a model."""
