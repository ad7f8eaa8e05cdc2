"""Benchmarks: real processes, real sockets, a real disk. Ratios from one run count; single figures are noise."""
