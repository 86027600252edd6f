"""How a graph is made fast: operator schemas, dialects, passes, recipes. onnx_ir and NumPy only."""

# Imported from the checkout's root this folder would be a second, distinct copy of the package.
if __name__ != "precast.graphs":
    raise ImportError(f"import this package as precast.graphs, not as {__name__!r}")
