"""`python -m diffusers_esd` is the command `diffusers-esd`, also for `accelerate launch -m diffusers_esd`."""

import sys

from .cli import main

sys.exit(main())
