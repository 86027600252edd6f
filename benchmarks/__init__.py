"""Precast beside its peers: the same weights and inputs, every peer in its own environment. See README.md here."""
