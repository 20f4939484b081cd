"""A prepared folder's manifest that was changed is one clear error, whoever reads it."""

import json

import pytest

from keras_mae import data
from keras_mae.data import manifests

pytestmark = pytest.mark.backends("torch")

SHARD = {"file": "00000-of-00001.array_record", "images": 3, "sha256": "0" * 64}
MANIFEST = {
    "format": "array_record",
    "short_side": 256,
    "images": 3,
    "classes": ["a", "b"],
    "skipped": [],
    "source": "0" * 64,
    "shards": [SHARD],
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / SHARD["file"]).write_bytes(b"shard")
    return tmp_path


def write(folder, content):
    (folder / "manifest.json").write_text(content if isinstance(content, str) else json.dumps(content))


def test_a_manifest_as_it_was_written_is_read(folder):
    write(folder, MANIFEST)
    assert manifests.read_manifest(folder) == MANIFEST


@pytest.mark.parametrize(
    "change",
    [
        {"format": "zip"},
        {"format": ["tfrecord"]},
        {"images": "3"},
        {"images": 4},
        {"images": 0},
        {"classes": "ab"},
        {"classes": ["a", "a"]},
        {"classes": [1, 2]},
        {"skipped": 7},
        {"white_level": "white"},
        {"shards": {}},
        {"shards": [SHARD["file"]]},
        {"shards": [SHARD, SHARD], "images": 6},
        {"shards": [SHARD | {"images": None}]},
        {"shards": [SHARD | {"sha256": "xyz"}]},
        {"shards": [{"file": SHARD["file"]}]},
    ],
)
def test_a_changed_manifest_is_one_clear_error(folder, change):
    write(folder, MANIFEST | change)
    for read in (manifests.read_manifest, data.check_directory, data.from_directory):
        with pytest.raises(
            ValueError, match=r"manifest.json' is damaged, or was changed: .*Prepare the images again"
        ):
            read(folder)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "C:\\a", None])
def test_a_shard_outside_of_the_folder_is_refused(folder, name):
    write(folder, MANIFEST | {"shards": [SHARD | {"file": name}]})
    with pytest.raises(ValueError, match="manifest.json' must name files in its own folder"):
        manifests.read_manifest(folder)


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000, ""])
def test_what_is_no_json_is_damaged_where_there_are_shards_and_nobodys_elsewhere(folder, content):
    write(folder, content)
    with pytest.raises(ValueError, match="manifest.json' is damaged"):
        manifests.read_manifest(folder)
    (folder / SHARD["file"]).unlink()
    assert manifests.read_manifest(folder) is None


def test_another_programs_manifest_is_nobodys(folder):
    write(folder, {"name": "app", "icons": []})
    assert manifests.read_manifest(folder) is None


@pytest.mark.parametrize("labels", [[], [1, 2]])
def test_a_record_without_its_label_is_an_error(labels):
    example = data.records._example_class()()
    example.features.feature[data.records.IMAGE].bytes_list.value.append(b"image")
    example.features.feature[data.records.LABEL].int64_list.value.extend(labels)
    with pytest.raises(ValueError, match="must have the feature 'image/class/label' with one value. Received: "):
        data.records.features(example.SerializeToString())
