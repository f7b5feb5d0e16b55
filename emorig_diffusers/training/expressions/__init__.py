"""Fitting expression units, recipes and emotions' codes to people's photos."""
