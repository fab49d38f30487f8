"""Benchmarks: each a command that measures beside a limit, in the same run, and prints the ratio."""
