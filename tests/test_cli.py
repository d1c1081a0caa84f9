"""The command line end to end: real processes, real files, exit codes, and not one traceback."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import tiny
from peekaboo.cli import app
from test_images import bomb

FAST = ["--set", "steps=1", "--set", "warm_start=2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny.stable_diffusion().save_pretrained(path, safe_serialization=True)
    return path


@pytest.fixture
def photo(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "in" / "photo.jpg"
    path.parent.mkdir()
    Image.fromarray(rng.integers(0, 255, (30, 44, 3), np.uint8)).save(path)
    return path


def cli(*arguments, code: int = 0):
    """Run in this process. Returns the result, after checking the exit code and that no traceback was shown."""
    result = CliRunner().invoke(app, ["segment", *map(str, arguments)])
    assert result.exit_code == code, (result.exit_code, result.stderr, result.exception)
    assert "Traceback" not in result.stderr
    return result


def process(*arguments, code: int = 0, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "peekaboo.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == code, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    return done


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from typer.testing import CliRunner; from peekaboo.cli import app;"
        "print(CliRunner().invoke(app, ['--help']).exit_code);"
        "print([m for m in ('torch', 'diffusers', 'numpy', 'PIL', 'kornia') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split("\n")[:2] == ["0", "[]"]


def test_one_picture_two_prompts_in_a_real_process(photo, model, tmp_path):
    out = tmp_path / "out"
    done = process("segment", photo, "-p", "a sheep", "-p", "a tractor", "-o", out, "-m", model, "--json", *FAST)
    record = json.loads(done.stdout)
    assert record.pop("folder") == str(out / "photo")
    assert record == json.loads((out / "photo" / "run.json").read_text())
    assert record["image"] == str(photo)
    assert record["size"] == [30, 44]
    assert record["device"] in done.stderr
    for slug in ("a-sheep", "a-tractor"):
        for kind, mode in (("alpha", "L"), ("mask", "L"), ("cutout", "RGBA"), ("overlay", "RGB")):
            image = Image.open(out / "photo" / slug / f"{kind}.png")
            assert (image.mode, image.size) == (mode, (44, 30))
        assert set(np.unique(Image.open(out / "photo" / slug / "mask.png"))) <= {0, 255}


def test_the_same_seed_writes_the_same_bytes(photo, model, tmp_path):
    for name in ("one", "two"):
        cli(photo, "-p", "a", "-o", tmp_path / name, "-m", model, "--seed", "5", *FAST)
    for path in sorted((tmp_path / "one").rglob("*.png")):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_quiet_says_nothing(photo, model, tmp_path):
    result = cli(photo, "-p", "a", "-o", tmp_path / "out", "-m", model, "-q", *FAST)
    assert result.stdout == ""
    assert result.stderr == ""


def test_folders_globs_and_names_that_clash(photo, model, tmp_path):
    other = tmp_path / "more"
    other.mkdir()
    Image.open(photo).save(other / "photo.png")
    Image.open(photo).save(photo.parent / "second.png")
    (photo.parent / "notes.txt").write_text("no picture")
    out = tmp_path / "out"
    cli(photo.parent, other / "*.png", "-p", "a", "-o", out, "-m", model, *FAST)
    assert sorted(p.name for p in out.iterdir()) == ["photo", "photo-2", "second"]
    assert json.loads((out / "photo-2" / "run.json").read_text())["image"] == str(other / "photo.png")


def test_results_of_another_picture_are_left_alone(photo, model, tmp_path):
    """Two pictures of one name, in two runs into one folder; then each again."""
    other = tmp_path / "more" / "photo.png"
    other.parent.mkdir()
    Image.open(photo).save(other)
    out = tmp_path / "out"
    for picture, prompt in ((photo, "a"), (other, "b"), (photo, "a"), (other, "c")):
        cli(picture, "-p", prompt, "-o", out, "-m", model, *FAST)
    held = {path.relative_to(out).as_posix() for path in out.glob("*/*") if path.is_dir()}
    assert held == {"photo/a", "photo-2/b", "photo-2/c"}
    for name, picture in (("photo", photo), ("photo-2", other)):
        assert json.loads((out / name / "run.json").read_text())["image"] == str(picture)
    (out / "photo" / "run.json").write_text("no record")
    cli(other, "-p", "d", "-o", out, "-m", model, *FAST)
    assert (out / "photo" / "d").is_dir()


def test_the_same_name_from_another_folder_is_another_picture(photo, model, tmp_path, monkeypatch):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        Image.open(photo).save(tmp_path / name / "a.png")
        monkeypatch.chdir(tmp_path / name)
        cli("a.png", "-p", "a", "-o", tmp_path / "out", "-m", model, *FAST)
    monkeypatch.chdir(tmp_path)
    cli(Path("x") / "a.png", "-p", "a", "-o", tmp_path / "out", "-m", model, *FAST)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "a-2"]


def test_all_bad_pictures_are_all(photo, model, tmp_path):
    for name in ("one.png", "two.png"):
        (tmp_path / name).write_bytes(b"")
    result = cli(tmp_path / "*.png", "-p", "a", "-o", tmp_path / "out", "-m", model, *FAST, code=1)
    assert "one.png is empty (0 bytes)" in result.stderr
    assert "2 of 2 images failed; nothing was written" in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_records_that_cannot_be_printed_are_told_and_the_files_written(photo, model, tmp_path):
    Image.open(photo).save(photo.parent / "second.png")
    out = tmp_path / "out"
    arguments = ["segment", photo.parent, "-p", "a", "-o", out, "-m", model, "--json", *FAST]
    command = [sys.executable, "-m", "peekaboo.cli", *map(str, arguments)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=300)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.count("no more records can be printed (No space left on device)") == 1
    assert sorted(path.name for path in out.iterdir()) == ["photo", "second"]


def test_one_bad_picture_does_not_stop_the_others(photo, model, tmp_path):
    (photo.parent / "bad.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    result = cli(photo.parent, "-p", "a", "-o", out, "-m", model, "--json", *FAST, code=1)
    assert "bad.png is not an image" in result.stderr
    assert "1 of 2 images failed" in result.stderr
    assert [p.name for p in out.iterdir()] == ["photo"]
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert ["error" in row for row in rows] == [True, False]


def test_timelapse_has_a_frame_a_step(photo, model, tmp_path):
    out = tmp_path / "out"
    cli(photo, "-p", "a", "-o", out, "-m", model, "--timelapse", "--set", "steps=3", "--set", "warm_start=2")
    with Image.open(out / "photo" / "timelapse.webp") as movie:
        assert movie.n_frames >= 1
        assert movie.size == (44, 30)


@pytest.mark.parametrize("preset", ["default", "paper", "draft"])
def test_every_preset_and_variant_runs(photo, model, tmp_path, preset):
    steps = [] if preset == "draft" else ["--set", "steps=2"]
    for alpha in ("raster", "fourier"):
        out = tmp_path / alpha
        cli(photo, "-p", "a", "-o", out, "-m", model, "--preset", preset, *steps, "--set", f"alpha={alpha}")
        record = json.loads((out / "photo" / "run.json").read_text())
        assert (record["settings"]["preset"], record["settings"]["alpha"]) == (preset, alpha)


def test_a_guide_from_a_file(photo, model, tmp_path):
    np.save(tmp_path / "depth.npy", np.tile(np.arange(44.0), (30, 1)))
    cli(photo, "-p", "a", "-o", tmp_path / "o", "-m", model, "--guide", tmp_path / "depth.npy", *FAST)
    Image.fromarray(np.zeros((44, 30, 3), np.uint8)).save(photo.parent / "upright.png")
    both = [photo, photo.parent / "upright.png"]
    result = cli(*both, "-p", "a", "-o", tmp_path / "o", "-m", model, "--guide", tmp_path / "depth.npy", *FAST)
    assert result.stderr.count("The guide is 44×30, the picture 30×44") == 1


@pytest.mark.parametrize("option", ["--guide", "--depth"])
def test_a_guide_that_is_none_is_said_once_and_before_any_work(photo, tmp_path, option):
    result = cli(photo, photo, "-p", "a", "-o", tmp_path / "o", "-m", "absent", option, "absent.npy", code=2)
    assert result.stderr.splitlines() == [f"error: {option}: There is no guide file absent.npy; check the name."]
    np.save(tmp_path / "nan.npy", np.full((3, 3), np.nan))
    result = cli(photo, "-p", "a", "-o", tmp_path / "o", "-m", "absent", option, tmp_path / "nan.npy", code=2)
    assert "nan.npy holds NaN" in result.stderr


def bad(kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.png"
    if kind == "text":
        path.write_text("hello")
    elif kind == "dot":
        Image.new("RGB", (1, 1)).save(path)
    elif kind == "bomb":
        bomb(path)
    elif kind == "half":
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:3000])
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("absent", "There is no file"),
        ("text", "not an image"),
        ("half", "damaged or truncated"),
        ("dot", "1×1"),
        ("bomb", "150 megapixels"),
    ],
)
def test_bad_pictures_are_exit_1_one_sentence_and_no_files(kind, says, model, tmp_path):
    out = tmp_path / "out"
    result = cli(bad(kind, tmp_path), "-p", "a", "-o", out, "-m", model, *FAST, code=1)
    assert says in result.stderr
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-p", " "], "The prompt is empty"),
        (["-p", "a", "--preset", "fast"], "fast"),
        (["-p", "a", "--seed", "-1"], "seed"),
        (["-p", "a", "--set", "steps"], "NAME=VALUE"),
        (["-p", "a", "--set", "steps=many"], "steps"),
        (["-p", "a", "--set", "speed=9"], "no setting 'speed'"),
        (["-p", "a", "-m", "no-model"], "There is no model 'no-model'"),
        (["-p", "a", "-m", "nobody/nothing"], "could not be fetched"),
        (["-p", "a", "--device", "abacus"], "abacus"),
        (["-p", "a", "--device", "meta"], "meta"),
        (["-p", "a", "-m", "x" * 5000], "cannot be a path"),
        (["-p", "a", "-p", "A"], "given 2 times"),
        (["-p", "a", "--set", "balance=ture"], "ture"),
        (["-p", "a", "--set", "self=1"], "no setting 'self'"),
        (["-p", "a", "--set", "preset=paper"], "named with --preset"),
        ([], "prompt"),
    ],
)
def test_wrong_usage_is_exit_2(photo, tmp_path, arguments, says):
    result = cli(photo, "-o", tmp_path / "out", *arguments, code=2)
    assert says in result.stderr


def test_an_empty_folder_or_glob_is_wrong_usage(tmp_path):
    assert "holds no pictures" in cli(tmp_path, "-p", "a", "-o", tmp_path / "o", code=2).stderr
    assert "No file matches" in cli(tmp_path / "*.png", "-p", "a", "-o", tmp_path / "o", code=2).stderr


def test_an_output_that_cannot_be_written_is_said_before_any_work(photo, tmp_path):
    (tmp_path / "out").write_text("in the way")
    result = cli(photo, "-p", "a", "-o", tmp_path / "out", code=2)
    assert "could not be written" in result.stderr
    assert (tmp_path / "out").read_text() == "in the way"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(photo, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    assert "permission denied" in cli(photo, "-p", "a", "-o", folder, code=2).stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_fills_up_loses_nothing(photo, model, tmp_path, monkeypatch):
    out = tmp_path / "out"
    cli(photo, "-p", "a", "-o", out, "-m", model, *FAST)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    original = Path.write_bytes

    def full(self, data):
        if self.name.endswith(".partial"):
            with open("/dev/full", "wb", buffering=0) as device:
                device.write(data)
        return original(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    result = cli(photo, "-p", "a", "-o", out, "-m", model, "--seed", "1", *FAST, code=1)
    assert "the disk is full" in result.stderr
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_a_prompt_of_ten_thousand_words_runs_and_says_what_is_cut(photo, model, tmp_path):
    result = cli(photo, "-p", "word " * 10_000, "-o", tmp_path / "out", "-m", model, *FAST)
    assert "was cut" in result.stderr


def test_not_a_number_is_one_sentence(photo, model, tmp_path, monkeypatch):
    from peekaboo.denoisers.stable_diffusion import StableDiffusion

    monkeypatch.setattr(StableDiffusion, "predict", lambda self, noisy, t, e: noisy * float("nan"))
    out = tmp_path / "out"
    result = cli(photo, "-p", "a", "-o", out, "-m", model, *FAST, code=1)
    assert "not a number" in result.stderr
    assert list(out.iterdir()) == []


def test_a_name_too_long_or_not_in_utf8(photo, model, tmp_path):
    assert "cannot be looked up" in cli("x" * 5000, "-p", "a", "-o", tmp_path / "o", code=2).stderr
    strange = os.fsdecode(os.fsencode(photo.parent) + b"/caf\xe9.jpg")
    os.link(photo, strange)
    cli(photo.parent, "-p", "a", "-o", tmp_path / "out", "-m", model, "--json", *FAST)
    assert len(list((tmp_path / "out").rglob("run.json"))) == 2


def test_out_of_memory_is_one_sentence_and_the_others_go_on(photo, model, tmp_path, monkeypatch):
    from peekaboo.denoisers.stable_diffusion import StableDiffusion

    Image.open(photo).save(photo.parent / "second.png")
    predict = StableDiffusion.predict
    calls = []

    def once(self, *arguments):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return predict(self, *arguments)

    monkeypatch.setattr(StableDiffusion, "predict", once)
    result = cli(photo.parent, "-p", "a", "-o", tmp_path / "out", "-m", model, *FAST, code=1)
    assert "photo.jpg: there is not enough memory" in result.stderr
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["second"]


def test_ctrl_c_keeps_the_masks_so_far(photo, model, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "peekaboo.cli", "segment", photo, "-p", "a", "-o", out, "-m", model]
    command += ["--preset", "paper", "--set", "steps=1000000", "--set", "blur=none"]
    running = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True, preexec_fn=tiny.hear_ctrl_c)
    said = running.stderr.readline()  # the model is loaded, the run begins
    assert "on device" in said
    time.sleep(3)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=120)
    assert running.returncode == 1, err
    assert "Traceback" not in err
    assert "the masks so far are kept" in err
    record = json.loads((out / "photo" / "run.json").read_text())
    assert record["interrupted"]
    assert 0 < record["steps_done"] < 1_000_000
    assert (out / "photo" / "a" / "mask.png").exists()
