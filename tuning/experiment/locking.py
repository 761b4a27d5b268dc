"""One driver at a time for a search in an object store, which has no locks that a dead process gives back.

A driver keeps an object beside the search and writes it anew every few seconds. Who would like to begin waits until
no other such object is fresh. Ages are differences between times that the store itself gave, so clocks need not agree.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable

from tuning.config.errors import UserError
from tuning.datasets import storage

# A lease that was not renewed for so long belongs to nobody.
EXPIRY_SECONDS = 30.0
RENEWAL_SECONDS = 6.0

HELD, CLOCK = ".held", ".clock"


class Lease:
    """Who works on a search.

    Args:
        location: URI of the folder of leases of one search.
        owner: of this driver. One that is killed and begins again with the same owner is not kept out by itself.
        name: the search's.
    """

    def __init__(self, location: str, owner: str, name: str) -> None:
        self.location, self.owner, self.name = location, owner, name
        self.renewed = 0.0
        self._keeping = threading.Lock()

    def acquire(self, say: Callable[[str], None]) -> None:
        """Take the lease; where another is fresh, wait until it shows life or expires.

        Raises:
            UserError: another driver is alive.
        """
        began = self._others()
        waited = False
        while others := self._others():
            moved = [who for who, (_, seen) in others.items() if who not in began or began[who][1] != seen]
            if moved:
                self._refuse(others[moved[0]][0])
            if not waited:
                who, waited = next(iter(others.values()))[0], True
                say(f"waiting   up to {EXPIRY_SECONDS:.0f} s for a sign of life of {who}, which had this search")
            time.sleep(min(1.0, RENEWAL_SECONDS / 3))  # between two looks at the store
        self.renew()
        # Two that begin at once both wrote before they look here, so at least one of them sees the other.
        if others := self._others():
            self.release()
            self._refuse(next(iter(others.values()))[0])

    def renew(self) -> None:
        """Say that this driver is alive."""
        words = f"process {os.getpid()} on {socket.gethostname()}"
        storage.write_bytes(self.location, self.owner + HELD, words.encode())
        self.renewed = time.time()

    def keep(self) -> bool:
        """Renew if it is time to; False when another driver has taken the search over meanwhile."""
        with self._keeping:
            if time.time() - self.renewed < RENEWAL_SECONDS:
                return True
            self.renew()
            return not self._others()

    def release(self) -> None:
        """Give the lease back."""
        storage.delete(self.location, self.owner + HELD)

    def _others(self) -> dict[str, tuple[str, int]]:
        """Fresh leases of others: who they are and when they were last renewed, in the store's time.

        What drivers that are no more left behind, also one that was killed while it looked, is deleted.
        """
        storage.write_bytes(self.location, self.owner + CLOCK, b"-")
        files = storage.list_files(self.location)
        now = files.pop(self.owner + CLOCK).mtime_ns
        storage.delete(self.location, self.owner + CLOCK)
        fresh = {}
        for file, stat in files.items():
            if file == self.owner + HELD:
                continue
            if now - stat.mtime_ns >= EXPIRY_SECONDS * 1e9:
                storage.delete(self.location, file)
            elif file.endswith(HELD):
                try:
                    fresh[file] = (storage.read_bytes(self.location, file).decode(), stat.mtime_ns)
                except FileNotFoundError:  # given back since the listing
                    continue
        return fresh

    def _refuse(self, who: str) -> None:
        raise UserError(
            f"name: expected a search that nobody works on, got '{self.name}', which {who} runs; "
            "wait for it, or choose another name=..."
        )
