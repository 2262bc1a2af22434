"""Training: experiments, runs and what they logged."""
