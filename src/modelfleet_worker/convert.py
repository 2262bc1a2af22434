"""`python -m modelfleet_worker.convert`: the converter process of an environment."""

from __future__ import annotations

from modelfleet_worker.compile.converter import serve

if __name__ == "__main__":
    serve()
