"""How well heads fit scans: linear heads to compare with, figures, and the table."""
