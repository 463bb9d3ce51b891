"""What is on disk, as a stream of Arrow arrays of one column."""
import json
import sys
from pathlib import Path

from .frames import Refusal

BATCH_ROWS = 1024


def _package(name, what, distribution=None):
    try:
        return __import__(name, fromlist=["_"])
    except ImportError as error:
        raise Refusal(
            f"reading {what} needs the Python package {distribution or name}, which {sys.executable} lacks: "
            f"{sys.executable} -m pip install {distribution or name} ({error})",
            code=2,
        ) from None


def _check_column(names, column):
    if column not in names:
        raise Refusal(f'expected a column "{column}", found {", ".join(names) or "none"}')


def _parquet(path, column, start):
    parquet = _package("pyarrow.parquet", "Parquet", "pyarrow")
    with parquet.ParquetFile(path) as file:
        _check_column(file.schema_arrow.names, column)
        groups = []
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if not groups and start >= rows:
                start -= rows
            else:
                groups.append(group)
        if not groups:
            return
        for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=groups, columns=[column]):
            if start >= batch.num_rows:
                start -= batch.num_rows
                continue
            yield batch.column(0).slice(start)
            start = 0


def _arrow(path, column, start):
    pyarrow = _package("pyarrow", "Arrow")
    ipc = _package("pyarrow.ipc", "Arrow", "pyarrow")
    with pyarrow.memory_map(str(path)) as source:
        if source.size() == 0:
            raise Refusal("expected an Arrow IPC file, found an empty file")
        magic = source.read(6)
        source.seek(0)
        if magic == b"ARROW1":
            reader = ipc.open_file(source)
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            reader = ipc.open_stream(source)
            batches = iter(reader)
        _check_column(reader.schema.names, column)
        index = reader.schema.get_field_index(column)
        for batch in batches:
            if start >= batch.num_rows:
                start -= batch.num_rows
                continue
            for at in range(start, batch.num_rows, BATCH_ROWS):
                yield batch.column(index).slice(at, BATCH_ROWS)
            start = 0


def _arrow_rows(path):
    pyarrow = _package("pyarrow", "Arrow")
    ipc = _package("pyarrow.ipc", "Arrow", "pyarrow")
    with pyarrow.memory_map(str(path)) as source:
        return sum(batch.num_rows for batch in ipc.open_stream(source))


def _hugging_face(folder, column, start):
    state = json.loads((folder / "state.json").read_text())
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise Refusal("was saved with an index mapping (shuffled or selected): save it again after flatten_indices()")
    for entry in state["_data_files"]:
        path = folder / entry["filename"]
        if start > 0:
            rows = _arrow_rows(path)
            if start >= rows:
                start -= rows
                continue
        yield from _arrow(path, column, start)
        start = 0


def _lance(path, column, start):
    lance = _package("lance", "Lance", "pylance")
    dataset = lance.dataset(str(path))
    _check_column(dataset.schema.names, column)
    total = dataset.count_rows()
    if start >= total:
        return
    scanner = dataset.scanner(columns=[column], offset=start, limit=total - start, batch_size=BATCH_ROWS, scan_in_order=True)
    for batch in scanner.to_batches():
        yield batch.column(0)


def arrays(path, column, split, start):
    """The arrays of `column` from row `start` on, in order."""
    path = Path(path)
    if path.is_dir():
        if path.suffix == ".lance" or (path / "_versions").exists():
            return _lance(path, column, start)
        if (path / "dataset_dict.json").exists():
            splits = json.loads((path / "dataset_dict.json").read_text())["splits"]
            if split not in splits:
                raise Refusal(f'expected a split "{split}", found {", ".join(splits)}')
            path = path / split
        return _hugging_face(path, column, start)
    if path.suffix == ".parquet":
        return _parquet(path, column, start)
    return _arrow(path, column, start)
