"""Other programs: what is said where they take the cores, and that nothing is where they do not."""

import math

import pytest

from keras_mae.training import busy
from keras_mae.training.busy import ProcessorUse

pytestmark = pytest.mark.backends("torch")


def said(monkeypatch, ran, waited, *, cores=2, seconds=10.0, threads="", accelerated=False):
    monkeypatch.setattr(busy._optional, "cores", lambda: cores)
    monkeypatch.setattr(busy, "is_accelerated", lambda: accelerated)
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    return busy.notice(ProcessorUse(5.0, 1.0, 2.0), ProcessorUse(5.0 + seconds, 1.0 + ran, 2.0 + waited))


@pytest.mark.parametrize(
    ("ran", "waited", "options", "times"),
    [
        (2.5, 7.5, {"threads": "1"}, "4"),  # one thread that has a quarter of a core
        (1.6, 18.4, {}, "12"),  # two threads
        (5.0, 2.4, {}, None),  # it waited for a disk most of the time
        (20.0, 20.0, {}, None),  # four threads of its own, on two cores
        (10.0, 30.0, {}, "2"),  # and with other programs
        (320.0, 320.0, {"cores": 64}, "2"),
        (19.0, 1.0, {}, None),
        (0.0, 10.0, {}, "1e+02"),
        (0.2, 0.6, {"seconds": 0.9}, None),
        (2.5, math.nan, {}, None),  # a system that does not say
        (2.5, 7.5, {"accelerated": True}, None),
    ],
)
def test_what_is_said_goes_by_the_cores_that_there_were(monkeypatch, ran, waited, options, times):
    text = said(monkeypatch, ran, waited, **options)
    assert text == "" if times is None else f"it takes at least {times} times as long as without them." in text


@pytest.mark.parametrize(
    ("ran", "waited", "options", "threads"),
    [
        (1.6, 18.4, {}, "OMP_NUM_THREADS=1:"),
        (1.6, 18.4, {"threads": "1"}, None),  # as it is
        (320.0, 320.0, {"cores": 64}, "OMP_NUM_THREADS=32:"),
        (320.0, 320.0, {"cores": 64, "threads": "32"}, None),
    ],
)
def test_fewer_threads_are_advised_than_there_are_cores_to_have(monkeypatch, ran, waited, options, threads):
    text = said(monkeypatch, ran, waited, **options)
    assert (threads or "them. Run it when nothing else runs") in text
    assert ("OMP_NUM_THREADS" in text) == bool(threads)


def test_the_system_is_asked(tmp_path, monkeypatch):
    for thread, content in (("1", "5 2000000000 7"), ("2", "5 500000000 7"), ("3", "")):
        (tmp_path / thread).mkdir()
        (tmp_path / thread / "schedstat").write_text(content)
    monkeypatch.setattr(busy, "_THREADS", tmp_path)
    before = ProcessorUse.now()
    assert before.waited == 2.5
    sum(range(10**6))
    after = ProcessorUse.now()
    assert after.ran > before.ran
    assert after.clock > before.clock
    monkeypatch.setattr(busy, "_THREADS", tmp_path / "nowhere")
    assert math.isnan(ProcessorUse.now().waited)
