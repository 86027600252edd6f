"""Arrangements of blocks."""
