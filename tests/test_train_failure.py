"""What is said of a training that ended by itself."""

import pytest
from vega_pack.nodes import training_process


@pytest.mark.parametrize("status", [3, 3221225477], ids=["abort", "access violation on Windows"])
def test_a_crash_is_no_sentence_of_ours(tmp_path, status):
    """What the process said last is of something else."""
    log = tmp_path / "log.txt"
    log.write_text("UserWarning: something is deprecated\n")
    said = training_process.failure_message(log, status)
    assert f"exit code {status}" in said
    assert str(log) in said
    assert "deprecated" not in said
    for sentence in (1, 2, 130):
        assert training_process.failure_message(log, sentence) == "UserWarning: something is deprecated"
