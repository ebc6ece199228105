"""Training, enhancing, evaluating and serving: Ray at the edge, policy in plain code."""
