"""Evaluation: edited pictures against their sources, any method's, in one table."""
