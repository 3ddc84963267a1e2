"""Images inside Hugging Face Parquet files; needs the extra ``parquet``."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from wssl_pl.errors import DataError, UsageError


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise UsageError("reading Parquet needs pyarrow: pip install 'wssl-pl[parquet]'") from None
    return pyarrow.parquet


@lru_cache(maxsize=4)
def _open(path: str) -> tuple[Any, str, str | None]:
    """The file, the name of its image column, and of the field with the encoded bytes if the column is a struct."""
    import pyarrow as pa

    try:
        file = _pyarrow().ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    for field in file.schema_arrow:
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            return file, field.name, "bytes"
        if (pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)) and "image" in field.name:
            return file, field.name, None
    raise DataError(f"{path} has no column of images (a struct with a field `bytes`)")


def count_rows(path: Path) -> int:
    """Images in a file.

    Raises:
        DataError: It cannot be read or holds no images.
        UsageError: pyarrow is not installed.
    """
    _pyarrow()
    count: int = _open(str(path))[0].metadata.num_rows
    return count


def read_row(path: Path, row: int) -> bytes:
    """The encoded image of a row. Paths that the file mentions are never opened.

    Raises:
        DataError: The row cannot be read or has no bytes.
    """
    file = _open(str(path))[0]
    wanted = row
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        if row < count:
            content: bytes = _group(str(path), group)[row].as_py()
            if not content:
                raise DataError(f"has no bytes in row {wanted}")
            return content
        row -= count
    raise DataError(f"has no row {wanted}")


@lru_cache(maxsize=1)
def _group(path: str, group: int) -> Any:
    import pyarrow as pa

    file, column, field = _open(path)
    try:
        values = file.read_row_group(group, columns=[column]).column(0).combine_chunks()
        return values.field(field) if field else values
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
