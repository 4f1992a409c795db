"""What all errors share, and those of a client that is set up or used wrongly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["AnnoLabError", "ConfigurationError", "NotOpen", "describe"]


class AnnoLabError(Exception):
    """Base of every error that this library raises; ``str()`` says what happened and how to mend it."""

    def __reduce__(self) -> tuple[Callable[..., AnnoLabError], tuple[object, ...]]:
        # Exception's own __reduce__ calls the class with its text, which subclasses with
        # keyword arguments refuse; a foreign exception may hold a request and with it the key.
        state = {
            name: _portable(value) if isinstance(value, BaseException) else value
            for name, value in self.__dict__.items()
        }
        return _rebuild, (type(self), self.args, state)


def _rebuild(
    cls: type[AnnoLabError], args: tuple[object, ...], state: dict[str, Any]
) -> AnnoLabError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(state)
    return error


def _portable(error: BaseException) -> AnnoLabError:
    return error if isinstance(error, AnnoLabError) else AnnoLabError(describe(error))


def describe(error: BaseException) -> str:
    """Return an error's class and text."""
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class ConfigurationError(AnnoLabError):
    """The client cannot work as configured; raised at construction, before any request."""


class NotOpen(AnnoLabError, RuntimeError):
    """A client or watcher was used before its ``async with`` block was entered or after it was left."""
