"""Files that training writes and tells from one another."""

from train import files

MIB = 2**20


def test_a_part_that_was_replaced_is_seen(tmp_path):
    """An autoencoder amid a checkpoint changes neither its size nor its ends."""
    checkpoint = tmp_path / "model.safetensors"
    with checkpoint.open("wb") as stream:
        stream.truncate(128 * MIB)
    before = files.sampled_fingerprint([checkpoint])
    assert files.sampled_fingerprint([checkpoint]) == before
    with checkpoint.open("r+b") as stream:
        stream.seek(70 * MIB)
        stream.write(b"\1" * MIB)
    assert files.sampled_fingerprint([checkpoint]) != before
