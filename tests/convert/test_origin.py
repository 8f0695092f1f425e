"""What a manifest says of the source: the hub's own checksums, where the folder tells them."""

import hashlib
import shutil
from pathlib import Path

from gptoss_mlx.cli.verify import source_lines
from gptoss_mlx.convert.conversion import convert_model
from gptoss_mlx.convert.verify import verify_model
from gptoss_mlx.manifest import read_manifest

COMMIT = "6cee5e81ee83917806bbde320786a8fb61efebee"


def shards(source: Path) -> dict[str, str]:
    """The sha256 of each shard by its name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in source.glob("*.safetensors")}


def noted(model: Path) -> dict[str, str | None]:
    manifest = read_manifest(model)
    assert manifest is not None
    return {name: file.sha256 for name, file in manifest.source.files.items()}


def test_a_folder_of_the_hubs_cache_names_its_checksums(source: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--openai--gpt-oss-20b"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for path in source.iterdir():
        blob = shards(source).get(path.name, f"{path.name}-sha1")
        shutil.copy(path, repository / "blobs" / blob)
        (snapshot / path.name).symlink_to(f"../../blobs/{blob}")
    model = convert_model(snapshot, tmp_path / "model").folder
    assert noted(model) == shards(source)
    lines = source_lines(verify_model(model).source)
    assert lines[0] == f"made of openai/gpt-oss-20b@{COMMIT}:"
    assert len(lines) == 4
    for (name, sha256), line in zip(sorted(shards(source).items()), lines[1:], strict=True):
        assert line == f"  {name}  {(source / name).stat().st_size:,} bytes  sha256 {sha256}"


def test_a_folder_that_the_hub_filled_has_notes_of_them(source: Path, tmp_path: Path) -> None:
    notes = source / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    for name, sha256 in shards(source).items():
        (notes / f"{name}.metadata").write_text(f"{COMMIT}\n{sha256}\n1.0\n")
    assert noted(convert_model(source, tmp_path / "model").folder) == shards(source)


def test_a_folder_that_tells_nothing_is_said_to(source: Path, tmp_path: Path) -> None:
    model = convert_model(source, tmp_path / "model").folder
    assert set(noted(model).values()) == {None}
    assert all(line.endswith("of which no sha256 was told") for line in source_lines(verify_model(model).source)[1:])


def test_a_manifest_from_before_checksums_were_kept_is_read(source: Path, tmp_path: Path) -> None:
    model = convert_model(source, tmp_path / "model").folder
    text = (model / "gptoss.json").read_text()
    old = text.replace(',\n        "sha256": null', "")
    assert old != text
    (model / "gptoss.json").write_text(old)
    assert set(noted(model).values()) == {None}
    verify_model(model)
    assert convert_model(source, model).already_there
