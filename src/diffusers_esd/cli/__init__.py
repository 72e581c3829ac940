"""`diffusers-esd`: the package from a shell."""

from .main import main

__all__ = ["main"]
