"""Where the page's onnxruntime-web comes from; what the page does is in tests/web/test_page.py."""

import base64
import hashlib
import io
import json
import re
import subprocess
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.web.network import write_network, write_package
from wssl_pl.cli import main
from wssl_pl.errors import WSSLError
from wssl_pl.export import web
from wssl_pl.export.web import PACKAGE, VERSION, WASM, WEBGPU, _shorten, find_runtime
from wssl_pl.files import cache_folder
from wssl_pl.models.info import SHIPPED, SHIPPED_LICENSE
from wssl_pl.models.weights import read_info

NAMES = WASM + WEBGPU


@pytest.fixture
def package(monkeypatch):
    """A small package as npm packs it, in place of the true one."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in NAMES:
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    content = buffer.getvalue()
    monkeypatch.setattr(web, "INTEGRITY", base64.b64encode(hashlib.sha512(content).digest()).decode())
    return content


@pytest.fixture
def npm(monkeypatch, tmp_path):
    """What npm does, by a function; without one there is no npm."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    calls = []

    def install(action):
        def run(command, cwd, **options):
            calls.append(command)
            return action(cwd)

        monkeypatch.setattr(web.shutil, "which", lambda name: action and name)
        monkeypatch.setattr(subprocess, "run", run)
        return calls

    install(None)
    return install


def test_nothing_is_downloaded_unless_asked(npm, package, tmp_path):
    calls = npm(lambda cwd: pytest.fail("npm was started"))
    with pytest.raises(WSSLError, match=r"download=true gets it by npm; or give the package, .* as runtime="):
        find_runtime(None, download=False)
    assert calls == []

    def pack(cwd):
        (cwd / f"{PACKAGE}-{VERSION}.tgz").write_bytes(package)
        return SimpleNamespace(returncode=0, stderr="")

    calls = npm(lambda cwd: pack(Path(cwd)))
    files = find_runtime(None, download=True)
    assert files == {name: name.encode() for name in NAMES}
    assert calls[0][-1] == f"{PACKAGE}@{VERSION}"
    # Once: then it is in the cache.
    assert find_runtime(None, download=False) == files
    assert len(calls) == 1


NPM_ERRORS = """\
npm error code ECONNREFUSED
npm error syscall connect
npm error errno ECONNREFUSED
npm error FetchError: request failed
npm error     at ClientRequest.<anonymous> (index.js:130:14)
npm error A complete log of this run can be found in: debug-0.log
"""


def test_what_npm_cannot_do_is_reported(npm, package, tmp_path):
    with pytest.raises(WSSLError, match="needs npm, which is not installed: give the package as runtime="):
        find_runtime(None, download=True)
    npm(lambda cwd: SimpleNamespace(returncode=1, stderr=NPM_ERRORS))
    with pytest.raises(WSSLError, match="npm fails: ECONNREFUSED: FetchError: request failed: give the package"):
        find_runtime(None, download=True)

    def other(cwd):
        (Path(cwd) / f"{PACKAGE}-{VERSION}.tgz").write_bytes(package + b"!")
        return SimpleNamespace(returncode=0, stderr="")

    npm(other)
    with pytest.raises(WSSLError, match="its checksum differs"):
        find_runtime(None, download=True)
    assert list(cache_folder().iterdir()) == []


def test_a_package_of_ones_own(package, tmp_path):
    (tmp_path / "packed.tgz").write_bytes(package)
    assert find_runtime(tmp_path / "packed.tgz", download=False)[NAMES[0]] == NAMES[0].encode()
    (tmp_path / "packed.tgz").write_bytes(package[:-1])
    with pytest.raises(WSSLError, match=r"runtime=.*packed.tgz: is not onnxruntime-web"):
        find_runtime(tmp_path / "packed.tgz", download=False)
    with pytest.raises(WSSLError, match=r"package\.json is missing"):
        find_runtime(tmp_path, download=False)
    with pytest.raises(WSSLError, match="does not exist"):
        find_runtime(tmp_path / "nowhere", download=False)
    (tmp_path / "dist").mkdir()
    for name in NAMES:
        (tmp_path / "dist" / name).write_bytes(b"x")
    for version in ("1.0.0", VERSION):
        (tmp_path / "package.json").write_text(json.dumps({"name": PACKAGE, "version": version}))
        if version != VERSION:
            with pytest.raises(WSSLError, match=f"is {PACKAGE} 1.0.0: give the folder"):
                find_runtime(tmp_path, download=False)
    assert set(find_runtime(tmp_path, download=False)) == set(NAMES)


def test_the_command_refuses_before_it_works(npm, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["export", "web", "out=page"])
    assert end.value.code == 2
    assert "download=true" in capsys.readouterr().err
    assert not (tmp_path / "page").exists()
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "index.html").write_text("mine")
    with pytest.raises(SystemExit):
        main(["export", "web", "out=page"])
    assert "index.html exists already" in capsys.readouterr().err


def test_weights_of_16_bits_are_stored_as_such(tmp_path):
    onnx, numpy_helper = pytest.importorskip("onnx"), pytest.importorskip("onnx").numpy_helper
    random = np.random.default_rng(0)
    exact, other = random.random((32, 8)).astype(np.float16).astype(np.float32), random.random((8, 4), np.float32)
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
             for name, shape in (("x", (1, 32)), ("y", (1, 4)))]  # fmt: skip
    nodes = [onnx.helper.make_node("MatMul", ["x", "a"], ["h"]), onnx.helper.make_node("MatMul", ["h", "b"], ["y"])]
    weights = [numpy_helper.from_array(exact, "a"), numpy_helper.from_array(other, "b")]
    graph = onnx.helper.make_graph(nodes, "net", value[:1], value[1:], weights)
    path = tmp_path / "net.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), path)

    def run():
        from onnxruntime import InferenceSession

        return InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": np.ones((1, 32), "f4")})[0]

    before, size = run(), path.stat().st_size
    _shorten(path)
    assert path.stat().st_size < size - exact.nbytes // 2 + 200
    assert (run() == before).all()


def test_the_page_is_complete(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_package(tmp_path / "npm")
    write_network(tmp_path / "network.onnx")
    command = ["export", "web", "ckpt=network.onnx", "runtime=npm", "out=page"]
    main([*command, "webgpu=false"])
    assert "from network.onnx" in capsys.readouterr().out
    page = tmp_path / "page"
    assert {path.name for path in page.iterdir()} <= set(web.FILES)
    script = (page / "service_worker.js").read_text()
    assert "@" not in script
    listed = re.search('FILES = "(.*?)"', script)[1].split()
    written = {path.relative_to(page).as_posix() for path in page.rglob("*") if path.is_file()}
    assert {*listed} - {"./"} == written - {"service_worker.js"}
    for name in ("index.html", "page.js", "worker.js"):
        for other in re.findall(r'(?:src|href|from|Worker\()[=( ]*"\.?/?([\w.]+\.\w+)"', (page / name).read_text()):
            assert (page / other).is_file(), f"{name} needs {other}"
    config = json.loads((page / "config.json").read_text())
    assert (config["model"], config["license"], config["tiling"]["whole"]) == ("network.onnx", None, 64)
    write_network(tmp_path / "network.onnx", license=SHIPPED_LICENSE)
    main([*command, "--overwrite"])
    config = json.loads((page / "config.json").read_text())
    assert (config["model"], config["license"]) == ("the shipped model", SHIPPED_LICENSE)
    assert (page / "LICENSE-weights").is_file()
    assert read_info(SHIPPED).training["license"] == SHIPPED_LICENSE
    main([*command, "--overwrite"])
    assert (page / "ort" / "ort.webgpu.min.js").is_file()
    write_network(tmp_path / "network.onnx", ours=False)
    with pytest.raises(SystemExit):
        main([*command, "--overwrite"])
    assert "another project's" in capsys.readouterr().err
    assert (page / "index.html").is_file()
