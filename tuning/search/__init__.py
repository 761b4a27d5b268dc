"""Ray Tune and Optuna: which trial runs next, which is stopped, where, and what happens when a machine fails."""
