"""Run in an environment that has the wheels alone (`make package`): the README in the wheel, and the commands."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from importlib import import_module
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path

import diffusers_esd

BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
RELATIVE = re.compile(r"\]\((?!https?:|#)[^)]*\)")


def main() -> None:
    """Check what a user has."""
    package = Path(diffusers_esd.__file__).parent
    assert "site-packages" in package.parts, f"not installed: {package}"
    for name in ("py.typed", "study/page.html", "evaluation/page/page.html", "app/page.css"):
        assert files("diffusers_esd").joinpath(name).is_file(), name
    readme = str(distribution("diffusers-esd").metadata.get_payload())
    assert not RELATIVE.findall(readme), RELATIVE.findall(readme)
    assert RELATIVE.findall("[a](b.md)"), "the pattern finds them"
    for module in ("emoji_sd.demo", "emoji_sd.recogniser"):  # what `demo` and `ui --demo` need
        import_module(module)
    blocks = BLOCK.findall(readme)
    assert blocks
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "readme.py")
        script.write_text("\n".join(blocks), encoding="utf-8")
        subprocess.run([sys.executable, str(script)], cwd=folder, check=True)
        assert Path(folder, "no-a-cat").is_dir()
    command = Path(sys.executable).parent / "diffusers-esd"
    for arguments, expected in (
        (["--version"], diffusers_esd.__version__),
        (["demo", "--help"], "--output"),
        (["ui", "--help"], "--host"),
    ):
        printed = subprocess.run([command, *arguments], capture_output=True, text=True, check=True).stdout
        assert expected in printed, printed
    subprocess.run([sys.executable, "-m", "diffusers_esd.cli", "--version"], check=True)
    print("The wheels work.")


if __name__ == "__main__":
    main()
