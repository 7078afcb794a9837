"""Measurements as tables with ratios: `python -m benchmarks`, or `make bench`. See docs/performance.md."""
