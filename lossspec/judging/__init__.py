"""Judge an implementation: plan, campaign, known deviations, verdicts."""
