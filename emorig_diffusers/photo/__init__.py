"""Photos: read and written, faces found in them, crops cut out and pasted back."""
