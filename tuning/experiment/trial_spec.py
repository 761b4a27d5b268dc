"""What a trial is told: one value from the proposal to the process that trains it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class TrialSpec:
    """One trial of a search.

    Args:
        config: its configuration, plain and nested.
        directory: its folder, or None to keep no checkpoints.
        number: from 1.
        params: its searched settings by path.
        search: name of the search.
        remote: URI of its checkpoints, where the search lies in an object store.
        scratch: folder for Ray Train, which all machines see.
        encoder: where its pretrained encoder lies, found from any folder.
        gpus_per_worker: whole GPUs, or a part of one.
        note: what its last row says of how it came about.
        clips_at_once: most clips that fit into memory together, or None for a whole batch.
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
    note: str = ""
    clips_at_once: int | None = None

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> TrialSpec:
        """The spec that `as_dict` gave, as Ray Tune hands it on."""
        return cls(**{each.name: content[each.name] for each in fields(cls) if each.name in content})

    def as_dict(self) -> dict[str, Any]:
        """The plain values, for Ray Tune."""
        return asdict(self)
