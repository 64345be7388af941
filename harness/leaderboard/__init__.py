"""Result rows -> CSV -> page."""
