"""Faces that move: clips read, followed, edited and written frame by frame."""
