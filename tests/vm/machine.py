"""Boots the image with the working tree in it, runs one script as root, and returns what it said.

TCG: no /dev/kvm is needed, and all is some ten to twenty times slower; bound by conditions, not by tight clocks.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.vm.image import ROOT, Image, disk

MEMORY_MB = 1024
BOOT = "root=/dev/vda rw console=ttyS0 panic=-1 net.ifnames=0 loglevel=4 mitigations=off init=/lockgate-init"
_EXIT = re.compile(r"^@@exit (\d+)\s*\Z", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Run:
    """code: the script's exit code, None if it did not come to its end. console: the kernel's lines."""

    code: int | None
    output: str
    console: str


@dataclass(frozen=True, slots=True)
class Machine:
    """`run` boots a fresh machine each time; nothing is kept from one to the next, and the image is not written to."""

    image: Image

    def run(self, script: str, timeout: float = 240.0, memory: int = MEMORY_MB, boot: str = "") -> Run:
        """memory: in MB. boot: more of the kernel's command line. The script runs in a copy of the checkout
        (read-only), PYTHONPATH set, python3 has the wheels.

        Raises TimeoutError, with what there is of the output, when the machine has not switched itself off by then.
        """
        with tempfile.TemporaryDirectory(prefix="lockgate-vm-") as folder:
            scratch = Path(folder)
            job = scratch / "job"
            job.mkdir()
            (job / "job").write_text(script)
            _copy_tree(job / "tree")
            disk(job, scratch / "job.ext4", "64M")
            console, output = scratch / "console", scratch / "output"
            process = subprocess.Popen(
                self._command(scratch / "job.ext4", console, output, memory, boot),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            )  # fmt: skip
            try:
                _, errors = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                raise TimeoutError(
                    f"the VM ran for {timeout:g} s:\n{_read(output)}\n{_read(console)[-2000:]}"
                ) from None
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            said, kernel = _read(output), _read(console) + errors.decode(errors="replace")
            end = _EXIT.search(said)
            return Run(int(end[1]) if end else None, said[: end.start()] if end else said, kernel)

    def _command(self, job: Path, console: Path, output: Path, memory: int, boot: str) -> list[str]:
        drives = [
            word for path in (self.image.disk, self.image.site, job)
            for word in ("-drive", f"file={path},if=virtio,format=raw,snapshot=on")
        ]  # fmt: skip
        return [
            "qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", str(memory),
            "-smp", "2", "-nodefaults", "-display", "none", "-no-reboot", "-kernel", str(self.image.kernel),
            "-initrd", str(self.image.initrd), "-append",
            f"{BOOT} {boot}",
            *drives, "-serial", f"file:{console}", "-serial", f"file:{output}", "-device", "virtio-rng-pci",
        ]  # fmt: skip


def _copy_tree(target: Path) -> None:
    """What git knows of, and what is new and not ignored, as it is now."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, check=True).stdout
    for name in filter(None, os.fsdecode(names).split("\0")):
        source = ROOT / name
        if source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)


def _read(path: Path) -> str:
    return path.read_text(errors="replace").replace("\r\n", "\n") if path.exists() else ""
