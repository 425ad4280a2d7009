"""DIITO (interchange interventions on teacher and student) for potstill."""
