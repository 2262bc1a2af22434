"""What a pickled model would do when it is loaded, found out without loading it.

`scan` runs each pickle of a file in a virtual machine whose every global is an inert stub, accounts
for every byte, and compares the globals with lists of what models of a framework are made of.
Nothing is imported, called or written. A clean verdict is no reason to load a model outside of a
sandbox: an allowed class may still do harm.
"""

from __future__ import annotations

from modelfleet.core.scan.scanner import Findings, Verdict, scan

__all__ = ["Findings", "Verdict", "scan"]
