"""The judging of an implementation: plan, campaigns, known deviations and verdicts."""
