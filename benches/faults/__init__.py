"""Kills, flips and forgeries: what `reliability.py` does to runs, and what becomes of them."""
