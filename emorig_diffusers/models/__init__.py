"""Network families, one file each; nothing here knows of pipelines or training."""
