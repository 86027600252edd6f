"""``layer_types`` of config.json: which layers of a decoder see all tokens, and which the last ones alone."""

from __future__ import annotations

from collections.abc import Sequence

from precast.runtime.errors import ConfigError, listing

__all__ = ["FULL", "SLIDING", "windows"]

FULL, SLIDING = "full_attention", "sliding_attention"


def windows(
    layers: int, window: int | None = None, *, first: int = 0, kinds: Sequence[str] | None = None
) -> list[int | None]:
    """How many tokens each layer sees, itself included; None: all.

    Args:
        window: of the layers that have one. first: the layer from which on they do, where ``kinds`` is not stated.
        kinds: ``layer_types`` of config.json.

    Raises:
        ConfigError: ``kinds`` does not say for each layer one of the two, with a window where it needs one; or a window
            leaves a token nothing to see.
    """
    if kinds is None:
        kinds = [FULL if window is None or index < first else SLIDING for index in range(layers)]
    wrong = sorted({str(kind) for kind in kinds} - {FULL, SLIDING})
    if wrong:
        raise ConfigError(f"'layer_types' holds {FULL!r} and {SLIDING!r}; received {listing(wrong)}")
    if len(kinds) != layers:
        raise ConfigError(f"'layer_types' names {len(kinds)} layers, and 'num_hidden_layers' is {layers}")
    if SLIDING in kinds and window is None:
        raise ConfigError(
            f"'layer_types' holds {SLIDING!r}, and there is no window: 'sliding_window' must be a number, and "
            "'use_sliding_window' true where the family has that key"
        )
    if window is not None and window < 1:
        raise ConfigError(
            f"'sliding_window' counts the tokens a token sees, itself included: at least 1, or null for all; "
            f"received {window}"
        )
    return [window if kind == SLIDING else None for kind in kinds]
