"""`python -m emorig_diffusers` is the `emorig` command."""

from .cli import main

raise SystemExit(main())
