"""Images inside Hugging Face Parquet files."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from wssl_pl.data.files import reason
from wssl_pl.errors import DataError


@lru_cache(maxsize=4)
def _open(path: str) -> tuple[Any, str, str | None]:
    """Return the file, its image column, and the field with the encoded bytes if the column is a struct."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError("images", path, reason(error)) from error
    for field in file.schema_arrow:
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            return file, field.name, "bytes"
        if (pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)) and "image" in field.name:
            return file, field.name, None
    raise DataError(
        "images", path, "has no column of images (a struct with a field `bytes`)", "move it to another folder"
    )


def count_rows(path: Path) -> int:
    """Return the number of images in a file.

    Raises:
        DataError: It cannot be read or holds no images.
    """
    count: int = _open(str(path))[0].metadata.num_rows
    return count


def read_row(path: Path, row: int) -> bytes:
    """Return the encoded image of a row. Paths that the file mentions are never opened.

    Raises:
        DataError: The row cannot be read or has no bytes.
    """
    file, first = _open(str(path))[0], 0
    for group in range(file.num_row_groups):
        last = first + file.metadata.row_group(group).num_rows
        if row < last:
            content: bytes = _group(str(path), group)[row - first].as_py()
            if not content:
                raise DataError("images", path, f"has no bytes in row {row}")
            return content
        first = last
    raise DataError("images", path, f"has no row {row}")


@lru_cache(maxsize=1)
def _group(path: str, group: int) -> Any:
    import pyarrow as pa

    file, column, field = _open(path)
    try:
        values = file.read_row_group(group, columns=[column]).column(0).combine_chunks()
        return values.field(field) if field else values
    except (OSError, pa.ArrowException) as error:
        raise DataError("images", path, reason(error)) from error
