"""Where pipelines come from and how they get there."""
