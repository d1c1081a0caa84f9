"""The page: what its buttons do, through Gradio's own client, and what a user is told when something is wrong."""

import io
import json
import os
import re
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tiny
from peekaboo import Peekaboo
from peekaboo.errors import EngineError
from peekaboo.page import Page, lines, serving

gradio_client = pytest.importorskip("gradio_client")


@pytest.fixture(scope="module")
def model():
    return Peekaboo(tiny.stable_diffusion())


@pytest.fixture(scope="module")
def client(model):
    with serving(model, "127.0.0.1", None) as url:
        yield gradio_client.Client(url, verbose=False)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "meadow.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 44, 3), np.uint8)).save(path)
    return path


def find(client, picture, prompts="a dog\nb", preset="draft", presence=0.0, seed=3, changes=""):
    image = gradio_client.handle_file(str(picture)) if picture else None
    return client.submit(image, prompts, preset, presence, seed, changes, api_name="/find")


def download(update):
    """The file behind a download button that was made ready."""
    assert update["interactive"]
    return Path(update["value"])


def test_what_is_found_can_be_looked_at_and_downloaded(client, model, picture):
    job = find(client, picture)
    view, cutouts, said, file = job.result(timeout=60)
    assert len(job.outputs()) > 1  # the masks so far came first
    assert Image.open(view).size == (44, 30)
    assert [row["caption"] for row in cutouts] == ["a dog", "b"]
    assert Image.open(cutouts[0]["image"]).mode == "RGBA"
    assert re.search(r"a dog: \d+\.\d % of the picture, score [01]\.\d\d", said)
    path = download(file)
    assert path.name == "meadow.zip"
    with zipfile.ZipFile(path) as archive:
        kinds = ("alpha", "mask", "cutout", "overlay")
        assert set(archive.namelist()) == {
            *(f"meadow/{name}/{kind}.png" for name in ("a-dog", "b") for kind in kinds),
            "meadow/run.json",
        }
        record = json.loads(archive.read("meadow/run.json"))
        mask = np.asarray(Image.open(io.BytesIO(archive.read("meadow/a-dog/mask.png"))))
    assert record["settings"]["seed"] == 3
    assert record["settings"]["preset"] == "draft"
    expected = model.segment(picture, ["a dog", "b"], preset="draft", presence=0, seed=3)
    assert np.array_equal(mask > 0, expected.mask[0])


def test_what_is_not_there_is_told(client, picture):
    _, cutouts, said, _ = find(client, picture, presence=0.95).result(timeout=60)
    assert cutouts == []
    assert "not found: a dog (score " in said


def test_any_setting_can_be_said(client, picture):
    *_, file = find(client, picture, changes="threshold = 0.4\n\npooling=0.1".replace(" ", "")).result(timeout=60)
    with zipfile.ZipFile(download(file)) as archive:
        settings = json.loads(archive.read("meadow/run.json"))["settings"]
    assert (settings["threshold"], settings["pooling"]) == (0.4, 0.1)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prompts": " \n"}, "There is no prompt"),
        ({"picture": None}, "There is no picture yet"),
        ({"changes": "gravitas=3"}, "There is no setting 'gravitas'"),
        ({"prompts": "a\nA"}, "given 2 times"),
    ],
)
def test_what_is_wrong_is_one_sentence(client, picture, changes, says):
    with pytest.raises(Exception, match=says) as caught:
        find(client, **{"picture": picture, **changes}).result(timeout=60)
    assert "Traceback" not in str(caught.value)


def test_a_file_that_is_no_picture_is_one_sentence(client, tmp_path):
    (tmp_path / "notes.png").write_text("no picture")
    with pytest.raises(Exception, match="is not an image that Pillow can read") as caught:
        find(client, tmp_path / "notes.png").result(timeout=60)
    assert str(caught.value).startswith("notes.png is")  # not where the server keeps it


def test_a_run_that_is_stopped_keeps_the_masks_so_far(client, picture):
    job = find(client, picture, preset="paper", changes="steps=5000")
    while len(job.outputs()) < 3:
        time.sleep(0.05)
    client.predict(api_name="/stop")
    *_, said, file = job.result(timeout=60)
    assert "stopped; the masks so far" in said
    with zipfile.ZipFile(download(file)) as archive:
        record = json.loads(archive.read("meadow/run.json"))
    assert record["interrupted"]
    assert 3 <= record["steps_done"] < 5000


def make(client, prompt="a red apple", width=28, height=20, changes="start_steps=3"):
    return client.submit(prompt, "", width, height, "default", 5, changes, api_name="/make")


def test_what_is_made_is_a_picture_with_transparency(client, model):
    job = make(client)
    view, said, file = job.result(timeout=60)
    assert Image.open(view).mode == "RGB"
    assert " s on cpu" in said
    path = download(file)
    assert path.name == "a-red-apple.png"
    image = Image.open(path)
    assert (image.mode, image.size) == ("RGBA", (28, 20))
    assert json.loads(image.text["peekaboo"])["settings"]["seed"] == 5
    expected = model.generate("a red apple", width=28, height=20, start_steps=3, seed=5)
    assert image.tobytes() == expected.image.tobytes()


def test_a_size_that_is_none_is_one_sentence(client):
    with pytest.raises(Exception, match="The size 3×20"):
        make(client, width=20, height=3).result(timeout=60)


def test_the_page_says_what_the_model_is():
    from peekaboo.page import heading

    assert "no photographs" in heading(Peekaboo.from_pretrained())
    assert "no photographs" not in heading(Peekaboo(tiny.stable_diffusion()))


def test_prompts_are_lines():
    assert lines(" a dog \n\n b\n") == ["a dog", "b"]
    assert lines("") == []


def test_the_pages_files_are_gone_when_it_ends(model, picture, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with serving(model, "127.0.0.1", None) as url:
        find(gradio_client.Client(url, verbose=False), picture).result(timeout=60)
        (folder,) = tmp_path.glob("peekaboo-ui-*")
        assert list(folder.glob("result-*/meadow.zip"))
        assert list(folder.rglob("meadow.png"))  # the upload is there, too
    assert not folder.exists()


def test_results_are_kept_for_an_hour(model, tmp_path):
    page = Page(model, tmp_path)
    old, new = page.new_folder(), page.new_folder()
    os.utime(old, (time.time() - 3700, time.time() - 3700))
    newest = page.new_folder()
    assert set(tmp_path.iterdir()) == {new, newest}


def test_a_port_in_use_is_one_sentence(model):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EngineError, match=f"127.0.0.1:{port}.*choose another --port"):
            serving(model, "127.0.0.1", port).__enter__()


def test_the_command_serves_until_it_is_stopped():
    import urllib.request

    command = [sys.executable, "-m", "peekaboo.cli", "ui", "--device", "cpu"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=tiny.hear_ctrl_c)
    try:
        said = ""
        while "the page is at" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        url = re.search(r"http://\S+", said)[0]
        assert b"Peekaboo" in urllib.request.urlopen(url, timeout=20).read()
        process.send_signal(2)
        assert process.wait(20) == 0
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()


def test_without_gradio_the_command_says_what_to_install(monkeypatch):
    from typer.testing import CliRunner

    from peekaboo.cli import app

    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "peekaboo.page", raising=False)
    result = CliRunner().invoke(app, ["ui"])
    assert result.exit_code == 2
    assert "pip install 'peekaboo-segmentation[ui]'" in result.output
