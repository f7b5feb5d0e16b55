"""Training neural parametric heads: identities, then expressions."""
