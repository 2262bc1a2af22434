"""Make an environment with atheris, and fuzz each parser in turn. Exit code 1 if one broke."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
ENVIRONMENT = ROOT / ".fuzz" / "environment"
PACKAGES = ["atheris==3.0.0", "httptools", "msgspec", "numpy"]
NAMES = ["decoder", "binary", "http", "scoring"]


def environment() -> Path:
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        uv = Path(sys.executable).with_name("uv")
        subprocess.run([uv, "venv", "-q", "--python", sys.executable, ENVIRONMENT], check=True)
        subprocess.run([uv, "pip", "install", "-q", "--python", python, *PACKAGES], check=True)
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each parser")
    parser.add_argument("names", nargs="*", default=NAMES, help=f"of {', '.join(NAMES)}")
    arguments = parser.parse_args()
    python = environment()
    broken = False
    variables = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{HERE}", "OMP_NUM_THREADS": "1"}
    for name in arguments.names:
        command = [python, HERE / "atheris_fuzz.py", name, "--seconds", str(arguments.seconds)]
        done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
        said = done.stdout + done.stderr
        runs = re.search(r"number_of_executed_units: (\d+)", said)
        covered = re.findall(r"cov: (\d+)", said)
        print(  # noqa: T201
            f"{name:8}  {runs[1] if runs else '?':>9} executions  "
            f"{covered[-1] if covered else '?':>5} edges  "
            f"{'good' if done.returncode == 0 else 'BROKEN'}",
            flush=True,
        )
        if done.returncode != 0:
            broken = True
            print(said[-3000:], flush=True)  # noqa: T201
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
