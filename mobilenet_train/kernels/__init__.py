"""The kernels for training on a CPU: their C source and the Python that calls them."""
