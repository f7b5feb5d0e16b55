"""Sampling loops, schedulers, guidance."""
