"""Rankings for a metric."""

PROPENSITY = "propensity"
