"""Publish folders to the Hugging Face Hub and load from it, on the hub's own client."""
