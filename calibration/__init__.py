"""Which numbers low precision needs: what a model is tried on, what moves its answers, and by how much. NumPy, the
runtime and graphs; no torch."""

# Imported from the checkout's root this folder would be a second, distinct copy of the package.
if __name__ != "precast.calibration":
    raise ImportError(f"import this package as precast.calibration, not as {__name__!r}")
