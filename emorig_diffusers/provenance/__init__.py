"""What a result says of itself: that it was edited, in its file's metadata, by a signature, and in its pixels."""
