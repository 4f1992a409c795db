"""A ledger that cannot be used."""

from __future__ import annotations

from annolab_async.errors._base import AnnoLabError

__all__ = ["LedgerError"]


class LedgerError(AnnoLabError):
    """The ledger cannot be read, written or trusted, so that nothing more may be sent.

    What is already in it stays as it was: a change is written whole or not at all.

    Attributes:
        where: the ledger, without passwords.
        what: what happened.
        hint: how to mend it.
        is_outcome_known: whether it is certain that the change in question was not written. When it is not, the
            ledger itself says so once it can be read again.
    """

    def __init__(self, *, where: str, what: str, hint: str, is_outcome_known: bool = True) -> None:
        self.where = where
        self.what = what
        self.hint = hint
        self.is_outcome_known = is_outcome_known
        doubt = "" if is_outcome_known else " Whether the last change was written is not known."
        super().__init__(f"The ledger {where} cannot be used: {what}.{doubt} {hint}")
