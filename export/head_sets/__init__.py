"""Heads that many families have, each set made of the parts in which they differ: one file a kind of model."""
