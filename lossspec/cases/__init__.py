"""Cases: complete calls as data, and how they are drawn from a spec."""
