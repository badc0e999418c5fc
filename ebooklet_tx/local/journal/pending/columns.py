"""The base columns of `entry`, as parts of statements that set them.

The invariant: the three lists name the same columns, so that no statement moves a base in part.
"""

from __future__ import annotations

SIDE_COLUMNS = ("seq", "timestamp_us", "digest", "object", "offset_bytes", "length_bytes")
"""What the journal has of each side of an entry, `remote_*` and `base_*`."""

NO_BASE = ", ".join(f"base_{name} = NULL" for name in SIDE_COLUMNS)
REMOTE_AS_BASE = ", ".join(f"base_{name} = remote_{name}" for name in SIDE_COLUMNS)
NO_REMOTE = ", ".join(f"remote_{name} = NULL" for name in SIDE_COLUMNS)
