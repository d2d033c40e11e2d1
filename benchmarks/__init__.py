"""The benchmark suite: `python -m benchmarks`. README.md says how to run it and how to read its tables."""
