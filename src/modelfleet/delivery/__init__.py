"""How a change reaches traffic: what fleet files want, gates, approvals, rollouts, retraining."""
