"""Which rows of an unfinished cache are on the disk."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from wssl_pl.data.prepare_rows import Record


class Journal:
    """One JSON line per row, appended only after the row itself has reached the disk.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def clear(self) -> None:
        """Forget all rows."""
        self.path.unlink(missing_ok=True)

    def read(self) -> dict[int, Record]:
        """The rows that are done. A last line that was cut off by a kill is removed."""
        if not self.path.is_file():
            return {}
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))
        records: dict[int, Record] = {}
        for line in whole.splitlines():
            try:
                record = json.loads(line)
                records[int(record[0])] = tuple(record)
            except (ValueError, TypeError, IndexError, KeyError):
                continue  # zeros that a crash of the machine left: that row is done again
        return records

    def append(self, records: Sequence[Record], after: Path) -> None:
        """Write ``after`` (the array) to the disk, then note ``records``."""
        if not records:
            return
        with after.open("rb") as array:
            os.fsync(array.fileno())
        lines = "".join(json.dumps(record) + "\n" for record in records)
        with self.path.open("ab") as file:
            file.write(lines.encode("utf-8", "surrogateescape"))
            file.flush()
            os.fsync(file.fileno())
