"""The packages, among them configs/ as `dass_jax.configs`, and the README as a package index shows it (setup.cfg says
the rest)."""

import configparser
import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent


def on_an_index(readme: str, address: str) -> str:
    """The README for a page that has none of the files beside it.

    Args:
      address: where these files can be seen, from `url` in setup.cfg; "" while there is no such place: links become
        plain text then, and pictures leave.
    """
    if address:
        readme = re.sub(r"\]\((?!\w+:|#)([^)]+)\)", rf"]({address}/\1)", readme)
        return re.sub(r'src="(?!\w+:)([^"]+)"', rf'src="{address}/\1"', readme)
    readme = re.sub(r"(?m)^<img .*\n\n?", "", readme)
    return re.sub(r"\[([^\]\n]+)\]\((?!\w+:|#)[^)]+\)", r"\1", readme)


settings = configparser.ConfigParser()
settings.read(ROOT / "setup.cfg", encoding="utf-8")
setup(
    packages=[
        *find_packages(include=["dass_jax*"]),
        "dass_jax.configs",
        "dass_jax.configs.experiments",
        "dass_jax.configs.sparsebench",
    ],
    long_description=on_an_index(
        (ROOT / "README.md").read_text(encoding="utf-8"), settings.get("metadata", "url", fallback="")
    ),
    long_description_content_type="text/markdown",
)
