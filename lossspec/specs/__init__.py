"""One file for each loss; only baselines and known deviations also know losses by name."""
