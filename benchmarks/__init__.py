"""Benchmarks: each script prints tables, and `FIGURE name=value` lines last."""
