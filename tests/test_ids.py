from __future__ import annotations

import os
import re

from appliance.ids import new_id


def test_ids_are_distinct_and_32_hex_digits() -> None:
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in ids)


def test_a_forked_process_has_ids_of_its_own() -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, new_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(read, 100).decode()
    os.close(read)
    os.close(write)
    assert len(theirs) == 32
    assert theirs[:12] != new_id()[:12]
