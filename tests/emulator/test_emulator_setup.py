"""What may be passed to an emulator, and what its package offers."""

from __future__ import annotations

import importlib
import subprocess
import sys
from time import monotonic
from typing import Any

import pytest

import annolab_async.emulator
from annolab_async.emulator import Emulator, EmulatorServer
from annolab_async.emulator._settings import Settings

FAULTY: list[tuple[str, list[Any]]] = [
    ("api_key", ["", "two words", "line\nbreak", "schlüssel", None, 5]),
    ("api_keys_without_model_run", ["a-lone-string", None, 5, [""], ["a b"], [None]]),
    ("workers", [0, -1, 1.5, True, "1", None]),
    ("seed", [0.5, True, "x", None]),
    ("base_seconds", [-0.1, float("nan"), float("inf"), True, "1", None, 10**400]),
    ("seconds_per_source", [-0.1, float("nan"), float("inf"), True, "1", None]),
    ("latency", [-0.1, float("nan"), float("inf"), True, "1", None]),
    ("error_share", [-0.1, 1.1, float("nan"), True, "1", None]),
    ("bad_source_ids", [None, 5, "12", [0], [True], ["1"], [1, -1], [[]]]),
    ("faults", [0.1, {"reset": 0.1}, "reset"]),
    ("groups", [{}, None, ["a"], {"": 1}, {1: 1}]),
    ("projects", [{}, None, {"a": 0}, {"a": True}, {"a": "1"}, {"a": []}]),
    ("models", [{}, None, {"a": 1, "b": 1}]),
    ("layers", [{}, None, {"a": -1}]),
    ("most_predictions", [-1, 1.5, True, None]),
    ("keep_requests", [-1, 1.5, True, None]),
    ("exports must", [0.1, {"seconds": 1}]),
    ("download_faults", [0.1, {"cut": 0.1}]),
    ("downloads_url", ["", None, "downloads", "ftp://x", "http://x/"]),
    ("clock", [None, 5.0]),
]


@pytest.mark.parametrize(("option", "values"), FAULTY)
def test_an_invalid_argument_is_named_and_no_other(option: str, values: list[Any]) -> None:
    others = {"workers", "seed", "latency", "error_share", "clock", "groups", "layers"} - {option}
    for value in values:
        with pytest.raises(ValueError, match=option) as caught:
            Emulator(**{option.removesuffix(" must"): value})
        assert not [other for other in others if f"{other} must" in str(caught.value)], value


def test_all_invalid_arguments_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"workers .*; error_share .*; models\['a'\]"):
        Emulator(workers=0, error_share=2, models={"a": 0})


def test_a_key_cannot_have_and_lack_the_permission() -> None:
    with pytest.raises(ValueError, match="must not hold the api_key") as caught:
        Emulator(api_key="s3cret", api_keys_without_model_run=["s3cret"])
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("key", ["bad s3cret", "s3cret\n"])
def test_an_invalid_key_is_not_repeated(key: str) -> None:
    faulty: list[dict[str, Any]] = [{"api_key": key}, {"api_keys_without_model_run": [key]}]
    for options in faulty:
        with pytest.raises(ValueError, match="printable ASCII") as caught:
            Emulator(**options)
        assert "s3cret" not in str(caught.value)


def test_no_repr_holds_a_key() -> None:
    options: dict[str, Any] = {"api_key": "s3cret", "api_keys_without_model_run": ["weak"]}
    emulator = Emulator(**options)
    texts = [
        repr(emulator),
        repr(EmulatorServer(emulator)),
        repr(Settings(**options, clock=monotonic)),
    ]
    assert not [text for text in texts if "s3cret" in text or "weak" in text]
    assert texts[0] == "<Emulator workers=10 jobs=0>"


def test_later_changes_to_the_arguments_change_nothing() -> None:
    projects, weak = {"a": 1}, ["weak"]
    settings = Settings(projects=projects, api_keys_without_model_run=weak, clock=monotonic)
    projects["b"] = 1
    weak.clear()
    assert settings.projects == {"a": 1}
    assert list(settings.api_keys_without_model_run) == ["weak"]


def test_an_unknown_job_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        Emulator().job(1)


def test_everything_in_all_exists() -> None:
    for name in annolab_async.emulator.__all__:
        assert getattr(annolab_async.emulator, name) is not None


def forget_the_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.startswith("annolab_async.emulator"):
            monkeypatch.delitem(sys.modules, name)


def test_without_uvicorn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_the_emulator(monkeypatch)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ImportError, match=r"pip install 'annolab-async\[emulator\]'"):
        importlib.import_module("annolab_async.emulator")


def test_without_starlette_the_extra_is_named() -> None:
    code = "import sys; sys.modules['starlette'] = None; import annolab_async.emulator"
    run = subprocess.run(  # noqa: S603 - the code is the line above
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "ImportError: the emulator needs starlette and uvicorn: pip install" in run.stderr


def test_any_other_missing_module_is_not_blamed_on_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forget_the_emulator(monkeypatch)
    monkeypatch.setitem(sys.modules, "anyio", None)
    with pytest.raises(ModuleNotFoundError, match="anyio") as caught:
        importlib.import_module("annolab_async.emulator")
    assert "pip install" not in str(caught.value)
