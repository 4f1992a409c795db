"""What goes wrong on purpose with downloads: as told, or by chance from a seed. Pure."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from attrs import frozen

from annolab_async.emulator._faults import is_share

if TYPE_CHECKING:
    from collections.abc import Iterator

_SHARES: Final = ("cut", "without_length", "wrong_length", "changed", "expired")


@frozen(kw_only=True)
class BadDownload:
    """What goes wrong with one download; several things may.

    Attributes:
        cut_after: After how many bytes of its body the answer breaks off; None for not at all.
        is_reset: Whether the connection is then reset; otherwise it is closed.
        has_length: Whether the answer says its length. Where not, the end of the connection is its end.
        length_error: How many bytes too many its ``Content-Length`` says; too few if negative.
        is_changed: Whether the file is another from this download on: other bytes, another ``ETag``, the same size.
        is_expired: Whether it is answered with 403, as if the link had expired.

    Raises:
        ValueError: An argument is invalid; the message names every fault.
    """

    cut_after: int | None = None
    is_reset: bool = False
    has_length: bool = True
    length_error: int = 0
    is_changed: bool = False
    is_expired: bool = False

    def __attrs_post_init__(self) -> None:
        wrong: list[str] = []
        if self.cut_after is not None and (type(self.cut_after) is not int or self.cut_after < 0):
            wrong.append(f"cut_after must be a number of bytes or None, not {self.cut_after!r}")
        if type(self.length_error) is not int:
            wrong.append(f"length_error must be an int, not {self.length_error!r}")
        if wrong:
            raise ValueError(f"a download cannot go wrong like this: {'; '.join(wrong)}")

    @property
    def is_answer_bad(self) -> bool:
        """Whether the answer itself is bad: broken off, or of an unknown or wrong length."""
        return self.cut_after is not None or not self.has_length or self.length_error != 0


@frozen(kw_only=True)
class DownloadFaults:
    """How often which fault befalls a download. Each is drawn for itself, so that some meet.

    Args:
        cut: Share of downloads that break off at a random byte, half of them with a reset.
        without_length: Share of those that have no ``Content-Length``.
        wrong_length: Share of those that have a wrong one.
        changed: Share of those before which the file changes.
        expired: Share of those that are answered with 403.
        seed: Where the faults come from.

    Raises:
        ValueError: An argument is invalid; the message names every fault.
    """

    cut: float = 0.0
    without_length: float = 0.0
    wrong_length: float = 0.0
    changed: float = 0.0
    expired: float = 0.0
    seed: int = 0

    def __attrs_post_init__(self) -> None:
        if wrong := "; ".join(self._wrong()):
            raise ValueError(f"these faults cannot be made: {wrong}")

    def _wrong(self) -> Iterator[str]:
        for name in _SHARES:
            if not is_share(value := getattr(self, name)):
                yield f"{name} must be a number from 0 to 1, not {value!r}"
        if type(self.seed) is not int:
            yield f"seed must be an int, not {self.seed!r}"

    def draw(self, number: int, size: int) -> BadDownload | None:
        """Decide what befalls a download.

        Args:
            number: Which download it is, from 1 up.
            size: How many bytes the file has.

        Returns:
            What goes wrong; None if nothing does.
        """
        # Seeded by number, so that a download's fate hangs on no other draw.
        rng = random.Random(f"{self.seed}:download:{number}")
        hit = {name: rng.random() < getattr(self, name) for name in _SHARES}
        # Drawn whether they are needed or not, so that no share changes another's draws.
        cut_after, is_reset = rng.randrange(size), rng.random() < 0.5  # noqa: PLR2004
        error = rng.randint(1, size) * rng.choice((-1, 1))
        if not any(hit.values()):
            return None
        return BadDownload(
            cut_after=cut_after if hit["cut"] else None,
            is_reset=is_reset,
            has_length=not hit["without_length"],
            length_error=error if hit["wrong_length"] else 0,
            is_changed=hit["changed"],
            is_expired=hit["expired"],
        )
