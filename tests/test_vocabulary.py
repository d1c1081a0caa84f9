"""What a model says it knows, and what is said of a word that it does not."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from peekaboo import Peekaboo, PeekabooError
from peekaboo.cli import app
from peekaboo.denoisers.load import bundled_folder, verify
from peekaboo.errors import ModelError
from peekaboo.vocabulary import FILE, Vocabulary, split, unknown_notes

APPLE = {
    "name": "apple",
    "category": "Food",
    "core": True,
    "synonyms": ["malus"],
    "kinds": ["fruit"],
    "plural": "apples",
}
DOG = {"name": "dog", "category": "Animals", "core": False, "synonyms": [], "kinds": ["animal"], "plural": "dogs"}
DATA = {"names": [APPLE, DOG], "words": ["a", "on", "the", "left", "red"], "related": {"poodle": "dog"}}


@pytest.fixture
def vocabulary(tmp_path) -> Vocabulary:
    (tmp_path / FILE).write_text(json.dumps(DATA))
    found = Vocabulary.read(tmp_path)
    assert found is not None
    return found


@pytest.mark.parametrize("prompt", ["the red apple on the left", "Apples", "a fruit", "a MALUS", "an animal"[3:], ""])
def test_known_words_are_known(vocabulary, prompt):
    assert vocabulary.unknown(prompt) == []


def test_an_unknown_word_names_the_nearest_known(vocabulary):
    assert vocabulary.unknown("a poodle and a zeppelin, a poodle") == ["poodle", "and", "zeppelin"]
    assert vocabulary.nearest("poodle") == ["dog"]
    assert vocabulary.nearest("aple") == ["apple"]
    assert vocabulary.nearest("zeppelin") == []
    (note,) = vocabulary.notes("a poodle")
    assert "'poodle'" in note
    assert "dog" in note


def test_split_keeps_words_with_an_apostrophe():
    assert split("The woman's_boot, red-hot") == ["the", "woman's", "boot", "red", "hot"]


def test_a_model_without_a_list_is_asked_nothing(tmp_path):
    assert Vocabulary.read(tmp_path) is None
    assert unknown_notes(None, ["a xyzzy"]) == []


@pytest.mark.parametrize("text", ["{", "[]", '{"names": [{}], "words": [], "related": {}}'])
def test_a_damaged_list_is_one_sentence(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ModelError, match="is damaged"):
        Vocabulary.read(tmp_path)


def test_the_bundled_model_tells_a_thousand_names_and_its_tokenizer_has_their_words():
    from transformers import CLIPTokenizer

    vocabulary = Vocabulary.read(bundled_folder())
    assert len(vocabulary.names) > 1000
    assert vocabulary.unknown("a drawing of two green dogs on the left and a vehicle") == []
    assert {"animal", "fruit", "vehicle"} <= set(vocabulary.known)
    tokenizer = CLIPTokenizer.from_pretrained(bundled_folder() / "tokenizer")
    core = [name.name for name in vocabulary.names if name.core]
    pieces = [len(tokenizer(name, add_special_tokens=False).input_ids) / len(name.split()) for name in core]
    assert sum(pieces) / len(pieces) < 1.1


def test_an_unknown_word_is_noted_in_the_run():
    run = Peekaboo.from_pretrained().start(bundled_example(), "a poodle")
    assert any("poodle" in note and "dog" in note for note in run.notes)
    assert not Peekaboo(run.denoiser.pipe).start(bundled_example(), "a strawberry").notes


def bundled_example() -> str:
    return str(bundled_folder().parents[2] / "examples" / "road.jpg")


def test_doctor_finds_everything_in_order():
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    assert "files as released" in result.output
    assert "PROBLEM" not in result.output


def test_doctor_lists_the_vocabulary():
    result = CliRunner().invoke(app, ["doctor", "--vocabulary"])
    assert result.exit_code == 0
    for name in ("*apple", "domestic dog", "accordion", "Kinds:", "animal"):
        assert name in result.output


def test_doctor_on_a_folder_without_a_list_and_on_none(tmp_path):
    file = tmp_path / "one.safetensors"
    file.write_bytes(b"")
    for model, code, says in (
        (tmp_path, 1, f"PROBLEM: {tmp_path} is no diffusers model"),
        (file, 0, "one file; it is opened when it is used"),
        ("nope", 1, "PROBLEM: there is no nope"),
        ("owner/name", 0, "looked for on the Hugging Face Hub"),
    ):
        result = CliRunner().invoke(app, ["doctor", "-m", str(model)])
        assert (result.exit_code, says in result.output) == (code, True), result.output
    result = CliRunner().invoke(app, ["doctor", "--vocabulary", "-m", str(tmp_path)])
    assert result.exit_code == 2
    assert "carries no list" in result.stderr


@pytest.mark.parametrize("harm", ["changed", "missing"])
def test_damaged_weights_are_refused_and_doctor_says_so(tmp_path, monkeypatch, harm):
    copy = tmp_path / "bundled"
    shutil.copytree(bundled_folder(), copy)
    assert verify(copy) > 2
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    if harm == "missing":
        weights.unlink()
    else:
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    with pytest.raises(ModelError, match="vae"):
        verify(copy)
    monkeypatch.setattr("peekaboo.denoisers.load.bundled_folder", lambda: copy)
    with pytest.raises(PeekabooError, match="install Peekaboo again"):
        Peekaboo.from_pretrained()
    result = CliRunner().invoke(app, ["doctor", "-m", str(copy)])
    assert result.exit_code == 1
    assert "PROBLEM" in result.output
