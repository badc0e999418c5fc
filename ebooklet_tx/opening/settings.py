"""What a session is opened with, checked.

The invariant: settings that exist are valid; wrong ones raise before anything is opened or made.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ebooklet_tx.ending import Ending
from ebooklet_tx.errors import InvalidArgumentError
from ebooklet_tx.formats.root import Manifest
from ebooklet_tx.group_entries import GROUP_SERIALIZER
from ebooklet_tx.limits import MAX_BUCKETS, MAX_COPY_BUCKETS
from ebooklet_tx.local.booklet.file_header import model_header
from ebooklet_tx.local.booklet.layout import DEFAULT_N_BUCKETS
from ebooklet_tx.local.bounded_copies import check_local_bytes
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.values.pickle_policy import check_pickle, is_pickling
from ebooklet_tx.values.serializers import CUSTOM, named_serializer, resolve, same_serializer


@dataclass(slots=True)
class Settings:
    """What a new local file is made with, how long to wait for an old one, and what is wanted of a session.

    Attributes:
        flag: `r`, `w`, `c` or `n`.
        type: What a new database is: `booklet` or `group`.
        lock: "exclusive", or None for an optimistic writer.
        force_lock: Whether the remote's lock is taken from its holder.
        offline: False, True or "auto".
        pickle_allowed: Whether pickle was allowed or refused; None when neither argument nor environment says.
        address: The remote's name in messages.
        accept_partial: Whether a file of ebooklet's may lack keys of its remote.
        index: "lazy", or "full" for the whole index at hand.
        max_local_bytes: How large the local file may be; None for no bound.
        reading: Whether a pair is made only to be read.
        noted_address: What the journal notes of where the remote is, as JSON; None to leave what it has.
        named: The serializer that the caller asks for, by its name; None where none was named.
        ending: What to release when opening fails, and at the session's end.
    """

    flag: str
    value_serializer: Any
    n_buckets: int
    buffer_bytes: int
    lock_timeout_seconds: float
    type: str
    lock: str | None
    force_lock: bool
    offline: bool | str
    pickle_allowed: bool | None
    address: str
    accept_partial: bool
    index: str = "lazy"
    max_local_bytes: int | None = None
    reading: bool = False
    noted_address: str | None = None
    named: str | None = field(init=False, default=None)
    ending: Ending = field(default_factory=Ending)

    def __post_init__(self) -> None:
        if self.flag not in ("r", "w", "c", "n"):
            raise InvalidArgumentError(f"unknown flag {self.flag!r}; give 'r', 'w', 'c' or 'n'")
        n_buckets, buffer_bytes, timeout = self.n_buckets, self.buffer_bytes, self.lock_timeout_seconds
        if isinstance(n_buckets, bool) or not isinstance(n_buckets, int) or not 1 <= n_buckets <= MAX_BUCKETS:
            raise InvalidArgumentError(f"n_buckets must be an int from 1 to {MAX_BUCKETS}, not {n_buckets!r}")
        if isinstance(buffer_bytes, bool) or not isinstance(buffer_bytes, int) or buffer_bytes < 0:
            raise InvalidArgumentError(f"buffer_size must be a number of bytes, not {buffer_bytes!r}")
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0:
            raise InvalidArgumentError(f"lock_timeout must be a number of seconds, not {timeout!r}")
        if self.lock not in ("exclusive", None):
            raise InvalidArgumentError(f"unknown lock {self.lock!r}; give 'exclusive' or None")
        if self.offline not in (False, True, "auto"):
            raise InvalidArgumentError(f"offline must be False, True or 'auto', not {self.offline!r}")
        if not isinstance(self.accept_partial, bool):
            raise InvalidArgumentError(f"accept_partial must be True or False, not {self.accept_partial!r}")
        if self.index not in ("lazy", "full"):
            raise InvalidArgumentError(f"index must be 'lazy' or 'full', not {self.index!r}")
        if self.offline is True and self.flag == "n":
            raise InvalidArgumentError(
                "flag 'n' does not work offline: its empty database replaces the remote; open it when online"
            )
        if self.max_local_bytes is not None:
            check_local_bytes(self.max_local_bytes)
        self.named = named_serializer(self.value_serializer)
        if self.type == "group":
            if self.named not in (None, GROUP_SERIALIZER):
                raise InvalidArgumentError(
                    f"value_serializer {self.named!r} was given for a connection group, whose values are "
                    f"{GROUP_SERIALIZER!r}; leave one of the two out"
                )
            self.value_serializer = GROUP_SERIALIZER

    def local(
        self, path: Path, *, create: bool, start_anew: bool = False, header: bytes | None = None
    ) -> LocalStore:
        """Opens the local pair for writing, or makes one.

        Raises:
            PickleRefusedError: A new one's values would be pickled, and pickle is refused.
        """
        if create and header is None:
            self.check_pickle(named_serializer(self.value_serializer))
        return LocalStore.open_writer(
            path,
            create=create,
            start_anew=start_anew,
            value_serializer=self.value_serializer,
            n_buckets=self.n_buckets,
            buffer_bytes=self.buffer_bytes,
            timeout_seconds=self.lock_timeout_seconds,
            header=header,
            ending=self.ending,
        )

    def makes_one_like(self, manifest: Manifest) -> bool:
        """Whether a new database of these settings has the type and the serializer of one in a remote."""
        same = same_serializer(named_serializer(self.value_serializer), manifest.value_serializer)
        return same and self.type == manifest.type

    def header_anew(self, manifest: Manifest) -> bytes:
        """Returns the header of an empty database that keeps the uuid of one in a remote.

        Raises:
            PickleRefusedError: Its values would be pickled, and pickle is refused.
        """
        model = resolve(self.value_serializer)
        self.check_pickle(model.name)
        return model_header(bytes.fromhex(manifest.uuid), model.code, self.n_buckets)

    def header_for(self, manifest: Manifest) -> bytes:
        """Returns the header of a local copy of a remote database.

        Raises:
            InvalidArgumentError: Another serializer was named, or the database wants a class and none was given.
            PickleRefusedError: Its values are pickled, and pickle is refused.
        """
        name = manifest.value_serializer
        self.check_serializer(name, f"the remote database {self.address}")
        self.check_pickle(name)
        model = resolve(self.value_serializer if name == CUSTOM else name)
        # As many as its keys need: the index is written out, and grows with what is kept here.
        n_buckets = min(manifest.n_buckets, max(DEFAULT_N_BUCKETS, manifest.key_count), MAX_COPY_BUCKETS)
        return model_header(bytes.fromhex(manifest.uuid), model.code, n_buckets)

    def check_serializer(self, stored: str | None, where: str) -> None:
        """Makes sure that the serializer that was named is the stored one, before any value is decoded.

        Args:
            stored: The name of the stored one.
            where: The name in messages of what it is stored in.

        Raises:
            InvalidArgumentError: Another one was named, or none where a class is needed.
        """
        named = self.named
        if stored == CUSTOM and named != CUSTOM:
            given = "" if named is None else f"value_serializer {named!r} was given, but "
            raise InvalidArgumentError(
                f"{given}{where} was made with a serializer class of its own ({CUSTOM!r}); pass that class as "
                "value_serializer; nothing was decoded"
            )
        if named is not None and not same_serializer(named, stored):
            raise InvalidArgumentError(
                f"value_serializer {named!r} was given, but the values of {where} are of the serializer "
                f"{stored!r}; leave value_serializer out, or name that one; nothing was decoded"
            )

    def check_pickle(self, serializer_name: str | None) -> None:
        """Makes sure that values of a serializer may be decoded here.

        Raises:
            PickleRefusedError: They are pickled, and pickle is refused.
        """
        check_pickle(serializer_name, self.address, allowed=self.pickle_allowed)

    @property
    def wants_index(self) -> bool:
        """Whether the session keeps the whole index at hand; one that may have to work offline does, too."""
        return self.index == "full" or self.offline == "auto"

    @property
    def pickle_wanted(self) -> bool:
        """Whether the caller said, one way or the other, that the values may be pickled."""
        return self.pickle_allowed is True or is_pickling(self.named)
