"""The fields of the members that a run has not chosen, for `--help-all`."""

import ast
import inspect
import itertools
import textwrap
from collections.abc import Iterator

from dass_jax.config.axes import AXES, names
from dass_jax.config.rules import allowed, hints
from dass_jax.config.run import Config


def docstrings(schema: type) -> dict[str, str]:
    """The text under each field of a dataclass, in the source of its class and of those that it derives from."""
    found: dict[str, str] = {}
    for one in reversed(schema.__mro__[:-1]):
        (declared,) = ast.parse(textwrap.dedent(inspect.getsource(one))).body
        assert isinstance(declared, ast.ClassDef)
        for node, after in itertools.pairwise(declared.body):
            if isinstance(node, ast.AnnAssign) and isinstance(after, ast.Expr):
                found[ast.unparse(node.target)] = " ".join(ast.literal_eval(after.value).split())
    return found


def others(config: Config) -> str:
    """A section for each table of fields that members of an axis have and the configuration's member has not. The
    network of another space comes with that space."""
    sections = []
    for axis in AXES:
        by_schema: dict[type, list[str]] = {}
        for name in AXES[axis].members:
            by_schema.setdefault(AXES[axis].schema(name), []).append(name)
        by_schema.pop(type(getattr(config, axis).fields), None)
        here = names(axis, config.space.name)
        for schema, members in by_schema.items():
            if hints(schema):
                flag = AXES[axis].short if members[0] in here else AXES["space"].short
                sections.append(_section(axis, f"--{flag} {' | '.join(members)}", schema))
    return "\n\n".join("\n".join(lines) for lines in sections)


def _section(axis: str, flag: str, schema: type) -> Iterator[str]:
    texts = docstrings(schema)
    yield from _wrapped(f"{flag}: {inspect.getdoc(schema)}", "")
    for field, hint in hints(schema).items():
        yield f"  --{axis}.{field.replace('_', '-')}  {allowed(hint)}; default: {getattr(schema(), field)}"
        yield from _wrapped(texts.get(field, ""), "      ")


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, 100, initial_indent=indent, subsequent_indent=indent)
