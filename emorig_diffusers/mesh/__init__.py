"""Edited heads as textured meshes."""
