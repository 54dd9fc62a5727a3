"""Quality metrics: features, explicit protocols, pure mathematics."""
