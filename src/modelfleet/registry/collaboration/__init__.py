"""People around a model: owners, watchers, comments, reviews, and templates of a team.

Verbs: `people` (owners, watchers), `comments`, `reviews`, `templates`; all are verbs of
`RegistryService`. Each change is audited, and so told to webhooks.
"""
