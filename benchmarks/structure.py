"""Count files, lines and smells of the code: `python -m benchmarks.structure [CHECKOUT]`.

Files and lines by folder, imports inside functions, imports below TYPE_CHECKING, functions of six and more arguments,
lines with `Any`, functions over 50 lines.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections import Counter
from pathlib import Path

FOLDERS = ("tuning", "datasets", "models")
MANY_ARGUMENTS, LONG = 6, 50


def main() -> None:
    """Print the counts of a checkout, by default this one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, nargs="?", default=Path(__file__).resolve().parents[1])
    root = parser.parse_args().checkout
    lines, files, totals = Counter[str](), Counter[str](), Counter[str]()
    for file in sorted(path for folder in FOLDERS for path in python_files(root / folder)):
        text = file.read_text(encoding="utf-8")
        room = str(file.parent.relative_to(root))
        lines[room] += len(text.splitlines())
        files[room] += 1
        totals.update(counts(text, in_tuning=file.relative_to(root).parts[0] == "tuning"))
    for room in sorted(lines):
        print(f"{room:<28}{files[room]:>4} files {lines[room]:>6} lines")
    both = sum(count for room, count in lines.items() if not room.startswith("models"))
    print(f"{'tuning + datasets':<28}{'':>10} {both:>6} lines; {sum(files.values())} files in all, {len(files)} rooms")
    for name, count in sorted(totals.items()):
        print(f"{name:<40}{count:>5}")


def python_files(folder: Path) -> list[Path]:
    """The Python files below a folder, without those behind links."""
    return [path for path in folder.rglob("*.py") if not any(parent.is_symlink() for parent in path.parents)]


def counts(text: str, in_tuning: bool) -> Counter[str]:
    """The counts of one file."""
    found = Counter[str]()
    tree = ast.parse(text)
    if in_tuning:
        found["lines of tuning/ with Any"] += sum(bool(re.search(r"\bAny\b", line)) for line in text.splitlines())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            found["lines below TYPE_CHECKING"] += sum(
                isinstance(each, (ast.Import, ast.ImportFrom)) for each in ast.walk(node)
            )
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        arguments = node.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        found["functions of 6 and more arguments"] += len([a for a in named if a.arg != "self"]) >= MANY_ARGUMENTS
        found["functions over 50 lines"] += (node.end_lineno or 0) - node.lineno + 1 > LONG
        found["late imports"] += sum(isinstance(each, (ast.Import, ast.ImportFrom)) for each in own_nodes(node))
    return found


def own_nodes(function: ast.AST) -> list[ast.AST]:
    """Nodes of a function without those of its inner functions."""
    nodes: list[ast.AST] = []
    waiting = list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop()
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            nodes.append(node)
            waiting += ast.iter_child_nodes(node)
    return nodes


if __name__ == "__main__":
    main()
