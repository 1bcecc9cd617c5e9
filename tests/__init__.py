"""The tests. A package, so that `tests.support` and `python -m tests.benchmarks` mean these."""
