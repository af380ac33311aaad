"""Benchmarks: ``python -m benchmarks.run`` compares differentiable optimization layers, the other files measure one thing each."""
