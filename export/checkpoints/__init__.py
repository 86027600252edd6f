"""Checkpoints as they are published: config.json and weights of safetensors, torch pickles or GGUF, read strictly."""
