"""How long to wait for what will happen, on a machine that does other things as well.

A limit that only ends a test that hangs costs nothing while all works. So each is several times as long as it needs
to be where nothing else runs. What a promise says about time is measured by the test itself.
"""

from __future__ import annotations

from typing import Final

BUSY: Final = 5
"""How many times as slow a busy machine may be."""
