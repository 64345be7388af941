"""Self-distilled self-supervised ViTs (after Jang et al., WACV 2023); nothing is built here yet."""
