"""Network families, one file each; nothing here knows of pipelines, training or photos."""
