"""Code that a page names becomes a link to its line.

    `dass_jax.sparsity.scores:init_scores`                   the line of the function
    `dass_jax.bilevel.proximal:apg_nag.update.moved`         a function within functions
    `dass_jax.methods.enas:reinforce.loss.surrogate`         the first line that sets that name there
    `methods/dass.py`, `configs/digits_dass.toml`            the file (a path in the package may leave out `dass_jax/`)
    <!-- code: tests.a_new_system:space -->                  the text of the function itself

Each file that is named gets a page of the site with its text and an anchor at each line, so that links need no server
and point to the code that the site was built from. A name that is not there any more fails the build.
"""

import ast
import functools
import pathlib
import posixpath
import re
from collections.abc import Iterator
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAME = re.compile(r"(?:dass_jax|tests)(?:\.\w+)*:\w+(?:\.\w+)*")
PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)*\.(?:py|toml|sh)")
INLINE = re.compile(r"(?<![\[`])`([^`\n]+)`(?!`)")
CODE = re.compile(r"<!-- code: (\S+) -->")
FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
OUTSIDE = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
"""Pages of the site that lie beside docs/."""


class Missing(Exception):
    """What a page names is not there."""


def module_file(module: str) -> str:
    """`dass_jax.sparsity` → `dass_jax/sparsity/__init__.py`."""
    path = module.replace(".", "/")
    for found in (f"{path}.py", f"{path}/__init__.py"):
        if (ROOT / found).is_file():
            return found
    raise Missing(f"{module}: no such module")


@functools.cache
def parsed(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


def defined(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """Names that a body sets, with what sets them; those of a condition or a loop are the body's too."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if hasattr(node, "target") else []
        for target in targets:
            yield from ((leaf.id, node) for leaf in ast.walk(target) if isinstance(leaf, ast.Name))
        for inner in ("body", "orelse", "finalbody"):
            yield from defined(getattr(node, inner, []))


def found_at(name: str) -> tuple[str, ast.stmt]:
    """File and statement of `module:name.of.something`.

    Raises:
      Missing: if there is no such thing.
    """
    module, _, qualified = name.partition(":")
    file = module_file(module)
    found: Any = parsed(file)
    for part in qualified.split("."):
        found = dict(reversed(list(defined(getattr(found, "body", []))))).get(part)
        if found is None:
            raise Missing(f"{name}: {file} has no {part!r} there")
    return file, found


def line_of(name: str) -> tuple[str, int]:
    """File and line of what `found_at` finds."""
    file, found = found_at(name)
    return file, found.lineno


def text_of(match: re.Match[str]) -> str:
    """What a comment asks for, as a block of code."""
    file, found = found_at(match[1])
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    first = min([found.lineno, *(one.lineno for one in getattr(found, "decorator_list", []))])
    return "\n".join(["```python", *lines[first - 1 : found.end_lineno], "```"])


def file_of(path: str) -> str | None:
    """The file that a page means by a path; None if there is none."""
    places = (path, f"dass_jax/{path}")
    return next((place for place in places if "/" in place and (ROOT / place).is_file()), None)


def target(code: str) -> tuple[str, str, int | None] | None:
    """(text of the link, file, line) for the inline code of a page; None if it is no link."""
    if NAME.fullmatch(code):
        return code.removeprefix("dass_jax").removeprefix("."), *line_of(code)
    if PATH.fullmatch(code) and (file := file_of(code)):
        return code, file, None
    return None


def named(markdown: str) -> Iterator[tuple[str, str, str, int | None]]:
    """Inline code of a page that is a link: itself and its `target`."""
    for code in INLINE.findall(FENCE.sub("", markdown)):
        if found := target(code):
            yield code, *found


def linked(markdown: str, page: str) -> str:
    """The page's text with links from the page at `page` (below docs/), and with the code that it shows."""
    markdown = CODE.sub(text_of, markdown)

    def link(match: re.Match[str]) -> str:
        found = target(match[1])
        if not found:
            return match[0]
        text, file, line = found
        href = posixpath.relpath(f"source/{file}.html", posixpath.dirname(page) or ".")
        anchor = f"#__codelineno-0-{line}" if line else ""
        # __call__ is no emphasis; long names may be broken, at their dots, where a table is narrow
        shown = re.sub(r"([./:])(?=\w)", r"\1<wbr>", text.replace("_", "&#95;"))
        return f'<a class="source" href="{href}{anchor}"><code>{shown}</code></a>'

    pieces, end = [], 0
    for fence in FENCE.finditer(markdown):
        pieces += [INLINE.sub(link, markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*pieces, INLINE.sub(link, markdown[end:])])


def outside(page: str) -> str:
    """The text of a page beside docs/, with its links seen from there."""
    text = (ROOT / OUTSIDE[page]).read_text(encoding="utf-8")
    for name, file in OUTSIDE.items():
        text = text.replace(f"]({file})", f"]({name})")
    return text.replace("](docs/", "](").replace("](README.md)", "](index.md)")


def source_page(file: str) -> str:
    """A page of a file's text; not in the search, which has the API."""
    kind = {"py": "python", "toml": "toml", "sh": "bash"}[file.rpartition(".")[2]]
    text = (ROOT / file).read_text(encoding="utf-8")
    head = f"---\ntitle: {file}\nsearch:\n  exclude: true\nhide:\n  - navigation\n  - toc\n---\n\n# {file}\n\n"
    return f'{head}~~~~~~ {{ .{kind} linenums="1" }}\n{text}~~~~~~\n'


def on_files(files: Files, config: Any) -> Files:
    for page in OUTSIDE:
        files.append(File.generated(config, page, content=outside(page)))
    needed: set[str] = set()
    for file in files.documentation_pages():
        try:
            needed |= {found for _, _, found, _ in named(file.content_string)}
        except Missing as error:
            raise PluginError(f"{file.src_uri}: {error}") from error
    for path in sorted(needed):
        files.append(File.generated(config, f"source/{path}.md", content=source_page(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    return markdown if page.file.src_uri.startswith("source/") else linked(markdown, page.file.src_uri)
