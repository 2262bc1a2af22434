"""Is this home well, and this machine? `examine` looks at every part and changes nothing.

A check is a small function over an `Examined`: it yields findings, each with a sentence and, unless
all is well, a remedy. Checks work on what is there: a stopped home, half a home, a broken one.
What could not be looked at is a warning, never a yes.
"""

from modelfleet.host.doctor.checks import CHECKS, examine
from modelfleet.host.doctor.findings import Examined, Finding, Report

__all__ = ["CHECKS", "Examined", "Finding", "Report", "examine"]
