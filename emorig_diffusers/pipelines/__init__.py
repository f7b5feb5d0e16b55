"""What users call, one system a file."""
