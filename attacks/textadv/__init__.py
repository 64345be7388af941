"""Attack recipes on TextAttack: build, run, resume."""
