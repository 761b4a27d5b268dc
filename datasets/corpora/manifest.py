"""Any corpus as a CSV table: one line per recording, columns named in the settings and never guessed."""

from tuning.datasets.corpora import layout
from tuning.datasets.corpus import Clip, Corpus
from tuning.datasets.settings import DataSettings


def load(data: DataSettings, targets: list[str]) -> Corpus:
    """Clips of the table `data.manifest` under `data.root`. Raises ValueError naming the setting at fault."""
    root = layout.check_root(data)
    return Corpus(data.corpus, root, read_manifest(root, data, targets))


def read_manifest(root: str, data: DataSettings, targets: list[str]) -> list[Clip]:
    """Clips of the table under `root`, in its order: with numbers, or with classes where `data.label_column` is set.

    Raises ValueError for a missing table or column, an empty table, a label that is no finite number or outside
    `data.target_range`, an empty class, an unknown split, an empty group, a file that is listed twice, and a file or
    a text that lies outside the root.
    """
    layout.refuse(data, "folds")
    table = layout.read_table(root, data.manifest, "data.manifest")
    targets_in = [] if data.label_column is not None else layout.target_columns(data, targets)
    label_in = [] if data.label_column is None else [("data.label_column", data.label_column)]
    table.require([("data.file_column", data.file_column), *targets_in, *label_in, *layout.named_columns(data)])
    clips: list[Clip] = []
    seen: dict[str, str] = {}
    for place, row in table.rows:
        clip = Clip(
            id=layout.inside(
                layout.text_cell(row, "data.file_column", data.file_column, place), "data.file_column", place
            ),
            targets=tuple(layout.label(row[column], column, place, data.target_range) for _, column in targets_in),
            label=next((layout.text_cell(row, setting, column, place) for setting, column in label_in), None),
            **layout.named_cells(row, data, place),
        )
        if clip.id in seen:
            raise ValueError(f"data.manifest: '{clip.id}' stands twice, at {seen[clip.id]} and {place}")
        seen[clip.id] = place
        clips.append(clip)
    if not clips:
        raise ValueError(f"data.manifest: no recordings in {table.path}")
    return clips
