"""Precast beside its peers: the same weights and inputs, every peer in an environment of its own. See README.md here."""
