"""A face in numbers: its codes, how they are read from a photo and edited."""
