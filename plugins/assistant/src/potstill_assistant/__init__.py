"""Teacher assistants (distillation in several hops) for potstill."""
