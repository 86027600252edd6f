"""Benchmarks: contenders in processes of their own, taken in turns, with the uncertainty of every figure."""
