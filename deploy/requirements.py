"""Prints the requirements of some extras of setup.cfg, so that images install them without installing our code.

Called by: Dockerfile.api, Dockerfile.gpu. Must not import: anything outside the standard library.
Example: `python requirements.py api flower > requirements.txt`
"""

import configparser
import sys


def requirements(extras: list[str]) -> list[str]:
    """The lines of install_requires and of each extra. Raises KeyError for an extra that does not exist."""
    config = configparser.ConfigParser()
    config.read("setup.cfg")
    blocks = [config["options"]["install_requires"], *(config["options.extras_require"][extra] for extra in extras)]
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1:])))
