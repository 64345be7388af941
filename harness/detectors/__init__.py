"""Detectors of adversarial texts, one a file, on one small contract."""
