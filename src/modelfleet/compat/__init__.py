"""Protocols of others, translated to ours: each a package of its own, thin over the same verbs."""
