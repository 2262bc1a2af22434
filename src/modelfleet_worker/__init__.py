"""The model server that runs inside users' model environments.

Pure Python on few dependencies (httptools, msgspec, numpy; uvloop where it installs), Python 3.9
and upwards. It never imports `modelfleet`.
"""

__version__ = "0.1.0"
