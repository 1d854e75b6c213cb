"""Which code made an artefact: the version of a release, and the commit where it runs from a checkout."""

from __future__ import annotations

from functools import cache
from pathlib import Path

__version__ = "0.1.0"

# Never the repository of a folder above, and without a lock that the user's own commands might meet.
REPOSITORY = ("git", "--git-dir=.git", "--work-tree=.", "--no-optional-locks")
GIT = (*REPOSITORY, "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=.dirty")
LONGEST_S = 10


@cache
def code_version(root: Path = Path(__file__).parents[1]) -> str:
    """As 0.1.0, or 0.1.0+g3e9706d1c2d4 in a checkout, .dirty with changes (a local version of PEP 440).

    The version alone where git is missing or refuses to answer.
    """
    if not (root / ".git").exists():  # never the repository of whoever installed us inside it
        return __version__
    import os
    import subprocess

    # without what a hook says of its own repository: index, objects, configuration
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            GIT, cwd=root, env=own, capture_output=True, text=True, check=True, timeout=LONGEST_S
        )
    except (OSError, subprocess.SubprocessError):
        return __version__
    return f"{__version__}+g{done.stdout.strip()}"
