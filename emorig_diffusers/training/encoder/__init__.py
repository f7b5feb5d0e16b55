"""Training networks that read face codes, and calibrating the landmark fit."""
