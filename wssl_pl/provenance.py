"""What program made a number."""

import hashlib
from functools import cache
from pathlib import Path

import wssl_pl


@cache
def program() -> dict[str, str]:
    """Return the version of this package and the beginning of the SHA-256 of its Python files, as `wssl` and `code`.

    A version stays the same while its code is worked on; the digest does not.
    """
    root, digest = Path(__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return {"wssl": wssl_pl.__version__, "code": digest.hexdigest()[:12]}
