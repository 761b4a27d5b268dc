"""Write deploy/constraints.txt: the versions of this environment, of all that a node of a cluster installs.

Run where the tests have passed, in the project's root: `python deploy/constraints.py > deploy/constraints.txt`
"""

import importlib.metadata
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[1]
HEADER = """\
# The versions with which the tests passed, for `pip install -c` on every node of a cluster.
# Written by `python deploy/constraints.py > deploy/constraints.txt`."""


def wanted() -> list[Requirement]:
    """What a node installs: the project's requirements, and those of its extra for AWS."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["aws"]]
    return [Requirement(line) for line in lines]


def closure(requirements: list[Requirement]) -> dict[str, str]:
    """Versions of installed packages by name: the required ones and all that they require in turn.

    A local part of a version, such as +cpu, is left out: nodes take another build of the same version.
    """
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    queue = [(requirement, extra) for requirement in requirements for extra in ("", *requirement.extras)]
    while queue:
        requirement, extra = queue.pop()
        name = canonicalize_name(requirement.name)
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform or Python
        found[name] = distribution.version.partition("+")[0]
        for line in distribution.requires or []:
            inner = Requirement(line)
            if inner.marker is None or inner.marker.evaluate({"extra": extra}):
                queue += [(inner, each) for each in ("", *inner.extras)]
    return found


if __name__ == "__main__":
    versions = closure(wanted())
    sys.stdout.write("\n".join([HEADER, *(f"{name}=={versions[name]}" for name in sorted(versions))]) + "\n")
