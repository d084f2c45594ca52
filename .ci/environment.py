"""Print environment.yml: Python, and the pins of requirements.lock for conda's pip section.

pip refuses a git requirement in hash mode, so the hashes stay in the lock and the pins go here.
"""

import re
from pathlib import Path

HEAD = """\
# For conda users: the pins of requirements.lock, written by `make lock` from pyproject.toml.
name: workbench
channels:
  - conda-forge
dependencies:
  - python=3.12
  - pip
  - pip:
      # layer names and arithmetic of the student; the tests compare with it where it is installed
      - efficientnet-lite-keras @ git+https://github.com/sebastian-sz/efficientnet-lite-keras@728def9
"""


def pins(lock: str) -> list[str]:
    return re.findall(r"^([a-z0-9][^\s\\]*==[^\\\n]*?)\s*\\?$", lock, re.MULTILINE)


if __name__ == "__main__":
    lines = [f'      - "{pin}"' for pin in pins(Path("requirements.lock").read_text())]
    print(HEAD + "\n".join(lines))
