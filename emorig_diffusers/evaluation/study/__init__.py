"""A user study in the browser: paired comparisons and emotion identification, kept in SQLite, and its report."""
