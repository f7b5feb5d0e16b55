"""How an edited face is drawn."""
