"""Several calls at a time, in order; a refused one is sent again when the server says."""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from convscope_client.errors import Overloaded

if TYPE_CHECKING:
    from convscope_client.client import Client

Item = TypeVar("Item")
Answer = TypeVar("Answer")

# How often one call is sent at most, where the server is overloaded.
_MOST_TRIES = 20
_LONGEST_WAIT_S = 2.0


def in_order(
    client: "Client", ask: Callable[[Item], Answer], items: Iterable[Item], in_flight: int
) -> Iterator[Answer]:
    """What ask() answers for each item, in their order, in_flight of them at a time.

    Whatever ends it early, Ctrl-C too, ends the calls in flight by closing the client:
    their threads would otherwise be waited for until their deadlines.
    """
    pool = ThreadPoolExecutor(in_flight)
    try:
        yield from pool.map(lambda item: _ask(ask, item), items)
    except BaseException:
        client.close()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _ask(ask: Callable[[Item], Answer], item: Item) -> Answer:
    for tries in range(1, _MOST_TRIES + 1):
        try:
            return ask(item)
        except Overloaded as error:
            if tries == _MOST_TRIES:
                raise
            time.sleep(min(_LONGEST_WAIT_S, error.retry_after_s * tries))
    raise AssertionError("the last try either answered or raised")
