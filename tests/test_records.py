"""Records read from JSON and YAML, checked by the types of their fields."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from wssl_pl.errors import WSSLError
from wssl_pl.records import read_json, read_record


@dataclass(frozen=True)
class Inner:
    kind: Literal["a", "b"]
    rate: float = 0.5


@dataclass(frozen=True)
class Outer:
    names: list[str]
    by_seed: dict[int, Inner] = field(default_factory=dict)
    options: dict[str, Any] | None = None
    count: int = 1
    flag: bool = False


def test_nested_values_become_dataclasses():
    values = {
        "names": "one",
        "by_seed": {"0": {"kind": "a", "rate": "5e-4"}},
        "options": {"x": [1, None]},
        "count": None,
    }
    assert read_record(Outer, values) == Outer(["one"], {0: Inner("a", 0.0005)}, {"x": [1, None]})
    assert read_record(Outer, {"names": [], "options": "none"}) == Outer([])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"names": 3}, "names: 3 is not a list"),
        ({"names": [True]}, "names[0]: True is not text"),
        ({"names": None}, "names: None is not a list"),
        ({"by_seed": {"x": {"kind": "a"}}}, "by_seed key: 'x' is not a whole number"),
        ({"by_seed": {"0": {"kind": "c"}}}, "by_seed.0.kind: 'c' is not one of a, b"),
        ({"by_seed": {"0": {}}}, "by_seed.0.kind is required"),
        ({"by_seed": {"0": {"kind": "a", "rate": float("nan")}}}, "by_seed.0.rate: nan is not a finite number"),
        ({"count": 1.5}, "count: 1.5 is not a whole number"),
        ({"flag": 1}, "flag: 1 is not true or false"),
        ({"cuont": 1}, "unknown key 'cuont': did you mean count? there are names, by_seed, options, count, flag"),
    ],
)
def test_a_wrong_type_is_named_with_its_place(changes, said):
    with pytest.raises(WSSLError) as error:
        read_record(Outer, {"names": ["x"]} | changes)
    assert str(error.value).startswith(said)


@pytest.mark.parametrize("content", [b"\xff", b"{", b"[" * 99999, b"3", b'{"names": 3}', None])
def test_a_damaged_file_is_one_line_with_the_remedy(tmp_path, content):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WSSLError) as error:
        read_json(path, Outer, "out", "make it again")
    assert str(error.value).startswith(f"out={path}: cannot be read (")
    assert str(error.value).endswith("): make it again")
    assert "\n" not in str(error.value)
