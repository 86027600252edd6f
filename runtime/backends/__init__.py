"""What runs a graph. No provider's name is tested anywhere else in the runtime."""
