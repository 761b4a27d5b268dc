"""Describe a trial by one value, from its proposal to the process that trains it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal


@dataclass(frozen=True)
class TrialSpec:
    """One trial of a search.

    Args:
        config: its configuration, plain and nested.
        directory: its folder, or None to keep no checkpoints.
        number: from 1.
        params: its searched settings by path.
        search: name of the search.
        remote: URI of its checkpoints, if the search is in an object store.
        scratch: a folder for Ray Train that all machines see.
        encoder: absolute location of its pretrained encoder, if it has one.
        gpus_per_worker: a number of GPUs, or a share of one.
        backend: whether it trains in the process of Ray Tune (direct) or in a worker group of Ray Train (train).
        note: a remark for its last row.
        clips_at_once: the most clips that fit into memory together, or None for a whole batch.
    """

    config: dict[str, Any]
    directory: str | None = None
    number: int = 0
    params: dict[str, Any] = field(default_factory=dict)
    search: str = ""
    remote: str | None = None
    scratch: str = ""
    encoder: str = ""
    gpus_per_worker: float = 0.0
    backend: Literal["direct", "train"] = "direct"
    note: str = ""
    clips_at_once: int | None = None

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> TrialSpec:
        """Make the spec of the plain values that `as_dict` returned."""
        return cls(**{each.name: content[each.name] for each in fields(cls) if each.name in content})

    def as_dict(self) -> dict[str, Any]:
        """The spec as plain values, which Ray Tune can copy and change."""
        return asdict(self)
