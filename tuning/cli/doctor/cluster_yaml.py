"""Check a cluster file before anything is launched: as Ray does, and what Ray does not check."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tuning.cli.doctor.finding import Finding, fail, ok, warn
from tuning.config.errors import UserError, nearest

PLACEHOLDER = re.compile(r"fill[-_ ]?in|change[-_ ]?me|your[-_][a-z]|<[a-z][^<>]*>|\bTODO\b", re.IGNORECASE)

# Ray removes them from a node_config of AWS before it passes the rest on.
RAYS_OWN = {"SubnetIds"}


def read_cluster(path: Path) -> tuple[dict[str, Any] | None, list[Finding]]:
    """The file's content, or None and the finding that says why not.

    Raises:
        UserError: no such file.
    """
    if not path.is_file():
        raise UserError(f"{path}: expected a cluster file (YAML), got no such file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        return None, [fail("cluster file", f"{path}: not YAML: {' '.join(str(error).split())}", "correct that line")]
    provider = content.get("provider") if isinstance(content, dict) else None
    if not isinstance(provider, dict) or "type" not in provider:
        found = f"{path}: expected settings with provider: {{type: aws, gcp, local, ...}}"
        return None, [fail("cluster file", found, "start from this project's cluster.yaml")]
    return content, []


def check_cluster(path: Path, content: dict[str, Any]) -> Iterator[Finding]:
    """Every finding that needs no cloud."""
    prepared, problem = rays_view(content)
    if problem:
        yield fail("cluster file", f"{path}: {problem}", "see docs.ray.io, 'Cluster YAML configuration options'")
    else:
        yield ok("cluster file", f"{path}: Ray accepts it ({content['provider']['type']})")
    for where, text in sorted(placeholders(content)):
        yield fail("to fill in", f"{where}: '{text}'", f"put the value of your account or hosts into {path}")
    yield from check_node_configs(content)
    yield from check_commands(prepared or content)
    yield from check_ray_version(prepared or content)
    yield from check_head(content)


def rays_view(content: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """The file as Ray completes it, and Ray's objection; one of them is empty."""
    import jsonschema  # comes with ray[default]

    from tuning.search.ray_internals import complete_cluster_file

    said = io.StringIO()
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            prepared = complete_cluster_file(json.loads(json.dumps(content, default=str)))
    except jsonschema.ValidationError as error:
        where = ".".join(str(part) for part in error.absolute_path)
        unknown = re.search(r"\('(.+?)' was unexpected\)", error.message)
        hint = nearest(unknown[1], error.schema.get("properties", {})) if unknown else ""
        return None, f"{where + ': ' if where else ''}{error.message[:300]}{hint}"
    except SystemExit:
        return None, " ".join(said.getvalue().split())
    except Exception as error:  # Ray raises many types, click's among them; each means that the file is wrong
        return None, f"{type(error).__name__}: {' '.join((str(error) or said.getvalue()).split())}"
    finally:
        logging.disable(logging.NOTSET)
    return prepared, ""


def placeholders(value: Any, where: str = "") -> set[tuple[str, str]]:
    """Texts that are still to be filled in, with their paths; commands are left out."""
    if isinstance(value, dict):
        return {found for key, inner in value.items() for found in placeholders(inner, f"{where}.{key}".strip("."))}
    if isinstance(value, list):
        if where.endswith("commands"):
            return set()
        return {found for number, inner in enumerate(value) for found in placeholders(inner, f"{where}[{number}]")}
    return {(where, value)} if isinstance(value, str) and PLACEHOLDER.search(value) else set()


def check_node_configs(content: dict[str, Any]) -> Iterator[Finding]:
    """Names and types inside node_config of AWS, which Ray passes on to EC2 unchecked."""
    types = content.get("available_node_types")
    if content["provider"]["type"] != "aws" or not isinstance(types, dict):
        return
    try:
        import botocore.session
        from botocore.validate import ParamValidator
    except ModuleNotFoundError:
        advice = "pip install boto3: `ray up` needs it for AWS"
        yield warn("node_config", "not checked: boto3 is not installed", advice)
        return
    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    wrong = []
    for name, node in types.items():
        if isinstance(node, dict) and isinstance(config := node.get("node_config") or {}, dict):
            given = {key: value for key, value in config.items() if key not in RAYS_OWN}
            report = ParamValidator().validate({"MinCount": 1, "MaxCount": 1, **given}, shape).generate_report()
            wrong += [_in_words(line, f"available_node_types.{name}.node_config") for line in report.splitlines()]
    yield from (fail("node_config", found, "see the parameters of EC2's RunInstances") for found in wrong)
    if not wrong:
        yield ok("node_config", f"{', '.join(types)}: every name is one of EC2's RunInstances")


# Python's types, of which botocore speaks.
WORDS = {
    "str": "text",
    "int": "integer",
    "bool": "true or false",
    "dict": "mapping",
    "tuple": "list",
    "float": "number",
}


def _in_words(line: str, where: str) -> str:
    """A line of botocore's report with the setting's path, the expectation and the nearest name."""
    if unknown := re.fullmatch('Unknown parameter in (.*): "(.*)", must be one of: (.*)', line):
        inner = "" if unknown[1] == "input" else f"{unknown[1]}."
        return f"{where}.{inner}{unknown[2]}: no such setting{nearest(unknown[2], unknown[3].split(', '))}"
    if other := re.fullmatch("Invalid type for parameter (.*), value: (.*), type: .*, valid types: (.*)", line):
        types = dict.fromkeys(WORDS.get(name, name) for name in re.findall(r"'(\w+)'", other[3]))
        return f"{where}.{other[1]}: expected {' or '.join(types)}, got {other[2]}"
    return f"{where}: {line}"


def check_commands(content: dict[str, Any]) -> Iterator[Finding]:
    """Dashboard and token, as the commands that start Ray set them."""
    head, worker = (_joined(content, f"{node}_start_ray_commands") for node in ("head", "worker"))
    if re.search(r"--dashboard-host[= ]['\"]?(0\.0\.0\.0|::|\*)", head):
        advice = "--dashboard-host=127.0.0.1, and `ray dashboard cluster.yaml` to look at it"
        yield fail("dashboard", "listens on every network of the head: whoever reaches it can run code there", advice)
    else:
        yield ok("dashboard", "listens on the head only")
    without = [
        name
        for name, commands in (("head_start_ray_commands", head), ("worker_start_ray_commands", worker))
        if "ray start" in commands and not re.search(r"RAY_AUTH_MODE=['\"]?token", commands)
    ]
    if without:
        advice = "put RAY_AUTH_MODE=token before `ray start`, and the token's file into file_mounts"
        yield fail("token", f"{' and '.join(without)}: without token authentication", advice)
    elif not any("auth_token" in str(target) for target in content.get("file_mounts") or {}):
        advice = 'add "~/.ray/auth_token": "~/.ray/auth_token" to file_mounts'
        yield warn("token", "head and workers require one, but file_mounts does not copy it to them", advice)
    else:
        yield ok("token", "head and workers require it, and file_mounts copies it")


def check_ray_version(content: dict[str, Any]) -> Iterator[Finding]:
    """Whether the nodes install this machine's version of Ray."""
    here = importlib.metadata.version("ray")
    names = ("setup_commands", "head_setup_commands", "worker_setup_commands", "initialization_commands")
    commands = "\n".join(_joined(content, name) for name in names)
    installs = re.findall(r"(?<![\w/.-])ray(?:\[[\w,-]*\])?(==[\w.]+)?(?=[\s'\";,<>~]|$)", _pip_lines(commands))
    wheels = re.findall(r"\S*ray-\S+\.whl", commands)
    advice = f"ray[default,tune,train,data]=={here} in setup_commands, as here"
    if wheels:
        yield fail("ray version", f"a wheel that is no release: {wheels[0]}", advice)
    elif "" in installs:
        yield fail("ray version", "setup_commands install Ray without a version: nodes may differ", advice)
    elif wrong := [pin for pin in installs if pin != f"=={here}"]:
        yield fail("ray version", f"setup_commands install ray{wrong[0]}, here is {here}", advice)
    elif installs:
        yield ok("ray version", f"{here} on every node, as here")
    elif not content.get("docker"):
        yield warn("ray version", "setup_commands do not install Ray: the nodes' image must have it", advice)


def check_head(content: dict[str, Any]) -> Iterator[Finding]:
    """Whether the head runs no trials: its death ends the search, a worker's does not."""
    head = (content.get("available_node_types") or {}).get(content.get("head_node_type"))
    if not isinstance(head, dict):
        return
    resources = head.get("resources") or {}
    taken = [name for name in ("GPU", "CPU") if resources.get(name) != 0]
    if not taken:
        yield ok("head", "runs no trials")
        return
    advice = f"available_node_types.{content['head_node_type']}.resources: {{CPU: 0, GPU: 0}}"
    yield warn("head", f"runs trials on its {' and '.join(taken)}s: one that fills the memory ends the search", advice)


def _joined(content: dict[str, Any], name: str) -> str:
    commands = content.get(name)
    return "\n".join(str(command) for command in commands) if isinstance(commands, list) else ""


def _pip_lines(commands: str) -> str:
    return "\n".join(line for line in commands.splitlines() if re.search(r"\b(uv )?(pip3?) install\b", line))
