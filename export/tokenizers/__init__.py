"""Tokenizers of checkpoints as the files that the runtime reads: upstream's classes, each converted or refused."""
