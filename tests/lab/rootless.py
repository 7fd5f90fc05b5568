"""Commands as a fresh unprivileged user, without any capability, in one of the lab's hosts.

The interpreter and the checkout may lie where such a user must not look (/root), and /dev/net/tun may be root's alone:
a private mount namespace shows them at the same place, with permissions as on a usual machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.lab.gateway_proc import ROOT

UID = 64242
_SCRIPT = """
set -e
keep=$1 closed=$2 home=$3 tun=$4; shift 4
mkdir -p "$home"; chown {uid}:{uid} "$home"
aside=$(mktemp -d)
mount -t tmpfs -o mode=0755 tmpfs "$aside"
old=$IFS; IFS=:
for folder in $keep; do mkdir -p "$aside$folder"; mount --bind "$folder" "$aside$folder"; done
for folder in $closed; do mount -t tmpfs -o mode=0755 tmpfs "$folder"; done
for folder in $keep; do mkdir -p "$folder"; mount --rbind "$aside$folder" "$folder"; done
IFS=$old
if [ "$tun" = yes ]; then
    mknod -m 0666 "$aside/tun" c 10 200; mount --bind "$aside/tun" /dev/net/tun
fi
cd "$home"
exec setpriv --reuid {uid} --regid {uid} --clear-groups --inh-caps=-all --bounding-set=-all -- "$@"
"""


def unprivileged(command: Sequence[str | Path], home: Path, *, tun: bool = True) -> list[str]:
    """The same command for that user, to be run by root. home: made, the user's; tun: it may open /dev/net/tun."""
    keep = {os.path.realpath(path) for path in (sys.prefix, sys.base_prefix, ROOT)}
    closed = {top for folder in keep if (top := _closed(Path(folder)))}
    kept = ":".join(sorted(folder for folder in keep if _closed(Path(folder))))
    script = _SCRIPT.format(uid=UID)
    words = ["sh", "-c", script, "sh", kept, ":".join(sorted(closed)), home, "yes" if tun else "no", *command]
    return ["unshare", "--mount", "--propagation", "private", *map(str, words)]


PROBE = "unshare --user --map-root-user --net sh -c 'ip link set lo up && ip tuntap add dev t0 mode tun'"


def missing(home: Path) -> str:
    """Why this kernel gives an unprivileged user no namespace with a TUN device, "" if it does. By other programs than
    ours: what is permitted here and does not work with ours has to fail.
    """
    done = subprocess.run(unprivileged(["sh", "-c", PROBE], home), capture_output=True, text=True)
    said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return "" if done.returncode == 0 else f"an unprivileged user has no namespace with a TUN device here: {said[-1]}"


def _closed(path: Path) -> str:
    """The topmost folder on the way to `path` that others may not enter; "" if there is none."""
    for folder in reversed((path, *path.parents)):
        if not folder.stat().st_mode & 0o001:
            return str(folder)
    return ""
