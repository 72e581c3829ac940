"""Table 1: FID and CLIP score on captions of COCO, guidance 7.5."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusers_esd.evaluation.judges.base import Judge
from diffusers_esd.evaluation.prompt_sets import coco
from diffusers_esd.evaluation.suite import Suite

from . import paper
from .command import MISSING, Experiment, Training, add_experiment, judges_or, limited, notes, number, printed, table
