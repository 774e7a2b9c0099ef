"""A whole run on a tiny model: what it leaves behind, and that it can learn."""

import json


def test_summary_has_what_users_read(finished_run):
    summary = json.loads((finished_run / "summary.json").read_text())
    expected = "steps train_s compile_s compiles real_tokens_per_s padding_fraction input_stall_fraction peak_rss_bytes"
    assert set(expected.split()) <= summary.keys()
    assert summary["steps"] == 40
    assert summary["late_compiles"] == 0
    assert 0 <= summary["dev"]["entity_f1"] <= 1 and 0 <= summary["test"]["entity_f1"] <= 1
