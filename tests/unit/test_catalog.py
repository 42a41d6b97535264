"""The catalog's tables, and finding its files on this machine without a network."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from seqkit.data.catalog import CatalogFile, find_dataset, find_local, format_bytes, list_datasets, locate
from seqkit.data.fetch import _made_from, is_intact
from seqkit.errors import MissingDataError

FILES = [file for dataset in list_datasets() for file in dataset.files]
SHA256 = re.compile(r"[0-9a-f]{64}")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("the catalog must not touch the network")

    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """SEQKIT_DATA_DIR and the cache's data folder, both empty."""
    given, cache = tmp_path / "given", tmp_path / "cache"
    monkeypatch.setenv("SEQKIT_DATA_DIR", str(given))
    monkeypatch.setenv("SEQKIT_CACHE_DIR", str(cache))
    return given, cache / "data"


def put(path: Path, content: bytes = b"x\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_row_is_pinned(file: CatalogFile) -> None:
    url = urlsplit(file.url)
    assert url.scheme == "https"
    assert re.search(r"/[0-9a-f]{40}/", url.path), "no commit in the URL"
    assert SHA256.fullmatch(file.sha256)
    assert file.url_bytes > 0
    assert file.num_bytes > 0
    assert Path(file.file).name == file.file
    if file.url_sha256 is not None:
        assert SHA256.fullmatch(file.url_sha256)
    if file.relation == "identical":
        assert (file.url_bytes, file.url_sha256) == (file.num_bytes, file.sha256)


def test_names_are_unique_and_sets_complete() -> None:
    names = [file.name for file in FILES]
    assert len(names) == len(set(names))
    for dataset in list_datasets():
        assert dataset.files
        assert dataset.title and dataset.licence and dataset.task and dataset.citation
        assert len({file.file for file in dataset.files}) == len(dataset.files)


def test_only_one_file_lacks_the_sum_of_its_download() -> None:
    # The contents of mnist's training images are known by their SHA-256; their gzip file is not.
    (file,) = [file for file in FILES if file.url_sha256 is None]
    assert file.name == "catalog:mnist/train-images"
    assert file.sha256 == "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"


def test_locate_looks_in_the_given_folder_before_the_cache(places: tuple[Path, Path]) -> None:
    given, cache = places
    cached = put(cache / "multi30k" / "train.de")
    assert locate("multi30k", "train.de") == [cached]
    first = put(given / "multi30k" / "train.de")
    assert locate("multi30k", "train.de") == [first]


def test_locate_accepts_a_packed_copy_and_the_file_name(places: tuple[Path, Path]) -> None:
    packed = put(places[0] / "wikitext-2" / "train.txt.gz", gzip.compress(b"x\n"))
    for split in ("train", "train.txt", "train.txt.gz"):
        assert locate("wikitext-2", split) == [packed]


def test_a_set_of_one_file_needs_no_split(places: tuple[Path, Path]) -> None:
    path = put(places[0] / "tinyshakespeare" / "input.txt")
    assert locate("tinyshakespeare", None) == locate("tinyshakespeare", "input") == [path]


@pytest.mark.usefixtures("places")
@pytest.mark.parametrize(
    ("name", "split", "message", "hint"),
    [
        (
            "multi30k",
            "train.de",
            "catalog:multi30k/train.de is not on this machine",
            "seqkit data fetch multi30k (1.9 MB), or set SEQKIT_DATA_DIR",
        ),
        (
            "tinyshakespeare",
            None,
            "catalog:tinyshakespeare is not on this machine",
            "seqkit data fetch tinyshakespeare (1.1 MB), or set SEQKIT_DATA_DIR",
        ),
        (
            "tinyshakespear",
            None,
            "catalog:tinyshakespear: no such data set; did you mean catalog:tinyshakespeare?",
            "seqkit data ls names them all",
        ),
        ("qqq", None, "catalog:qqq: no such data set", "seqkit data ls names them all"),
        (
            "wikitext-2",
            "vaild",
            "catalog:wikitext-2/vaild: wikitext-2 has no such split; did you mean catalog:wikitext-2/valid?",
            "its splits are train, valid, test",
        ),
        (
            "wikitext-2",
            None,
            "catalog:wikitext-2 has 3 splits: name one, as in catalog:wikitext-2/train",
            "its splits are train, valid, test",
        ),
    ],
)
def test_what_is_missing_is_named(name: str, split: str | None, message: str, hint: str) -> None:
    with pytest.raises(MissingDataError) as caught:
        locate(name, split)
    assert caught.value.message == message
    assert caught.value.hint == hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("num_bytes", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_400, "999 kB"), (17_813_085, "17.8 MB")],
)
def test_sizes_are_shown_in_powers_of_ten(num_bytes: int, shown: str) -> None:
    assert format_bytes(num_bytes) == shown


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_real_files_are_what_the_catalog_says(file: CatalogFile, data_dir: Path) -> None:
    path = find_local(file, [data_dir])
    if path is None:
        pytest.skip(f"{file.name} is not in {data_dir}")
    assert is_intact(file, path)


def test_locate_finds_real_files(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQKIT_DATA_DIR", str(data_dir))
    monkeypatch.setenv("SEQKIT_CACHE_DIR", str(tmp_path))
    for file in FILES:
        if find_local(file, [data_dir]) is not None:
            (path,) = locate(file.dataset, file.split)
            assert path.parent == data_dir / file.dataset


@pytest.mark.parametrize(
    ("name", "column", "labels"),
    [("sst2", 0, {b"negative": b"0", b"positive": b"1"}), ("trec", 1, {})],
)
def test_conversions_make_the_real_files_from_the_pinned_ones(
    name: str, column: int, labels: dict[bytes, bytes], data_dir: Path
) -> None:
    """Undoing a conversion gives the bytes that the URL is pinned to; so doing it gives the file."""
    for file in find_dataset(name).files:
        path = find_local(file, [data_dir])
        if path is None:
            pytest.skip(f"{file.name} is not in {data_dir}")
        rows = [line.split(b"\t") for line in path.read_bytes().removesuffix(b"\n").split(b"\n")[1:]]
        served = b"".join(labels.get(row[column], row[column]) + b" " + row[-1] + b"\n" for row in rows)
        # The source's one byte beyond ASCII, which the conversion turns into a blank.
        served = served.replace(b"sister city", b"sister\xf0city")
        assert len(served) == file.url_bytes
        assert hashlib.sha256(served).hexdigest() == file.url_sha256
        assert hashlib.sha256(b"".join(_made_from(file, io.BytesIO(served)))).hexdigest() == file.sha256
