"""Any corpus as a CSV file: one line per recording; settings name the columns, which are never guessed."""

from tuning.datasets.corpora import layout
from tuning.datasets.corpora.columns import class_column
from tuning.datasets.corpus import Clip, Corpus
from tuning.datasets.settings import DataSettings


def load(data: DataSettings, targets: list[str]) -> Corpus:
    """Read the clips that `data.manifest` lists. Raises ValueError naming the setting at fault."""
    root = layout.check_root(data)
    return Corpus(data.corpus, root, read_manifest(root, data, targets))


def read_manifest(root: str, data: DataSettings, targets: list[str]) -> list[Clip]:
    """Read the clips of the manifest under `root`, with numbers, or with classes if `data.label_column` is set.

    Raises ValueError for a missing or empty table, a missing column, a name of two columns, an empty cell, a label that
    is not a finite number or outside `data.target_range`, an unknown split, a file that is listed twice or outside the
    root.
    """
    layout.refuse_settings(data, "folds", "fold_lists")
    table = layout.read_table(root, data.manifest, "data.manifest")
    table.require_one("data.manifest", *filter(None, table.header))
    if data.label_column is None:
        _check_labels(table, data, targets)
    targets_in = [] if data.label_column is not None else layout.target_columns(data, targets)
    label_in = [] if data.label_column is None else [("data.label_column", data.label_column)]
    table.require([("data.file_column", data.file_column), *targets_in, *label_in, *layout.named_columns(data)])
    clips: list[Clip] = []
    seen: dict[str, str] = {}
    for place, row in table.rows:
        clip = Clip(
            id=layout.relative_path(
                layout.text_cell(row, "data.file_column", data.file_column, place), "data.file_column", place
            ),
            targets=tuple(
                layout.parse_label(row[column], column, place, data.target_range) for _, column in targets_in
            ),
            label=next((layout.text_cell(row, setting, column, place) for setting, column in label_in), None),
            **layout.named_cells(row, data, place),
        )
        if clip.id in seen:
            raise ValueError(f"data.manifest: '{clip.id}' is listed twice, at {seen[clip.id]} and {place}")
        seen[clip.id] = place
        clips.append(clip)
    if not clips:
        raise ValueError(f"data.manifest: no recordings in {table.path}")
    return clips


def _check_labels(table: layout.Table, data: DataSettings, targets: list[str]) -> None:
    """Raise ValueError, with the column that may be meant, where no column of classes is named but one is needed.

    That is for a classification, which has no targets, and for targets that the table lacks where it has classes.
    """
    found = class_column(table, data)
    if not targets:
        hint = f"; did you mean data.label_column={found}?" if found else ";"
        raise ValueError(
            "data.label_column: expected the column with each recording's class, got nothing"
            f"{hint} it has: {', '.join(table.header)}"
        )
    if found and data.target_columns is None and not set(targets) & set(table.header):
        raise ValueError(
            f"task.targets: no column '{targets[0]}' in {table.path}; it has: {', '.join(table.header)}; for the "
            f"classes in '{found}': task.name=classification data.label_column={found}"
        )
