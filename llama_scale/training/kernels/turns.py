"""Shares of a step on threads of their own, which add to the same gradients one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from llama_scale.frozen import frozen

T = TypeVar("T")


class Broken(RuntimeError):
    """A share before this one ended without taking its turns."""


@frozen(kw_only=False)
class Turn:
    """When a share adds to gradients that all share: after the one before it, so that sums are the same
    every time. Whoever has added, puts; whoever is to add, gets.
    """

    before: SimpleQueue[bool] | None = None
    after: SimpleQueue[bool] | None = None

    def taken(self, call: Callable[[], Any]) -> list[Callable[[], Any]]:
        """`call` in its turn; each share must take as many turns as the others, and in the same order."""
        waits = [partial(_wait, self.before)] if self.before else []
        return [*waits, call, *([partial(self.after.put, True)] if self.after else [])]

    def kept(self, do: Callable[[], T]) -> T:
        """What `do` gives; if it fails, those after this share fail too, rather than wait for ever."""
        try:
            return do()
        except BaseException:
            if self.after:
                self.after.put(False)
            raise


def _wait(before: SimpleQueue[bool]) -> None:
    if not before.get():
        raise Broken


def turns(shares: int) -> Iterator[Turn]:
    """One for each of so many shares, in their order."""
    before = None
    for left in reversed(range(shares)):
        after: SimpleQueue[bool] | None = SimpleQueue() if left else None
        yield Turn(before, after)
        before = after


def together(pool: ThreadPoolExecutor, calls: Iterable[Callable[[], T]]) -> list[T]:
    """What calls that run at once give; leaves when all have ended, after an error or Ctrl-C too."""
    futures = list[Future[T]]()
    try:
        futures.extend(map(pool.submit, calls))
        return [future.result() for future in futures]
    finally:
        wait(futures)
