"""Pickles of strangers: plain data comes out as it was, and anything that could run code is refused before it does."""

import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peekaboo.errors import DatasetError
from peekaboo.evaluation.unpickle import load_plain
from trees import python2, references

texts = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


def nested(leaves):
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4) | st.tuples(inner),
    )


@given(st.tuples(nested(texts), st.integers(0, 2)) | st.tuples(nested(texts | st.binary()), st.integers(3, 5)))
def test_plain_data_of_every_protocol_comes_back(tmp_path_factory, case):
    value, protocol = case  # Python 3 writes bytes as calls, for protocols under 3; Python 2 does not
    path = tmp_path_factory.mktemp("p") / "refs.p"
    path.write_bytes(pickle.dumps(value, protocol))
    assert load_plain(path) == value


def test_a_pickle_of_python_2(tmp_path):
    path = tmp_path / "refs.p"
    path.write_bytes(b"\x80\x02" + python2(references()) + b".")
    assert load_plain(path) == references()
    assert load_plain(path)[0]["sentences"][0]["sent"] == "café green"
    path.write_bytes(b"(lp0\n(dp1\nS'sent'\np2\nS'caf\\xe9'\np3\nsa.")  # protocol 0, as text
    assert load_plain(path) == [{"sent": "café"}]


class Call:
    """Pickles as a call of a function when it is opened."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(mark: Path) -> dict[str, bytes]:
    """Pickles that would make a file, by name; two that would not, but are no plain data either."""
    shell = f"touch {mark}"
    refs = references()
    refs[1]["sentences"][0]["sent"] = Call(os.system, shell)
    key = {"ref_id": 1, "sentences": [{"sent": [Call(exec, f"open({str(mark)!r}, 'w')")]}]}
    posix = os.system.__module__.encode()
    return {
        "at the top": pickle.dumps(Call(os.system, shell)),
        "deep inside": pickle.dumps(refs),
        "deeper, of builtins": pickle.dumps([key], 2),
        "protocol 0": pickle.dumps([Call(os.system, shell)], 0),
        "protocol 4, by the stack": pickle.dumps([Call(os.system, shell)], 4),
        "INST": b"(S'" + shell.encode() + b"'\ni" + posix + b"\nsystem\n.",
        "OBJ": b"(c" + posix + b"\nsystem\nS'" + shell.encode() + b"'\no.",
        "a dotted name": b"\x80\x04(\x8c\x02os\x8c\x0bpath.system\x93\x8c\x01x\x85R.",
        "getattr": pickle.dumps([Call(getattr, Path(mark), "touch")]),
        "a class that looks harmless": pickle.dumps(OrderedDict(a=1)),
        "numpy": pickle.dumps(np.arange(3)),
        "a persistent object": b"Pevil\n.",
    }


@pytest.mark.parametrize("name", list(hostile(Path("x"))))
def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path, name):
    mark = tmp_path / "ran"
    path = tmp_path / "refs(unc).p"
    path.write_bytes(hostile(mark)[name])
    with pytest.raises(DatasetError, match="is refused: this pickle asks for"):
        load_plain(path)
    assert not mark.exists()


def test_the_payload_would_have_run(tmp_path):
    """What the test above forbids does happen with pickle itself: the test can fail."""
    mark = tmp_path / "ran"
    pickle.loads(hostile(mark)["deep inside"])
    assert mark.exists()


@pytest.mark.parametrize("data", [b"", b"no pickle", pickle.dumps([1, 2, 3])[:-4], b"\x80\x09.", b"(((((", b"}e."])
def test_a_broken_pickle_is_one_sentence(tmp_path, data):
    path = tmp_path / "refs.p"
    path.write_bytes(data)
    with pytest.raises(DatasetError, match="no pickle that can be read"):
        load_plain(path)


def test_a_missing_pickle(tmp_path):
    with pytest.raises(DatasetError, match="cannot be read"):
        load_plain(tmp_path / "absent.p")
