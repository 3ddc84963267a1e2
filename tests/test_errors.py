import pickle

import pytest

from wssl_pl.errors import DataError, SomeFailed, WSSLError


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "=0"), (None, ""), (True, "=true"), ([0.3, 0.7], "=[0.3,0.7]"), (("a",), "=[a]"), ("a b", "=a b")],
)
def test_a_value_is_shown_as_it_is_typed(value, shown):
    assert str(WSSLError("width", value, "reason", "remedy")) == f"width{shown}: reason: remedy"


def test_the_command_line_gives_the_parameter_its_own_name():
    error = WSSLError("width", 0, "must be at least 1")
    assert error.format("model.width") == "model.width=0: must be at least 1"
    assert WSSLError(None, None, "reason").format(None) == "reason"


def test_an_option_is_a_remedy_too():
    assert str(WSSLError("mask", "a.png", "reason", None, "hole=black")) == "mask=a.png: reason: hole=black"


@pytest.mark.parametrize("kind", [WSSLError, DataError, SomeFailed])
def test_an_error_of_another_process_keeps_its_parts(kind):
    copy = pickle.loads(pickle.dumps(kind("images", "x.png", "cannot be decoded", "restore it", "limit=9")))
    assert (copy.parameter, copy.value, copy.reason, copy.remedy, copy.option) == (
        "images",
        "x.png",
        "cannot be decoded",
        "restore it",
        "limit=9",
    )
    assert str(copy) == "images=x.png: cannot be decoded: restore it, or limit=9"
    assert isinstance(copy, ValueError)
