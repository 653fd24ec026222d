"""The benchmark against peers: see ``benches/README.md``."""
