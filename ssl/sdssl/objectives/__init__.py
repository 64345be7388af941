"""Objectives: plain modules from projections to one loss a layer."""
