"""How an artifact is run. No torch, no onnx, no transformers: NumPy, ONNX Runtime and tokenizers."""

# Imported from the checkout's root this folder would be a second, distinct copy of the package.
if __name__ != "precast.runtime":
    raise ImportError(f"import this package as precast.runtime, not as {__name__!r}")
