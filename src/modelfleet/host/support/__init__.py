"""What somebody needs who helps from afar, and nothing that is nobody's business.

`collect` writes one archive: the doctor's report, settings, versions, states, ends of logs, the
gateway's configuration, shapes and sizes of databases. Three fences keep secrets out: only what
`parts` names is read; words of model code are left out (`quiet`); and everything passes the
`Redactor`, which knows this home's secrets by their content.
"""

from modelfleet.host.support.bundle import Bundle, collect
from modelfleet.host.support.redact import Redactor

__all__ = ["Bundle", "Redactor", "collect"]
