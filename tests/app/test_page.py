"""The page as a program meets it: its HTTP interface, its limits, and what it keeps to itself."""

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import httpx
import huggingface_hub
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from tests.processes import PATIENCE_S, unused_port, wait_until
from wssl_pl.app.options import AppOptions
from wssl_pl.app.server import running
from wssl_pl.errors import WSSLError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio")]
http = SimpleNamespace(get=partial(httpx.get, timeout=PATIENCE_S), post=partial(httpx.post, timeout=PATIENCE_S))
DOCS = Path(__file__).parents[2] / "docs" / "app.md"


@pytest.fixture(scope="module")
def outside():
    """Addresses outside of this machine that anything in this process turned to."""
    seen = []
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def watched(self, address):
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            seen.append(address)
            raise OSError("not in this test")
        return connect(self, address)

    def asked(host, *args, **kwargs):
        if host not in ("127.0.0.1", "::1", "localhost", None, b"127.0.0.1"):
            seen.append(host)
            raise socket.gaierror("not in this test")
        return look_up(host, *args, **kwargs)

    # What docs/app.md says of the client: HF_HUB_DISABLE_TELEMETRY=1, which is read when the package is imported.
    telemetry = huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    socket.socket.connect, socket.getaddrinfo = watched, asked
    yield seen
    socket.socket.connect, socket.getaddrinfo = connect, look_up
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = telemetry


@pytest.fixture(scope="module")
def url(runs, outside):
    options = AppOptions(ckpts=runs, port=unused_port(), max_mb=0.5, max_megapixels=0.2, device="cpu")
    with running(options) as address:
        yield address


@pytest.fixture
def client(url, tmp_path):
    return Client(url, download_files=tmp_path / "downloads", verbose=False)


@pytest.fixture
def pair(tmp_path):
    """A photo and a mask, as files, and the hole."""
    mask = np.zeros((60, 80), np.uint8)
    mask[20:40, 30:50] = 255
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)).save(tmp_path / "photo.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path / "photo.png", tmp_path / "mask.png", mask > 0


def test_the_documented_lines_fill_a_hole(url, client, pair, monkeypatch, tmp_path):
    """The three lines of docs/app.md, run as they stand there, against this page."""
    photo, _, hole = pair
    (lines,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    assert len([line for line in lines.splitlines() if line]) == 3
    monkeypatch.chdir(tmp_path)
    Image.open(photo).save("photo.jpg")
    shown = []
    exec(lines.replace("http://127.0.0.1:7860", url), {"print": shown.append})  # our own documentation
    before, after = np.asarray(Image.open("photo.jpg")), np.asarray(Image.open(shown[0]))
    assert (before[~hole] == after[~hole]).all()
    assert (before[hole] != after[hole]).any(axis=-1).mean() > 0.9


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("bash")), reason="there is no curl on this machine")
def test_the_documented_curl_lines_fill_a_hole(url, pair, tmp_path):
    photo, _, hole = pair
    (lines,) = re.findall(r"\n```\n(U=.*?)```", DOCS.read_text(), flags=re.DOTALL)
    Image.open(photo).save(tmp_path / "photo.jpg")
    script = "set -e\n" + lines.replace("http://127.0.0.1:7860", url)
    subprocess.run(["bash", "-c", script], cwd=tmp_path, check=True, timeout=PATIENCE_S)
    before, after = np.asarray(Image.open(tmp_path / "photo.jpg")), np.asarray(Image.open(tmp_path / "filled.png"))
    assert (before[~hole] == after[~hole]).all()
    assert (before[hole] != after[hole]).any(axis=-1).mean() > 0.9


def test_the_page_shows_the_same_lines_with_its_address_and_the_licence():
    from wssl_pl.app.page import footer

    text = footer("http://127.0.0.1:1234", "this machine", ["shipped model"])
    (lines,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    for line in filter(None, lines.replace("127.0.0.1:7860", "127.0.0.1:1234").splitlines()):
        assert line in text
    assert "The shipped model's weights are for non-commercial research only." in text
    assert "weights" not in footer("http://127.0.0.1:1234", "this machine", ["mine"])


def test_only_the_documented_endpoint_is_open(url, client):
    assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/inpaint"]
    config = http.get(f"{url}/config").json()
    private = [each["id"] for each in config["dependencies"] if each["api_name"] != "inpaint"]
    assert len(private) >= 20
    for number in private:
        with pytest.raises((ValueError, AppError)):
            client.predict(fn_index=number)


def test_a_model_is_chosen_by_name(client, pair):
    photo, mask, _ = map(handle_file, pair[:2]), None, None
    photo, mask = photo
    assert client.predict(photo, mask, "downstream/today/best.ckpt", api_name="/inpaint").endswith("photo-filled.png")
    for name in ("../../etc/passwd", "pretext/today/best.ckpt"):
        with pytest.raises(AppError, match="There is no model"):
            client.predict(photo, mask, name, api_name="/inpaint")


def write_text(path):
    path.write_text("no picture")


def write_bomb(path):
    Image.new("1", (20_000, 20_000)).save(path)


def write_large(path):
    Image.new("L", (600, 400)).save(path)


@pytest.mark.parametrize(
    ("write", "message"),
    [(write_text, "is not a JPEG, PNG, WebP"), (write_bomb, "far more than 0.2 million"), (write_large, "600 x 400")],
)
def test_bad_photos_are_one_line(client, pair, tmp_path, write, message):
    write(tmp_path / "bad.png")
    with pytest.raises(AppError, match=message) as caught:
        client.predict(handle_file(tmp_path / "bad.png"), handle_file(pair[1]), api_name="/inpaint")
    assert "\n" not in str(caught.value)
    assert tempfile.gettempdir() not in str(caught.value)


def test_a_file_above_the_limit_is_not_taken(url):
    response = http.post(f"{url}/gradio_api/upload", files={"files": ("a.png", b"a" * 550_000)})
    assert response.status_code == 413
    many = [("files", (f"{number}.png", b"a" * 200_000)) for number in range(4)]
    assert http.post(f"{url}/gradio_api/upload", files=many).status_code == 413
    assert http.post(f"{url}/gradio_api/upload", files={"files": ("a.png", b"a" * 1000)}).status_code == 200


def call(url, *data):
    """The end of the answer to a call of `/inpaint` with raw data, as an event stream."""
    started = http.post(f"{url}/gradio_api/call/inpaint", json={"data": list(data)})
    if started.status_code != 200:
        assert 400 <= started.status_code < 500
        return started.text
    return http.get(f"{url}/gradio_api/call/inpaint/{started.json()['event_id']}").text


def test_files_of_the_server_and_addresses_are_not_read(url, pair, outside, runs, tmp_path):
    secret = tmp_path / "secret.png"
    Image.open(pair[0]).save(secret)
    (uploaded,) = http.post(f"{url}/gradio_api/upload", files={"files": pair[1].read_bytes()}).json()
    meta = {"_type": "gradio.FileData"}
    mask = {"path": uploaded, "meta": meta}
    held = sorted(Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*"))
    for photo in (
        {"path": str(secret), "meta": meta},
        {"path": str(secret)},
        {"path": f"{Path(uploaded).parent}/../../{secret}", "meta": meta},
    ):
        assert "name files that were not uploaded" in call(url, photo, mask, "")
    assert sorted(Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*")) == held
    answer = call(url, {"path": "http://example.com/photo.png", "meta": meta}, mask, "")
    assert "Addresses are not fetched here" in answer
    assert outside == []
    # The same way with a file that was uploaded goes through.
    (photo,) = http.post(f"{url}/gradio_api/upload", files={"files": pair[0].read_bytes()}).json()
    assert "event: complete" in call(url, {"path": photo, "meta": meta}, mask, "")


def test_no_file_of_the_server_is_handed_out(url, ckpt):
    for path in ("/etc/passwd", ckpt, Path(__file__), "setup.cfg", Path.cwd() / "setup.cfg"):
        assert http.get(f"{url}/gradio_api/file={path}").status_code in (403, 404), path


def test_pictures_cannot_be_piled_up_in_memory(url):
    """Gradio's own components may have functions that take files into memory."""
    config = http.get(f"{url}/config").json()
    assert all(not each["props"].get("server_fns") for each in config["components"])
    for number in [each["id"] for each in config["components"]]:
        form = {"type": "background", "index": "null", "id": "x", "fn_name": "accept_blobs"}
        form |= {"session_hash": "y", "component_id": str(number)}
        response = http.post(f"{url}/gradio_api/component_server", data=form, files={"file": b"a" * 1000})
        assert response.status_code in (404, 422)


def test_the_pages_own_parts_are_served_and_nothing_beside_them(url):
    for name in ("page.js", "connection.js", "page.css", "editor.js", "editor.css"):
        answer = http.get(f"{url}/page/{name}")
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.status_code == 200
        assert "default-src 'self'" in answer.headers["content-security-policy"]
    for name in ("page.py", "..%2Fpage.py", "%2e%2e/page.py", "../app/page.py", "", "a/page.js"):
        assert http.get(f"{url}/page/{name}").status_code == 404, name


def session(url, number, data, key="one"):
    """The answer to a private call as the page makes it: outputs, or the message of an error."""
    body = {"data": data, "fn_index": number, "session_hash": key, "event_data": None, "trigger_id": None}
    joined = http.post(f"{url}/gradio_api/queue/join", json=body)
    if joined.status_code != 200:
        return joined.text
    with httpx.stream(
        "GET", f"{url}/gradio_api/queue/data", params={"session_hash": key}, timeout=PATIENCE_S
    ) as stream:
        for line in stream.iter_lines():
            if '"process_completed"' in line:
                output = json.loads(line.removeprefix("data: "))["output"]
                return output.get("data", output)
    raise AssertionError("no answer")


def test_an_open_tab_keeps_its_files(url, numbers, tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "photo.png")
    canvas = session(url, numbers["open"], [None, uploaded(url, tmp_path / "photo.png")])[2]
    preview = Path(canvas["photo"]["path"])
    os.utime(preview, (1, 1))
    for key, renewed in (("wrong", False), (canvas["key"], True)):
        assert http.post(f"{url}/page/renew", content=key).status_code == 204
        assert (preview.stat().st_mtime > 1) == renewed
    assert http.post(f"{url}/page/renew", content=canvas["key"], headers={"origin": "http://x.y"}).status_code == 403


@pytest.fixture
def numbers(url):
    """The number of each private call, by the name of its method."""
    calls = http.get(f"{url}/config").json()["dependencies"]
    return {each["api_name"]: each["id"] for each in calls if each["backend_fn"]}


def uploaded(url, path):
    (path,) = http.post(f"{url}/gradio_api/upload", files={"files": (path.name, path.read_bytes())}).json()
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def test_a_session_is_its_visitors_and_its_files_are_behind_random_names(url, numbers, pair):
    photo, mask = (uploaded(url, path) for path in pair[:2])
    opened = session(url, numbers["open"], [None, photo])
    preview = opened[2]["photo"]["path"]
    assert re.search(r"/[0-9a-f]{32}/preview\.png$", preview)
    filled = session(url, numbers["fill"], [None, mask, preview, 1, "shipped model", [], 0])
    assert "of them filled" in filled[1]
    assert http.get(f"{url}/gradio_api/file={preview}").status_code == 200
    folder = Path(preview).parent
    for guess in (folder, folder.parent, f"{folder.parent}/{'0' * 32}/preview.png"):
        assert http.get(f"{url}/gradio_api/file={guess}").status_code in (403, 404)
    # Another visitor has no photo, whatever he sends in place of a session.
    for state in (None, filled, {"steps": [str(pair[0])]}, "one"):
        assert "Load a photo first" in session(url, numbers["undo"], [state], key="other")[1]
    assert "Undo" not in str(session(url, numbers["undo"], [None])[1])
    for secret in (None, "0" * 32, preview, [], {}):
        assert preview not in str(session(url, numbers["resume"], [secret], key="other"))
    # The visitor's own page, reloaded.
    assert session(url, numbers["resume"], [opened[2]["key"]], key="reloaded")[2]["photo"]["path"].endswith(
        "preview.png"
    )


def test_a_chosen_model_stays_unless_it_is_gone(url, numbers):
    mine = "downstream/today/best.ckpt"
    for chosen, others, of_batch, values in (
        (mine, [], "Telea", [None, None, None]),
        ("gone", [mine], "gone", ["shipped model", None, "shipped model"]),
        (None, [mine, "gone"], mine, ["shipped model", [], None]),
    ):
        answer = session(url, numbers["loaded"], [chosen, others, of_batch], key="models")
        assert [each.get("value") for each in answer[:3]] == values
        assert all(mine in dict(each["choices"]) for each in answer[:3])


@pytest.mark.parametrize("name", ["open", "fill", "undo", "redo", "turn_upright", "restore", "compare", "show_windows",
                                  "diagnose", "fill_all", "resume", "stop", "again", "loaded"])  # fmt: skip
def test_private_calls_take_no_files_of_the_server_and_no_wrong_arguments(url, numbers, pair, name, tmp_path, outside):
    secret = tmp_path / "secret.png"
    shutil.copyfile(pair[0], secret)
    count = {"open": 2, "fill": 7, "undo": 1, "redo": 1, "turn_upright": 3, "restore": 3, "compare": 3,
             "show_windows": 2, "diagnose": 2, "fill_all": 4, "resume": 1, "stop": 1, "again": 2,
             "loaded": 3}[name]  # fmt: skip
    meta = {"_type": "gradio.FileData"}
    takes_file = {"open": 1, "fill": 1, "fill_all": 0}
    for file in (
        {"path": str(secret), "meta": meta},
        {"path": str(secret)},
        {"path": "http://example.com/a.png", "meta": meta},
    ):
        if name in takes_file:
            data = [None] * count
            data[takes_file[name]] = [file] if name == "fill_all" else file
            answer = str(session(url, numbers[name], data, key=f"bad-{name}"))
            assert "not uploaded" in answer or "not fetched" in answer, answer
    for data in ([], [None] * (count + 1)):
        assert "arguments, not" in str(session(url, numbers[name], data, key=f"bad-{name}"))
    for value in ("secret", 99, [["x"]], {"a": 1}):
        answer = str(session(url, numbers[name], [value] * count, key=f"bad-{name}"))
        assert "Traceback" not in answer
        assert "secret'" not in answer.replace("'secret'", "")
    assert outside == []


def test_wrong_calls_are_answered_with_4xx_and_print_nothing(url, pair, capfd, caplog):
    (uploaded,) = http.post(f"{url}/gradio_api/upload", files={"files": pair[1].read_bytes()}).json()
    file = {"path": uploaded, "meta": {"_type": "gradio.FileData"}}
    for data in ([], ["secret"], [file, file], [file, file, "", 1], [1, 2, 3], ["secret", [], {}], [[file], file, ""]):
        answer = http.post(f"{url}/gradio_api/call/inpaint", json={"data": data})
        assert answer.status_code == 400, data
        assert "null" not in answer.text
        assert "secret" not in answer.text
    for number in (99, -1, None, "secret"):
        body = {"data": ["secret"], "fn_index": number, "session_hash": "secret"}
        assert 400 <= http.post(f"{url}/gradio_api/queue/join", json=body).status_code < 500
    for path in ("call/secret", "call/v2/secret", "call/v2/inpaint", "run/inpaint", "run/secret", "api/secret"):
        answer = http.post(f"{url}/gradio_api/{path}", json={"data": ["secret"]})
        assert 400 <= answer.status_code < 500, path
    assert http.post(f"{url}/gradio_api/call/inpaint", json={"data": ["a" * 1_100_000]}).status_code == 413
    printed = capfd.readouterr()
    assert "Traceback" not in printed.out + printed.err + caplog.text
    assert "secret'" not in "".join(printed).replace("/secret'", "")


def test_requests_from_elsewhere_are_refused_by_the_page_itself(url):
    assert http.get(f"{url}/config", headers={"host": "evil.example"}).status_code == 400
    for origin in ("http://evil.example", "http://localhost:9999", "null"):
        answer = http.post(f"{url}/gradio_api/upload", files={"files": b"a"}, headers={"origin": origin})
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
    assert http.post(f"{url}/gradio_api/upload", files={"files": b"a"}, headers={"origin": url}).status_code == 200


def test_an_upload_that_breaks_off_leaves_nothing(url):
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    held = sorted(folder.rglob("*"))
    host, port = url.removeprefix("http://").split(":")
    head = (
        f"POST /gradio_api/upload HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 9000\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        '--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nabc'
    )
    with socket.create_connection((host, int(port))) as client:
        client.sendall(head.encode())
        wait_until(lambda: sorted(folder.rglob("*")) != held, "the file")
    wait_until(lambda: sorted(folder.rglob("*")) == held, "its removal")


def test_users_queue(url):
    config = http.get(f"{url}/config").json()
    assert config["enable_queue"]
    assert all(each["queue"] for each in config["dependencies"] if each["backend_fn"])


def test_names_in_messages_are_text_not_html():
    from wssl_pl.app.actions import on_page

    assert (
        on_page(WSSLError(None, None, "the photo <img src=x> is\nbad & old"))
        == "The photo &lt;img src=x&gt; is bad &amp; old"
    )


def test_nothing_turned_to_another_machine(url, client, outside):
    assert http.get(url).status_code == 200
    assert outside == []
