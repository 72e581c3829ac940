"""`python -m diffusers_esd.cli` is the command `diffusers-esd`."""

import sys

from .main import main

sys.exit(main())
