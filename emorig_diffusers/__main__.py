"""`python -m emorig_diffusers` is the `emorig` command."""

from .cli.main import main

raise SystemExit(main())
