"""From a checkpoint to a published artifact. The only room that imports torch."""

# Imported from the checkout's root this folder would be a second, distinct copy of the package.
if __name__ != "precast.export":
    raise ImportError(f"import this package as precast.export, not as {__name__!r}")
