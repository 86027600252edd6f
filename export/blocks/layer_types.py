"""``layer_types`` of config.json: which layers of a decoder see all tokens, and which the last ones alone."""

from __future__ import annotations

from collections.abc import Sequence

from precast.runtime.errors import ConfigError, listing

__all__ = ["FULL", "SLIDING", "check_layer_types", "check_window"]

FULL, SLIDING = "full_attention", "sliding_attention"


def check_layer_types(kinds: Sequence[str], layers: int, window: int | None) -> None:
    """Raises ConfigError unless ``kinds`` says for each layer one of the two, with a window where it needs one."""
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
    check_window(window)


def check_window(window: int | None) -> None:
    """Raises ConfigError for a window that leaves a token nothing to see."""
    if window is not None and window < 1:
        raise ConfigError(
            f"'sliding_window' counts the tokens a token sees, itself included: at least 1, or null for all; "
            f"received {window}"
        )
