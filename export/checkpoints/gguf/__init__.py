"""GGUF files as checkpoints: header, weights, config and tokenizer of llama.cpp's format (ggml's docs/gguf.md)."""
