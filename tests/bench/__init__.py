"""Benchmarks: all of them, ``python -m tests.bench``, or one by itself, ``python -m tests.bench.NAME --help``; from the
repository's root."""
