"""`python -m dne_lib` is the command `dne`."""

from dne_lib.cli import main

raise SystemExit(main())
