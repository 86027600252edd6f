"""Data-driven pre-processing: everything a processor needs is in the artifact."""

__all__ = ["TOKENIZER_FILES"]

# The files of a tokenizer, in an artifact and in a checkpoint alike.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
