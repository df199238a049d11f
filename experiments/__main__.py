"""All commands of this folder, a line each.

    python -m experiments
    python -m experiments.predict --help        # one of them

A command is a module that ends by calling itself; its line is the first one of its
docstring. Nothing is imported, so the list is there at once.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
CALLED = ast.dump(ast.parse("__name__ == '__main__'", mode="eval").body)


def commands() -> dict[str, str]:
    """{name as `python -m` takes it: the first line of its docstring}"""
    return dict(_found())


def _found() -> Iterator[tuple[str, str]]:
    for path in sorted(HERE.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        called = any(_calls_itself(node) for node in tree.body)
        if called and path != HERE / "__main__.py":
            parts = path.relative_to(HERE.parent).with_suffix("").parts
            name = ".".join(parts).removesuffix(".__main__")
            yield name, (ast.get_docstring(tree) or "").partition("\n")[0]


def _calls_itself(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.dump(node.test) == CALLED


if __name__ == "__main__":
    found = commands()
    width = max(map(len, found))
    for name, line in found.items():
        print(f"{name:{width}}  {line}")
