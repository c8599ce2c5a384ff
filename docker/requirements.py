"""Print what the package in the current folder requires, with the extras named: python requirements.py [EXTRA ...]."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
wanted = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in sys.argv[1:])]
print("\n".join(line for lines in wanted for line in lines))
