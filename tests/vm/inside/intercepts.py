"""Run inside the VM: the lab, the real gateway, both captures, both families, TCP and UDP. Prints a line for each."""

from __future__ import annotations

import platform
import sys

from tests.lab.labkit import ECHO, Lab

ADDON = """
def response(flow):
    flow.response.headers["x-gateway"] = "lockgate"

def udp_message(flow):
    message = flow.messages[-1]
    message.content = message.content.upper()
"""


def main() -> int:
    print("kernel", platform.release(), "python", platform.python_version(), flush=True)
    lab = Lab()
    bad = 0
    try:
        with lab.gateway_proc("-m", "transparent@8081", addon=ADDON, timeout=30) as gateway:
            for capture in ("tproxy", "redirect"):
                with lab.redirect(8081, capture, udp=capture == "tproxy"):
                    for family in (4, 6):
                        reply = lab.curl("https://origin.test/1k", f"-{family}", ca=gateway.ca, timeout=60)
                        good = reply.status == 200 and reply.header("x-gateway") == "lockgate"
                        bad += not good
                        print(capture, "https", f"IPv{family}", "intercepted" if good else repr(reply), flush=True)
                        if capture == "tproxy":
                            with lab.client.udp("origin.test", ECHO, family=family, timeout=30) as sock:
                                sock.send(b"ping")
                                answer = sock.recv(100)
                            bad += answer.upper() != answer
                            print(capture, "udp", f"IPv{family}", answer.decode(), flush=True)
            if bad:
                print(gateway.output)
    finally:
        lab.close()
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
