"""Training the network that tells what is before a mouth."""
