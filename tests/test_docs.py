"""What the pages in docs/ show is what runs."""

import pathlib
import re

import pytest

DOCS = pathlib.Path(__file__).parent.parent / "docs"


def test_the_example_of_bilevel_prints_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    page = (DOCS / "bilevel.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (said,) = re.findall(r"This prints `(.*?)`", page)
    exec(example, {})
    printed = capsys.readouterr().out
    numbers = [[float(x) for x in re.findall(r"\d\.\d+", text)] for text in (said, printed)]
    assert re.sub(r"[\d.]+", "", said) == re.sub(r"[\d.]+", "", printed.strip())
    # The last digit may differ between machines.
    assert numbers[1] == pytest.approx(numbers[0], abs=0.02)


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: pathlib.Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:dass_jax|tests|benchmarks|configs|docs)/[\w./]*)`", text):
        assert (DOCS.parent / path).exists(), path
    for path in re.findall(r"\]\(([^)h#][^)#]*)", text):
        assert (page.parent / path).exists(), path
