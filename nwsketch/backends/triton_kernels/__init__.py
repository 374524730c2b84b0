"""Fused kernels of the PyTorch backend, in Triton: rows are hashed and their cells visited at once.

Codes and projections never leave the registers: of a row only its features are read, and its cells. Every
program owns a block of rows and a span of repetitions, and works on tiles of rows by repetitions. All cells
are those of float64 arithmetic in a fixed order, as everywhere (see :mod:`nwsketch.backends.torch_hashing`).

Kernels must be compiled with ``enable_fp_fusion=False``: where a product and a sum are rounded one by one,
a fused multiply-add would put some rows into another cell. Every function here trusts its input.
"""
