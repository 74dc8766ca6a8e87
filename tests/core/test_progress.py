import pytest

from pmq.core import progress


def test_plain_lines_with_time_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PMQ_PROGRESS", "1")
    monkeypatch.setattr(progress, "QUIET_SECONDS", -1.0)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    assert list(progress.track(range(3), "counting")) == [0, 1, 2]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "counting: 1/3" in captured.err
    assert "left" in captured.err


def test_short_work_is_silent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PMQ_PROGRESS", "1")
    list(progress.track(range(3), "counting"))
    assert capsys.readouterr().err == ""
