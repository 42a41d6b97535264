"""Benchmarks, each run by hand from the repository's root: ``python -m tests.bench.NAME --help``."""
