"""What users bring to train on: photos, labels and attributes of the usual data sets, and prepared shards of codes."""
