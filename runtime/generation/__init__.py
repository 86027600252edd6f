"""Text generation: one loop for decoders and encoder-decoders."""
