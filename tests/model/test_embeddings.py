"""Embeddings that a user brings: read by name, trained on and scored, or refused by a sentence."""

import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import cxrlib as cxr
from cxrlib.data.study import choose_films, read_study
from cxrlib.model.embeddings import EmbeddingError, read_embeddings

SIZE = 6


@pytest.fixture(scope="module")
def study():
    return read_study("medical")


@pytest.fixture(scope="module")
def films(study):
    return choose_films(study, "Cardiomegaly")


@pytest.fixture(scope="module")
def vectors(films):
    rng = np.random.default_rng(0)
    return (rng.normal(size=(len(films), SIZE)) + films[["target"]].to_numpy()).astype(np.float32)


def write(path, names, vectors):
    """Write embeddings to a file of any kind that is read."""
    names = np.array(names, str)
    if path.suffix == ".npz":
        np.savez(path, names=names, embeddings=vectors, model="net")
    elif path.suffix == ".zarr":
        group = pytest.importorskip("zarr").create_group(path, attributes={"model": "net"})
        group.create_array("names", data=names)
        group.create_array("embeddings", data=vectors, chunks=(50, SIZE))
    elif path.suffix == ".npy":
        np.save(path, vectors)
        path.with_suffix(".txt").write_text("\n".join(names) + "\n")
    else:
        pytest.importorskip("pyarrow")
        table = pd.DataFrame({"name": names})
        if "list" in path.stem:
            table["embedding"] = list(vectors)
        else:
            table[[f"d{i}" for i in range(vectors.shape[1])]] = vectors
        table.to_parquet(path)
    return path


@pytest.mark.parametrize("kind", ["net.npz", "net.npy", "net.parquet", "list.parquet", "net.zarr"])
@pytest.mark.filterwarnings("ignore:The data type .FixedLengthUTF32")  # of Zarr's version 3
def test_names_decide_whatever_the_order(tmp_path, study, films, vectors, kind):
    order = np.random.default_rng(1).permutation(len(films))
    names = films["filename"].to_numpy()
    straight = read_embeddings(write(tmp_path / kind, names, vectors), study)
    folders = [f"C:\\films\\{name}" for name in names[order]]  # and written on another system
    (tmp_path / "other").mkdir()
    mixed = read_embeddings(write(tmp_path / "other" / kind, folders, vectors[order]), study)
    for embeddings in (straight, mixed):
        np.testing.assert_array_equal(embeddings.of(films)[:], vectors)
        assert embeddings.dimension == SIZE
    assert straight.digest == mixed.digest and straight.name == kind.partition(".")[0]
    vectors = vectors.copy()
    vectors[7, 2] += 1
    (tmp_path / "changed").mkdir()
    changed = write(tmp_path / "changed" / kind, names, vectors)
    changed = read_embeddings(changed, study, name="other")
    assert changed.digest != straight.digest and changed.name == "other"


def _spoil(names, vectors, how):
    if how == "twice":
        names[3] = names[2]
    elif how == "nan":
        vectors[5, 0] = np.nan
    elif how == "map":
        vectors = vectors.reshape(len(vectors), 2, -1)
    elif how == "strangers":
        names = [f"x{i}" for i in range(len(names))]
    elif how == "short":
        names = names[:-1]
    return names, vectors


@pytest.mark.parametrize(
    "how, sentence",
    [
        ("twice", "two embeddings or more of 1 films .*{2}"),
        ("nan", "the embedding of {5} has numbers that are not finite"),
        ("map", r"shape \(236, 2, 3\): give floating-point numbers of shape \(films, numbers\)"),
        ("strangers", "no embedding of any film of medical: its names are such as 'x0'"),
        ("short", "235 names of 236 embeddings"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, study, films, vectors, how, sentence):
    names = films["filename"].tolist()
    path = write(tmp_path / "bad.npz", *_spoil(list(names), vectors.copy(), how))
    with pytest.raises(EmbeddingError, match=sentence.replace("{2}", names[2]).format(*names)):
        read_embeddings(path, study)


def test_files_that_are_no_embeddings(tmp_path, study, films, vectors):
    np.savez(tmp_path / "keys.npz", x=vectors)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "keys.npz").read_bytes()[:200])
    np.savez(tmp_path / "pickle.npz", names=np.array([None]), embeddings=vectors)
    np.save(tmp_path / "alone.npy", vectors)
    (tmp_path / "text.csv").write_text("a")
    for name, sentence in {
        "keys.npz": "lacks embeddings and names; it has x",
        "cut.npz": "cannot be read as embeddings",
        "pickle.npz": "cannot be read as embeddings",
        "alone.npy": "alone.txt",
        "text.csv": "not a file of embeddings: give .npz",
        "none.npz": "cannot be read as embeddings",
    }.items():
        with pytest.raises(EmbeddingError, match=sentence):
            read_embeddings(tmp_path / name, study)
    some = read_embeddings(write(tmp_path / "some.npz", films["filename"][4:], vectors[4:]), study)
    with pytest.raises(EmbeddingError, match=f"4 of 236 films \\({films['filename'][0]}"):
        some.of(films)


@pytest.mark.filterwarnings("ignore:The data type .FixedLengthUTF32")
def test_zarr_groups_that_are_no_embeddings(tmp_path, study, films, vectors, monkeypatch):
    names = films["filename"].tolist()
    write(tmp_path / "cut.zarr", names, vectors)
    chunk = tmp_path / "cut.zarr" / "embeddings" / "c" / "1" / "0"
    chunk.write_bytes(chunk.read_bytes()[:20])
    write(tmp_path / "lost.zarr", names, vectors)
    (tmp_path / "lost.zarr" / "embeddings" / "c" / "1" / "0").unlink()
    pytest.importorskip("zarr").create_group(tmp_path / "keys.zarr").create_array("x", data=vectors)
    (tmp_path / "empty.zarr").mkdir()
    for name, sentence in {
        "keys.zarr": "lacks embeddings and names; it has x",
        "cut.zarr": "cannot be read as embeddings",
        "lost.zarr": "lacks 1 of the 5 chunks of 'embeddings'",
        "empty.zarr": "cannot be read as embeddings: No group found",
        "none.zarr": "cannot be read as embeddings",
    }.items():
        with pytest.raises(EmbeddingError, match=sentence):
            read_embeddings(tmp_path / name, study)
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(EmbeddingError, match="keys.zarr needs the package zarr: pip install"):
        read_embeddings(tmp_path / "keys.zarr", study)


def test_a_run_of_embeddings_scores_the_same_kind_alone(tmp_path, study, films, vectors):
    names = films["filename"].tolist()
    embeddings = read_embeddings(write(tmp_path / "net.npz", names, vectors), study)
    train = films[films["split"] == "train"]
    fitted = cxr.fit_head(embeddings.of(train), train)
    cxr.save_run(tmp_path / "run", study, films, "Cardiomegaly", embeddings, fitted)
    run = cxr.load_run(tmp_path / "run")
    assert "embeddings of `net`, 6 numbers per" in (run.folder / "MODEL_CARD.md").read_text()
    changed = read_embeddings(write(tmp_path / "net.npz", names, vectors + 1), study)
    with pytest.raises(EmbeddingError, match="does not hold the embeddings that"):
        cxr.score_test(run, study, changed)
    with pytest.raises(cxr.model.facts.RunError, match="scores embeddings of net, not images"):
        cxr.score_test(run, study)
    tested = cxr.load_run(cxr.score_test(run, study, embeddings).folder)
    assert tested.metrics["test"]["films"] == (films["split"] == "test").sum()
    assert tested.metrics["test"]["auc"]["value"] > 0.8
    scores = cxr.score_embeddings(tested, embeddings, films[::-1])
    expected = tested.split("test").set_index("path")["probability"]
    found = scores.set_index("path").loc[[name.rpartition("/")[2] for name in expected.index]]
    np.testing.assert_allclose(found["probability"], expected, atol=2e-6)
    for name, width, sentence in (("net", 5, "with 5 numbers; .* with 6"), ("rad", 6, "of 'rad'")):
        path = write(tmp_path / "net.npz", names, vectors[:, :width])
        with pytest.raises(EmbeddingError, match=sentence):
            cxr.score_embeddings(run, read_embeddings(path, name=name))
    with pytest.raises(EmbeddingError, match="was trained on images"):
        cxr.score_embeddings(replace(run, facts={}), embeddings)
