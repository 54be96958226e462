"""Complete calls of a loss as data, and how they are drawn from a spec."""
