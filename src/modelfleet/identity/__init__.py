"""Who is there: principals, their grants, keys, login links and sessions.

Verbs: `IdentityService.authenticate`, `create_principal`, `add_grant`, `remove_grant`,
`create_key`, `revoke_key`, `create_login_link`, `redeem_login_link`, `session`, `end_session`.
"""

from modelfleet.identity.service import IdentityService
from modelfleet.identity.store import KeyInfo, PrincipalInfo, Session

__all__ = ["IdentityService", "KeyInfo", "PrincipalInfo", "Session"]
