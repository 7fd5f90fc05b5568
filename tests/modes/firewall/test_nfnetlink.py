"""Tables of the kernel, in a network namespace of its own."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modes.firewall import nfnetlink

FOLDER = Path(nfnetlink.__file__).parent
SCRIPT = """
import errno, subprocess, sys
import nfnetlink as n

def nft(text):
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)

def error(call, *words):
    try:
        call(*words)
    except OSError as e:
        return errno.errorcode[e.errno]
    return ""

chain = "add table ip mangle\\nadd chain ip mangle PREROUTING { type filter hook prerouting priority mangle; }\\n"
assert error(n.delete_if_empty, "ip", "mangle") == "ENOENT"
nft(chain)
assert n.has_table("ip", "mangle") and not n.has_table("ip6", "mangle")
nft("add rule ip mangle PREROUTING counter")
assert error(n.delete_if_empty, "ip", "mangle") == "EBUSY"
nft("flush chain ip mangle PREROUTING")
nft("add set ip mangle s { type ipv4_addr; }")
assert error(n.delete_if_empty, "ip", "mangle") == "EBUSY", "somebody's set"
nft("delete set ip mangle s")
nft(chain.replace("mangle; }", "mangle; policy drop; }"))
assert error(n.delete_if_empty, "ip", "mangle") == "EBUSY", "it drops"
nft(chain.replace("mangle; }", "mangle; policy accept; }"))
nft("add chain ip mangle other")
assert error(n.delete_if_empty, "ip", "mangle") == ""
assert not n.has_table("ip", "mangle")
nft("add table inet t\\nadd chain inet t c\\nadd rule inet t c accept")
n.delete_table("inet", "t")
assert error(n.delete_table, "inet", "t") == "ENOENT"
nft("add table inet t\\nadd set inet t alive { type ifname; flags timeout; timeout 60s; }")
for _ in range(2):
    with n.socket_of_its_own() as sock:
        n.renew(sock, "t", "alive", ["lan0", "a-long-name-123"])
out = subprocess.run(["nft", "list", "set", "inet", "t", "alive"], capture_output=True, text=True).stdout
assert '"lan0"' in out and '"a-long-name-123"' in out, out
with n.socket_of_its_own() as sock:
    assert error(n.renew, sock, "gone", "alive", ["lan0"]) == "ENOENT"
n.flush_conntrack(5)
print("done")
"""


def test_tables_that_are_empty_and_those_that_are_not() -> None:
    if os.geteuid() or not shutil.which("nft"):
        pytest.skip("needs root and nft")
    command = [
        "unshare",
        "-n",
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys\nsys.path.insert(0, {str(FOLDER)!r})\n{SCRIPT}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.stdout == "done\n", done.stderr


@given(st.binary(max_size=80))
def test_any_answer_comes_to_an_end(data: bytes) -> None:
    for _, body in nfnetlink._parts(data):
        list(nfnetlink._attributes(body[4:]))


def test_an_error_is_an_oserror() -> None:
    with pytest.raises(OSError) as caught:
        nfnetlink._ask([nfnetlink._message(99 << 8, 0, b"")])
    assert caught.value.errno in (errno.EINVAL, errno.EPERM, errno.EOPNOTSUPP)
