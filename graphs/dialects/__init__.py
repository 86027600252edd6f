"""How each target spells the operators."""
