"""Where resray meets a Ray cluster: the manifests, and the one place that connects."""
