"""Training: what all trainers share, and a folder for each system."""
