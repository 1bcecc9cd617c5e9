"""Questions to a store whose answers somebody waits for, and which Ctrl-C ends."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from vmthaw._closing import Closing
from vmthaw._event_loop_thread import EventLoopThread
from vmthaw.errors import StateError
from vmthaw.source._object_store._answer_to import wait_at_exit

T = TypeVar("T")


class Questions(Closing):
    """Runs coroutines of obstore's on an event loop's thread, which the first one starts. obstore's own blocking calls
    would hear of no signal before their time-out. Any thread; it waits with the GIL released."""

    def __init__(self) -> None:
        wait_at_exit()
        self._lock = threading.Lock()
        self._loop = EventLoopThread("vmthaw-store")
        self._closed = False

    def ask(self, question: Coroutine[Any, Any, T]) -> T:
        """What `question` gives or raises. Whatever ends the waiting (KeyboardInterrupt) ends the request and its
        connection, too. Raises StateError after `close`, also where the question waits already."""
        with self._lock:
            if self._closed:
                question.close()
                raise StateError("the store was closed")
            waiting = self._loop.submit(question)
        try:
            answer: T = waiting.result()
        except concurrent.futures.CancelledError:
            raise StateError("the store was closed") from None
        except BaseException:
            waiting.cancel()  # nothing happens to one that has ended
            raise
        return answer

    def close(self) -> None:
        """Ends all that wait. Idempotent."""
        with self._lock:
            self._closed = True
        self._loop.stop()
