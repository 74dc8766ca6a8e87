"""Benchmarks: ratios measured within one run. ``make bench`` runs them all."""
