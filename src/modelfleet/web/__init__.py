"""The pages: server-rendered HTML that works with JavaScript off.

`install(app)` adds them to an application. A page module parses the address, calls one function
of `modelfleet.views` or one verb of a room, and renders a template; drawing is in `charts`.
"""

from modelfleet.web.install import install

__all__ = ["install"]
