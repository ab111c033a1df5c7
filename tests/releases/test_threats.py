"""The page of threats names tests that there are."""

import re
from pathlib import Path

import fastprune

ROOT = Path(fastprune.__file__).parents[1]


def test_every_test_of_the_table_exists():
    page = (ROOT / "fastprune" / "releases" / "THREATS.md").read_text()
    named = re.findall(r"`(tests/\S+?)::(\w+)`", page)
    assert len(named) == len([line for line in page.splitlines() if line.startswith("| ") and "::" in line]) > 20
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"
