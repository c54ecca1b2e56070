"""Bars of work, and the line before work that takes long."""

import threading

import pytest

from utils import processes


@pytest.fixture
def clock(monkeypatch):
    """The time that a bar sees, in seconds; it stands still unless a test moves it."""
    seconds = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: seconds[0])
    return seconds


def lines_of(capsys, clock, *, steps, seconds, **kwargs):
    """Everything on stderr of ``steps`` steps that take ``seconds`` each."""
    for _ in processes.progress(range(steps), "separation", unit=" splits", **kwargs):
        clock[0] += seconds
    return capsys.readouterr().err


def test_long_work_is_announced_once_with_its_size(capsys, clock):
    shown = lines_of(capsys, clock, steps=300, seconds=4, images=50_000)
    assert shown.count("separation: about 20 minutes for 299 splits, 50,000 images, ") == 1
    assert shown.count("GB of memory so far\n") == 1


@pytest.mark.parametrize(("steps", "seconds"), [(149, 4), (1, 2)])
def test_short_work_is_not_announced(capsys, clock, steps, seconds):
    assert "about" not in lines_of(capsys, clock, steps=steps, seconds=seconds)


def test_the_time_of_kept_steps_does_not_count(capsys, clock):
    with processes.progress(total=1000, initial=900, desc="circuits", unit=" channels") as bar:
        clock[0] += 10
        bar.update()
    assert "circuits: about 16 minutes for 99 channels, " in capsys.readouterr().err


def test_peak_memory_is_that_of_a_process_with_torch():
    assert 2**26 < processes.peak_memory() < 2**40


def test_bars_share_one_thread():
    """tqdm's, which each bar would otherwise leave behind."""
    counts = []
    for _ in range(3):
        list(processes.progress(range(2)))
        counts.append(threading.active_count())
    assert len(set(counts)) == 1
