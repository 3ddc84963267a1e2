"""Where the page listens, and what is refused before it starts."""

import os
import sys

import pytest

from wssl_pl.app.server import AppOptions, check_host, is_loopback, running
from wssl_pl.cli import main
from wssl_pl.errors import WSSLError


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(WSSLError, match=r"host=8\.8\.8\.8"):
        check_host("8.8.8.8")


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("127.0.1.9", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("::", False)],
)
def test_only_this_machine_reaches_loopback_addresses(host, alone):
    assert is_loopback(host) == alone


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["port=0"], "port=0: must be a whole number of at least 1"),
        (["port=65536"], "port=65536: must be from 1 to 65535"),
        (["port=abc"], "port=abc: must be a whole number of at least 1"),
        (["max_mb=0"], "max_mb=0: must be a positive number"),
        (["max_megapixels=nan"], "max_megapixels=nan: must be a positive number"),
        (["concurrency=0"], "concurrency=0: must be a whole number of at least 1"),
        (["ckpts=/no/where"], "ckpts=/no/where: is not a folder"),
        (["ckpt=/no/where.ckpt"], "ckpt=/no/where.ckpt: does not exist"),
        (["share=true"], "unknown option 'share'"),
    ],
)
def test_wrong_options_are_one_line_and_exit_code_2(words, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["app", *words])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_without_gradio_the_command_to_install_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(WSSLError, match=r"pip install 'wssl-pl\[app\]'"), running(AppOptions()):
        pass


def test_the_environment_is_as_before_when_the_page_ends_or_does_not_start(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setenv("GRADIO_TEMP_DIR", "/mine")
    before = dict(os.environ)
    with pytest.raises(WSSLError), running(AppOptions()):
        pass
    assert dict(os.environ) == before


def test_help_lists_the_options_without_gradio(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SystemExit):
        main(["app", "--help"])
    shown = capsys.readouterr().out
    assert "max_megapixels=" in shown
    assert "share" not in shown
