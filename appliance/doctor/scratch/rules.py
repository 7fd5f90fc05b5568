"""The rules that send the scratch client's traffic to the listener: those of the gateway's own plan, handed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from appliance.doctor import system

Plans = Mapping[str, Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]]
"""By tool, method and family ("4", "6"): steps, each {"argv": […], "input": "…", "undo": [[…], …]}."""


def lay(steps: Sequence[Mapping[str, Any]]) -> str:
    """ "" or the tool's or the kernel's own error."""
    for step in steps:
        if problem := _run(step["argv"], step["input"]):
            return problem
    return ""


def take_away(steps: Sequence[Mapping[str, Any]]) -> None:
    """What `lay` has laid, all or some of it."""
    for step in reversed(steps):
        for argv in step["undo"]:
            _run(argv)


def _run(argv: Sequence[str], input: str = "") -> str:
    if argv[0] == "nft":
        return nft(input or " ".join(argv[1:]))
    code, output = system.run(*argv, input=input)
    return system.first_line(output) if code else ""


def nft(text: str) -> str:
    """Run nft commands through the library, as the gateway does, or by the program. "" or what went wrong."""
    try:
        import nftables

        code, _, output = nftables.Nftables().cmd(text)
    except (ImportError, OSError, AttributeError):
        code, output = system.run("nft", "-f", "-", input=text)
    return system.first_line(output) if code else ""
