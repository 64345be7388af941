"""Ground floor: errors, registry, files, runs, features, result rows, statistics. Imports nothing of ours."""
