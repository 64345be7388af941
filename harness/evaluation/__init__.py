"""How detectors are compared: sampling protocol, metrics, runs, figures."""
