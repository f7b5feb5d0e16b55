"""Write docs/settings.md: every number by which a photo is read, edited and drawn, with what the code says of it.

    python docs/settings.py            # write it anew
    python docs/settings.py --check    # exit 1 where it is not up to date

Numbers stand where they are used, as constants with their unit and origin beside them; this table only collects them.
"""

from __future__ import annotations

import argparse
import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1] / "emorig_diffusers"
TABLE = Path(__file__).with_suffix(".md")
FOLDERS = ("photo", "render", "models", "face", "diffusion", "painting", "mesh")
LEFT_OUT = ("photo/landmarks.py",)  # numbers that are names
LONGEST = 70  # characters of a value; longer ones are tables of their own
WRAPPED = 100  # columns of a line from which a comment below goes on with it
NAME = re.compile(r"_?[A-Z][A-Z0-9_]*")
HEADER = """# Settings

Every number by which a photo is read, edited and drawn, with what the code says of it. Written by
`python docs/settings.py`: change the code, not this file.
"""


def settings(file: Path) -> Iterator[tuple[str, str, str]]:
    """Name, value and comment of a module's constants that are numbers, or rows of some."""
    text = file.read_text("utf-8")
    lines, comments = text.splitlines(), _comments(file)
    body = ast.parse(text).body
    for node, after in zip(body, [*body[1:], None]):
        names = [n for n in map(ast.unparse, _targets(node)) if NAME.fullmatch(n)]
        if not names or not _is_number(node.value) or len(value := ast.unparse(node.value)) > LONGEST:
            continue
        said = _beside(comments, lines, node.lineno, node.end_lineno)
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            said = f"{said} {after.value.value}"
        yield ", ".join(names), value, " ".join(said.split())


def _comments(file: Path) -> dict[int, str]:
    """Line -> comment that ends it, or is all of it."""
    with tokenize.open(file) as stream:
        tokens = list(tokenize.generate_tokens(stream.readline))
    return {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}


def _beside(comments: dict[int, str], lines: list[str], first: int, last: int) -> str:
    """The comment that ends a statement with the lines that go on with it, or the one above where it has none."""
    alone = lambda row: row in comments and lines[row - 1].lstrip().startswith("#")
    if last in comments and not comments[last].startswith("fmt:"):
        said = [comments[last]]
        while len(lines[last - 1]) > WRAPPED and alone(last + 1):
            last += 1
            said.append(comments[last])
        return " ".join(said)
    above = []
    while alone(first - 1):
        first -= 1
        above.insert(0, comments[first])
    return " ".join(above)


def _targets(node: ast.stmt) -> list[ast.expr]:
    if not isinstance(node, ast.Assign):
        return []
    target = node.targets[0]
    return list(target.elts) if isinstance(target, ast.Tuple) else [target]


def _is_number(value: ast.expr) -> bool:
    """Whether an expression is made of numbers alone, or of numpy's functions of some."""
    inner = list(ast.walk(value))
    texts = any(isinstance(n, ast.Constant) and not isinstance(n.value, (int, float)) for n in inner)
    calls = [ast.unparse(n.func) for n in inner if isinstance(n, ast.Call)]
    plain = all(isinstance(n, (ast.Constant, ast.Tuple, ast.List, ast.UnaryOp, ast.BinOp, ast.Call, ast.Attribute,
                               ast.Name, ast.operator, ast.unaryop, ast.expr_context)) for n in inner)  # fmt: skip
    numbers = any(isinstance(n, ast.Constant) and not isinstance(n.value, bool) for n in inner)
    return plain and numbers and not texts and all(call.startswith("np.") for call in calls)


def table() -> str:
    """The page."""
    parts = [HEADER]
    for file in sorted(f for folder in FOLDERS for f in (ROOT / folder).rglob("*.py")):
        place = file.relative_to(ROOT).as_posix()
        rows = [] if place in LEFT_OUT else list(settings(file))
        if rows:
            cells = (f"| {name} | `{value}` | {said.replace('|', chr(92) + '|')} |" for name, value, said in rows)
            parts.append("\n".join([f"## {place}\n", "| name | value | |", "| --- | --- | --- |", *cells]) + "\n")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="Write nothing; exit 1 where the table is not up to date.")
    if not parser.parse_args().check:
        TABLE.write_text(table(), "utf-8")
    elif not TABLE.is_file() or TABLE.read_text("utf-8") != table():
        raise SystemExit(f"{TABLE} is not up to date: run `python docs/settings.py`.")


if __name__ == "__main__":
    main()
