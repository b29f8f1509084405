"""What was delivered, for another store: files of which the newest count, and weights by hash."""

import json
from pathlib import Path

import pytest

from stages.tracking.kept import Kept
from stages.tracking.outbox import Outbox

FIRST, SECOND = b"first weights", b"other weights"


@pytest.fixture
def outbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Outbox:
    """Deliver a model, the best weights and two states of a table; return the outbox."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("NANOGPT_PROJECT", raising=False)
    outbox = Outbox(tmp_path / "runs/tracking/model")
    model, best = tmp_path / "models/gpt", tmp_path / "runs/abc/best"
    for folder, weights in ((model, FIRST), (best, SECOND)):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(weights)
        (folder / "config.json").write_text("{}")
    for text in ("old", "new"):
        (tmp_path / "table.json").write_text(text)
        outbox.append_files("artifacts", tmp_path / "table.json", path=None)
    outbox.append_files("artifacts", best, path="checkpoints/best")
    outbox.append_files("model", model)
    outbox.append("status", status="FINISHED")
    assert outbox.deliver_to("1 2 first")
    for _, offset in outbox.batches(500):
        outbox.set_delivered(offset)
    return outbox


def delivered(outbox: Outbox) -> list[tuple[str, dict[str, bytes]]]:
    """Deliver all that is pending; return the kind of each entry with its files."""
    found = []
    for batch, offset in outbox.batches(500):
        folder = outbox.folder / batch[0].get("files", "nothing")
        files = {
            file.relative_to(folder).as_posix(): file.read_bytes()
            for file in folder.rglob("*")
            if file.is_file()
        }
        found.append((batch[0]["kind"], files))
        outbox.set_delivered(offset)
    return found


def test_no_weights_are_kept_but_their_hashes(outbox: Outbox) -> None:
    kept = outbox.kept.folder
    files = {path.relative_to(kept).as_posix() for path in kept.rglob("*") if path.is_file()}
    assert files == {
        "artifacts/checkpoints/best/config.json",
        "artifacts/table.json",
        "model/config.json",
        "weights.json",
    }
    hashes = json.loads((kept / "weights.json").read_text())
    assert {name: about["bytes"] for name, about in hashes.items()} == {
        "artifacts/checkpoints/best/model.safetensors": len(SECOND),
        "model/model.safetensors": len(FIRST),
    }
    assert list((outbox.folder / "files").iterdir()) == []


def test_the_same_receiver_gets_nothing_twice(outbox: Outbox) -> None:
    assert not outbox.deliver_to("1 2 first")
    assert delivered(outbox) == []


def test_another_receiver_gets_the_newest_files_and_the_weights_before_all_entries(
    outbox: Outbox,
) -> None:
    for receiver in ("1 3 second", "1 2 first"):  # and that one again, after the other
        assert outbox.deliver_to(receiver)
        assert outbox.kept.missing() == []
        config = {"config.json": b"{}"}
        artifacts = {
            "checkpoints/best/model.safetensors": SECOND,
            "checkpoints/best/config.json": b"{}",
            "table.json": b"new",
        }
        assert delivered(outbox) == [
            ("artifacts", artifacts),
            ("model", {**config, "model.safetensors": FIRST}),
            ("status", {}),
        ]
        assert not list(outbox.kept.folder.rglob("*.safetensors"))


def test_weights_are_found_by_their_content_wherever_the_project_has_them(outbox: Outbox) -> None:
    Path("models/gpt").rename("models/other")
    Path("mlartifacts/1").mkdir(parents=True)
    Path("models/other/model.safetensors").rename("mlartifacts/1/named.safetensors")
    outbox.deliver_to("1 3 second")
    assert ("model", {"config.json": b"{}", "model.safetensors": FIRST}) in delivered(outbox)


def test_a_model_whose_weights_are_gone_is_not_sent_and_is_named(outbox: Outbox) -> None:
    Path("models/gpt/model.safetensors").write_bytes(b"third weights")  # of the same size
    outbox.deliver_to("1 3 second")
    assert outbox.kept.missing() == ["model/model.safetensors"]
    assert [kind for kind, _ in delivered(outbox)] == ["artifacts", "status"]
    Path("models/gpt/model.safetensors").write_bytes(FIRST)
    outbox.offset_file.unlink()
    assert [kind for kind, _ in delivered(outbox)] == ["artifacts", "model", "status"]


def test_weights_of_an_interrupted_delivery_are_taken_away(outbox: Outbox) -> None:
    outbox.deliver_to("1 3 second")
    batches = outbox.batches(500)
    next(batches)
    assert list(outbox.kept.folder.rglob("*.safetensors"))
    batches.close()
    assert not list(outbox.kept.folder.rglob("*.safetensors"))
    assert outbox.has_pending()


def test_weights_that_a_killed_process_left_are_in_nobodys_way(outbox: Outbox) -> None:
    left = outbox.kept.folder / "model/model.safetensors"
    left.hardlink_to("models/gpt/model.safetensors")
    outbox.deliver_to("1 3 second")
    assert [kind for kind, _ in delivered(Outbox(outbox.folder))] == [
        *("artifacts", "model", "status")
    ]
    assert not left.exists()
    assert Kept(outbox.kept.folder).missing() == []
