"""A pretended CUDA device, and what runs on it (`tests/test_cuda.py`)."""
