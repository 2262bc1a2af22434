"""Who is there: principals, their grants, keys, login links and sessions.

Verbs: `IdentityService.authenticate`, `create_principal`, `add_grant`, `remove_grant`,
`create_key`, `revoke_key`, `create_login_link`, `redeem_login_link`, `session`, `end_session`;
of approvals: `Approvals.ask`, `standing`, `answer`, `list`.
"""

from modelfleet.identity.approvals import Approval, Approvals
from modelfleet.identity.service import IdentityService
from modelfleet.identity.store import KeyInfo, PrincipalInfo, Session

__all__ = ["Approval", "Approvals", "IdentityService", "KeyInfo", "PrincipalInfo", "Session"]
