"""Files and folders that appear whole, downloads, and the restricted reader of others' pickles."""
