"""A lease that lets one driver at a time run a search in an object store.

An object store has no locks that a dead process releases. So a driver rewrites an object of its own next to the search
every few seconds, and a new driver waits until no other such object is fresh. Ages are differences between times of the
store, so the clocks of machines need not agree.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable

from tuning.config.errors import UserError
from tuning.datasets import storage

EXPIRY_SECONDS = 30.0  # after which a lease that was not renewed is void
RENEWAL_SECONDS = 6.0

HELD, CLOCK = ".held", ".clock"


class Lease:
    """The right of one driver to run a search.

    Args:
        location: URI of the folder of the search's leases.
        owner: identifies this driver. After a kill a driver of the same owner can start again at once.
        name: of the search.
    """

    def __init__(self, location: str, owner: str, name: str) -> None:
        self.location, self.owner, self.name = location, owner, name
        self.renewed = 0.0
        self._keeping = threading.Lock()

    def acquire(self, say: Callable[[str], None]) -> None:
        """Take the lease. If another driver's is fresh, wait until it is renewed or expires.

        Raises:
            UserError: another driver is alive.
        """
        before = self._others()
        waited = False
        while others := self._others():
            renewed = [who for who, (_, seen) in others.items() if who not in before or before[who][1] != seen]
            if renewed:
                self._refuse(others[renewed[0]][0])
            if not waited:
                who, waited = next(iter(others.values()))[0], True
                say(f"waiting   up to {EXPIRY_SECONDS:.0f} s for a sign of life of {who}, which had this search")
            time.sleep(min(1.0, RENEWAL_SECONDS / 3))  # between two looks at the store
        self.renew()
        # Two drivers that start at once have both written before they look here, so at least one sees the other.
        if others := self._others():
            self.release()
            self._refuse(next(iter(others.values()))[0])

    def renew(self) -> None:
        """Show that this driver is alive."""
        words = f"process {os.getpid()} on {socket.gethostname()}"
        storage.write_bytes(self.location, self.owner + HELD, words.encode())
        self.renewed = time.time()

    def keep(self) -> bool:
        """Renew the lease if it is time to; return False if another driver has taken the search over."""
        with self._keeping:
            if time.time() - self.renewed < RENEWAL_SECONDS:
                return True
            self.renew()
            return not self._others()

    def release(self) -> None:
        """Give the lease back."""
        storage.delete(self.location, self.owner + HELD)

    def _others(self) -> dict[str, tuple[str, int]]:
        """Fresh leases of other drivers: a description of each and when it was last renewed, by the store's clock.

        What dead drivers have left behind is deleted.
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
                except FileNotFoundError:  # released since the listing
                    continue
        return fresh

    def _refuse(self, who: str) -> None:
        raise UserError(
            f"name: expected a search that no process is running, got '{self.name}', which {who} runs; "
            "wait for it, or choose another name=..."
        )
