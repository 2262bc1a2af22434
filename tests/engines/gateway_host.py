"""A home with gateway and true workers, but without control plane and collector.

`python gateway_host.py up|agent HOME`
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from modelfleet.core.settings import load_settings
from modelfleet.host import HostStatus, read_ports, run
from modelfleet.host.compose import compose, platform


def main() -> None:
    role, home = sys.argv[1], Path(sys.argv[2])
    settings = load_settings(home)
    if role == "up":
        run(settings, announce, agent=(sys.executable, __file__, "agent", str(home)))
        return
    ports = read_ports(settings.layout)
    assert ports is not None
    only = [spec for spec in platform(settings, ports) if spec.name == "gateway"]
    if compose(settings, only).run() == "replace":
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def announce(status: HostStatus) -> None:
    sys.stdout.write(f"ready {status.ready}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
